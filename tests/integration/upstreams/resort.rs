//! Set-up: backends that die, are full, are not checked yet, or end without an answer, with the defaults of
//! checks and ejections. Claim: a client is turned away only when every backend that may be tried was tried
//! (the order of resort in docs/CONFIGURATION.md), and a dead backend is soon found.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringway::base::CloseReason;
use ringway::upstream::Health;

use crate::support::{
    Backend, Balancer, BalancerBuilder, backend, balancer, eventually, expect_reset, timed,
};

/// All that `outlier: {}` and `healthcheck: {}` stand for: checks every 30 s, three of which take a backend
/// down.
fn with_defaults(backends: &[&str]) -> BalancerBuilder {
    let builder = backends.iter().fold(balancer(), |builder, entry| builder.entry(entry));
    builder.check("").upstream("outlier: {}")
}

fn backup(backend: &Backend) -> String {
    format!("{}, backup: true", backend.entry())
}

fn limited(backend: &Backend, most: u32) -> String {
    format!("{}, max_connections: {most}", backend.entry())
}

/// Which backend answered each of so many clients.
fn answers(balancer: &Balancer, clients: usize) -> Vec<String> {
    let ask = |_| {
        let client = balancer.client();
        let word = client.receive_exact(1).unwrap();
        client.finish().unwrap();
        String::from_utf8(word).unwrap()
    };
    (0..clients).map(ask).collect()
}

#[test]
fn primary_that_dies_beside_a_backup_costs_no_client_anything() {
    let (mut primary, standby) = (backend().greet(b"p").start(), backend().greet(b"b").start());
    let balancer = with_defaults(&[&primary.entry(), &backup(&standby)]).start();
    assert_eq!(answers(&balancer, 20), ["p"; 20]);
    primary.stop();
    assert_eq!(answers(&balancer, 50), ["b"; 50]);
    balancer.await_health(0, Health::Down);
    assert_eq!(answers(&balancer, 20), ["b"; 20]);
    primary.restart();
    balancer.await_health(0, Health::Up);
    eventually("all shards know", || answers(&balancer, 4) == ["p"; 4]);
}

#[test]
fn dead_backend_is_down_half_a_second_after_its_first_refusal() {
    let (mut falling, steady) = (backend().echo().start(), backend().echo().start());
    let balancer = with_defaults(&[&falling.entry(), &steady.entry()]).start();
    (0..10).for_each(|_| balancer.echoing_client().finish().unwrap());
    falling.stop();
    while balancer.connect_failures(0) == 0 {
        balancer.echoing_client().finish().unwrap();
    }
    let first = Instant::now();
    balancer.await_health(0, Health::Down);
    assert!(first.elapsed() < Duration::from_millis(500), "{:?}", first.elapsed());
}

/// Each goes, and is back, before the next one; there are no checks, so only sessions tell.
#[test]
fn rolling_restart_without_checks_costs_no_client_anything() {
    for algorithm in ["round_robin", "least_connections", "random"] {
        let mut backends = [backend().echo().start(), backend().echo().start(), backend().echo().start()];
        let balancer = balancer()
            .backends(&backends)
            .upstream(&format!("algorithm: {algorithm}"))
            .upstream("outlier: {}")
            .start();
        for restarted in &mut backends {
            (0..30).for_each(|_| balancer.echoing_client().finish().unwrap());
            restarted.stop();
            (0..60).for_each(|_| balancer.echoing_client().finish().unwrap());
            restarted.restart();
        }
        let totals = balancer.finish();
        assert_eq!(totals.closed_with(CloseReason::Normal), totals.accepted, "{algorithm}: {totals:?}");
    }
}

#[test]
fn ejected_backend_is_tried_when_no_other_is_left() {
    let (mut early, mut late) = (backend().greet(b"e").start(), backend().greet(b"l").start());
    let balancer = balancer()
        .backends([&early, &late])
        .upstream("outlier: {consecutive_failures: 1, ejection_time: 1h}")
        .start();
    early.stop();
    eventually("it is ejected", || {
        answers(&balancer, 4);
        balancer.ejected() == [true, false]
    });
    early.restart();
    late.stop();
    assert_eq!(answers(&balancer, 20), ["e"; 20]);
    assert_eq!(balancer.ejected(), [true, false], "max_ejected");
}

