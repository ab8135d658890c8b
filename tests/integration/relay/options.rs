//! Set-up: a listener and an upstream with TCP options that differ, and one session. Claim: each of its
//! sockets has the options of its own side (keepalive once the session is no longer young), and none that is
//! off.

#![expect(
    unsafe_code,
    reason = "the balancer runs in this process, and its descriptors are known by number alone"
)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::SockRef;

use ringway::base::CloseReason;

use crate::support::{
    Backend, Balancer, Client, Connection, backend, balancer, eventually, in_own_network, switch_loopback,
};

#[derive(Debug, PartialEq)]
struct Options {
    keepalive: Option<Keepalive>,
    user_timeout: Option<Duration>,
}

/// Seconds and number, as the kernel has them.
#[derive(Debug, PartialEq)]
struct Keepalive(u64, u64, u32);

impl Options {
    fn of(socket: &SockRef<'_>) -> io::Result<Self> {
        let all = Keepalive(
            socket.tcp_keepalive_time()?.as_secs(),
            socket.tcp_keepalive_interval()?.as_secs(),
            socket.tcp_keepalive_retries()?,
        );
        let keepalive = socket.keepalive()?.then_some(all);
        Ok(Self { keepalive, user_timeout: socket.tcp_user_timeout()?.filter(|timeout| !timeout.is_zero()) })
    }
}

/// The options of the socket in this process that leads to `peer` from one of these addresses.
fn options(locals: &[SocketAddr], peer: SocketAddr) -> Options {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    let numbers = entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap());
    let found = numbers.filter_map(|number| {
        // SAFETY: it is asked for its addresses and options alone, which is no harm to any socket that has
        // the number now.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let socket = SockRef::from(&descriptor);
        let leads_there = socket.peer_addr().ok()?.as_socket() == Some(peer);
        let begins_there = locals.contains(&socket.local_addr().ok()?.as_socket()?);
        if leads_there && begins_there { Options::of(&socket).ok() } else { None }
    });
    let mut found: Vec<_> = found.collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// A backend that echoes, and knows where its connections come from: sessions of other tests may still lead to its port, which had
/// another owner before.
struct Knowing {
    backend: Backend,
    peers: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Knowing {
    fn start() -> Self {
        let peers: Arc<Mutex<Vec<_>>> = Arc::default();
        let known = Arc::clone(&peers);
        let echo = move |connection: &mut Connection| {
            known.lock().unwrap().push(connection.peer());
            connection.echo()
        };
        Self { backend: backend().serve(echo).start(), peers }
    }

    /// The options of the client's socket of a session, and of the backend's.
    fn both(&self, balancer: &Balancer, client: &Client) -> [Options; 2] {
        let peers = self.peers.lock().unwrap();
        [options(&[balancer.address()], client.address()), options(&peers, self.backend.address())]
    }
}

const fn seconds(count: u64) -> Option<Duration> {
    Some(Duration::from_secs(count))
}

#[test]
fn each_side_has_its_own_keepalive_and_user_timeout() {
    let backend = Knowing::start();
    let balancer = balancer()
        .listener("tcp: {keepalive: 7s, user_timeout: 11s}")
        .upstream("tcp: {keepalive: {idle: 8s, interval: 2s, count: 9}, user_timeout: 12s}")
        .backends([&backend.backend])
        .start();
    let client = balancer.echoing_client();
    let wanted = [
        Options { keepalive: Some(Keepalive(7, 3, 4)), user_timeout: seconds(11) },
        Options { keepalive: Some(Keepalive(8, 2, 9)), user_timeout: seconds(12) },
    ];
    eventually("both sides have their options", || backend.both(&balancer, &client) == wanted);
    client.finish().unwrap();
}

/// Keepalive is set on both sides at once, so what one of them does not have by then it never gets.
#[test]
fn options_that_are_off_are_not_set() {
    let on = Options { keepalive: Some(Keepalive(7, 3, 4)), user_timeout: seconds(11) };
    let off = || Options { keepalive: None, user_timeout: None };
    let (set, unset) =
        ("tcp: {keepalive: 7s, user_timeout: 11s}", "tcp: {keepalive: off, user_timeout: off}");
    for on_client in [true, false] {
        let backend = Knowing::start();
        let (listener, upstream) = if on_client { (set, unset) } else { (unset, set) };
        let balancer = balancer().listener(listener).upstream(upstream).backends([&backend.backend]).start();
        let client = balancer.echoing_client();
        eventually("one side has its options, and the other one none", || {
            let [of_client, of_backend] = backend.both(&balancer, &client);
            let (with, without) = if on_client { (of_client, of_backend) } else { (of_backend, of_client) };
            with == on && without == off()
        });
        client.finish().unwrap();
    }
}

/// The kernel ends its connection, with an error that is no reset.
#[test]
fn peer_that_has_vanished_counts_as_dead() {
    let (on, off) = ("tcp: {keepalive: {idle: 1s, interval: 1s, count: 2}}", "tcp: {keepalive: off}");
    for (listener, upstream, reason) in
        [(on, off, CloseReason::ClientDead), (off, on, CloseReason::BackendDead)]
    {
        in_own_network(|| {
            let backend = Knowing::start();
            let balancer =
                balancer().listener(listener).upstream(upstream).backends([&backend.backend]).start();
            let client = balancer.echoing_client();
            eventually("keepalive is set", || {
                let [of_client, of_backend] = backend.both(&balancer, &client);
                of_client.keepalive.is_some() || of_backend.keepalive.is_some()
            });
            switch_loopback(false);
            balancer.await_closed(reason, 1);
        });
    }
}
