//! Upstreams and their backends.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use super::{HealthCheck, TcpOptions, UpstreamTls, ZonedAddress, text};
use crate::balance::Registered;
use crate::protocol::proxy::Version;

/// One entry of `upstreams:`
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Upstream {
    /// Name of the upstream, unique among them.
    ///
    /// `default` in the short form.
    pub name: String,
    /// How a backend is picked; `weighted_round_robin` is the same as `round_robin`.
    #[serde(serialize_with = "algorithm")]
    pub algorithm: &'static Registered,
    /// What of a client `source_hash` and `maglev` go by: `source` is its IP address, `source_port` its
    /// address and port, `sni` the name that a client of TLS asks for, or its address without one.
    pub hash_key: HashKey,
    /// The backends; at least one has a weight above 0.
    pub backends: Vec<Backend>,
    /// How the backends are checked; off takes every backend as up.
    #[serde(serialize_with = "text::or_off")]
    pub healthcheck: Option<HealthCheck>,
    /// When failed sessions eject a backend for a while; off never ejects one.
    #[serde(serialize_with = "text::or_off")]
    pub outlier: Option<Outlier>,
    /// With a smaller part of the primaries eligible, and no backup, checks and ejections are ignored.
    #[serde(serialize_with = "text::percent_or_off")]
    pub panic_threshold: Option<u32>,
    /// Time in which a backend that comes back gets its whole share again; off gives it at once.
    #[serde(serialize_with = "text::duration_or_off")]
    pub slow_start: Option<Duration>,
    /// What becomes of the sessions of a backend that its checks find down or that is ejected: `close` resets
    /// them on both sides.
    pub on_down: OpenSessions,
    /// What becomes of the sessions on backups when primaries serve again: `close` resets them on both sides.
    pub on_up: OpenSessions,
    /// Other backends tried before the client is given up.
    pub retries: u32,
    /// Retries there may be, in percent of the sessions of the last 10 s and at least 10 a second; off sets
    /// no limit.
    #[serde(serialize_with = "text::percent_or_off")]
    pub retry_budget: Option<u32>,
    /// Clients that wait for a permit of a backend; off is `max: 0`.
    pub queue: QueueRules,
    /// Ready backend connections; off is `size: 0`.
    pub pool: PoolRules,
    /// Version of the PROXY header that tells a backend who the client is; checks send one of their own. Not beside a
    /// `pool`.
    #[serde(serialize_with = "text::or_off")]
    pub send_proxy: Option<Version>,
    /// TLS with backends, and with their checks of `type: http`; off sends what clients send. See TLS.md.
    #[serde(serialize_with = "text::shared_or_off")]
    pub tls: Option<Arc<UpstreamTls>>,
    /// Addresses of this machine that backend connections come from, used in turn, each listed once; off
    /// leaves the choice to the kernel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source: Vec<IpAddr>,
    /// Which local ports backend connections come from: `per_core` gives each core a part of
    /// `net.ipv4.ip_local_port_range`, and any port once that is used up. Linux 6.3 or later. See "Source addresses and
    /// ports".
    pub source_ports: SourcePorts,
    /// Time between two look-ups of a host name; off looks it up once.
    #[serde(serialize_with = "text::duration_or_off")]
    pub resolve: Option<Duration>,
    /// Limits on the time of backend connections.
    pub timeouts: UpstreamTimeouts,
    /// Options of backend sockets.
    pub tcp: TcpOptions,
}

fn algorithm<S: Serializer>(value: &&'static Registered, serializer: S) -> text::Done<S> {
    serializer.serialize_str(value.name)
}

/// `queue:` of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct QueueRules {
    /// Clients that wait for a permit of a backend; 0 lets none wait. A backend without `max_connections`
    /// beside it is a warning: no client waits while it is up.
    pub max: u32,
    /// Longest wait of one client, from the first time it waits; `timeouts.establish` covers it too.
    #[serde(serialize_with = "text::duration")]
    pub timeout: Duration,
}

