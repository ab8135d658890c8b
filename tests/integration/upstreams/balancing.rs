//! Set-up: several live backends, two shards. Claim: each backend gets its share of the sessions, by weight
//! where there are weights; `least_connections` decides on the counts of the whole process, not of one shard.

use ringway::base::CloseReason;
use ringway::upstream::Health;

use crate::support::{
    Backend, Balancer, Client, NO_ADMIN, Reserved, V4, backend, balancer, eventually, shards,
};

fn echoes(count: usize) -> Vec<Backend> {
    (0..count).map(|_| backend().echo().start()).collect()
}

/// Each shard counts round on its own, so a share may miss as many sessions as there are shards.
#[track_caller]
fn assert_even(shares: &[u64], each: u64) {
    let slack = shards() as u64;
    assert!(shares.iter().all(|share| share.abs_diff(each) <= slack), "{each} each: {shares:?}");
}

#[test]
fn short_form_with_three_backends_splits_evenly() {
    let backends = echoes(3);
    let port = Reserved::at(V4);
    // The original program's file, with the addresses of this test, and without the admin API.
    let entries: String = backends
        .iter()
        .map(|backend| format!("  - address: \"127.0.0.1\"\n    port: {}\n", backend.address().port()))
        .collect();
    let yaml = format!(
        "loadbalancer:\n  listen_address: \"{}\"\n  algorithm: \"round_robin\"\nbackends:\n{entries}\
         healthcheck:\n  interval: 30s\n  timeout: 5s\n{NO_ADMIN}",
        port.address()
    );
    let balancer = Balancer::of(&yaml, Some(port), true);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..750).for_each(|_| balancer.echoing_client().finish().unwrap()));
        }
    });
    balancer.await_closed(CloseReason::Normal, 3_000);
    // The file says nothing of cores: every CPU has a shard.
    let slack = balancer.status().shards.len() as u64;
    assert!(balancer.shares().iter().all(|share| share.abs_diff(1_000) <= slack), "{:?}", balancer.shares());
    let served: Vec<_> = backends.iter().map(Backend::received).collect();
    assert_eq!(served, balancer.shares().iter().map(|share| share * 5).collect::<Vec<_>>());
}

/// What each backend gets of so many sessions.
fn gained(balancer: &Balancer, sessions: usize) -> Vec<u64> {
    let before = balancer.shares();
    (0..sessions).for_each(|_| balancer.echoing_client().finish().unwrap());
    balancer.shares().iter().zip(&before).map(|(now, then)| now - then).collect()
}

#[test]
fn stopped_backend_gets_no_session() {
    let mut backends = echoes(3);
    let balancer = balancer().backends(&backends).quick_checks().start();
    backends[1].stop();
    balancer.await_health(1, Health::Down);
    // "On every shard within 100 ms of the verdict" is in `health`; here the shards have taken it over.
    eventually("the shards know it", || {
        let before = balancer.connect_failures(1);
        gained(&balancer, 12);
        balancer.connect_failures(1) == before
    });
    let failures = balancer.connect_failures(1);
    let gained = gained(&balancer, 600);
    assert_even(&[gained[0], gained[2]], 300);
    assert_eq!((gained[1], balancer.connect_failures(1)), (0, failures));
}

#[test]
fn backend_that_comes_back_gets_its_share_again() {
    let mut backends = echoes(3);
    let balancer = balancer().backends(&backends).quick_checks().start();
    backends[1].stop();
    balancer.await_health(1, Health::Down);
    backends[1].restart();
    balancer.await_health(1, Health::Up);
    // Each shard counts round on its own.
    eventually("the shards know it", || gained(&balancer, 12)[1] >= 3);
    assert_even(&gained(&balancer, 600), 200);
}

#[test]
fn weights_are_shares() {
    let backends = echoes(3);
    let mut builder = balancer().one_shard();
    for (backend, weight) in backends.iter().zip([1, 2, 5]) {
        builder = builder.entry(&format!("{}, weight: {weight}", backend.entry()));
    }
    let balancer = builder.start();
    (0..80).for_each(|_| balancer.echoing_client().finish().unwrap());
    assert_eq!(balancer.shares(), [10, 20, 50]);
}

#[test]
fn weight_of_zero_gets_no_session() {
    let backends = echoes(2);
    let balancer =
        balancer().entry(&format!("{}, weight: 0", backends[0].entry())).entry(&backends[1].entry()).start();
    (0..20).for_each(|_| balancer.echoing_client().finish().unwrap());
    assert_eq!((balancer.shares(), backends[0].connections()), (vec![0, 20], 0));
}

