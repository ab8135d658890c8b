//! Listeners, and the options of TCP sockets, which both sides have.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::{AccessList, ListenerTls, OverLimit, PerSource, ProxyProtocol, RateLimit, Sni, text};
use crate::base::UpstreamId;

/// One entry of `listeners:`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Listener {
    /// Name of the listener, unique among them.
    ///
    /// `default` in the short form.
    pub name: String,
    /// Address on which the listener accepts: `:PORT` is all addresses, IPv6 and IPv4 (IPv4 alone where there
    /// is no IPv6), and `[::]:PORT` is IPv6 alone. No host names, no multicast. A link-local address needs
    /// its interface, as in `[fe80::1%eth0]:80`. No two listeners may overlap.
    #[serde(serialize_with = "text::text")]
    pub address: ListenAddress,
    /// Name of the upstream that serves the sessions of the listener; beside `sni` those that no route takes, and `close`
    /// resets them.
    #[serde(skip)]
    pub upstream: UpstreamId,
    /// Where clients of TLS go by the name that they ask for, without decryption. See "Routes by name".
    #[serde(skip)]
    pub sni: Sni,
    /// Connections that wait for accept, for each core. More than `net.core.somaxconn` is a warning of
    /// `check` and at the start.
    pub backlog: u32,
    /// Open sessions of the listener; 0 sets no limit but that of the process.
    #[serde(serialize_with = "text::limit")]
    pub max_connections: Option<NonZeroU32>,
    /// What becomes of a client beyond `max_connections` of the listener or the process: `refuse` resets it, `wait`
    /// leaves it in the kernel's backlog until another session ends.
    pub over_limit: OverLimit,
    /// Limit on new sessions of all clients together; the rate alone, or a section.
    #[serde(serialize_with = "text::or_off")]
    pub rate_limit: Option<RateLimit>,
    /// Limits for each client by its address.
    #[serde(serialize_with = "text::or_off")]
    pub per_source: Option<PerSource>,
    /// Clients that are let in; with any entry, all others are reset. See "Admission".
    #[serde(skip_serializing_if = "AccessList::is_empty")]
    pub allow: AccessList,
    /// Clients that are reset, whatever `allow` says.
    #[serde(skip_serializing_if = "AccessList::is_empty")]
    pub deny: AccessList,
    /// Longest silence of a new client before its first byte, and until then no backend hears of it; off connects it at once.
    /// Not for protocols in which the server speaks first, such as MySQL and SMTP.
    #[serde(serialize_with = "text::duration_or_off")]
    pub client_first: Option<Duration>,
    /// What becomes of clients while no backend is eligible: `reset` accepts and resets them, `unlisten` closes the port,
    /// so that they are refused. `unlisten` is not for `unix:`, nor beside `tcp.steer_by_cpu`.
    pub no_backend: NoBackend,
    /// What proxies in front say about their clients; off is `accept: off`.
    pub proxy_protocol: ProxyProtocol,
    /// TLS with clients, which Ringway ends; off leaves TLS to clients and backends. See TLS.md.
    #[serde(serialize_with = "text::shared_or_off")]
    pub tls: Option<Arc<ListenerTls>>,
    /// Limits on the bytes that a session moves; see "Bandwidth".
    pub bandwidth: Bandwidth,
    /// Limits on the time of sessions.
    pub timeouts: ListenerTimeouts,
    /// Options of client sockets, and of the listening ones.
    pub tcp: ListenerTcp,
}

/// `bandwidth:` of a listener: limits on the bytes of each of its sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bandwidth {
    /// Bytes that a session moves to its backend.
    #[serde(serialize_with = "text::text_or_off")]
    pub to_backend: Option<ByteRate>,
    /// Bytes that a session moves to its client.
    #[serde(serialize_with = "text::text_or_off")]
    pub to_client: Option<ByteRate>,
}

/// Bytes in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRate(NonZeroU64);

impl ByteRate {
    /// Returns the rate of so many bytes in a second; `None` if there are none.
    #[must_use]
    pub fn new(bytes: u64) -> Option<Self> {
        NonZeroU64::new(bytes).map(Self)
    }

    /// Returns the number of bytes in a second.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", text::size_text(self.bytes()))
    }
}

/// What becomes of clients while no backend is eligible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NoBackend {
    /// They are accepted and reset.
    Reset,
    /// They are refused by the kernel.
    Unlisten,
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// `":PORT"`: all addresses, IPv6 and IPv4.
    Any {
        /// The port, at least 1.
        port: u16,
    },
    /// One address and port.
    Tcp(SocketAddr),
    /// An address on a named interface; [`Config::with_zones`](super::Config::with_zones) makes it a `Tcp`.
    Zoned(ZonedAddress),
    /// A Unix socket.
    Unix(PathBuf),
}

/// A link-local address and port on an interface that goes by its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ZonedAddress {
    /// Within fe80::/10.
    pub ip: Ipv6Addr,
    /// Name of the interface.
    pub zone: String,
    /// The port, at least 1.
    pub port: u16,
}

/// `timeouts:` of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ListenerTimeouts {
    /// Longest time from the accept until PROXY header, ClientHello and TLS handshake are complete, where there are such.
    #[serde(serialize_with = "text::duration")]
    pub handshake: Duration,
    /// Longest time in which no byte moves on the client's socket; see "Idle limits".
    #[serde(serialize_with = "text::duration_or_off")]
    pub client_idle: Option<Duration>,
    /// Which of both idle limits ends a session where they are equal.
    #[serde(skip)]
    pub equal_idle: EqualIdle,
    /// Longest silence once one side has ended its stream.
    #[serde(serialize_with = "text::duration")]
    pub half_close: Duration,
    /// Longest session.
    #[serde(serialize_with = "text::duration_or_off")]
    pub session: Option<Duration>,
}

