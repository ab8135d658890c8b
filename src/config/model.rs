//! What runs: units converted, names resolved to positions, every value within its bound. Immutable.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::print;
use crate::balance::Registered;
use crate::base::UpstreamId;

/// A whole, valid configuration. Only [`super::parse`] makes one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// CoreSelection, limits and memory of the process.
    pub runtime: Runtime,
    /// Where log records go and which.
    pub logging: Logging,
    /// At least one; names are unique.
    pub listeners: Vec<Listener>,
    /// At least one; names are unique.
    pub upstreams: Vec<Upstream>,
}

/// `runtime:` CoreSelection, limits and memory of the process.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Runtime {
    /// Which cores get a shard.
    #[serde(serialize_with = "print::cores")]
    pub cores: CoreSelection,
    /// Most client sessions of the process at a time; `None` is what the descriptor limit allows.
    #[serde(serialize_with = "print::limit")]
    pub max_connections: Option<NonZeroU32>,
    /// How long accepting goes on after a TERM.
    #[serde(serialize_with = "print::duration_or_off")]
    pub shutdown_delay: Option<Duration>,
    /// How long open sessions are served after accepting stopped; `None` is as long as it takes.
    #[serde(serialize_with = "print::duration_or_off")]
    pub shutdown_timeout: Option<Duration>,
    /// Buffers and pipes of the relay.
    pub relay: Relay,
}

/// `runtime.cores:` which cores get a shard, always within the CPUs this process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoreSelection {
    /// Every CPU this process may use.
    Auto,
    /// The first so many of them.
    Count(NonZeroU32),
    /// Exactly these CPU numbers, ascending and without repetition.
    List(Vec<u32>),
}

/// `runtime.relay:` buffers and pipes of the relay.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Relay {
    /// Size of one provided buffer, bytes, within `limits::BUFFER_BYTES`.
    #[serde(rename = "buffer_size", serialize_with = "print::size")]
    pub buffer_bytes: u32,
    /// Number of provided buffers of a core: a power of two within `limits::BUFFERS_PER_CORE`.
    pub buffers_per_core: u32,
    /// Whether bulk is spliced through a pipe.
    #[serde(serialize_with = "print::auto_or_off")]
    pub splice: bool,
    /// Size of one pipe, bytes, within `limits::PIPE_BYTES`; the kernel rounds it up to a power of two.
    #[serde(rename = "pipe_size", serialize_with = "print::size")]
    pub pipe_bytes: u32,
    /// Most pipes of a core; `None` is the user's pipe quota divided by the cores.
    #[serde(serialize_with = "print::number_or_auto")]
    pub pipes_per_core: Option<NonZeroU32>,
}

/// `logging:`
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Logging {
    /// Least severe level that is written.
    #[serde(serialize_with = "print::level")]
    pub level: log::LevelFilter,
    /// How a record looks.
    #[serde(serialize_with = "print::format")]
    pub format: LogFormat,
    /// Where records go.
    #[serde(serialize_with = "print::log_target")]
    pub target: LogTarget,
}

/// How a log record looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where log records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// The standard error stream.
    Stderr,
    /// A file that is appended to, and opened again on USR1.
    File(PathBuf),
}

/// One entry of `listeners:`
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Listener {
    /// Unique name; `default` in the short form.
    pub name: String,
    /// Where it listens.
    #[serde(serialize_with = "print::text")]
    pub address: ListenAddress,
    /// Where its sessions go.
    #[serde(skip)]
    pub upstream: UpstreamId,
    /// Completed connections that may wait in the kernel for each shard.
    pub backlog: u32,
    /// Limits on the time of its sessions.
    pub timeouts: ListenerTimeouts,
    /// Options of client sockets, and of the listening ones.
    pub tcp: ListenerTcp,
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
    /// The same on a named interface; [`Config::with_zones`] makes it the above.
    Zoned(ZonedAddress),
    /// A socket file.
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
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ListenerTimeouts {
    /// Longest time in which no byte moves on the client's socket.
    #[serde(serialize_with = "print::duration_or_off")]
    pub client_idle: Option<Duration>,
    /// Which of both idle limits ends a session where they are equal.
    #[serde(skip)]
    pub equal_idle: EqualIdle,
    /// Longest silence once one side has ended its stream.
    #[serde(serialize_with = "print::duration")]
    pub half_close: Duration,
    /// Longest session.
    #[serde(serialize_with = "print::duration_or_off")]
    pub session: Option<Duration>,
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
    /// The same for both: the printed configuration has both limits, and so is the same without it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EqualIdle")
    }
}