#[test]
fn full_primary_spills_over_to_a_backup() {
    let (primary, standby) = (backend().greet(b"p").start(), backend().greet(b"b").start());
    let balancer = balancer().entry(&limited(&primary, 2)).entry(&backup(&standby)).start();
    let held: Vec<_> = (0..5)
        .map(|_| {
            let client = balancer.client();
            (client.receive_exact(1).unwrap(), client)
        })
        .collect();
    let of = |word: &[u8]| held.iter().filter(|(got, _)| got == word).count();
    assert_eq!((of(b"p"), of(b"b")), (2, 3));
}

#[test]
fn client_that_waits_in_vain_for_a_primary_gets_a_backup() {
    let (primary, standby) = (backend().greet(b"p").start(), backend().greet(b"b").start());
    let balancer = balancer()
        .entry(&limited(&primary, 1))
        .entry(&backup(&standby))
        .upstream("queue: {max: 1, timeout: 300ms}")
        .start();
    let held = balancer.client();
    assert_eq!(held.receive_exact(1).unwrap(), b"p");
    let waited = timed(|| assert_eq!(answers(&balancer, 1), ["b"]));
    // Timers have whole milliseconds.
    assert!(waited >= Duration::from_millis(295), "{waited:?}");
    // One fills the queue, so the next one does not wait at all.
    let waiting = balancer.client();
    eventually("it waits", || balancer.status().upstreams[0].waiting == 1);
    let waited = timed(|| assert_eq!(answers(&balancer, 1), ["b"]));
    assert!(waited < Duration::from_millis(300), "{waited:?}");
    assert_eq!(waiting.receive_exact(1).unwrap(), b"b");
}

/// The check of the primary is answered when the test says so, that of the others at once.
#[test]
fn first_clients_wait_for_the_verdict_on_the_primary() {
    let answers = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&answers);
    let primary = backend()
        .serve(move |connection| {
            while !gate.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            connection.send(b"p")?;
            connection.receive(&mut [0; 9]).map(drop)
        })
        .start();
    let standby = backend().greet(b"b").start();
    let balancer = balancer()
        .entry(&primary.entry())
        .entry(&backup(&standby))
        .check("type: send_expect, steps: [{expect: p}], timeout: 20s, fall: 1")
        .unready()
        .start();
    let early: Vec<_> = (0..10).map(|_| balancer.client()).collect();
    eventually("the primary is asked", || primary.connections() == 1);
    assert_eq!(balancer.totals().accepted, 0, "they wait in the kernel's queue");
    answers.store(true, Ordering::SeqCst);
    for client in early {
        assert_eq!(client.receive_exact(1).unwrap(), b"p");
        client.finish().unwrap();
    }
}

/// A shard that knows the states passes connections on to one that does not know them yet.
#[test]
fn first_clients_are_served_on_all_shards() {
    let only = backend().greet(b"b").start();
    for _ in 0..20 {
        let balancer = balancer().backends([&only]).unready().start();
        let crowd: Vec<_> = (0..40).map(|_| balancer.client()).collect();
        for client in crowd {
            assert_eq!(client.receive_exact(1).unwrap(), b"b");
            client.finish().unwrap();
        }
    }
}

/// The check of the primary is never answered, and its time is longer than that of the start.
#[test]
fn first_clients_wait_no_longer_than_a_check_may_take() {
    let (silent, standby) = (backend().never_reads().start(), backend().greet(b"b").start());
    let balancer = balancer()
        .entry(&silent.entry())
        .entry(&backup(&standby))
        .check("type: send_expect, steps: [{expect: b}], timeout: 1s, fall: 1")
        .unready()
        .start();
    let took = timed(|| assert_eq!(answers(&balancer, 1), ["b"]));
    let (least, most) = (Duration::from_millis(900), Duration::from_millis(2_500));
    assert!(least <= took && took <= most, "{took:?}");
}

