//! Set-up: backends that refuse, reset, go down and come back, with sessions open or on their way. Claim:
//! failed sessions eject a backend for a while, but never the last one, and never for a fault of our own;
//! panic and backups serve when no other backend can; open sessions are kept or reset as `on_down` and
//! `on_up` say.

use std::time::Duration;

use ringway::base::CloseReason;
use ringway::net::LocalFailure;
use ringway::upstream::Health;
use socket2::{Domain, Socket, Type};

use crate::support::{
    Balancer, Client, V4, backend, balancer, eventually, expect_reset, holds_within, in_own_network,
    is_reset, process, shards,
};

/// Longer than any test: no backend comes back by itself.
const FOR_GOOD: &str = "outlier: {consecutive_failures: 3, ejection_time: 1h, max_ejected: 50%}";
/// Soon over.
const BRIEFLY: &str = "outlier: {consecutive_failures: 3, ejection_time: 200ms, max_ejected: 50%}";

/// Waits until every shard knows of what was published: none of so many sessions fails on the backend.
#[track_caller]
fn await_peace(balancer: &Balancer, backend: u16) {
    eventually("no session goes there", || {
        let before = balancer.connect_failures(backend);
        (0..8 * shards()).for_each(|_| balancer.echoing_client().finish().unwrap());
        balancer.connect_failures(backend) == before
    });
}

/// How many of these clients are reset; the others still echo.
#[track_caller]
fn count_resets(clients: Vec<Client>) -> u64 {
    let is_reset_now = |client: &Client| match client.echo(b"still here") {
        Ok(()) => false,
        Err(error) => {
            assert!(is_reset(&error), "{error}");
            true
        }
    };
    clients.iter().filter(|client| is_reset_now(client)).count() as u64
}

#[test]
fn consecutive_refused_connects_eject() {
    let (dead, live) = (backend().stopped().start(), backend().echo().start());
    let balancer = balancer().one_shard().backends([&dead, &live]).upstream(FOR_GOOD).start();
    while balancer.connect_failures(0) < 3 {
        assert_eq!(balancer.ejected(), [false, false]);
        balancer.echoing_client().finish().unwrap();
    }
    balancer.await_ejected(0, true);
    await_peace(&balancer, 0);
    let failures = balancer.connect_failures(0);
    (0..50).for_each(|_| balancer.echoing_client().finish().unwrap());
    assert_eq!((balancer.connect_failures(0), balancer.ejected()), (failures, vec![true, false]));
}

/// 203.0.113.0/24 is for documentation (RFC 5737), and where loopback is all there is, nothing leads there.
const UNREACHABLE: &str = "address: 203.0.113.1, port: 80";

#[test]
fn backend_without_a_route_is_ejected() {
    in_own_network(|| {
        let live = backend().echo().start();
        let balancer = balancer().one_shard().entry(UNREACHABLE).backends([&live]).upstream(FOR_GOOD).start();
        eventually("it is ejected", || {
            balancer.echoing_client().finish().unwrap();
            balancer.ejected()[0]
        });
        assert!(balancer.connect_failures(0) >= 3);
        assert_eq!(balancer.local_failures(LocalFailure::Addresses), 0);
    });
}

#[test]
fn backend_without_a_route_costs_no_client_its_session() {
    in_own_network(|| {
        let live = backend().echo().start();
        let balancer = balancer().one_shard().entry(UNREACHABLE).backends([&live]).start();
        (0..20).for_each(|_| balancer.echoing_client().finish().unwrap());
        assert!(balancer.connect_failures(0) > 0 && balancer.connect_failures(0) == balancer.retries());
    });
}

#[test]
fn failures_on_all_shards_are_counted_together() {
    let (dead, live) = (backend().stopped().start(), backend().echo().start());
    let many = "outlier: {consecutive_failures: 40, ejection_time: 1h}";
    let balancer = balancer().backends([&dead, &live]).upstream(many).start();
    while balancer.connect_failures(0) < 40 {
        assert_eq!(balancer.ejected(), [false, false]);
        balancer.echoing_client().finish().unwrap();
    }
    balancer.await_ejected(0, true);
}