/// `tcp:` of a listener.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ListenerTcp {
    /// Those that backends have too.
    #[serde(flatten)]
    pub options: TcpOptions,
    /// The kernel gives each connection to the shard of the CPU that received it, and there it stays.
    #[serde(serialize_with = "print::switch")]
    pub steer_by_cpu: bool,
}

/// `tcp:` options of the sockets of one side.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct TcpOptions {
    /// `TCP_NODELAY`.
    pub nodelay: bool,
    /// `SO_KEEPALIVE`.
    #[serde(serialize_with = "print::keepalive")]
    pub keepalive: Option<Keepalive>,
    /// `TCP_USER_TIMEOUT`, milliseconds in the kernel.
    #[serde(serialize_with = "print::duration_or_off")]
    pub user_timeout: Option<Duration>,
}

/// When the kernel probes a silent peer, and takes it for dead: after `idle` + `count` x `interval`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Keepalive {
    /// Silence before the first probe, `TCP_KEEPIDLE`; whole seconds.
    #[serde(serialize_with = "print::duration")]
    pub idle: Duration,
    /// Between two probes, `TCP_KEEPINTVL`; whole seconds.
    #[serde(serialize_with = "print::duration")]
    pub interval: Duration,
    /// Probes without an answer, `TCP_KEEPCNT`.
    pub count: u32,
}

impl Keepalive {
    /// Longest interval where none is written: with [`Self::COUNT`], an idle time of 60 s is two minutes until the end.
    const INTERVAL: Duration = Duration::from_secs(15);
    /// Probes where no number is written.
    pub(super) const COUNT: u32 = 4;

    /// The interval where none is written. Where `user_timeout` decides, the kernel looks at that at each probe only.
    pub(super) fn interval_for(idle: Duration, user_timeout: Option<Duration>) -> Duration {
        let longest = user_timeout.map_or(Self::INTERVAL, |timeout| timeout / 3);
        let seconds = idle.min(Self::INTERVAL).min(longest).as_secs();
        Duration::from_secs(seconds.max(1))
    }
}

/// One entry of `upstreams:`
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Upstream {
    /// Unique name; `default` in the short form.
    pub name: String,
    /// How a backend is picked.
    #[serde(serialize_with = "print::algorithm")]
    pub algorithm: &'static Registered,
    /// What of a client decides where a hashing algorithm sends it.
    #[serde(serialize_with = "print::hash_key")]
    pub hash_key: HashKey,
    /// At least one; names are unique.
    pub backends: Vec<Backend>,
    /// How the backends are checked; `None` takes every backend as up.
    #[serde(serialize_with = "print::healthcheck")]
    pub healthcheck: Option<HealthCheck>,
    /// What of sessions takes a backend out for a while; `None` is nothing.
    #[serde(serialize_with = "print::outlier")]
    pub outlier: Option<Outlier>,
    /// With a smaller part of the primaries eligible, per cent, and no backup, checks and ejections are ignored.
    #[serde(serialize_with = "print::percent_or_off")]
    pub panic_threshold: Option<u32>,
    /// Time in which a backend that comes back gets its whole share again; `None` is at once.
    #[serde(serialize_with = "print::duration_or_off")]
    pub slow_start: Option<Duration>,
    /// What becomes of the sessions of a backend that goes down.
    pub on_down: OpenSessions,
    /// What becomes of the sessions of backups when a primary is back.
    pub on_up: OpenSessions,
    /// Other backends tried before the client is given up.
    pub retries: u32,
    /// Retries there may be, per cent of the sessions of the last ten seconds; `None` is no limit.
    #[serde(serialize_with = "print::percent_or_off")]
    pub retry_budget: Option<u32>,
    /// Clients that wait for a backend below its `max_connections`.
    pub queue: QueueRules,
    /// Ready backend connections.
    pub pool: PoolRules,
    /// Local addresses of backend connections, used in turn; without one the kernel chooses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source: Vec<IpAddr>,
    /// Time between two look-ups of a host name; `None` looks up once.
    #[serde(serialize_with = "print::duration_or_off")]
    pub resolve: Option<Duration>,
    /// Limits on the time of backend connections.
    pub timeouts: UpstreamTimeouts,
    /// Options of backend sockets.
    pub tcp: TcpOptions,
}

