//! Accepts on the endpoints.
//!
//! Each endpoint has slots of its own, so that a crowd on the TCP address, which everybody on this machine may ask,
//! leaves the operator on the Unix socket alone. Who finds no slot waits in the kernel's backlog.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::access::Peer;
use super::api::Api;
use super::bind::{Bound, Endpoints};
use super::connection;
use super::under_way::UnderWay;
use crate::base::{Plain, limits};
use crate::config::ListenAddress;
use crate::control::process::Process;

/// Pause after a failed accept: descriptors or memory come back when somebody else has ended.
const PAUSE: Duration = Duration::from_millis(200);
/// Time between two records about failed accepts.
const QUIET: Duration = Duration::from_secs(60);

/// Serves the endpoints on a runtime, to its end. Returns the tasks that accept: who aborts one closes its socket, and ends no
/// connection.
pub fn serve(
    endpoints: Endpoints,
    runtime: &Handle,
    process: Arc<dyn Process>,
    under_way: UnderWay,
) -> Vec<AbortHandle> {
    let api = Arc::new(Api::new(process, under_way));
    let Endpoints { tcp, socket } = endpoints;
    let both = [(tcp, limits::ADMIN_TCP_CONNECTIONS_MAX), (socket, limits::ADMIN_SOCKET_CONNECTIONS_MAX)];
    let bound = both.into_iter().filter_map(|(bound, slots)| Some((bound?, slots)));
    bound
        .map(|(bound, slots)| runtime.spawn(accept_on(bound, slots, Arc::clone(&api))).abort_handle())
        .collect()
}

async fn accept_on(bound: Bound, slots: usize, api: Arc<Api>) {
    let address = bound.address.to_string();
    match Acceptor::new(bound) {
        Ok(acceptor) => accept(&acceptor, &address, slots, &api).await,
        // Only epoll(7) can refuse a socket that listens.
        Err(error) => log::error!("admin: {address} is not served: {}; restart", Plain(&error)),
    }
}

/// A listening socket.
enum Acceptor {
    Tcp(TcpListener, Peer),
    Unix(UnixListener),
}

impl Acceptor {
    fn new(bound: Bound) -> io::Result<Self> {
        let mut sockets = bound.listening.sockets.into_iter();
        let socket: OwnedFd = sockets.next().ok_or(io::ErrorKind::NotFound)?;
        let is_loopback = match bound.address {
            ListenAddress::Unix(_) => {
                let socket = std::os::unix::net::UnixListener::from(socket);
                socket.set_nonblocking(true)?;
                return Ok(Self::Unix(UnixListener::from_std(socket)?));
            }
            ListenAddress::Tcp(address) => address.ip().is_loopback(),
            ListenAddress::Any { .. } | ListenAddress::Zoned(_) => false,
        };
        let socket = std::net::TcpListener::from(socket);
        socket.set_nonblocking(true)?;
        Ok(Self::Tcp(TcpListener::from_std(socket)?, Peer::Tcp { is_loopback }))
    }
}

async fn accept(acceptor: &Acceptor, address: &str, most: usize, api: &Arc<Api>) {
    let slots = Arc::new(Semaphore::new(most));
    let mut logged: Option<Instant> = None;
    // Nobody closes the slots.
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        let (api, is_crowded) = (Arc::clone(api), slots.available_permits() < most / 2);
        let accepted = match acceptor {
            Acceptor::Tcp(listener, peer) => listener.accept().await.map(|(stream, _)| {
                // Without it, an answer in several pieces may wait for an acknowledgement.
                let _ = stream.set_nodelay(true);
                let connection = connection::serve(stream, *peer, api, is_crowded);
                tokio::spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }),
            Acceptor::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                let peer = Peer::Socket { uid: stream.peer_cred().ok().map(|cred| cred.uid()) };
                let connection = connection::serve(stream, peer, api, is_crowded);
                tokio::spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }),
        };
        if let Err(error) = accepted {
            if logged.is_none_or(|logged| logged.elapsed() >= QUIET) {
                log::warn!("admin: nobody can be accepted on {address}: {}; trying again", Plain(&error));
                logged = Some(Instant::now());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
