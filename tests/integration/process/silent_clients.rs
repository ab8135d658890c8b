//! Set-up: a listener that wants the client's first byte before a backend hears of it, or that closes its port while no
//! backend is eligible. Claim: a silent client costs no backend anything and ends in time, and a port is closed exactly
//! while nobody could be served.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use ringway::base::CloseReason;
use ringway::upstream::Health;
use socket2::{Domain, Socket, Type};

use crate::support::{Client, backend, balancer, eventually, is_reset, process, timed};

#[test]
fn backend_hears_of_a_client_at_its_first_byte() {
    let only = backend().echo().start();
    let balancer = balancer().listener("client_first: 1h").backends([&only]).start();
    let silent = balancer.client();
    let speaks = balancer.echoing_client();
    assert_eq!(only.connections(), 1, "the silent one was there first");
    silent.echo(b"now").unwrap();
    assert_eq!(only.connections(), 2);
    // All bytes reach the backend, those before the connect too.
    speaks.finish().unwrap();
    silent.finish().unwrap();
    balancer.await_closed(CloseReason::Normal, 2);
    balancer.finish();
}

#[test]
fn silent_client_is_reset_in_time_and_one_that_leaves_is_counted() {
    let only = backend().echo().start();
    let balancer = balancer().listener("client_first: 300ms").backends([&only]).start();
    let silent = balancer.client();
    let took = timed(|| assert!(is_reset(&silent.receive(&mut [0]).unwrap_err())));
    assert!(took < Duration::from_secs(10), "{took:?}");
    balancer.await_closed(CloseReason::HandshakeTimeout, 1);
    let left = balancer.client();
    left.end().unwrap();
    balancer.await_closed(CloseReason::ClientLeft, 1);
    assert_eq!(only.connections(), 0);
    balancer.finish();
}

/// Whether a client is refused by the kernel. One whose connection the kernel had begun may be reset instead.
fn is_refused(address: SocketAddr) -> bool {
    match TcpStream::connect(address) {
        Ok(_) => false,
        Err(error) => {
            assert!(
                matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset),
                "{error}"
            );
            true
        }
    }
}

#[test]
fn port_is_closed_while_no_backend_is_eligible() {
    let mut only = backend().echo().start();
    let balancer = balancer().listener("no_backend: unlisten").quick_checks().backends([&only]).start();
    let open = balancer.echoing_client();
    for _ in 0..3 {
        only.refuse();
        balancer.await_health(0, Health::Down);
        // Every shard has a socket of its own.
        eventually("the port is closed", || (0..20).all(|_| is_refused(balancer.address())));
        open.echo(b"unharmed").unwrap();
        let thief = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        thief.set_reuse_address(true).unwrap();
        let taken = thief.bind(&balancer.address().into()).and_then(|()| thief.listen(8));
        assert_eq!(taken.unwrap_err().raw_os_error(), Some(libc::EADDRINUSE), "the port is still ours");
        only.restart();
        balancer.await_health(0, Health::Up);
        eventually("the port is open", || !is_refused(balancer.address()));
        eventually("clients are served on every shard", || {
            (0..20).all(|_| Client::connect(balancer.address()).and_then(|client| client.echo(b"x")).is_ok())
        });
    }
    open.finish().unwrap();
    let totals = balancer.finish();
    assert_eq!(totals.accept_errors.iter().sum::<u64>(), 0, "{totals:?}");
}

/// The successor gets a socket that does not listen, and opens the port once there is a backend.
#[test]
fn upgrade_hands_a_closed_port_over() {
    let mut only = backend().echo().start();
    let process = process()
        .listener("no_backend: unlisten")
        .check("interval: 50ms, fast_interval: 50ms, timeout: 2s, rise: 1, fall: 1")
        .backends([&only])
        .upgradable()
        .start();
    process.echoing_client().finish().unwrap();
    only.refuse();
    eventually("the port is closed", || is_refused(process.address()));
    process.upgrade();
    // The successor has listened for a moment, as long as it did not look yet.
    eventually("the port is closed again", || is_refused(process.address()));
    only.restart();
    let served = || Client::connect(process.address()).and_then(|client| client.echo(b"x")).is_ok();
    eventually("the successor serves", served);
}

/// A process that stops while its port is closed stops at once.
#[test]
fn stop_does_not_wait_for_a_closed_port() {
    let mut only = backend().echo().start();
    let balancer = balancer().listener("no_backend: unlisten").quick_checks().backends([&only]).start();
    only.refuse();
    balancer.await_health(0, Health::Down);
    eventually("the port is closed", || is_refused(balancer.address()));
    let took = timed(|| {
        balancer.finish();
    });
    assert!(took < Duration::from_secs(10), "{took:?}");
}