/// No primary will ever serve, and the check of the backup is answered late.
#[test]
fn first_clients_wait_for_a_backup_where_there_is_no_primary() {
    for weight in [0, 1] {
        let primary = backend().stopped().start();
        let standby = backend()
            .serve(|connection| {
                std::thread::sleep(Duration::from_millis(300));
                connection.send(b"b")?;
                connection.receive(&mut [0; 9]).map(drop)
            })
            .start();
        let balancer = balancer()
            .entry(&format!("{}, weight: {weight}", primary.entry()))
            .entry(&format!("{}, weight: 1", backup(&standby)))
            .check("type: send_expect, steps: [{expect: b}], timeout: 20s, fall: 1")
            .unready()
            .start();
        let early: Vec<_> = (0..10).map(|_| balancer.client()).collect();
        for client in early {
            assert_eq!(client.receive_exact(1).unwrap(), b"b", "weight {weight}");
            client.finish().unwrap();
        }
    }
}

#[test]
fn empty_answers_eject_only_where_the_rules_say_so() {
    let closing = || {
        backend().serve(|connection| {
            connection.receive_exact(4)?;
            connection.end()
        })
    };
    for (rules, ejected) in
        [("outlier: {empty_answers: 3}", true), ("outlier: {consecutive_failures: 3}", false)]
    {
        let (empty, live) = (closing().start(), backend().echo().start());
        let balancer = balancer().one_shard().backends([&empty, &live]).upstream(rules).start();
        for _ in 0..6 {
            for _ in 0..2 {
                let client = balancer.client();
                client.send(b"ping").unwrap();
                let _ = client.receive(&mut [0; 4]).unwrap();
                client.finish().unwrap();
            }
        }
        if ejected {
            balancer.await_ejected(0, true);
            assert!(empty.connections() < 6, "{}", empty.connections());
        } else {
            assert_eq!((balancer.ejected(), empty.connections()), (vec![false, false], 6));
        }
    }
}

/// The backend that fails fastest has the fewest sessions; its latency must not look best as well.
#[test]
fn peak_ewma_learns_of_a_backend_that_ends_without_an_answer() {
    let empty = backend()
        .serve(|connection| {
            connection.receive_exact(4)?;
            connection.end()
        })
        .start();
    let live = backend()
        .serve(|connection| {
            connection.receive_exact(4)?;
            std::thread::sleep(Duration::from_millis(3));
            connection.send(b"pong")?;
            connection.receive(&mut [0; 1]).map(drop)
        })
        .start();
    let balancer = balancer().one_shard().upstream("algorithm: peak_ewma").backends([&empty, &live]).start();
    let in_vain = Mutex::new(0);
    for _ in 0..200 {
        let client = balancer.client();
        client.send(b"ping").unwrap();
        if client.receive(&mut [0; 4]).unwrap() == 0 {
            *in_vain.lock().unwrap() += 1;
        }
        client.finish().unwrap();
    }
    let in_vain = in_vain.into_inner().unwrap();
    assert!(in_vain <= 20, "{in_vain} of 200 got nothing");
}

#[test]
fn client_is_turned_away_when_every_backend_was_tried() {
    let dead: Vec<_> = (0..3).map(|_| backend().stopped().start()).collect();
    let balancer = balancer()
        .entry(&dead[0].entry())
        .entry(&dead[1].entry())
        .entry(&backup(&dead[2]))
        .upstream("retries: 9")
        .start();
    (0..10).for_each(|_| expect_reset(balancer.address()));
    assert_eq!((0..3).map(|id| balancer.connect_failures(id)).collect::<Vec<_>>(), [10; 3]);
    balancer.await_closed(CloseReason::ConnectFailed, 10);
    // The listener stays.
    expect_reset(balancer.address());
}