/// `queue:` of an upstream.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
pub struct QueueRules {
    /// Most clients that wait; 0 for none.
    pub max: u32,
    /// Longest wait of one.
    #[serde(serialize_with = "print::duration")]
    pub timeout: Duration,
}

/// `outlier:` when failures of sessions eject a backend.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Outlier {
    /// Consecutive failures that eject it.
    pub consecutive_failures: u32,
    /// Consecutive sessions that eject it because it took bytes and ended them without one of its own.
    #[serde(serialize_with = "print::number_or_off")]
    pub empty_answers: Option<u32>,
    /// How long the first time; longer each further time.
    #[serde(serialize_with = "print::duration")]
    pub ejection_time: Duration,
    /// Most backends that are ejected at a time, per cent of the primaries and of the backups, 1 to 100.
    #[serde(serialize_with = "print::percent")]
    pub max_ejected: u32,
}

/// What becomes of open sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OpenSessions {
    /// They go on.
    Keep,
    /// They are reset.
    Close,
}

/// `pool:` of an upstream.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PoolRules {
    /// Ready connections kept for each backend, by the whole process; 0 for none.
    pub size: u32,
    /// Longest time one is kept.
    #[serde(serialize_with = "print::duration_or_off")]
    pub max_idle: Option<Duration>,
    /// Which connections come back from sessions.
    pub reuse: Reuse,
    /// Whether clients are believed not to harm each other.
    pub clients: Clients,
    /// For [`Reuse::Reset`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset: Option<ResetRules>,
}

/// Which connections come back to the pool from sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reuse {
    /// None.
    Off,
    /// Those that carried no byte.
    Untouched,
    /// Those of which the backend says that they are clean, too.
    Reset,
}

/// What is believed of the clients of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Clients {
    /// Any may be hostile.
    Untrusted,
    /// None is.
    Trusted,
}

/// `reset:` of a pool: how a backend is asked to forget a client.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ResetRules {
    /// What is sent.
    #[serde(serialize_with = "print::some_bytes")]
    pub send: Vec<u8>,
    /// What alone may come back.
    #[serde(serialize_with = "print::some_bytes")]
    pub expect: Vec<u8>,
    /// Longest wait for it.
    #[serde(serialize_with = "print::duration")]
    pub timeout: Duration,
}

/// What of a client is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// Its IP address; the clients of a `unix:` listener are all one.
    Source,
    /// Its IP address and port, so that each session goes its own way.
    SourcePort,
}

/// `timeouts:` of an upstream.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct UpstreamTimeouts {
    /// Longest single connection attempt.
    #[serde(serialize_with = "print::duration")]
    pub connect: Duration,
    /// Longest time for all tries together; `None` bounds each try alone.
    #[serde(serialize_with = "print::duration_or_off")]
    pub establish: Option<Duration>,
    /// Longest time in which no byte moves on the backend's socket.
    #[serde(serialize_with = "print::duration_or_off")]
    pub backend_idle: Option<Duration>,
}

