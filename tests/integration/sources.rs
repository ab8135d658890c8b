//! Set-up: backends on loopback, of which every address of 127.0.0.0/8 is a local one. Claim: backend connections come
//! from the addresses of `source` in turn, and from the next one where one cannot be used.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use ringway::words::CloseReason;

use crate::support::{Backend, Balancer, backend, balancer, expect_reset};

/// From where its connections came.
type Origins = Arc<Mutex<BTreeMap<IpAddr, u32>>>;

fn noting() -> (Backend, Origins) {
    let origins = Origins::default();
    let noted = Arc::clone(&origins);
    let backend = backend()
        .serve(move |connection| {
            *noted.lock().unwrap().entry(connection.peer().ip()).or_default() += 1;
            let word = connection.receive_exact(5)?;
            connection.send(&word)?;
            connection.end()
        })
        .start();
    (backend, origins)
}

fn serve(balancer: &Balancer, count: u32) {
    (0..count).for_each(|_| balancer.echoing_client().finish().unwrap());
}

fn exhausted(balancer: &Balancer) -> u64 {
    balancer.server().shard_counters().iter().map(|shard| shard.sources_exhausted.value()).sum()
}

#[test]
fn connections_come_from_each_address_in_turn() {
    let (backend, origins) = noting();
    let balancer = balancer()
        .one_shard()
        .backends([&backend])
        .upstream("source: [127.0.0.11, 127.0.0.12, 127.0.0.13]")
        .start();
    serve(&balancer, 30);
    let expected = [11, 12, 13].map(|last| (IpAddr::from([127, 0, 0, last]), 10));
    assert_eq!(*origins.lock().unwrap(), BTreeMap::from(expected));
}

/// 203.0.113.0/24 is for documentation and nobody's (RFC 5737).
#[test]
fn address_that_cannot_be_used_is_passed_over() {
    let (backend, origins) = noting();
    let balancer =
        balancer().backends([&backend]).upstream("source: [203.0.113.1, 127.0.0.12, 203.0.113.2]").start();
    serve(&balancer, 30);
    assert_eq!(*origins.lock().unwrap(), BTreeMap::from([(IpAddr::from([127, 0, 0, 12]), 30)]));
    assert!(exhausted(&balancer) >= 10);
}

#[test]
fn without_an_address_that_can_be_used_no_backend_is_blamed() {
    let (backend, origins) = noting();
    let balancer = balancer().backends([&backend]).upstream("source: [203.0.113.1, 203.0.113.2]").start();
    expect_reset(balancer.address());
    balancer.await_closed(CloseReason::Resource, 1);
    assert_eq!((balancer.connect_failures(0), balancer.retries(), exhausted(&balancer)), (0, 0, 2));
    assert!(origins.lock().unwrap().is_empty());
}