/// `outlier:` when failures of sessions eject a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Outlier {
    /// Consecutive failures, of all cores together, that eject a backend.
    pub consecutive_failures: u32,
    /// Consecutive sessions without an answer that eject a backend.
    #[serde(serialize_with = "text::or_off")]
    pub empty_answers: Option<u32>,
    /// Longest duration of the first ejection; later ones last longer, and checks end each sooner.
    #[serde(serialize_with = "text::duration")]
    pub ejection_time: Duration,
    /// Part of the primaries, and of the backups, that may be ejected at a time, rounded down. If that is
    /// none of several primaries, it is a warning.
    #[serde(serialize_with = "text::percent")]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PoolRules {
    /// Ready connections kept for each backend by the whole process; 0 keeps none. Each shard keeps its part,
    /// so with fewer than there are cores some shards have none.
    pub size: u32,
    /// Longest time a connection is kept, up to a tenth less, so that they do not all end at once.
    #[serde(serialize_with = "text::duration_or_off")]
    pub max_idle: Option<Duration>,
    /// Which connections come back from sessions: `untouched` takes those that carried no byte, `reset` also
    /// those that the backend says are clean.
    pub reuse: Reuse,
    /// Whether clients may harm each other; `trusted` says that none ever will.
    pub clients: Clients,
    /// How a backend is asked to forget a client; only for [`Reuse::Reset`].
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
    /// Also those that the backend says are clean.
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ResetRules {
    /// Bytes that ask the backend to forget the client.
    #[serde(serialize_with = "text::bytes")]
    pub send: Vec<u8>,
    /// Bytes that alone may come back.
    #[serde(serialize_with = "text::bytes")]
    pub expect: Vec<u8>,
    /// Longest wait for `expect`.
    #[serde(serialize_with = "text::duration")]
    pub timeout: Duration,
}

/// What of a client is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HashKey {
    /// Its IP address; the clients of a `unix:` listener are all one.
    Source,
    /// Its IP address and port, so that each session goes its own way.
    SourcePort,
    /// The name that it asks for (TLS); without one, its IP address.
    Sni,
}

/// The local ports of backend connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SourcePorts {
    /// All of them, for all shards.
    Any,
    /// A part of them for each shard.
    PerCore,
}

/// `timeouts:` of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct UpstreamTimeouts {
    /// Longest single connection attempt.
    #[serde(serialize_with = "text::duration")]
    pub connect: Duration,
    /// Longest time for all attempts together; off bounds each attempt alone. Less than `connect` is a
    /// warning.
    #[serde(serialize_with = "text::duration_or_off")]
    pub establish: Option<Duration>,
    /// Longest time in which no byte moves on the backend's socket; see "Idle limits".
    #[serde(serialize_with = "text::duration_or_off")]
    pub backend_idle: Option<Duration>,
}

/// One entry of `backends:`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Backend {
    /// Name of the backend, unique in its upstream; required for `unix:`.
    pub name: String,
    /// Address of the backend; a link-local one needs its interface, as in `fe80::1%eth0`. An IPv6 address
    /// may stand in brackets. The port may follow (`HOST:PORT`, `[IPV6]:PORT`) where there is no `port`.
    #[serde(flatten)]
    pub address: BackendAddress,
    /// Share of new sessions; 0 takes none.
    pub weight: u32,
    /// Sessions at a time, of the whole process and exactly; 0 sets no limit.
    #[serde(serialize_with = "text::limit")]
    pub max_connections: Option<NonZeroU32>,
    /// Whether it takes sessions only while no other backend can.
    pub backup: bool,
    /// What an operator wants of it at run time; a file cannot say it.
    #[serde(skip)]
    pub admin_state: AdminState,
}

/// What an operator wants of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdminState {
    /// It takes sessions as its checks allow.
    #[default]
    Ready,
    /// It takes no new sessions; checks go on.
    Drain,
    /// It takes no new sessions and is not checked; open ones end as `on_down` says.
    Maint,
}

impl AdminState {
    /// All states with their names.
    pub const ALL: [(&str, Self); 3] =
        [("ready", Self::Ready), ("drain", Self::Drain), ("maint", Self::Maint)];

    /// Returns the name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maint",
        }
    }
}

/// Where a backend listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BackendAddress {
    /// A literal address.
    Ip(SocketAddr),
    /// A host name, looked up off the shards; its addresses are tried in order.
    Host {
        /// The name as written.
        name: String,
        /// Port of the backend; not for `unix:`, and not beside an `address` with a port.
        port: u16,
    },
    /// A literal address on a named interface; [`Config::with_zones`](super::Config::with_zones) makes it an
    /// `Ip`.
    Zoned(ZonedAddress),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Serialize for BackendAddress {
    /// Writes the two keys of an entry, so that it can be flattened into one.
    fn serialize<S: Serializer>(&self, serializer: S) -> text::Done<S> {
        #[derive(Serialize)]
        struct Keys<'a> {
            address: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            port: Option<u16>,
        }
        let text = self.to_string();
        let (address, port) = match self {
            Self::Ip(address) => (text.rsplit_once(':').map_or(&*text, |(ip, _)| ip), Some(address.port())),
            Self::Zoned(address) => (text.rsplit_once(':').map_or(&*text, |(ip, _)| ip), Some(address.port)),
            Self::Host { name, port } => (name.as_str(), Some(*port)),
            Self::Unix(_) => (&*text, None),
        };
        Keys { address, port }.serialize(serializer)
    }
}
