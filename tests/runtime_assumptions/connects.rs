//! Connects: of sockets in non-blocking mode, which the ring has to wait for nevertheless, and from a part of the ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use ringway::base::{Address, LocalEnd, PortRange};
use ringway::config::TcpOptions;
use ringway::net;
use ringway::uring::Socket;
use socket2::{Domain, SockAddr, SockRef, Type};

use crate::kernel::kernel;
use crate::support::{SMALL, on_ring};

async fn connected(socket: &Socket) -> std::io::Result<()> {
    std::future::poll_fn(|context| {
        socket.register(context.waker());
        socket.poll_connected(context)
    })
    .await
}

/// A new socket of a session, which connects to there.
fn connecting(ring: &ringway::uring::Ring, address: &SockAddr) -> Socket {
    let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).expect("a socket");
    let socket = ring.socket(socket.into());
    socket.start_connect(address.clone());
    socket
}

/// The backlog is full, so the SYN is dropped, and the connect takes until there is room and the SYN comes again.
#[test]
fn connect_waits_for_a_backend_that_answers_late() {
    let listener = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("loopback");
    listener.listen(0).expect("bound");
    let listener = TcpListener::from(listener);
    let address = SockAddr::from(listener.local_addr().expect("bound"));
    on_ring(SMALL, |ring| async move {
        // One fits.
        let first = connecting(&ring, &address);
        connected(&first).await.expect("it listens");
        let late = connecting(&ring, &address);
        for _ in 0..3 {
            ring.next_turn().await;
        }
        let early = std::future::poll_fn(|context| std::task::Poll::Ready(late.poll_connected(context)));
        assert!(early.await.is_pending(), "a connect that is not there is not reported");
        drop(listener.accept().expect("the first one"));
        connected(&late).await.expect("the SYN is sent again after a second");
        drop(listener.accept().expect("the late one"));
    });
}

#[test]
fn connect_that_is_refused_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = SockAddr::from(listener.local_addr().expect("bound"));
    drop(listener);
    on_ring(SMALL, |ring| async move {
        let error = connected(&connecting(&ring, &address)).await.expect_err("nobody listens");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

/// Begins a connect, and returns the socket and its port, or the number of the error.
fn connect_from(local: LocalEnd, address: SocketAddr) -> Result<(std::os::fd::OwnedFd, u16), i32> {
    let (socket, target) =
        net::socket_for(&Address::Tcp(address), &TcpOptions::BARE, local).expect("its options are taken");
    match SockRef::from(&socket).connect(&target).map_err(|error| error.raw_os_error().expect("connect(2)")) {
        Ok(()) | Err(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    let port = net::local_address(SockRef::from(&socket)).expect("TCP").port();
    Ok((socket, port))
}

/// `IP_LOCAL_PORT_RANGE`, ip(7): a shard connects from its part of the ports, learns when that is used up, and then gets
/// any other port. IPv6 sockets take the option of IPv4 too.
#[test]
fn connect_takes_a_port_of_the_part_until_it_is_used_up() {
    let all = net::local_ports().expect("procfs");
    // Debian's 6.1 has it, too.
    if let Err(error) = net::try_local_ports(Some(all), 2) {
        return assert!(kernel() < (6, 3, 0) && error.to_string().contains("needs Linux 6.3"), "{error}");
    }
    for (ip, at) in [(IpAddr::from(Ipv4Addr::LOCALHOST), 0), (Ipv6Addr::LOCALHOST.into(), 8)] {
        let listener = TcpListener::bind((ip, 0)).expect("loopback");
        let address = listener.local_addr().expect("bound");
        let part = PortRange { first: all.last - 7 - at, last: all.last - at };
        for own in [None, Some(ip)] {
            let within = || connect_from(LocalEnd { ip: own, ports: Some(part) }, address);
            // A port on which somebody else listens is not to be had.
            let held: Vec<_> = (0..part.count()).map_while(|_| within().ok()).collect();
            assert!(!held.is_empty() && held.iter().all(|(_, port)| part.contains(*port)), "{held:?}");
            assert_eq!(within().map(|(_, port)| port), Err(libc::EADDRNOTAVAIL));
            let (_, port) =
                connect_from(LocalEnd { ip: own, ports: None }, address).expect("others are free");
            assert!(!part.contains(port), "{port}");
            // They end without a moment in TIME_WAIT.
            held.into_iter().for_each(|(socket, _)| net::reset(socket));
        }
    }
}