#[test]
fn ejected_backend_is_tried_again_after_its_time() {
    let (mut flaky, live) = (backend().echo().stopped().start(), backend().echo().start());
    let balancer = balancer().backends([&flaky, &live]).upstream(BRIEFLY).start();
    eventually("it is ejected", || {
        balancer.echoing_client().finish().unwrap();
        balancer.ejected()[0]
    });
    flaky.restart();
    balancer.await_ejected(0, false);
    eventually("it serves", || {
        balancer.echoing_client().finish().unwrap();
        flaky.connections() > 0
    });
}

#[test]
fn failures_around_a_success_are_not_consecutive() {
    let (mut flaky, live) = (backend().echo().start(), backend().echo().start());
    let balancer = balancer().one_shard().backends([&flaky, &live]).upstream(FOR_GOOD).start();
    for _ in 0..5 {
        flaky.refuse();
        let failures = balancer.connect_failures(0);
        eventually("it fails twice", || {
            balancer.echoing_client().finish().unwrap();
            balancer.connect_failures(0) >= failures + 2
        });
        flaky.restart();
        let served = flaky.connections();
        eventually("it serves", || {
            balancer.echoing_client().finish().unwrap();
            flaky.connections() > served
        });
    }
    assert!(!holds_within(Duration::from_millis(50), || balancer.ejected()[0]));
}

#[test]
fn resets_before_the_first_byte_eject() {
    let (resetting, greeting) = (backend().reset_on_accept().start(), backend().greet(b"hello").start());
    let balancer = balancer().backends([&resetting, &greeting]).upstream(FOR_GOOD).start();
    eventually("it is ejected", || {
        let client = balancer.client();
        assert_eq!(client.receive_exact(5).unwrap(), b"hello");
        client.finish().unwrap();
        balancer.ejected()[0]
    });
    assert!(resetting.connections() >= 3);
}

/// What a client says may be why it is reset: no client shall be able to have a backend ejected.
#[test]
fn resets_after_a_byte_of_the_client_do_not_eject() {
    let touchy = backend().serve(|connection| {
        connection.receive_exact(7)?;
        connection.reset();
        Ok(())
    });
    let (touchy, live) = (touchy.start(), backend().echo().start());
    let balancer = balancer().one_shard().backends([&touchy, &live]).upstream(FOR_GOOD).start();
    for _ in 0..20 {
        let client = balancer.client();
        // Half of them are reset.
        let _ = client.echo(b"request");
    }
    balancer.await_closed(CloseReason::BackendReset, 10);
    let broken = |at: usize| balancer.status().upstreams[0].backends[at].totals.broken;
    assert_eq!([broken(0), broken(1)], [10, 0], "an operator sees whose sessions they were");
    assert!(!holds_within(Duration::from_millis(50), || balancer.ejected()[0]));
}

#[test]
fn last_eligible_backend_is_never_ejected() {
    let backends = [backend().stopped().start(), backend().stopped().start()];
    let all = "outlier: {consecutive_failures: 1, ejection_time: 1h, max_ejected: 100%}";
    let balancer = balancer().backends(&backends).upstream(all).start();
    for _ in 0..50 {
        expect_reset(balancer.address());
    }
    // Each of them was sent to a backend.
    balancer.await_closed(CloseReason::ConnectFailed, 50);
    assert_eq!(balancer.ejected().iter().filter(|ejected| **ejected).count(), 1);
}

#[test]
fn ejection_ends_early_when_no_other_backend_is_up() {
    let (mut ejected, mut falling) = (backend().echo().start(), backend().echo().start());
    let check = "interval: 20ms, fast_interval: 20ms, timeout: 5s, rise: 1, fall: 1";
    // Checks see it up, sessions do not: they go elsewhere than the checks.
    let balancer = balancer()
        .backends([&ejected, &falling])
        .check(&format!("{check}, port: {}", falling.address().port()))
        .upstream(FOR_GOOD)
        .start();
    ejected.refuse();
    eventually("it is ejected", || {
        balancer.echoing_client().finish().unwrap();
        balancer.ejected()[0]
    });
    ejected.restart();
    falling.stop();
    balancer.await_health(0, Health::Down);
    balancer.await_health(1, Health::Down);
    falling.restart();
    eventually("sessions are served", || {
        Client::connect(balancer.address()).is_ok_and(|client| client.echo(b"x").is_ok())
    });
}