impl ListenerTimeouts {
    /// Both idle limits where neither is written.
    pub(in super::super) const IDLE: Duration = Duration::from_secs(3_600);
}

/// The idle limit that was written, where the other one follows it: the reason of the close bears its name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum EqualIdle {
    /// `client_idle`, or both.
    Client,
    /// `backend_idle`.
    Backend,
}

impl fmt::Debug for EqualIdle {
    /// Writes the same for both: a printed configuration has both limits, and reads as the same one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EqualIdle")
    }
}

/// `tcp:` of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ListenerTcp {
    /// Options that backends have too.
    #[serde(flatten)]
    pub options: TcpOptions,
    /// With `true`, the kernel gives each connection to the shard of the CPU that received it
    /// (`SO_ATTACH_REUSEPORT_CBPF`), however busy that core is; CPUs without a shard share the shards by
    /// their number. Otherwise the kernel goes by a hash, and a fresh connection is handed off where another
    /// core is clearly less busy. Not for `unix:`.
    #[serde(serialize_with = "text::switch")]
    pub steer_by_cpu: bool,
    /// How long the kernel waits for a client's first byte before it hands the connection over without it
    /// (`TCP_DEFER_ACCEPT`, whole seconds, rounded up by the kernel); off hands it over at once. Not for protocols in which
    /// the server speaks first. Not for `unix:`.
    #[serde(serialize_with = "text::duration_or_off")]
    pub defer_accept: Option<Duration>,
    /// With `true`, an address may be listened on that this machine does not have yet (`IP_FREEBIND`).
    #[serde(serialize_with = "text::switch")]
    pub freebind: bool,
    /// Name of the interface over which clients have to come (`SO_BINDTODEVICE`); off takes them from all. Not for `unix:`.
    #[serde(serialize_with = "text::text_or_off")]
    pub interface: Option<String>,
}

impl ListenerTcp {
    /// The options of a socket of which nothing special is wanted.
    pub const BARE: Self = Self {
        options: TcpOptions::BARE,
        steer_by_cpu: false,
        defer_accept: None,
        freebind: false,
        interface: None,
    };
}

/// `tcp:` options of the sockets of one side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TcpOptions {
    /// Small pieces are sent at once (`TCP_NODELAY`).
    pub nodelay: bool,
    /// Silence in whole seconds before the kernel probes the peer (`SO_KEEPALIVE`); the same as
    /// `keepalive.idle` alone.
    #[serde(serialize_with = "text::or_off")]
    pub keepalive: Option<Keepalive>,
    /// Longest time that sent bytes wait for an acknowledgement (`TCP_USER_TIMEOUT`); see "Dead peers".
    #[serde(serialize_with = "text::duration_or_off")]
    pub user_timeout: Option<Duration>,
    /// Name of the congestion control (`TCP_CONGESTION`), one of `net.ipv4.tcp_allowed_congestion_control` for a process
    /// without rights; off leaves that of the system.
    #[serde(serialize_with = "text::text_or_off")]
    pub congestion_control: Option<String>,
    /// Whether the first segments of the peer are acknowledged at once; with `off` the acknowledgement waits up to 40 ms for
    /// bytes that go the same way (`TCP_QUICKACK`), which saves a segment for a short session; towards a backend only if
    /// there are bytes for it when it is connected to. See "Fewer segments".
    pub quick_ack: bool,
    /// Whether bytes may come with the first segment (`TCP_FASTOPEN`, towards backends `MSG_FASTOPEN`); see "Fewer segments".
    #[serde(serialize_with = "text::switch")]
    pub fast_open: bool,
}

impl TcpOptions {
    /// The options of a socket of which nothing special is wanted.
    pub const BARE: Self = Self {
        nodelay: true,
        keepalive: None,
        user_timeout: None,
        congestion_control: None,
        quick_ack: true,
        fast_open: false,
    };
}

/// When the kernel probes a silent peer, and takes it for dead: after `idle` + `count` x `interval`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Keepalive {
    /// Silence in whole seconds before the first probe (`TCP_KEEPIDLE`).
    #[serde(serialize_with = "text::duration")]
    pub idle: Duration,
    /// Whole seconds between two probes (`TCP_KEEPINTVL`).
    #[serde(serialize_with = "text::duration")]
    pub interval: Duration,
    /// Probes without an answer after which the peer is dead (`TCP_KEEPCNT`).
    pub count: u32,
}

impl Keepalive {
    /// Longest interval where none is written: with [`Self::COUNT`], an idle time of 60 s is two minutes
    /// until the end.
    const INTERVAL: Duration = Duration::from_secs(15);
    /// Probes where no number is written.
    pub(in super::super) const COUNT: u32 = 4;

    /// Returns the interval where none is written. Where `user_timeout` decides, the kernel looks at that at
    /// each probe only.
    pub(in super::super) fn interval_for(idle: Duration, user_timeout: Option<Duration>) -> Duration {
        let longest = user_timeout.map_or(Self::INTERVAL, |timeout| timeout / 3);
        let seconds = idle.min(Self::INTERVAL).min(longest).as_secs();
        Duration::from_secs(seconds.max(1))
    }
}