/// One entry of `backends:`
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Backend {
    /// Unique in its upstream; `ADDRESS:PORT` where none is written.
    pub name: String,
    /// Where it listens.
    #[serde(flatten)]
    pub address: BackendAddress,
    /// Share of new sessions; 0 takes none.
    pub weight: u32,
    /// Most connections at a time, of the whole process; `None` is no limit.
    #[serde(serialize_with = "print::limit")]
    pub max_connections: Option<NonZeroU32>,
    /// Serves only while no other backend can.
    pub backup: bool,
}

/// Where a backend listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BackendAddress {
    /// A literal address.
    Ip(SocketAddr),
    /// The same on a named interface; [`Config::with_zones`] makes it the above.
    Zoned(ZonedAddress),
    /// A host name, looked up off the shards; its addresses are tried in order.
    Host {
        /// The name as written.
        name: String,
        /// The port, at least 1.
        port: u16,
    },
    /// A socket file.
    Unix(PathBuf),
}

/// `healthcheck:` what a backend has to do to be up, and how often it is asked.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct HealthCheck {
    /// What it is asked.
    #[serde(flatten)]
    pub kind: CheckKind,
    /// Time between the checks of one backend.
    #[serde(serialize_with = "print::duration")]
    pub interval: Duration,
    /// The same while a backend changes state.
    #[serde(serialize_with = "print::duration")]
    pub fast_interval: Duration,
    /// Longest check.
    #[serde(serialize_with = "print::duration")]
    pub timeout: Duration,
    /// Consecutive successes that bring a backend up.
    pub rise: u32,
    /// Consecutive failures that take a backend down.
    pub fall: u32,
    /// Random change of each interval, as a fraction of it, at most 1.
    #[serde(serialize_with = "print::fraction")]
    pub jitter: f64,
    /// Port that is checked instead of the backend's; a `unix:` backend is checked at its own path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// `type:` of a check, with the keys that belong to it. Each begins with a connection that has to stand.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum CheckKind {
    /// Nothing more.
    Tcp,
    /// A GET of HTTP/1.1 has to be answered.
    Http(HttpCheck),
    /// A TLS handshake has to succeed, whatever the certificate says.
    Tls {
        /// Server name to ask for; an IP address asks for none. `None` is the backend's host name.
        #[serde(skip_serializing_if = "Option::is_none")]
        host: Option<String>,
    },
    /// Bytes are sent and have to come, one step after the other.
    SendExpect {
        /// At least one, at most `limits::CHECK_STEPS_MAX`.
        #[serde(serialize_with = "print::steps")]
        steps: Arc<[Step]>,
    },
}

/// The keys of `type: http`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct HttpCheck {
    /// Path and query, from its `/` on.
    pub path: String,
    /// The header `Host`; `None` is the backend's host name or address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// What the status has to be.
    #[serde(serialize_with = "print::text")]
    pub expect_status: Statuses,
}

/// A set of HTTP statuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses(Vec<RangeInclusive<u16>>);

impl Statuses {
    /// The statuses in any of these ranges.
    ///
    /// # Panics
    ///
    /// Without a range, which no status would be in.
    #[must_use]
    pub fn new(ranges: Vec<RangeInclusive<u16>>) -> Self {
        assert!(!ranges.is_empty(), "a status has to be possible");
        Self(ranges)
    }

    /// Whether `status` is one of them.
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

impl fmt::Display for Statuses {
    /// As the file writes it: `200, 204, 300-399`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let (first, last) = (range.start(), range.end());
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{first}")?;
            if first != last {
                write!(f, "-{last}")?;
            }
        }
        Ok(())
    }
}

/// One step of `type: send_expect`: at least one of the two, each of 1 to `limits::CHECK_STEP_BYTES_MAX` bytes.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Step {
    /// Sent first.
    #[serde(serialize_with = "print::bytes", skip_serializing_if = "Option::is_none")]
    pub send: Option<Vec<u8>>,
    /// Has to come then, at once or after other bytes.
    #[serde(serialize_with = "print::bytes", skip_serializing_if = "Option::is_none")]
    pub expect: Option<Vec<u8>>,
}
