//! Set-up: backends with `max_connections`, two shards. Claim: the limit is exact for the process, waiting
//! clients are served in order, each once, and a permit that comes free is never lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringway::base::CloseReason;
use ringway::upstream::Health;

use crate::support::{
    Backend, Balancer, Client, backend, balancer, eventually, expect_reset, is_reset, timed,
};

/// The entry of a backend with a limit.
fn limited(backend: &Backend, most: u32) -> String {
    format!("{}, max_connections: {most}", backend.entry())
}

#[track_caller]
fn await_queue(balancer: &Balancer, length: usize) {
    eventually(&format!("{length} wait"), || balancer.status().upstreams[0].waiting == length);
}

/// A client that has a session and keeps it, and an answer that only a session brings.
fn holder(balancer: &Balancer) -> Client {
    let client = balancer.client();
    assert_eq!(client.receive_exact(5).unwrap(), b"hello");
    client
}

/// A backend that notes how many connections it had at most.
fn counting() -> (Backend, Arc<AtomicU64>) {
    let (open, peak) = (AtomicU64::new(0), Arc::new(AtomicU64::new(0)));
    let highest = Arc::clone(&peak);
    let backend = backend()
        .serve(move |connection| {
            highest.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let word = connection.receive_exact(5)?;
            // Before the client can know: the balancer sees the end after it.
            open.fetch_sub(1, Ordering::SeqCst);
            connection.send(&word)?;
            connection.end()
        })
        .start();
    (backend, peak)
}

/// Sixteen clients at a time, on two shards, for a backend that takes three; each session ends with an echo.
fn race(backend: &Backend) -> Balancer {
    let upstream = "queue: {max: 1000, timeout: 20s}";
    let balancer = balancer().entry(&limited(backend, 3)).upstream(upstream).start();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..40 {
                    let client = balancer.client();
                    client.echo(b"hello").unwrap();
                    client.finish().unwrap();
                }
            });
        }
    });
    balancer
}

#[test]
fn limit_of_a_backend_holds_while_shards_race() {
    let (backend, peak) = counting();
    drop(race(&backend));
    assert!(peak.load(Ordering::SeqCst) <= 3, "{peak:?} connections at a time");
}

#[test]
fn every_waiting_client_is_served_while_shards_race() {
    let (backend, _) = counting();
    let balancer = race(&backend);
    balancer.await_closed(CloseReason::Normal, 640);
    assert!(balancer.queued() > 0, "16 clients with 3 permits never wait");
    await_queue(&balancer, 0);
}

#[test]
fn waiting_clients_are_served_in_order() {
    let backend = backend().greet(b"hello").start();
    let balancer = balancer().entry(&limited(&backend, 1)).upstream("queue: {max: 9, timeout: 20s}").start();
    let mut served = holder(&balancer);
    let waiting: Vec<_> = (1..=6)
        .map(|length| {
            let client = balancer.client();
            await_queue(&balancer, length);
            client
        })
        .collect();
    for (left, client) in (0..6).rev().zip(waiting) {
        served.finish().unwrap();
        assert_eq!(client.receive_exact(5).unwrap(), b"hello");
        assert_eq!((balancer.status().upstreams[0].waiting, backend.open()), (left, 1));
        served = client;
    }
    served.finish().unwrap();
    balancer.await_closed(CloseReason::Normal, 7);
}

#[test]
fn full_queue_refuses_at_once() {
    let backend = backend().greet(b"hello").start();
    let balancer = balancer().entry(&limited(&backend, 1)).upstream("queue: {max: 1, timeout: 20s}").start();
    let served = holder(&balancer);
    let waiting = balancer.client();
    await_queue(&balancer, 1);
    let took = timed(|| expect_reset(balancer.address()));
    assert!(took < Duration::from_secs(5), "{took:?}");
    balancer.await_closed(CloseReason::QueueFull, 1);
    served.finish().unwrap();
    assert_eq!(waiting.receive_exact(5).unwrap(), b"hello");
}

#[test]
fn wait_ends_at_its_timeout() {
    let backend = backend().greet(b"hello").start();
    let balancer =
        balancer().entry(&limited(&backend, 1)).upstream("queue: {max: 1, timeout: 300ms}").start();
    let served = holder(&balancer);
    expect_reset(balancer.address());
    balancer.await_closed(CloseReason::QueueTimeout, 1);
    await_queue(&balancer, 0);
    served.finish().unwrap();
}

