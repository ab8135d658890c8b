//! Set-up: upstreams with a pool. Claim: sessions take ready connections; no client notices that there is a pool, or ever
//! gets a byte that was meant for another one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ringway::base::CloseReason;
use ringway::telemetry::counters::PoolCounters;
use ringway::upstream::Health;

use crate::support::{
    Backend, Balancer, Client, Connection, Stream, backend, balancer, eventually, expect_reset, holds_within,
    timed,
};

fn count(balancer: &Balancer, counter: impl Fn(&PoolCounters<u64>) -> u64) -> u64 {
    counter(&balancer.status().upstreams[0].pool)
}

fn pooled(balancer: &Balancer) -> u64 {
    balancer.status().upstreams[0].backends[0].totals.pooled
}

/// Waits until the pool is filled: so many connections stand.
#[track_caller]
fn await_pool(balancer: &Balancer, backend: &Backend, size: u64) {
    let filled =
        || count(balancer, |pool| pool.made) >= size && pooled(balancer) == size && backend.open() >= size;
    eventually("the pool is filled", filled);
}

#[test]
fn sessions_take_ready_connections_and_new_ones_replace_them() {
    let backend = backend().echo().start();
    let balancer = balancer().one_shard().backends([&backend]).upstream("pool: {size: 4}").start();
    await_pool(&balancer, &backend, 4);
    let clients: Vec<_> = (1..=3)
        .map(|session| {
            let client = balancer.echoing_client();
            eventually("another one takes its place", || backend.connections() == 4 + session);
            client
        })
        .collect();
    clients.into_iter().for_each(|client| client.finish().unwrap());
    balancer.await_closed(CloseReason::Normal, 3);
    assert_eq!((count(&balancer, |pool| pool.hits), count(&balancer, |pool| pool.returned)), (3, 0));
}

#[test]
fn size_is_for_the_process() {
    let backend = backend().echo().start();
    let balancer = balancer().backends([&backend]).upstream("pool: {size: 5}").start();
    await_pool(&balancer, &backend, 5);
    assert_eq!(backend.connections(), 5);
}

#[test]
fn greeting_is_delivered_once_to_whoever_gets_the_connection() {
    let backend = backend().greet(b"hello").start();
    let balancer = balancer().one_shard().backends([&backend]).upstream("pool: {size: 2}").start();
    await_pool(&balancer, &backend, 2);
    for _ in 0..20 {
        let client = balancer.client();
        assert_eq!(client.receive_exact(5).unwrap(), b"hello");
        client.echo(b"more").unwrap();
        client.finish().unwrap();
    }
    assert!(count(&balancer, |pool| pool.hits) > 0);
}

#[test]
fn connections_that_the_backend_closes_are_thrown_away_and_made_anew() {
    let mut backend = backend().echo().start();
    let balancer = balancer().backends([&backend]).upstream("pool: {size: 4}").start();
    await_pool(&balancer, &backend, 4);
    backend.stop();
    eventually("the pool is empty", || pooled(&balancer) == 0);
    backend.restart();
    await_pool(&balancer, &backend, 4);
    (0..8).for_each(|_| balancer.echoing_client().finish().unwrap());
    balancer.await_closed(CloseReason::Normal, 8);
    assert_eq!(count(&balancer, |pool| pool.replaced), 0);
}

/// The first connection ends when it is told to, in a session that has not relayed a byte.
#[test]
fn connection_that_dies_before_the_first_byte_is_replaced_for_free() {
    for resets in [false, true] {
        let (served, dies) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (serves, told) = (Arc::clone(&served), Arc::clone(&dies));
        let backend = backend()
            .serve(move |connection| {
                if serves.fetch_add(1, Ordering::SeqCst) > 0 {
                    let bytes = connection.receive_exact(5)?;
                    connection.send(&bytes)?;
                    return connection.end();
                }
                while !told.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
                if resets {
                    connection.reset();
                }
                Ok(())
            })
            .start();
        let balancer = balancer()
            .one_shard()
            .backends([&backend])
            .upstream("pool: {size: 1}")
            .upstream("retries: 0")
            .start();
        await_pool(&balancer, &backend, 1);
        eventually("it is served", || served.load(Ordering::SeqCst) == 1);
        let client = balancer.client();
        eventually("it has the connection", || count(&balancer, |pool| pool.hits) == 1);
        dies.store(true, Ordering::SeqCst);
        eventually("it is replaced", || count(&balancer, |pool| pool.replaced) == 1);
        client.echo(b"hello").unwrap();
        client.finish().unwrap();
        balancer.await_closed(CloseReason::Normal, 1);
        assert_eq!((balancer.retries(), balancer.shares()), (0, vec![1]));
    }
}