/// Long sessions, opened one after the other, land on two shards by the kernel's hash. Whatever it does, the
/// counts of the backends never differ by more than one, which local counts could not bring about.
#[test]
fn least_connections_decides_on_the_counts_of_the_process() {
    let backends = echoes(4);
    let balancer = balancer().backends(&backends).upstream("algorithm: least_connections").start();
    let mut clients = Vec::new();
    for opened in 1..=60_u32 {
        clients.push(balancer.echoing_client());
        // Counts of other shards may be a millisecond old, by design: this one gives them the time.
        std::thread::sleep(std::time::Duration::from_millis(3));
        let in_flight = balancer.in_flight();
        assert_eq!(in_flight.iter().sum::<u32>(), opened);
        let (least, most) = (in_flight.iter().min().unwrap(), in_flight.iter().max().unwrap());
        assert!(most - least <= 1, "{in_flight:?} after {opened}");
    }
    if shards() > 1 {
        let accepted = balancer.accepted_by_shard();
        assert!(accepted.iter().all(|count| *count > 0), "both shards have sessions: {accepted:?}");
    }
}

#[test]
fn least_connections_fills_the_emptier_backend() {
    let backends = echoes(2);
    let balancer = balancer().backends(&backends).upstream("algorithm: least_connections").start();
    let mut clients: Vec<_> = (0..20).map(|_| balancer.echoing_client()).collect();
    // Every second one leaves; whichever backend those were on, the next ten even it out.
    clients.retain({
        let mut keep = false;
        move |_| {
            keep = !keep;
            keep
        }
    });
    eventually("ten sessions are left", || balancer.in_flight().iter().sum::<u32>() == 10);
    for _ in 0..10 {
        clients.push(balancer.echoing_client());
        std::thread::sleep(std::time::Duration::from_millis(3));
    }
    assert_eq!(balancer.in_flight(), [10, 10]);
}

/// What each backend gets of a hundred sessions of one client.
fn shares_of_one_client(backends: &[Backend], algorithm: &str) -> Vec<u64> {
    let balancer = balancer().backends(backends).upstream(&format!("algorithm: {algorithm}")).start();
    (0..100).for_each(|_| balancer.echoing_client().finish().unwrap());
    balancer.shares()
}

#[test]
fn hashing_is_the_same_on_every_shard() {
    for algorithm in ["maglev", "source_hash"] {
        let shares = shares_of_one_client(&echoes(5), algorithm);
        assert_eq!(shares.iter().filter(|share| **share == 100).count(), 1, "{algorithm}: {shares:?}");
    }
}

#[test]
fn hashing_is_the_same_in_every_process() {
    for algorithm in ["maglev", "source_hash"] {
        let backends = echoes(5);
        let [one, other] = [(); 2].map(|()| shares_of_one_client(&backends, algorithm));
        assert_eq!(one, other, "{algorithm}");
    }
}

#[test]
fn hashing_with_the_port_spreads_the_sessions_of_a_client() {
    let backends: Vec<_> = (0..4).map(|_| backend().echo().start()).collect();
    let builder = balancer().backends(&backends);
    let balancer = builder.upstream("algorithm: maglev").upstream("hash_key: source_port").start();
    (0..400).for_each(|_| balancer.echoing_client().finish().unwrap());
    let shares = balancer.shares();
    // Four standard deviations are 35.
    assert!(shares.iter().all(|share| share.abs_diff(100) < 50), "{shares:?}");
}

#[test]
fn backups_serve_only_while_no_other_backend_can() {
    let (mut primary, backup) = (backend().echo().start(), backend().echo().start());
    let balancer = balancer()
        .backends([&primary])
        .entry(&format!("{}, backup: true", backup.entry()))
        .quick_checks()
        .start();
    (0..20).for_each(|_| balancer.echoing_client().finish().unwrap());
    assert_eq!(balancer.shares(), [20, 0]);
    primary.refuse();
    balancer.await_health(0, Health::Down);
    eventually("the backup serves", || {
        Client::connect(balancer.address()).is_ok_and(|client| client.echo(b"?").is_ok())
    });
    primary.restart();
    balancer.await_health(0, Health::Up);
    let before = balancer.shares()[0];
    eventually("the primary serves again", || {
        balancer.echoing_client().finish().unwrap();
        balancer.shares()[0] > before
    });
}

#[test]
fn every_algorithm_avoids_a_backend_that_refuses() {
    for algorithm in ringway::balance::names() {
        let (dead, live) = (backend().stopped().start(), backend().echo().start());
        let balancer =
            balancer().backends([&dead, &live]).upstream(&format!("algorithm: {algorithm}")).start();
        (0..30).for_each(|_| balancer.echoing_client().finish().unwrap());
        assert_eq!(balancer.shares(), [0, 30], "{algorithm}");
    }
}
