//! Set-up: a backend that fails before or after the first byte, and one that is well. Claim: a failure before
//! the first byte costs the client nothing, within the budget for retries; a clean end, or a failure after a
//! byte, reaches the client.

use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use ringway::base::CloseReason;

use crate::support::{Client, backend, balancer, eventually, expect_reset, is_reset, timed};

/// Each failure that counts as the backend's own would be seen.
const NO_FAILURE: &str = "outlier: {consecutive_failures: 1, ejection_time: 1h, max_ejected: 50%}";

#[test]
fn refused_connection_is_retried_on_another_backend() {
    let (dead, live) = (backend().stopped().start(), backend().echo().start());
    let balancer = balancer().backends([&dead, &live]).start();
    for _ in 0..40 {
        balancer.echoing_client().finish().unwrap();
    }
    balancer.await_closed(CloseReason::Normal, 40);
    assert_eq!((live.connections(), balancer.shares()), (40, vec![0, 40]));
    assert!(balancer.retries() > 0 && balancer.retries() == balancer.connect_failures(0));
}

#[test]
fn reset_before_a_byte_is_retried_on_another_backend() {
    // No side writes before the reset has come: the first word comes from the backend that is well.
    let (resetting, greeting) = (backend().reset_on_accept().start(), backend().greet(b"hello").start());
    let balancer = balancer().backends([&resetting, &greeting]).start();
    for _ in 0..40 {
        let client = balancer.client();
        assert_eq!(client.receive_exact(5).unwrap(), b"hello");
        client.finish().unwrap();
    }
    balancer.await_closed(CloseReason::Normal, 40);
    assert!(resetting.connections() > 0 && balancer.retries() == resetting.connections());
}

#[test]
fn clean_end_before_a_byte_is_passed_on() {
    let (closing, live) = (backend().close_on_accept().start(), backend().greet(b"hello").start());
    let balancer = balancer().one_shard().backends([&closing, &live]).start();
    let mut ended = 0;
    for _ in 0..20 {
        let client = balancer.client();
        let mut word = [0; 5];
        if client.receive(&mut word).unwrap() == 0 {
            ended += 1;
        }
        client.end().unwrap();
        client.receive_all().1.unwrap();
    }
    assert_eq!((ended, balancer.retries()), (10, 0));
    balancer.await_closed(CloseReason::Normal, 20);
}

/// The client has the end of the first backend: another one would speak to no client.
#[test]
fn reset_behind_a_clean_end_is_not_retried() {
    let (turn, turns) = channel();
    let turns = Mutex::new(turns);
    let resetting = backend()
        .serve(move |connection| {
            connection.end()?;
            turns.lock().unwrap().recv().unwrap();
            connection.reset();
            Ok(())
        })
        .start();
    let live = backend().greet(b"hello").start();
    let balancer = balancer().one_shard().upstream(NO_FAILURE).backends([&resetting, &live]).start();
    let mut ended = 0;
    for _ in 0..20 {
        let client = balancer.client();
        if client.receive(&mut [0; 5]).unwrap() == 0 {
            ended += 1;
            turn.send(()).unwrap();
            balancer.await_closed(CloseReason::BackendReset, ended);
        } else {
            client.finish().unwrap();
        }
    }
    assert_eq!((ended, balancer.retries(), balancer.ejected()), (10, 0, vec![false, false]));
}

/// The close of a Unix socket ends both streams at once, as the kernel tells it, and is a clean end all the
/// same.
#[test]
fn close_of_a_unix_backend_before_a_byte_is_passed_on() {
    let folder = tempfile::tempdir().unwrap();
    let closing = backend().name("a").on_unix(folder.path().join("a")).serve(|_| Ok(())).start();
    let live = backend().greet(b"hello").start();
    let balancer = balancer().one_shard().upstream(NO_FAILURE).backends([&closing, &live]).start();
    let mut ended = 0;
    for _ in 0..20 {
        let client = balancer.client();
        if client.receive(&mut [0; 5]).unwrap() == 0 {
            ended += 1;
            eventually("the backend has closed", || closing.open() == 0);
        }
        client.finish().unwrap();
    }
    assert_eq!((ended, balancer.retries(), balancer.ejected()), (10, 0, vec![false, false]));
    balancer.await_closed(CloseReason::Normal, 20);
}

