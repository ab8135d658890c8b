//! Set-up: backends on loopback, of which every address of 127.0.0.0/8 is a local one. Claim: backend
//! connections come from the addresses of `source` in turn, and from the next one where one cannot be used.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use ringway::base::CloseReason;
use ringway::net::LocalFailure;

use crate::support::{
    Backend, Balancer, Client, backend, balancer, expect_reset, in_own_network, set_network,
};

/// Ports that one address has for connections to one destination, where they are few.
const PORTS: usize = 8;

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
    balancer.local_failures(LocalFailure::Addresses)
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

/// 203.0.113.0/24 is for documentation (RFC 5737).
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

/// Leaves [`PORTS`] to each address, others than those that backends and balancers have already.
fn leave_few_ports() {
    set_network("ipv4/ip_local_port_range", "61000 61007");
}

/// A balancer whose clients need no ports.
fn on_file(path: &Path, source: &str, backends: &[Backend]) -> Balancer {
    balancer()
        .one_shard()
        .on_unix(path.to_owned())
        .backends(backends)
        .upstream(source)
        .upstream("outlier: {consecutive_failures: 1}")
        .start()
}

fn sessions(path: &Path, count: usize) -> Vec<Client> {
    let session = || {
        let client = Client::connect_unix(path).unwrap();
        client.echo(b"hello").unwrap();
        client
    };
    std::iter::repeat_with(session).take(count).collect()
}

#[test]
fn without_a_port_left_no_backend_is_blamed() {
    for source in ["source: off", "source: [127.0.0.11]"] {
        in_own_network(|| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("l");
            let backends = [backend().echo().start(), backend().echo().start()];
            let balancer = on_file(&path, source, &backends);
            leave_few_ports();
            let held = sessions(&path, 2 * PORTS);
            assert_eq!((balancer.shares(), exhausted(&balancer)), (vec![PORTS as u64; 2], 0));
            let in_vain = Client::connect_unix(&path).unwrap();
            balancer.await_closed(CloseReason::Resource, 1);
            assert_eq!((exhausted(&balancer), balancer.retries()), (2, 1));
            assert_eq!([0, 1].map(|backend| balancer.connect_failures(backend)), [0, 0]);
            assert_eq!(balancer.ejected(), [false, false]);
            held.iter().for_each(|client| client.echo(b"unharmed").unwrap());
            drop(in_vain);
        });
    }
}

#[test]
fn address_without_a_port_left_gives_way_to_the_next_one() {
    in_own_network(|| {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["one", "two"].map(|name| folder.path().join(name));
        let backends = [backend().echo().start()];
        let one = on_file(&paths[0], "source: [127.0.0.11]", &backends);
        let two = on_file(&paths[1], "source: [127.0.0.11, 127.0.0.12]", &backends);
        leave_few_ports();
        let held = sessions(&paths[0], PORTS);
        let others = sessions(&paths[1], PORTS);
        assert_eq!((exhausted(&one), exhausted(&two)), (0, PORTS as u64 / 2));
        assert_eq!((two.connect_failures(0), two.retries()), (0, 0));
        held.into_iter().chain(others).for_each(|client| client.finish().unwrap());
    });
}
