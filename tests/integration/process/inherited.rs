//! Set-up: the binary with the listening sockets of a service manager, which it could not bind itself, because they
//! listen already. Claim: all shards serve them, whoever waits in their queues included, and they outlive the process.

use crate::support::{Client, backend, eventually, process};

/// Twice as many as are needed to reach both queues of a group with near certainty.
const CLIENTS: usize = 40;

#[test]
fn one_plain_socket_serves_all_shards() {
    let only = backend().echo().start();
    let process = process().backends([&only]).runtime("cores: 2").activated().start();
    for _ in 0..CLIENTS {
        process.echoing_client().finish().unwrap();
    }
}

#[test]
fn each_shard_has_a_socket_of_the_group() {
    let only = backend().echo().start();
    for (sockets, cores) in [(2, 2), (1, 2), (3, 2), (2, 1)] {
        let process = process()
            .backends([&only])
            .runtime(&format!("cores: {cores}"))
            .activated_by_group(sockets)
            .start();
        // A queue that no shard looks into would keep its clients waiting.
        for _ in 0..CLIENTS {
            process.echoing_client().finish().unwrap();
        }
        assert_eq!(process.log().matches("listener l accepts on").count(), 1, "{}", process.log());
    }
}

#[test]
fn clients_wait_in_the_socket_while_the_process_is_gone() {
    let only = backend().echo().start();
    let mut process = process().backends([&only]).activated().start();
    process.signal(libc::SIGTERM);
    assert_eq!(process.exit().code(), Some(0));
    let early = Client::connect(process.address()).expect("the socket is open");
    early.send(b"early").unwrap();
    process.restart();
    assert_eq!(early.receive_exact(5).unwrap(), b"early");
    early.finish().unwrap();
}

#[test]
fn socket_without_a_listener_is_named_and_closed() {
    let only = backend().echo().start();
    let process = process().backends([&only]).activated().with_stranger().start();
    let log = process.log();
    let warning =
        log.lines().find(|line| line.contains("no listener has the address 127.0.0.1:")).expect(&log);
    assert!(
        warning.contains("of the socket ringway.socket") && warning.contains("add a listener"),
        "{warning}"
    );
    eventually("nothing else listens", || process.listening() == 1);
}
