//! Set-up: a pool, and a backend that closes its connections, goes down or refuses. Claim: the pool keeps as
//! many ready connections as the file says, never floods a backend, and makes none to a backend that is down
//! or has weight 0.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ringway::base::CloseReason;
use ringway::upstream::Health;

use crate::support::{Backend, backend, balancer, eventually, holds_within};

use super::{RESET, await_pool, count, pooled};

#[test]
fn size_is_for_the_process() {
    let backend = backend().echo().start();
    let balancer = balancer().backends([&backend]).upstream("pool: {size: 5}").start();
    await_pool(&balancer, &backend, 5);
    assert_eq!(backend.connections(), 5);
}

#[test]
fn connections_that_the_backend_closes_are_made_anew() {
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

#[test]
fn old_connections_are_made_anew() {
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
fn pool_is_filled_again_after_a_session_without_a_connection() {
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