#[test]
fn old_connections_are_closed_and_made_anew() {
    let backend = backend().echo().start();
    let balancer = balancer().backends([&backend]).upstream("pool: {size: 2, max_idle: 50ms}").start();
    eventually("connections take turns", || backend.connections() >= 8);
    balancer.echoing_client().finish().unwrap();
    assert!(count(&balancer, |pool| pool.closed) >= 5);
}

#[test]
fn backend_that_is_down_gets_no_connections() {
    let mut backend = backend().echo().start();
    let balancer = balancer().backends([&backend]).quick_checks().upstream("pool: {size: 2}").start();
    await_pool(&balancer, &backend, 2);
    backend.stop();
    balancer.await_health(0, Health::Down);
    eventually("the pool is empty", || pooled(&balancer) == 0);
    let failed = count(&balancer, |pool| pool.failed);
    backend.restart();
    balancer.await_health(0, Health::Up);
    await_pool(&balancer, &backend, 2);
    assert!(failed <= 2 * 4, "{failed} attempts until it was down");
}

/// Two places, both held by the pool, on one shard each; whichever shard the clients come to, they get them.
#[test]
fn connections_in_the_pool_give_way_to_sessions_on_any_shard() {
    let backend = backend().greet(b"hello").start();
    let entry = format!("{}, max_connections: 2", backend.entry());
    for _ in 0..10 {
        let balancer = balancer().entry(&entry).upstream("pool: {size: 2}").start();
        eventually("the pool is filled", || pooled(&balancer) == 2);
        let clients: Vec<Client> = (0..2)
            .map(|_| {
                let client = balancer.client();
                assert_eq!(client.receive_exact(5).unwrap(), b"hello");
                client
            })
            .collect();
        assert_eq!(pooled(&balancer), 0);
        expect_reset(balancer.address());
        clients.into_iter().for_each(|client| client.finish().unwrap());
        balancer.await_closed(CloseReason::Normal, 2);
        balancer.await_closed(CloseReason::QueueFull, 1);
    }
}

#[test]
fn connection_without_a_byte_comes_back() {
    let backend = backend().echo().start();
    let upstream = "pool: {size: 2, reuse: untouched}";
    let balancer = balancer().one_shard().backends([&backend]).upstream(upstream).start();
    await_pool(&balancer, &backend, 2);
    for round in 1..=20 {
        balancer.client().reset();
        eventually("it is back", || count(&balancer, |pool| pool.returned) == round);
    }
    balancer.client().finish().unwrap();
    eventually("it is back", || count(&balancer, |pool| pool.returned) == 21);
    assert_eq!(backend.connections(), 2);
    balancer.echoing_client().finish().unwrap();
    balancer.await_closed(CloseReason::Normal, 2);
    balancer.await_closed(CloseReason::ClientReset, 20);
    assert_eq!(count(&balancer, |pool| pool.returned), 21, "one that carried bytes does not come back");
}

/// The one place is held by a client that has left, and by nobody else: on whatever shard, a client that waits gets it.
#[test]
fn place_of_a_client_that_has_left_without_a_byte_goes_at_once_to_one_that_waits() {
    for waits_first in [false, true] {
        let only = backend().echo().start();
        let balancer = balancer()
            .entry(&format!("{}, max_connections: 1", only.entry()))
            .upstream("pool: {size: 2, reuse: untouched}")
            .upstream("queue: {max: 5, timeout: 10s}")
            .start();
        for round in 1..=20 {
            let leaving = balancer.client();
            eventually("it has the place", || balancer.in_flight() == [1]);
            if !waits_first {
                leaving.end().unwrap();
            }
            let waiting = balancer.client();
            waiting.send(b"x").unwrap();
            eventually("it waits, or has waited", || balancer.queued() >= round);
            let _ = leaving.end();
            // Less than the second for which a backend may still speak to a client that only reads.
            let took = timed(|| assert_eq!(waiting.receive_exact(1).unwrap(), b"x"));
            assert!(took < Duration::from_millis(600), "{took:?}, waits first: {waits_first}");
            waiting.finish().unwrap();
            drop(leaving);
            eventually("both have ended", || balancer.totals().closed_sum() == 2 * round);
        }
    }
}

const RESET: &str = "pool: {size: 2, reuse: reset, clients: trusted, reset: {send: 'RESET\\r\\n', expect: '+RESET\\r\\n', timeout: 300ms}}";

