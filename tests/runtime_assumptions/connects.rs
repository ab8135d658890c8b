//! Connects of sockets in non-blocking mode, which the ring has to wait for nevertheless.

use std::net::{Ipv4Addr, TcpListener};

use ringway::uring::Socket;
use socket2::{Domain, SockAddr, Type};

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
    listener.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("loopback");
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
