//! Set-up: backends on loopback, of which every address of 127.0.0.0/8 is a local one. Claim: backend
//! connections come from the addresses of `source` in turn, and from the next one where one cannot be used; and from the
//! ports of their core where each has its own, as long as there are some.

use std::collections::BTreeMap;
use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex};

use ringway::base::{CloseReason, PortRange, ShardId, ShardPlace};
use ringway::net::{self, LocalFailure};
use ringway::server::{self, Server};

use crate::support::{
    Backend, Balancer, Client, NO_ADMIN, PATIENCE, backend, balancer, expect_reset, holds_within,
    in_own_network, parse, set_network, shards,
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

/// The ports that connections came from.
type Ports = Arc<Mutex<Vec<u16>>>;

/// A backend that echoes, and notes from where.
fn noting_ports() -> (Backend, Ports) {
    let ports = Ports::default();
    let noted = Arc::clone(&ports);
    let backend = backend()
        .serve(move |connection| {
            noted.lock().unwrap().push(connection.peer().port());
            connection.echo()
        })
        .start();
    (backend, ports)
}

/// Whether the kernel knows ports of a core, and there are several cores; if not, the test is skipped. Root may skip it
/// too: the oldest supported kernel does not.
fn has_ports_for_each_core() -> bool {
    let tried = net::try_local_ports(net::local_ports(), shards());
    if let Err(error) = &tried {
        assert!(error.to_string().contains("needs Linux 6.3"), "{error}");
        eprintln!("skipped: {error}");
    }
    tried.is_ok() && shards() > 1
}

/// The part of each shard.
fn parts() -> Vec<PortRange> {
    let all = net::local_ports().unwrap();
    let place = |shard| ShardPlace { shard: ShardId(shard), shards: shards(), seed: 0 };
    (0..shards() as u16).map(|shard| all.part_of(place(shard)).unwrap()).collect()
}

/// How many of the ports lie in the part of each shard.
fn by_part(ports: &Ports) -> Vec<u32> {
    let ports = ports.lock().unwrap();
    parts().iter().map(|part| ports.iter().filter(|port| part.contains(**port)).count() as u32).collect()
}

#[test]
fn sessions_of_each_core_come_from_ports_of_its_own() {
    if !has_ports_for_each_core() {
        return;
    }
    for source in ["source: off", "source: [127.0.0.11, 127.0.0.12]"] {
        let (backend, ports) = noting_ports();
        let balancer =
            balancer().backends([&backend]).upstream(source).upstream("source_ports: per_core").start();
        let mut held = Vec::new();
        while balancer.active_by_shard().iter().any(|active| *active < 8) {
            assert!(held.len() < 300, "cores share the sessions: {:?}", balancer.active_by_shard());
            held.push(balancer.echoing_client());
        }
        assert_eq!(by_part(&ports), balancer.active_by_shard(), "{source}: {ports:?}");
        held.into_iter().for_each(|client| client.finish().unwrap());
    }
}

#[test]
fn a_reload_changes_the_ports_of_new_connections() {
    if !has_ports_for_each_core() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("l");
    let (backend, ports) = noting_ports();
    let file = |source_ports: &str| {
        format!(
            "{NO_ADMIN}runtime: {{cores: {}}}\nloadbalancer: {{listen_address: 'unix:{}'}}\nhealthcheck: off\n\
             source_ports: {source_ports}\nbackends: ['{}']\n",
            shards(),
            path.display(),
            backend.address()
        )
    };
    let mut balancer = Balancer::of(&file("any"), None, true);
    let applied = balancer.reloads(&file("per_core"));
    assert_eq!(applied.changes.len(), 1, "{applied:?}");
    let held = sessions(&path, 16);
    assert_eq!(by_part(&ports), balancer.active_by_shard(), "{ports:?}");
    held.into_iter().for_each(|client| client.finish().unwrap());
}

#[test]
fn pooled_connections_come_from_the_ports_of_their_core() {
    if !has_ports_for_each_core() {
        return;
    }
    let (backend, ports) = noting_ports();
    let pool = format!("pool: {{size: {}}}", 3 * shards());
    let _balancer =
        balancer().backends([&backend]).upstream(&pool).upstream("source_ports: per_core").start();
    let is_full = || ports.lock().unwrap().len() == 3 * shards();
    assert!(holds_within(PATIENCE, is_full), "{ports:?}");
    assert_eq!(by_part(&ports), vec![3; shards()], "{ports:?}");
}

#[test]
fn a_core_without_a_port_left_takes_any() {
    if !has_ports_for_each_core() {
        return;
    }
    in_own_network(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("l");
        let (backend, ports) = noting_ports();
        leave_few_ports();
        let parts = parts();
        let others: usize = parts[1..].iter().map(|part| part.count()).sum();
        let balancer =
            balancer().on_unix(path.clone()).backends([&backend]).upstream("source_ports: per_core").start();
        let (first, last) = (parts[0].first, parts[0].last);
        let _taken: Vec<_> =
            (first..=last).map(|port| TcpListener::bind(("0.0.0.0", port)).unwrap()).collect();
        let held = sessions(&path, others);
        assert!(
            balancer.active_by_shard().iter().all(|active| *active > 0),
            "{:?}",
            balancer.active_by_shard()
        );
        let by_part = by_part(&ports);
        assert_eq!((by_part[0], by_part[1..].iter().sum::<u32>() as usize), (0, others));
        assert_eq!((exhausted(&balancer), balancer.retries()), (0, 0), "nothing is lacking");
        // Where no port is left at all, that counts once.
        let in_vain = Client::connect_unix(&path).unwrap();
        balancer.await_closed(CloseReason::Resource, 1);
        assert_eq!(exhausted(&balancer), 1);
        held.into_iter().for_each(|client| client.finish().unwrap());
        drop(in_vain);
    });
}