/// Sends back each line, but answers `RESET` in its own way.
fn with_reset(answer: impl Fn(&Connection) -> io::Result<()> + Send + Sync + 'static) -> Backend {
    backend()
        .serve(move |connection| {
            let mut line = Vec::new();
            let mut byte = [0];
            while connection.receive(&mut byte)? > 0 {
                line.push(byte[0]);
                if line.ends_with(b"\r\n") {
                    match &*line {
                        b"RESET\r\n" => answer(connection)?,
                        line => connection.send(line)?,
                    }
                    line.clear();
                }
            }
            connection.end()
        })
        .start()
}

fn one_session(balancer: &Balancer, round: u32) {
    let client = balancer.client();
    client.echo(format!("client {round}\r\n").as_bytes()).unwrap();
    client.finish().unwrap();
}

#[test]
fn connection_that_was_reset_serves_the_next_client_and_no_other_bytes_reach_it() {
    let backend = with_reset(|connection| connection.send(b"+RESET\r\n"));
    let balancer = balancer().one_shard().backends([&backend]).upstream(RESET).start();
    await_pool(&balancer, &backend, 2);
    for round in 1..=200 {
        one_session(&balancer, round);
        eventually("it is back", || count(&balancer, |pool| pool.returned) == u64::from(round));
    }
    balancer.await_closed(CloseReason::Normal, 200);
    assert_eq!((backend.connections(), count(&balancer, |pool| pool.reset_failed)), (2, 0));
}

#[test]
fn connection_whose_reset_is_late_wrong_or_followed_by_bytes_is_closed() {
    type Answer = fn(&Connection) -> io::Result<()>;
    let answers: [Answer; 4] = [
        |_| Ok(()),
        |connection| connection.send(b"-ERR no\r\n"),
        |connection| connection.send(b"x+RESET\r\n"),
        |connection| connection.send(b"+RESET\r\nx"),
    ];
    for (index, answer) in answers.into_iter().enumerate() {
        let backend = with_reset(answer);
        let balancer = balancer().one_shard().backends([&backend]).upstream(RESET).start();
        await_pool(&balancer, &backend, 2);
        for round in 0..4 {
            let client = balancer.client();
            client.echo(format!("client {round}\r\n").as_bytes()).unwrap();
            client.end().unwrap();
            // Silence cuts nothing; anything else may have been on its way to the client.
            assert_eq!(client.receive_all().1.is_ok(), index == 0, "answer {index}");
        }
        balancer.await_closed(if index == 0 { CloseReason::Normal } else { CloseReason::AnswerCut }, 4);
        assert_eq!(count(&balancer, |pool| pool.returned), 0, "answer {index}");
        assert_eq!(count(&balancer, |pool| pool.reset_failed), 4, "answer {index}");
    }
}

