//! Set-up: names, both address families, Unix sockets that are missing or full. Claim: a backend is reached
//! by any of its addresses that answers; a name that does not resolve holds up no client; an IPv4 client of
//! an IPv6 socket is served.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use ringway::base::CloseReason;
use ringway::net::LocalFailure;
use ringway::upstream::Health;

use crate::support::{
    Backend, Client, V4, V6, backend, balancer, eventually, expect_reset, in_own_network, set_network, timed,
};

fn localhost(backend: &Backend) -> String {
    format!("address: localhost, port: {}", backend.address().port())
}

#[test]
fn localhost_reaches_a_server_on_ipv4_alone() {
    let only = backend().echo().on(V4).start();
    let balancer = balancer().entry(&localhost(&only)).check("interval: 60s").start();
    assert_eq!(balancer.health(), [Health::Up]);
    (0..10).for_each(|_| balancer.echoing_client().finish().unwrap());
    balancer.await_closed(CloseReason::Normal, 10);
}

#[test]
fn localhost_reaches_a_server_on_ipv6_alone() {
    let only = backend().echo().on(V6).start();
    let balancer = balancer().entry(&localhost(&only)).check("interval: 60s").start();
    assert_eq!(balancer.health(), [Health::Up]);
    (0..10).for_each(|_| balancer.echoing_client().finish().unwrap());
    balancer.await_closed(CloseReason::Normal, 10);
}

/// connect(2) to `::1` says then that there is no address to connect from.
#[test]
fn localhost_reaches_ipv4_where_ipv6_is_switched_off() {
    in_own_network(|| {
        let mut only = backend().echo().on(V4).start();
        let balancer = balancer().entry(&localhost(&only)).upstream("resolve: off").start();
        // After the look-up, which may leave out what cannot be reached.
        set_network("ipv6/conf/all/disable_ipv6", "1");
        (0..5).for_each(|_| balancer.echoing_client().finish().unwrap());
        balancer.await_closed(CloseReason::Normal, 5);
        assert_eq!((balancer.local_failures(LocalFailure::Addresses), balancer.connect_failures(0)), (5, 0));
        only.stop();
        expect_reset(balancer.address());
        balancer.await_closed(CloseReason::ConnectFailed, 1);
    });
}

#[test]
fn any_address_takes_both_families() {
    let only = backend().echo().start();
    let balancer = balancer().on_any().backends([&only]).start();
    let port = balancer.address().port();
    for address in
        [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))]
    {
        let client = Client::connect(address).unwrap();
        client.echo(b"hello").unwrap();
        client.finish().unwrap();
    }
    balancer.await_closed(CloseReason::Normal, 2);
}

#[test]
fn ipv6_listener_and_backend_work() {
    let only = backend().echo().on(V6).start();
    let balancer = balancer().on(V6).backends([&only]).start();
    balancer.echoing_client().finish().unwrap();
    balancer.await_closed(CloseReason::Normal, 1);
}

/// RFC 2606 keeps `.invalid` free: it never resolves, with a resolver or without one.
#[test]
fn name_that_does_not_resolve_holds_up_no_client() {
    let live = backend().echo().start();
    let mut balancer = None;
    let builder = balancer_with_bad_name(&live);
    let took = timed(|| balancer = Some(builder.unready().start()));
    let balancer = balancer.unwrap();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(balancer.server().wait_states(Duration::from_secs(20), |states| {
        states.upstreams.first().is_some_and(|backends| backends[1].health == Health::Up)
    }));
    eventually("the other backend serves", || {
        Client::connect(balancer.address()).is_ok_and(|client| client.echo(b"x").is_ok())
    });
    (0..10).for_each(|_| balancer.echoing_client().finish().unwrap());
    assert_eq!(balancer.connect_failures(0), 0);
}

fn balancer_with_bad_name(live: &Backend) -> crate::support::BalancerBuilder {
    balancer().entry("address: no-such-host.invalid, port: 80").backends([live]).check("interval: 60s")
}

#[test]
fn missing_unix_socket_is_retried_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let live = backend().echo().start();
    let missing = format!("name: gone, address: \"unix:{}\"", folder.path().join("gone").display());
    let balancer = balancer().entry(&missing).backends([&live]).start();
    (0..10).for_each(|_| balancer.echoing_client().finish().unwrap());
    balancer.await_closed(CloseReason::Normal, 10);
    assert!(balancer.connect_failures(0) > 0);
}

#[test]
fn unix_socket_with_a_full_backlog_is_retried_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("full");
    let listener = UnixListener::bind(&path).unwrap();
    // listen(2) again shortens the backlog.
    socket2::SockRef::from(&listener).listen(0).unwrap();
    let waiting = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let live = backend().echo().start();
    let full = format!("name: full, address: \"unix:{}\"", path.display());
    let balancer = balancer().entry(&full).backends([&live]).upstream("timeouts: {connect: 500ms}").start();
    for _ in 0..4 {
        let took = timed(|| balancer.echoing_client().finish().unwrap());
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
    balancer.await_closed(CloseReason::Normal, 4);
    drop(waiting);
}

/// A backend on a port where no process listens, in the range that the kernel takes local ports from, must
/// not end up connected to itself; and it is the backend that failed, not this process.
#[test]
fn refused_alone_is_connect_failed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let balancer = balancer()
        .entry(&format!("address: 127.0.0.1, port: {}", address.port()))
        .upstream("retries: 0")
        .start();
    (0..20).for_each(|_| expect_reset(balancer.address()));
    balancer.await_closed(CloseReason::ConnectFailed, 20);
}
