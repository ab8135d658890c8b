//! Set-up: a pool of unused connections, and sessions that take them. Claim: a session on a ready connection
//! is like any other: a greeting arrives once, and a connection that turns out to be dead costs the client
//! nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ringway::base::CloseReason;

use crate::support::{backend, balancer, eventually};

use super::{await_pool, count};

#[test]
fn sessions_take_ready_connections() {
    let backend = backend().echo().start();
    let balancer = balancer().one_shard().backends([&backend]).upstream("pool: {size: 4}").start();
    await_pool(&balancer, &backend, 4);
    let clients: Vec<_> = (0..3).map(|_| balancer.echoing_client()).collect();
    clients.into_iter().for_each(|client| client.finish().unwrap());
    balancer.await_closed(CloseReason::Normal, 3);
    assert_eq!((count(&balancer, |pool| pool.hits), count(&balancer, |pool| pool.returned)), (3, 0));
}

#[test]
fn taken_connection_is_made_anew() {
    let backend = backend().echo().start();
    let balancer = balancer().one_shard().backends([&backend]).upstream("pool: {size: 4}").start();
    await_pool(&balancer, &backend, 4);
    for session in 1..=3 {
        let client = balancer.echoing_client();
        eventually("the pool is full again", || backend.connections() == 4 + session);
        client.finish().unwrap();
    }
}

#[test]
fn greeting_is_delivered_once() {
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
fn connection_that_dies_late_in_an_idle_session_is_replaced() {
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