#[test]
fn full_backend_without_a_queue_is_passed_over() {
    let (small, large) = (backend().greet(b"hello").start(), backend().greet(b"hello").start());
    let balancer = balancer().entry(&limited(&small, 1)).entry(&limited(&large, 3)).start();
    let held: Vec<_> = (0..4).map(|_| holder(&balancer)).collect();
    assert_eq!((small.open(), large.open()), (1, 3));
    held.into_iter().for_each(|client| client.finish().unwrap());
}

#[test]
fn full_upstream_without_a_queue_refuses_at_once() {
    let only = backend().greet(b"hello").start();
    let balancer = balancer().entry(&limited(&only, 1)).start();
    let held = holder(&balancer);
    expect_reset(balancer.address());
    balancer.await_closed(CloseReason::QueueFull, 1);
    held.finish().unwrap();
}

#[test]
fn client_that_leaves_the_queue_frees_its_position() {
    let backend = backend().greet(b"hello").start();
    let balancer = balancer().entry(&limited(&backend, 1)).upstream("queue: {max: 1, timeout: 20s}").start();
    let served = holder(&balancer);
    let leaving = balancer.client();
    await_queue(&balancer, 1);
    leaving.reset();
    balancer.await_closed(CloseReason::ClientLeft, 1);
    let waiting = balancer.client();
    await_queue(&balancer, 1);
    served.finish().unwrap();
    assert_eq!(waiting.receive_exact(5).unwrap(), b"hello");
    waiting.finish().unwrap();
    assert_eq!(backend.connections(), 2, "no connection was made for the one that left");
}

/// However much it has said before.
#[test]
fn client_that_leaves_the_queue_behind_much_data_is_noticed() {
    let backend = backend().greet(b"hello").start();
    let balancer = balancer().entry(&limited(&backend, 1)).upstream("queue: {max: 1, timeout: 60s}").start();
    let served = holder(&balancer);
    let leaving = balancer.client();
    leaving.send(&[7; 60_000]).unwrap();
    await_queue(&balancer, 1);
    leaving.reset();
    balancer.await_closed(CloseReason::ClientLeft, 1);
    served.finish().unwrap();
}

/// Clients that wait for one backend do not keep others from another one, though the queue is full.
#[test]
fn backend_that_no_waiting_client_may_use_serves_new_clients() {
    let (mut refusing, busy) = (backend().greet(b"hello").start(), backend().greet(b"hello").start());
    let balancer = balancer()
        .entry(&refusing.entry())
        .entry(&limited(&busy, 1))
        .upstream("queue: {max: 1, timeout: 20s}")
        .start();
    refusing.refuse();
    let served = holder(&balancer);
    let waiting = balancer.client();
    await_queue(&balancer, 1);
    refusing.restart();
    holder(&balancer).finish().unwrap();
    served.finish().unwrap();
    assert_eq!(waiting.receive_exact(5).unwrap(), b"hello");
    waiting.finish().unwrap();
}

#[test]
fn bytes_of_a_waiting_client_reach_its_backend() {
    let backend = backend().echo().start();
    let balancer = balancer().entry(&limited(&backend, 1)).upstream("queue: {max: 9, timeout: 20s}").start();
    let served = balancer.echoing_client();
    let waiting = balancer.client();
    waiting.send(b"early").unwrap();
    await_queue(&balancer, 1);
    served.finish().unwrap();
    assert_eq!(waiting.receive_exact(5).unwrap(), b"early");
    waiting.finish().unwrap();
}

#[test]
fn backend_that_comes_up_serves_waiting_clients() {
    let (first, mut second) =
        (backend().greet(b"hello").start(), backend().greet(b"hello").stopped().start());
    let balancer = balancer()
        .entry(&limited(&first, 2))
        .entry(&limited(&second, 1))
        .quick_checks()
        .upstream("queue: {max: 9, timeout: 20s}")
        .start();
    let held = [holder(&balancer), holder(&balancer)];
    let waiting = balancer.client();
    await_queue(&balancer, 1);
    second.restart();
    assert_eq!(waiting.receive_exact(5).unwrap(), b"hello");
    assert_eq!(balancer.shares(), [2, 1]);
    held.into_iter().chain([waiting]).for_each(|client| client.finish().unwrap());
}

