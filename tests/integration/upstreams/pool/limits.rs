//! Set-up: a pool, and a backend with `max_connections`. Claim: connections in the pool count against the
//! limit, but give way to a client that needs the permit.

use std::time::Duration;

use ringway::base::CloseReason;

use crate::support::{Client, backend, balancer, eventually, expect_reset, timed};

use super::pooled;

/// Two permits, both held by the pool, on one shard each; whichever shard the clients come to, they get them.
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

/// The only permit is held by a client that has left: a client that waits gets it, whichever shard it is on.
#[test]
fn permit_of_a_client_that_left_without_a_byte_goes_to_a_waiting_one() {
    for waits_first in [false, true] {
        let only = backend().echo().start();
        let balancer = balancer()
            .entry(&format!("{}, max_connections: 1", only.entry()))
            .upstream("pool: {size: 2, reuse: untouched}")
            .upstream("queue: {max: 5, timeout: 10s}")
            .start();
        for round in 1..=20 {
            let leaving = balancer.client();
            eventually("it has the permit", || balancer.in_flight() == [1]);
            if !waits_first {
                leaving.end().unwrap();
            }
            let waiting = balancer.client();
            waiting.send(b"x").unwrap();
            eventually("it waits, or has waited", || balancer.waiting() + balancer.queued() >= round);
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