#[test]
fn failure_after_a_byte_is_not_retried() {
    let resetting = backend()
        .serve(|connection| {
            connection.receive_exact(7)?;
            connection.reset();
            Ok(())
        })
        .start();
    let live = backend().echo().start();
    let balancer = balancer().one_shard().backends([&resetting, &live]).start();
    let mut resets = 0;
    for _ in 0..20 {
        let client = balancer.client();
        client.send(b"request").unwrap();
        match client.receive_exact(7) {
            Ok(_) => client.finish().unwrap(),
            Err(error) => {
                assert!(is_reset(&error), "{error}");
                resets += 1;
            }
        }
    }
    assert_eq!((resets, balancer.retries()), (10, 0));
    balancer.await_closed(CloseReason::BackendReset, 10);
    balancer.await_closed(CloseReason::Normal, 10);
    assert_eq!((resetting.connections(), live.connections()), (10, 10), "no byte went to a second backend");
}

#[test]
fn each_backend_is_tried_once() {
    let backends: Vec<_> = (0..3).map(|_| backend().stopped().start()).collect();
    let balancer = balancer().backends(&backends).upstream("retries: 10").start();
    for _ in 0..10 {
        expect_reset(balancer.address());
    }
    balancer.await_closed(CloseReason::ConnectFailed, 10);
    assert_eq!([0, 1, 2].map(|index| balancer.connect_failures(index)), [10, 10, 10]);
    assert_eq!(balancer.retries(), 20);
}

#[test]
fn retries_are_bounded() {
    let backends: Vec<_> = (0..4).map(|_| backend().stopped().start()).collect();
    let balancer = balancer().backends(&backends).upstream("retries: 1").start();
    for _ in 0..6 {
        expect_reset(balancer.address());
    }
    balancer.await_closed(CloseReason::ConnectFailed, 6);
    let failures: u64 = (0..4).map(|index| balancer.connect_failures(index)).sum();
    assert_eq!((failures, balancer.retries()), (12, 6));
}

#[test]
fn zero_retries_give_up_after_the_first_backend() {
    let (dead, live) = (backend().stopped().start(), backend().echo().start());
    let balancer = balancer().one_shard().backends([&dead, &live]).upstream("retries: 0").start();
    let served = (0..10)
        .filter(|_| Client::connect(balancer.address()).is_ok_and(|client| client.echo(b"x").is_ok()))
        .count();
    assert_eq!((served, balancer.retries()), (5, 0));
    balancer.await_closed(CloseReason::ConnectFailed, 5);
}

/// With bytes of the client already on their way in, the retry must deliver them to the second backend, once.
#[test]
fn bytes_sent_while_connecting_reach_the_backend_that_answers() {
    let (dead, live) = (backend().stopped().start(), backend().echo().start());
    let balancer = balancer().backends([&dead, &live]).start();
    for _ in 0..40 {
        let client = balancer.client();
        client.echo(&[b'x'; 40_000]).unwrap();
        client.finish().unwrap();
    }
    balancer.await_closed(CloseReason::Normal, 40);
    assert_eq!(live.received(), 40 * 40_000);
}

#[test]
fn client_is_reset_at_once_when_all_backends_are_down() {
    let only = backend().echo().stopped().start();
    let balancer = balancer().backends([&only]).quick_checks().start();
    for _ in 0..20 {
        let took = timed(|| expect_reset(balancer.address()));
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
    balancer.await_closed(CloseReason::NoBackend, 20);
    assert_eq!((balancer.retries(), balancer.connect_failures(0)), (0, 0), "no backend is tried");
}

#[test]
fn retries_stay_within_their_budget() {
    let backends = [backend().reset_on_accept().start(), backend().reset_on_accept().start()];
    let balancer = balancer().backends(&backends).upstream("retries: 1").upstream("retry_budget: 1%").start();
    let took = timed(|| (0..300).for_each(|_| expect_reset(balancer.address())));
    // Now and then the reset comes so early that it is the answer to the connect.
    let ends = [CloseReason::BackendReset, CloseReason::ConnectFailed];
    let ended = || ends.into_iter().map(|reason| balancer.closed(reason)).sum::<u64>();
    eventually("all are reset", || ended() == 300);
    let windows = 1 + took.as_secs() / 10;
    let over: u64 = balancer.upstream(|totals| totals.retries_over_budget);
    // Ten a second, of ten seconds.
    assert!((100..=100 * windows).contains(&balancer.retries()), "{} in {took:?}", balancer.retries());
    assert_eq!(balancer.retries() + over, 300);
}

/// A refused connection costs next to nothing.
#[test]
fn retries_after_refusals_take_nothing_out_of_the_budget() {
    let (refusing, live) = (backend().stopped().start(), backend().echo().start());
    let balancer = balancer().backends([&refusing, &live]).upstream("retry_budget: 1%").start();
    for _ in 0..300 {
        balancer.echoing_client().finish().unwrap();
    }
    assert!(balancer.retries() > 100, "{}", balancer.retries());
}
