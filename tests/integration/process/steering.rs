//! Set-up: two shards, and connections that arrive by the kernel's hash, all at one shard, or on the CPU that
//! received them. Claim: long sessions end up even; short ones stay where they arrived; neither a drain nor a
//! close loses a connection that is being handed off; with `steer_by_cpu` a session is served by the CPU that
//! received it.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ringway::base::CloseReason;

use crate::support::{
    Balancer, Client, backend, balancer, eventually, has_descriptors, is_reset, shards, timed,
};

/// With one CPU there is one shard, and nothing to steer.
fn two_shards() -> bool {
    shards() == 2
}

#[track_caller]
fn assert_even(balancer: &Balancer, sessions: u32) {
    let active = balancer.active_by_shard();
    assert_eq!(active.iter().sum::<u32>(), sessions, "{active:?}");
    let cores: Vec<_> = balancer.status().shards.iter().map(|shard| shard.core).collect();
    assert!(active.iter().all(|count| *count <= sessions / 2 + 1), "{cores:?}");
}

#[test]
fn long_sessions_end_up_even_on_two_shards() {
    let only = backend().echo().start();
    for all_by_first in [false, true] {
        let balancer = balancer().backends([&only]).start();
        if !two_shards() {
            return;
        }
        if all_by_first {
            balancer.all_by_first_shard();
        }
        let clients: Vec<_> = (0..16).map(|_| balancer.echoing_client()).collect();
        assert_even(&balancer, 16);
        if all_by_first {
            let cores: Vec<_> = balancer.status().shards.iter().map(|shard| shard.core).collect();
            assert!(cores[0].handed_off >= 7 && cores[1].received == cores[0].handed_off, "{cores:?}");
            assert_eq!((cores[1].handed_off, cores[0].received), (0, 0), "nothing is handed back");
        }
        clients.into_iter().for_each(|client| client.finish().unwrap());
        balancer.await_closed(CloseReason::Normal, 16);
    }
}

/// They come at once, so what was handed off has mostly not arrived when the next one is looked at.
#[test]
fn long_sessions_that_come_at_once_by_one_shard_end_up_even() {
    if !two_shards() {
        return;
    }
    let only = backend().echo().start();
    let balancer = balancer().backends([&only]).start();
    balancer.all_by_first_shard();
    let clients: Vec<_> = (0..16).map(|_| balancer.client()).collect();
    clients.iter().for_each(|client| client.echo(b"hello").unwrap());
    assert_even(&balancer, 16);
    clients.into_iter().for_each(|client| client.finish().unwrap());
}

/// Each opens one session after the other until told to stop, or until it is refused. Returns the sessions
/// that were served whole, and those that were reset.
fn visit(balancer: &Balancer, at_once: usize, stop: &AtomicBool) -> (u64, u64) {
    let (mut served, mut reset) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let mut clients = Vec::new();
        let mut refused = false;
        for _ in 0..at_once {
            match Client::connect(balancer.address()) {
                Ok(client) => clients.push(client),
                // The reset may overtake the end of connect(2).
                Err(error) if is_reset(&error) => reset += 1,
                Err(_) => refused = true,
            }
        }
        for client in clients {
            match client.echo(b"hello").and_then(|()| client.finish()) {
                Ok(()) => served += 1,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("neither served nor reset: {error}")
                }
                // How a reset looks depends on the call that meets it first.
                Err(_) => reset += 1,
            }
        }
        if refused {
            break;
        }
    }
    (served, reset)
}

#[test]
fn short_sessions_are_rarely_handed_off() {
    const SESSIONS: u64 = 4_000;
    let only = backend().echo().start();
    let balancer = balancer().backends([&only]).start();
    let stop = AtomicBool::new(false);
    let served = AtomicU64::new(0);
    let elapsed = timed(|| {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| served.fetch_add(visit(&balancer, 8, &stop).0, Ordering::Relaxed));
            }
            eventually("enough sessions", || balancer.closed(CloseReason::Normal) >= SESSIONS);
            stop.store(true, Ordering::Relaxed);
        })
    });
    let passed = balancer.handed_off();
    let accepted = balancer.finish().accepted;
    assert_eq!(accepted, served.load(Ordering::Relaxed));
    // 64 at a time: on a machine so loaded that each takes 30 ms they are not short.
    let lasted = elapsed * 64 / u32::try_from(accepted).unwrap();
    assert!(
        passed * 10 < accepted || lasted > Duration::from_millis(30),
        "{passed} of {accepted}, {lasted:?} each"
    );
}

