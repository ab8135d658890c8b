//! Rule 7, and rule 5 for accepts.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use ringway::config::ListenAddress;
use ringway::net;

use crate::support::{PATIENCE, SMALL, on_ring};

#[test]
fn every_connection_is_accepted_once() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    let clients = std::thread::spawn(move || {
        for _ in 0..500 {
            let mut stream = TcpStream::connect(address).expect("listening");
            stream.set_read_timeout(Some(PATIENCE)).expect("a positive time");
            // Ours drops it at once: FIN.
            assert_eq!(stream.read(&mut [0; 1]).expect("a clean end"), 0);
        }
    });
    on_ring(SMALL, move |ring| async move {
        let acceptor = ring.accept_from(OwnedFd::from(listener)).expect("an open socket");
        for _ in 0..500 {
            let accepted = std::future::poll_fn(|context| acceptor.poll_accept(context)).await;
            drop(ring.socket(accepted.expect("a connection").connection));
        }
    });
    clients.join().expect("no assertion failed");
}

#[test]
fn connections_in_the_backlog_survive_the_stop_of_their_listener() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    on_ring(SMALL, move |ring| async move {
        let acceptor = ring.accept_from(OwnedFd::from(listener)).expect("an open socket");
        let mut clients: Vec<_> = (0..20).map(|_| TcpStream::connect(address).expect("listening")).collect();
        // One is taken; more come behind.
        let first =
            std::future::poll_fn(|context| acceptor.poll_accept(context)).await.expect("a connection");
        clients.extend((0..20).map(|_| TcpStream::connect(address).expect("listening")));
        acceptor.disarm().await;
        let rest: Vec<_> =
            std::iter::from_fn(|| acceptor.accept_now()).map(|one| one.expect("a connection")).collect();
        // Nothing of it is in flight, so this closes it before another connection can come.
        drop(acceptor);
        assert_eq!(rest.len(), 39);
        let sockets: Vec<_> =
            std::iter::once(first).chain(rest).map(|accepted| ring.socket(accepted.connection)).collect();
        while ring.descriptors() > sockets.len() {
            ring.next_turn().await;
        }
        assert!(TcpStream::connect(address).is_err(), "the listener is closed");
        drop(sockets);
        for mut client in clients {
            client.set_read_timeout(Some(PATIENCE)).expect("a positive time");
            assert_eq!(client.read(&mut [0; 1]).expect("a clean end, no reset"), 0);
        }
    });
}

/// The first socket of a port listens alone and sets SO_REUSEPORT only then; those that join later get their
/// part.
#[test]
fn sockets_of_one_port_share_its_connections() {
    let yaml = "loadbalancer: {listen_address: \":1\"}\nbackends: [{address: 127.0.0.1, port: 2}]\n";
    let config = ringway::config::parse("test.yaml", yaml.as_bytes()).expect("valid").config;
    let reserved =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    reserved.set_reuse_address(true).expect("a new socket");
    reserved.set_reuse_port(true).expect("a new socket");
    reserved.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("loopback");
    let address = reserved.local_addr().ok().and_then(|address| address.as_socket()).expect("bound");

    let listening =
        net::listen(&ListenAddress::Tcp(address), 256, &config.listeners[0].tcp, 3).expect("free");
    let _clients: Vec<_> = (0..200).map(|_| TcpStream::connect(address).expect("listening")).collect();
    let accepted = listening.sockets.into_iter().map(TcpListener::from).map(|listener| {
        listener.set_nonblocking(true).expect("a socket");
        std::iter::from_fn(|| listener.accept().ok()).count()
    });
    let accepted: Vec<_> = accepted.collect();
    assert_eq!(accepted.iter().sum::<usize>(), 200);
    // By hash: with three sockets, none gets fewer than ten of 200 but once in 10^15 times.
    assert!(accepted.iter().all(|count| *count > 10), "{accepted:?}");
}

#[test]
fn connections_accepted_for_a_dropped_listener_are_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    on_ring(SMALL, move |ring| async move {
        let acceptor = ring.accept_from(OwnedFd::from(listener)).expect("an open socket");
        std::future::poll_fn(|context| {
            assert!(acceptor.poll_accept(context).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        ring.next_turn().await;
        let mut client = TcpStream::connect(address).expect("listening");
        drop(acceptor);
        while ring.descriptors() > 0 {
            ring.next_turn().await;
        }
        client.set_read_timeout(Some(PATIENCE)).expect("a positive time");
        // Closed by FIN or, where it was still in the backlog, by reset.
        assert_eq!(client.read(&mut [0; 1]).unwrap_or(0), 0);
    });
}