#[test]
fn max_ejected_holds() {
    let mut backends: Vec<_> = (0..3).map(|_| backend().stopped().start()).collect();
    backends.push(backend().echo().start());
    // Every second session is retried here.
    let retries = "retries: 3\n    retry_budget: off";
    let balancer = balancer().backends(&backends).upstream(FOR_GOOD).upstream(retries).start();
    let count = || balancer.ejected().iter().filter(|ejected| **ejected).count();
    eventually("half of them are ejected", || {
        balancer.echoing_client().finish().unwrap();
        count() == 2
    });
    (0..100).for_each(|_| balancer.echoing_client().finish().unwrap());
    assert_eq!(count(), 2);
}

#[test]
fn lack_of_our_own_descriptors_ejects_no_backend() {
    let backends = [backend().echo().start(), backend().echo().start()];
    let strict = "outlier: {consecutive_failures: 1, ejection_time: 1h, max_ejected: 50%}";
    let process = process().backends(&backends).upstream(strict).start();
    process.await_rest();
    // One for the client, none for its backend.
    process.limit_descriptors(Some(1));
    (0..5).for_each(|_| expect_reset(process.address()));
    process.limit_descriptors(None);
    for _ in 0..10 {
        eventually("it serves", || {
            Client::connect(process.address()).is_ok_and(|client| client.echo(b"back").is_ok())
        });
    }
    assert!(!process.log().contains("is ejected"), "{}", process.log());
    assert!(backends.iter().all(|backend| backend.connections() >= 5), "both serve");
}