#[test]
fn last_backend_that_goes_down_ends_the_wait() {
    let mut backends = [backend().greet(b"hello").start(), backend().greet(b"hello").start()];
    let balancer = balancer()
        .entry(&limited(&backends[0], 1))
        .entry(&limited(&backends[1], 1))
        .quick_checks()
        .upstream("queue: {max: 9, timeout: 20s}")
        .start();
    let held = [holder(&balancer), holder(&balancer)];
    let in_vain = balancer.client();
    await_queue(&balancer, 1);
    backends.iter_mut().for_each(Backend::refuse);
    balancer.await_health(0, Health::Down);
    balancer.await_health(1, Health::Down);
    assert!(in_vain.receive_all().1.is_err_and(|error| is_reset(&error)));
    balancer.await_closed(CloseReason::NoBackend, 1);
    held.into_iter().for_each(|client| client.finish().unwrap());
}

/// A waiter whose first backend refused it must not be given that backend again.
#[test]
fn client_that_a_backend_refused_waits_for_another() {
    let (mut refusing, busy) = (backend().greet(b"hello").start(), backend().greet(b"hello").start());
    let balancer = balancer()
        .entry(&limited(&refusing, 5))
        .entry(&limited(&busy, 1))
        .upstream("queue: {max: 9, timeout: 20s}")
        .start();
    refusing.refuse();
    let served = holder(&balancer);
    let waiting = balancer.client();
    await_queue(&balancer, 1);
    // Finds the first backend free, is refused, and waits behind the other.
    let second = balancer.client();
    await_queue(&balancer, 2);
    served.finish().unwrap();
    assert_eq!(waiting.receive_exact(5).unwrap(), b"hello");
    waiting.finish().unwrap();
    assert_eq!(second.receive_exact(5).unwrap(), b"hello");
    second.finish().unwrap();
    balancer.await_closed(CloseReason::Normal, 3);
}

/// It would hold a position in the queue, and be reset once it has a permit of a backend.
#[test]
fn client_whose_retry_is_over_the_budget_does_not_wait() {
    let resetting = backend().reset_on_accept().start();
    let mut busy = backend().greet(b"hello").stopped().start();
    let balancer = balancer()
        .entry(&resetting.entry())
        .entry(&limited(&busy, 1))
        .upstream("queue: {max: 9, timeout: 20s}")
        .upstream("retry_budget: 1%")
        .start();
    // Ten a second, of ten seconds.
    (0..240).for_each(|_| expect_reset(balancer.address()));
    busy.restart();
    let mut held = None;
    eventually("one has the permit", || {
        held = Client::connect(balancer.address()).ok().filter(|client| client.receive_exact(5).is_ok());
        held.is_some()
    });
    let took = timed(|| (0..5).for_each(|_| expect_reset(balancer.address())));
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(balancer.queued(), 0);
}

/// However often it waits.
#[test]
fn longest_wait_of_a_client_begins_with_its_first() {
    let (mut one, other) = (backend().greet(b"a").start(), backend().greet(b"b").start());
    let balancer = balancer()
        .entry(&limited(&one, 1))
        .entry(&limited(&other, 1))
        .upstream("queue: {max: 9, timeout: 4s}")
        .start();
    let mut held =
        [balancer.client(), balancer.client()].map(|client| (client.receive_exact(1).unwrap(), client));
    held.sort_by(|one, other| one.0.cmp(&other.0));
    let [(_, on_one), (_, _on_other)] = held;
    one.refuse();
    let waiting = balancer.client();
    let took = timed(|| {
        await_queue(&balancer, 1);
        // Not to wait for something: half of the time is to be over.
        std::thread::sleep(Duration::from_secs(2));
        on_one.finish().unwrap();
        assert!(waiting.receive_all().1.is_err_and(|error| is_reset(&error)));
    });
    assert!(took < Duration::from_millis(5_500), "{took:?}");
    balancer.await_closed(CloseReason::QueueTimeout, 1);
    assert_eq!(balancer.queued(), 2);
}