/// A storm through one shard, so that much is on its way to the other, and in the middle of it the end.
#[track_caller]
fn end_in_a_storm(end: impl Fn(&Balancer)) -> u64 {
    let only = backend().echo().start();
    let balancer = balancer().backends([&only]).start();
    if two_shards() {
        balancer.all_by_first_shard();
    }
    let stop = AtomicBool::new(false);
    let (served, reset) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| visit(&balancer, 32, &stop))).collect();
        eventually("a storm", || balancer.totals().accepted >= 200);
        end(&balancer);
        let counts = threads.into_iter().map(|thread| thread.join().unwrap());
        counts.fold((0, 0), |sum, counts| (sum.0 + counts.0, sum.1 + counts.1))
    });
    let passed = balancer.handed_off();
    // The end of each balancer checks that every connection is accounted for on the shard that served it.
    let totals = balancer.finish();
    assert_eq!(totals.closed_with(CloseReason::Normal), served, "{totals:?}");
    let not_served = totals.accepted - served;
    assert!(not_served <= reset, "{not_served} ended by the balancer, {reset} seen: {totals:?}");
    passed
}

/// What the kernel resets because it was on no accept queue when the listener closed was never accepted.
#[test]
fn drain_in_a_storm_loses_no_accepted_connection() {
    // Four for each session, and on a loaded machine many are open at once.
    if !has_descriptors(4_000) {
        return;
    }
    let mut passed = 0;
    for _ in 0..5 {
        passed += end_in_a_storm(|balancer| {
            balancer.server().drain();
            eventually("all sessions have ended", || balancer.server().wait_ended(Duration::ZERO));
            let totals = balancer.totals();
            assert_eq!(
                totals.closed_with(CloseReason::Normal),
                totals.accepted,
                "all were served: {totals:?}"
            );
        });
    }
    assert!(passed > 0 || !two_shards());
}

#[test]
fn close_in_a_storm_accounts_for_every_connection() {
    // Four for each session, and on a loaded machine many are open at once.
    if !has_descriptors(4_000) {
        return;
    }
    let mut passed = 0;
    for _ in 0..5 {
        passed += end_in_a_storm(|balancer| balancer.server().close());
    }
    assert!(passed > 0 || !two_shards());
}

#[test]
fn processor_time_of_every_core_is_sampled() {
    let only = backend().echo().start();
    let balancer = balancer().backends([&only]).start();
    let times =
        || balancer.status().shards.into_iter().map(|shard| shard.core.busy_seconds).collect::<Vec<_>>();
    eventually("a first sample", || times().iter().all(|time| *time > 0.0));
    let before = times();
    let client = balancer.echoing_client();
    eventually("work shows", || {
        client.echo(&[7; 4_096]).unwrap();
        times().iter().zip(&before).any(|(now, before)| now > before)
    });
    client.finish().unwrap();
}

/// On loopback a connection is received by the CPU of its client.
#[test]
fn steered_by_cpu_each_session_is_served_where_it_was_received() {
    let only = backend().echo().start();
    let balancer = balancer().listener("tcp: {steer_by_cpu: true}").backends([&only]).start();
    let mut expected = vec![0; balancer.status().shards.len()];
    for (shard, cpu) in balancer.status().shards.iter().map(|shard| shard.cpu).enumerate() {
        let clients: Vec<_> = std::thread::scope(|scope| {
            let pinned = scope.spawn(|| {
                assert!(core_affinity::set_for_current(core_affinity::CoreId { id: cpu }));
                (0..20).map(|_| balancer.echoing_client()).collect()
            });
            pinned.join().unwrap()
        });
        expected[shard] = 20;
        assert_eq!(balancer.accepted_by_shard(), expected, "CPU {cpu}");
        clients.into_iter().for_each(|client| client.finish().unwrap());
    }
    assert_eq!(balancer.handed_off(), 0, "they stay there, however uneven that is");
}