/// A backend whose connects get no answer: its accept queue is full, so further connection requests are
/// dropped.
fn silent_backend() -> (Socket, std::net::TcpStream, String) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&std::net::SocketAddr::from((V4, 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let fills_the_queue = std::net::TcpStream::connect(address).unwrap();
    (listener, fills_the_queue, format!("address: 127.0.0.1, port: {}", address.port()))
}

/// After the stop the time is over, but whether the backend answered meanwhile is not known.
#[test]
fn time_out_ejects_unless_this_process_was_stopped() {
    let live = backend().echo().start();
    let (_listener, _first, silent) = silent_backend();
    let process = process()
        .backends([&live])
        .entry(&silent)
        .upstream("outlier: {consecutive_failures: 1, ejection_time: 1h, max_ejected: 50%}")
        .upstream("timeouts: {connect: 400ms}")
        .section("logging: {level: debug}")
        .start();
    let failures = || process.log().matches("connection failed: timed out").count();
    assert_eq!(failures(), 0, "the first session went to the first backend");
    process.await_rest();
    let at_rest = process.descriptors().len();
    let client = process.client();
    client.send(b"hello").unwrap();
    eventually("the attempt is under way", || process.descriptors().len() == at_rest + 2);
    process.signal(libc::SIGSTOP);
    // Longer than the time-out and what is taken for late; nothing can tell when so much has passed for a
    // stopped process.
    std::thread::sleep(Duration::from_millis(1_000));
    process.signal(libc::SIGCONT);
    assert_eq!(client.receive_exact(5).unwrap(), b"hello");
    client.finish().unwrap();
    eventually("the attempt has failed", || failures() == 1);
    // The next session but one goes there again, and now it counts.
    (0..2).for_each(|_| process.echoing_client().finish().unwrap());
    eventually("it is ejected", || process.log().contains("is ejected"));
    assert_eq!(process.log().matches("is ejected").count(), 1);
    eventually("which took one more failure", || failures() == 2);
}

#[test]
fn on_down_close_resets_the_sessions_of_a_backend_that_goes_down() {
    let (mut falling, steady) = (backend().echo().start(), backend().echo().start());
    let balancer = balancer().backends([&falling, &steady]).quick_checks().upstream("on_down: close").start();
    let clients: Vec<_> = (0..10).map(|_| balancer.echoing_client()).collect();
    let theirs = u64::from(balancer.in_flight()[0]);
    assert!(theirs > 0);
    // A session wakes by itself once, for its keepalive; then only this wakes it.
    std::thread::sleep(Duration::from_millis(600));
    falling.refuse();
    balancer.await_closed(CloseReason::BackendDown, theirs);
    eventually("it sees resets too", || falling.failed() >= theirs);
    assert_eq!(count_resets(clients), theirs);
}

#[test]
fn on_down_close_resets_the_sessions_of_a_backend_that_is_ejected() {
    let (mut flaky, live) = (backend().echo().start(), backend().echo().start());
    let balancer = balancer().backends([&flaky, &live]).upstream(FOR_GOOD).upstream("on_down: close").start();
    let clients: Vec<_> = (0..10).map(|_| balancer.echoing_client()).collect();
    let theirs = u64::from(balancer.in_flight()[0]);
    flaky.refuse();
    eventually("it is ejected", || {
        balancer.echoing_client().finish().unwrap();
        balancer.ejected()[0]
    });
    balancer.await_closed(CloseReason::BackendDown, theirs);
    assert_eq!(count_resets(clients), theirs);
}

#[test]
fn ejection_keeps_open_sessions_by_default() {
    let (mut flaky, live) = (backend().echo().start(), backend().echo().start());
    let balancer = balancer().backends([&flaky, &live]).upstream(FOR_GOOD).start();
    let clients: Vec<_> = (0..10).map(|_| balancer.echoing_client()).collect();
    flaky.refuse();
    eventually("it is ejected", || {
        balancer.echoing_client().finish().unwrap();
        balancer.ejected()[0]
    });
    await_peace(&balancer, 0);
    assert_eq!(count_resets(clients), 0);
}

#[test]
fn on_up_says_what_becomes_of_sessions_on_backups() {
    for (on_up, resets) in [("keep", 0), ("close", 6)] {
        let (mut primary, backup) = (backend().echo().stopped().start(), backend().echo().start());
        let balancer = balancer()
            .backends([&primary])
            .entry(&format!("{}, backup: true", backup.entry()))
            .quick_checks()
            .upstream(&format!("on_up: {on_up}"))
            .start();
        let clients: Vec<_> = (0..6).map(|_| balancer.echoing_client()).collect();
        primary.restart();
        balancer.await_health(0, Health::Up);
        eventually("the primary serves", || {
            balancer.client().echo(b"x").is_ok() && balancer.shares()[0] > shards() as u64
        });
        balancer.await_closed(CloseReason::PrimaryUp, resets);
        assert_eq!(count_resets(clients), resets, "{on_up}");
    }
}

#[test]
fn panic_serves_when_all_are_down() {
    let backends = [backend().echo().start(), backend().echo().start()];
    // No process listens where it is checked.
    let nowhere = backend().stopped().start();
    let check = format!("interval: 60s, port: {}", nowhere.address().port());
    let start = |line: &str| balancer().backends(&backends).check(&check).upstream(line).start();
    let without = start("panic_threshold: off");
    assert_eq!(without.health(), [Health::Down, Health::Down]);
    expect_reset(without.address());
    without.await_closed(CloseReason::NoBackend, 1);
    let balancer = start("panic_threshold: 50%");
    assert_eq!(balancer.health(), [Health::Down, Health::Down]);
    eventually("every shard knows", || {
        Client::connect(balancer.address()).is_ok_and(|client| client.echo(b"x").is_ok())
    });
    let served = holds_within(Duration::from_secs(20), || {
        let denied = balancer.closed(CloseReason::NoBackend);
        (0..20).for_each(|_| drop(balancer.client().echo(b"x")));
        balancer.closed(CloseReason::NoBackend) == denied
    });
    assert!(served && balancer.shares().iter().all(|share| *share > 0), "{:?}", balancer.shares());
}

#[test]
fn slow_start_gives_a_backend_that_comes_back_a_small_share_first() {
    let (mut falling, steady) = (backend().echo().start(), backend().echo().start());
    let balancer = balancer()
        .one_shard()
        .backends([&falling, &steady])
        .quick_checks()
        .upstream("slow_start: 1h")
        .upstream("retries: 1")
        .start();
    (0..20).for_each(|_| balancer.echoing_client().finish().unwrap());
    assert_eq!(balancer.shares(), [10, 10], "there is no ramp at the start");
    falling.stop();
    balancer.await_health(0, Health::Down);
    await_peace(&balancer, 0);
    let before = balancer.shares();
    falling.restart();
    balancer.await_health(0, Health::Up);
    eventually("it serves", || {
        balancer.echoing_client().finish().unwrap();
        balancer.shares()[0] > before[0]
    });
    let before = balancer.shares();
    (0..210).for_each(|_| balancer.echoing_client().finish().unwrap());
    // One part of twenty and one.
    let share = balancer.shares()[0] - before[0];
    assert!((9..=11).contains(&share), "{share} of 210");
}