#[test]
fn fewer_ports_than_cores_are_found_by_check_and_at_the_start() {
    if !has_ports_for_each_core() {
        return;
    }
    in_own_network(|| {
        let folder = tempfile::tempdir().unwrap();
        let yaml = |ports: &str| {
            let (cores, path) = (shards(), folder.path().join("l"));
            format!(
                "{NO_ADMIN}runtime: {{cores: {cores}}}\nloadbalancer: {{listen_address: 'unix:{}'}}\n\
                 source_ports: {ports}\nbackends: ['127.0.0.1:9']\n",
                path.display()
            )
        };
        set_network("ipv4/ip_local_port_range", "61000 61000");
        let words =
            "net.ipv4.ip_local_port_range has 1 port (61000 to 61000) for 2 cores; widen it, or write";
        let per_core = parse(&yaml("per_core"));
        let lacks = server::lacks(&per_core);
        assert!(lacks.iter().any(|lack| lack.contains(words)), "{lacks:?}");
        let error = Server::start(Arc::new(per_core)).err().expect("it does not start").to_string();
        assert!(error.contains(words), "{error}");
        let any = parse(&yaml("any"));
        assert_eq!(server::lacks(&any), [""; 0]);
        drop(Server::start(Arc::new(any)).unwrap());
    });
}

#[test]
fn a_backend_connection_counts_by_the_core_that_received_it() {
    let cpus = core_affinity::get_core_ids().unwrap();
    for backend_on in &cpus[..cpus.len().min(2)] {
        let cpu = *backend_on;
        let backend = backend()
            .serve(move |connection| {
                assert!(core_affinity::set_for_current(cpu));
                let word = connection.receive_exact(5)?;
                connection.send(&word)?;
                connection.receive_exact(1).expect_err("the client has ended");
                connection.end()
            })
            .start();
        let balancer =
            balancer().runtime(&format!("cores: \"{0}-{0}\"", cpus[0].id)).backends([&backend]).start();
        serve(&balancer, 17);
        balancer.await_closed(CloseReason::Normal, 17);
        let legs = (
            balancer.upstream(|upstream| upstream.legs_own),
            balancer.upstream(|upstream| upstream.legs_other),
        );
        // The first one and the 17th.
        assert_eq!(legs, if cpu.id == cpus[0].id { (2, 0) } else { (0, 2) });
    }
}
