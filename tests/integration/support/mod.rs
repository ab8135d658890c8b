//! What every test here is made of: backends, a balancer in this process or in one of its own, clients.
//!
//! All ports come from the system and stay reserved while they are used, so tests run beside each other and
//! beside other runs. Nothing sleeps to let something happen: [`eventually`] waits for the thing itself.

mod backend;
mod balancer;
mod client;
mod config;
mod http;
mod network;
mod process;
mod seccomp;
mod service_manager;
mod stopped_thread;
mod tls;

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

pub use backend::{Backend, Connection, backend, exchange};
pub use balancer::{Balancer, Builder as BalancerBuilder, balancer, both_ways, shards, timed};
pub use client::{Client, expect_reset, is_reset, receive_at_once};
pub use config::{NO_ADMIN, parse, write_config};
pub use http::{Asked, Endpoint, Reply, Stream as HttpStream};
pub use network::{add_address, in_own_network, set_network, switch_loopback};
pub use process::{Builder as ProcessBuilder, Process, process, run_to_end};
pub use seccomp::forbid;
pub use service_manager::ServiceManager;
pub use stopped_thread::StoppedThread;
pub use tls::{AUTHORITY, Authority, Talk, TlsClient, echo_tls, talk_tls};

/// Longer than anything here takes on a loaded machine; what has not happened by then does not happen.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(1);

/// Whether this is root, who must skip nothing.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// Says, past the capture of the test's output, that a test is skipped, and why. Not for root.
pub fn skip(test: &str, why: &str) {
    assert!(!is_root(), "{test}: {why}");
    // In one write, on a line of its own, whatever the other tests say meanwhile.
    let _ = std::io::stderr().write_all(format!("\nskipped {test}: {why}\n").as_bytes());
}

/// Whether a test may open so many descriptors; if not, it is skipped.
pub fn has_descriptors(count: u64) -> bool {
    let limit = ringway::net::raise_descriptor_limit().unwrap();
    if limit < count {
        let name = std::thread::current().name().unwrap_or("a test").to_owned();
        skip(&name, &format!("it needs {count} descriptors, and may open {limit}"));
    }
    limit >= count
}

/// Tests with hundreds of sessions run one after the other, so that their descriptors fit into those of an ordinary user beside
/// those of any other test. Hold what this returns.
pub fn crowd() -> MutexGuard<'static, ()> {
    static CROWD: Mutex<()> = Mutex::new(());
    CROWD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until a condition holds, and says whether it does.
pub fn holds_within(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(LOOK);
    }
}

/// Waits until a condition holds.
#[track_caller]
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    assert!(holds_within(PATIENCE, condition), "not within {PATIENCE:?}: {what}");
}

/// A port that no other test gets: a socket is bound to it and never listens.
///
/// Listeners with SO_REUSEPORT bind beside it, and the check for a stale process, with SO_REUSEADDR alone,
/// does not mind a socket that does not listen. Without a listener the kernel refuses connections to it.
pub struct Reserved {
    socket: Socket,
}

impl Reserved {
    pub fn at(ip: IpAddr) -> Self {
        let address = SocketAddr::from((ip, 0));
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_reuse_port(true).unwrap();
        if address.is_ipv6() {
            // As `":PORT"` takes both families, its reservation has to.
            socket.set_only_v6(!ip.is_unspecified()).unwrap();
        }
        socket.bind(&SockAddr::from(address)).unwrap();
        Self { socket }
    }

    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap().as_socket().unwrap()
    }

    /// Where clients on this machine reach who listens there.
    pub fn reached_at(&self) -> SocketAddr {
        let address = self.address();
        let ip = if address.ip().is_unspecified() { V4 } else { address.ip() };
        SocketAddr::new(ip, address.port())
    }

    /// A listening socket on the reserved port.
    pub fn listen(&self, backlog: i32) -> Socket {
        self.listening(backlog, true)
    }

    /// One beside which no other may listen.
    pub fn listen_alone(&self, backlog: i32) -> Socket {
        self.listening(backlog, false)
    }

    fn listening(&self, backlog: i32, in_group: bool) -> Socket {
        let address = self.address();
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_reuse_port(in_group).unwrap();
        if address.is_ipv6() {
            socket.set_only_v6(true).unwrap();
        }
        socket.bind(&SockAddr::from(address)).unwrap();
        socket.listen(backlog).unwrap();
        socket
    }
}

pub const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// Bytes of the stream that all tests send; a prime number, so that no power of two of lost or doubled bytes
/// looks right.
const PERIOD: usize = 1_000_003;

/// The one stream that all tests send: byte `n` of it is always the same, and no two pieces of a megabyte
/// are.
pub struct Stream(Vec<u8>);

impl Stream {
    /// Different seeds, different streams.
    pub fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = vec![0; PERIOD];
        random.fill(&mut bytes);
        Self(bytes)
    }

    /// At least one and at most `most` bytes from this offset on.
    pub fn piece(&self, offset: u64, most: usize) -> &[u8] {
        let begin = (offset % PERIOD as u64) as usize;
        &self.0[begin..PERIOD.min(begin + most)]
    }

    /// Whether these are the bytes from this offset on.
    pub fn matches(&self, mut offset: u64, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let piece = self.piece(offset, bytes.len());
            if piece != &bytes[..piece.len()] {
                return false;
            }
            offset += piece.len() as u64;
            bytes = &bytes[piece.len()..];
        }
        true
    }

    /// The first `length` bytes.
    pub fn head(&self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            bytes.extend_from_slice(self.piece(bytes.len() as u64, length - bytes.len()));
        }
        bytes
    }
}