/// A backend that speaks on a connection in the pool: what it says is for nobody.
#[test]
fn bytes_that_come_while_nobody_asks_reach_nobody() {
    let (said, wanted) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (says, told) = (Arc::clone(&said), Arc::clone(&wanted));
    let backend = with_reset(move |connection| {
        connection.send(b"+RESET\r\n")?;
        let before = says.load(Ordering::SeqCst);
        while told.load(Ordering::SeqCst) == before {
            std::thread::yield_now();
        }
        connection.send(b"LATE")?;
        says.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    let balancer = balancer().one_shard().backends([&backend]).upstream(RESET).start();
    for round in 1..=50 {
        await_pool(&balancer, &backend, 2);
        one_session(&balancer, round);
        eventually("it is back", || count(&balancer, |pool| pool.returned) == u64::from(round));
        wanted.fetch_add(1, Ordering::SeqCst);
        // The bytes lie in the receiving socket from then on; the pool may not have noticed them.
        eventually("the backend has spoken", || said.load(Ordering::SeqCst) == u64::from(round));
    }
    one_session(&balancer, 51);
    // Lets the backend go.
    wanted.fetch_add(1, Ordering::SeqCst);
}

/// Bulk is spliced, and a long stream has the kernel wait for much before it tells: nothing of that stays behind.
#[test]
fn connection_that_carried_bulk_serves_small_messages_again() {
    const BULK: usize = 32 << 20;
    let backend = backend()
        .serve(|connection| {
            let stream = Stream::new(5);
            loop {
                match &*connection.receive_exact(7)? {
                    b"RESET\r\n" => connection.send(b"+RESET\r\n")?,
                    b"BULK!\r\n" => connection.send(&stream.head(BULK))?,
                    other => connection.send(other)?,
                }
            }
        })
        .start();
    let balancer = balancer().one_shard().backends([&backend]).upstream(RESET).start();
    await_pool(&balancer, &backend, 2);
    for round in 1..=4 {
        let client = balancer.client();
        client.send(b"BULK!\r\n").unwrap();
        assert!(Stream::new(5).matches(0, &client.receive_exact(BULK).unwrap()));
        client.finish().unwrap();
        eventually("it is back", || count(&balancer, |pool| pool.returned) == 2 * round - 1);
        let client = balancer.client();
        client.echo(b"small\r\n").unwrap();
        client.finish().unwrap();
        eventually("it is back", || count(&balancer, |pool| pool.returned) == 2 * round);
    }
    assert_eq!(backend.connections(), 2);
    let spliced = balancer.work(|work| work.spliced_to_client);
    assert!(spliced > BULK as u64, "{spliced} bytes were spliced");
}

/// A connection that has served one client stays a used one, also through a client that says nothing.
#[test]
fn late_answer_to_one_client_never_looks_like_a_greeting_to_another() {
    let speaks = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&speaks);
    let backend = with_reset(move |connection| {
        connection.send(b"+RESET\r\n")?;
        let (told, late) = (Arc::clone(&told), connection.clone());
        std::thread::spawn(move || {
            while !told.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            // The balancer may have closed it.
            let _ = late.send(b"SECRET");
        });
        Ok(())
    });
    let upstream = RESET.replace("size: 2", "size: 1");
    for is_in_session in [false, true] {
        speaks.store(false, Ordering::SeqCst);
        let balancer = balancer().one_shard().backends([&backend]).upstream(&upstream).start();
        eventually("it is made", || count(&balancer, |pool| pool.made) == 1);
        one_session(&balancer, 1);
        eventually("it is back", || count(&balancer, |pool| pool.returned) == 1);
        let silent = balancer.client();
        eventually("it is lent", || count(&balancer, |pool| pool.hits) == 2);
        if is_in_session {
            speaks.store(true, Ordering::SeqCst);
            eventually("it is replaced", || count(&balancer, |pool| pool.replaced) == 1);
            silent.echo(b"own\r\n").unwrap();
            silent.reset();
        } else {
            silent.reset();
            eventually("it is back", || count(&balancer, |pool| pool.returned) == 2);
            speaks.store(true, Ordering::SeqCst);
            eventually("it is thrown away", || count(&balancer, |pool| pool.closed) == 1);
            let client = balancer.client();
            client.echo(b"own\r\n").unwrap();
            client.reset();
        }
    }
}

#[test]
fn connection_that_ends_late_in_an_idle_session_is_replaced_all_the_same() {
    let ends = Arc::new(AtomicBool::new(false));
    let (told, served) = (Arc::clone(&ends), Arc::new(AtomicU64::new(0)));
    let serves = Arc::clone(&served);
    let backend = backend()
        .serve(move |connection| {
            if serves.fetch_add(1, Ordering::SeqCst) == 0 {
                while !told.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
                return Ok(());
            }
            let bytes = connection.receive_exact(5)?;
            connection.send(&bytes)?;
            connection.end()
        })
        .start();
    let balancer = balancer()
        .one_shard()
        .backends([&backend])
        .upstream("pool: {size: 1}")
        .upstream("timeouts: {establish: 50ms, connect: 50ms}")
        .start();
    await_pool(&balancer, &backend, 1);
    eventually("it is served", || served.load(Ordering::SeqCst) == 1);
    let client = balancer.client();
    eventually("it has the connection", || count(&balancer, |pool| pool.hits) == 1);
    // Older than all of `establish`.
    std::thread::sleep(Duration::from_millis(100));
    ends.store(true, Ordering::SeqCst);
    eventually("it is replaced", || count(&balancer, |pool| pool.replaced) == 1);
    client.echo(b"hello").unwrap();
    client.finish().unwrap();
    balancer.await_closed(CloseReason::Normal, 1);
}

/// A client that ends its stream in the middle of the answer gets all of it or a reset, never a part that looks whole.
#[test]
fn answer_that_is_cut_for_reuse_does_not_look_whole() {
    const BULK: usize = 16 << 20;
    let backend = backend()
        .serve(|connection| {
            let stream = Stream::new(6);
            loop {
                match &*connection.receive_exact(7)? {
                    b"RESET\r\n" => connection.send(b"+RESET\r\n")?,
                    _ => connection.send(&stream.head(BULK))?,
                }
            }
        })
        .start();
    let balancer = balancer().one_shard().backends([&backend]).upstream(RESET).start();
    for read_before in [0, 1, 1 << 10, 1 << 20, 4 << 20, 8 << 20, 12 << 20] {
        let client = balancer.client();
        client.send(b"BULK!\r\n").unwrap();
        let head = client.receive_exact(read_before).unwrap();
        client.end().unwrap();
        let (rest, end) = client.receive_all();
        let length = head.len() + rest.len();
        assert!(end.is_err() || length == BULK, "{length} of {BULK} bytes and a clean end");
    }
}

#[test]
fn shard_without_a_pool_asks_no_backend_for_a_reset() {
    let asked = Arc::new(AtomicU64::new(0));
    let noted = Arc::clone(&asked);
    let backend = with_reset(move |connection| {
        noted.fetch_add(1, Ordering::SeqCst);
        connection.send(b"+RESET\r\n")
    });
    let balancer = balancer().backends([&backend]).upstream(&RESET.replace("size: 2", "size: 1")).start();
    eventually("it is made", || count(&balancer, |pool| pool.made) == 1);
    (0..20).for_each(|round| one_session(&balancer, round));
    balancer.await_closed(CloseReason::Normal, 20);
    assert_eq!(asked.load(Ordering::SeqCst), count(&balancer, |pool| pool.returned));
}

/// `nc -N` to a server that speaks after a while.
#[test]
fn client_that_only_reads_gets_what_the_backend_says() {
    let backend = backend()
        .serve(|connection| {
            std::thread::sleep(Duration::from_millis(100));
            connection.send(b"daytime")?;
            connection.end()
        })
        .start();
    let upstream = "pool: {size: 2, reuse: untouched}";
    let balancer = balancer().one_shard().backends([&backend]).upstream(upstream).start();
    for _ in 0..4 {
        let client = balancer.client();
        client.end().unwrap();
        let (received, end) = client.receive_all();
        end.unwrap();
        assert_eq!(received, b"daytime");
    }
}

#[test]
fn connection_of_a_client_that_resets_does_not_come_back() {
    let backend = with_reset(|connection| connection.send(b"+RESET\r\n"));
    let balancer = balancer().one_shard().backends([&backend]).upstream(RESET).start();
    await_pool(&balancer, &backend, 2);
    for _ in 0..5 {
        let client = balancer.client();
        client.echo(b"bytes\r\n").unwrap();
        client.reset();
    }
    balancer.await_closed(CloseReason::ClientReset, 5);
    assert_eq!(count(&balancer, |pool| pool.returned), 0);
}

/// As Redis above `maxclients` and MySQL above `max_connections`.
#[test]
fn backend_that_ends_new_connections_at_once_is_not_flooded() {
    let backend = backend().close_on_accept().start();
    let balancer = balancer().one_shard().backends([&backend]).upstream("pool: {size: 1}").start();
    eventually("it is tried again", || backend.connections() >= 3);
    assert!(!holds_within(Duration::from_secs(1), || backend.connections() > 10));
    assert!(count(&balancer, |pool| pool.closed) >= 2);
}

/// It counts as the pool's, which looks for a new connection once it has ended.
#[test]
fn session_that_gets_no_connection_leaves_the_pool_to_be_filled_again() {
    let (served, dies) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (serves, told) = (Arc::clone(&served), Arc::clone(&dies));
    let mut backend = backend()
        .serve(move |connection| {
            if serves.fetch_add(1, Ordering::SeqCst) > 0 {
                connection.hold();
            }
            while !told.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            Ok(())
        })
        .start();
    let upstream = RESET.replace("size: 2", "size: 1");
    let balancer = balancer().one_shard().backends([&backend]).upstream(&upstream).start();
    await_pool(&balancer, &backend, 1);
    eventually("it is served", || served.load(Ordering::SeqCst) == 1);
    let client = balancer.client();
    eventually("it has the connection", || count(&balancer, |pool| pool.hits) == 1);
    backend.refuse();
    dies.store(true, Ordering::SeqCst);
    assert!(client.receive_all().1.is_err());
    balancer.await_closed(CloseReason::ConnectFailed, 1);
    backend.restart();
    eventually("the pool is filled", || pooled(&balancer) == 1 && backend.open() == 1);
}

#[test]
fn backup_that_stands_by_has_ready_connections() {
    let [primary, backup, retired] = [(); 3].map(|()| backend().echo().start());
    let balancer = balancer()
        .one_shard()
        .backends([&primary])
        .entry(&format!("{}, backup: true", backup.entry()))
        .entry(&format!("{}, weight: 0", retired.entry()))
        .upstream("pool: {size: 2}")
        .start();
    eventually("both pools are filled", || [&primary, &backup].map(Backend::open) == [2, 2]);
    balancer.echoing_client().finish().unwrap();
    assert_eq!((balancer.shares(), retired.connections()), (vec![1, 0, 0], 0));
}
