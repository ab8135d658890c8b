//! Who may have a session, and how many.

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::text;

/// A list of clients, as `allow`, `deny` and the like have it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AccessList(pub Vec<AccessEntry>);

impl AccessList {
    /// Returns whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// One entry of a list of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessEntry {
    /// `any`: every client.
    Any,
    /// `unix:`: every client of a Unix socket.
    Unix,
    /// A prefix; IPv4 addresses in IPv6 are IPv4 here.
    Prefix(IpNet),
    /// `file:PATH`: the prefixes in a file.
    File {
        /// The path as it was written.
        path: PathBuf,
        /// What the file said when the configuration was read.
        prefixes: Arc<[IpNet]>,
    },
}

impl AccessEntry {
    /// Returns whether no client is in it: a file without a prefix.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::File { prefixes, .. } if prefixes.is_empty())
    }

    /// Returns whether clients of a Unix socket are in it.
    #[must_use]
    pub fn has_unix(&self) -> bool {
        matches!(self, Self::Any | Self::Unix)
    }

    /// Returns whether clients with addresses are in it.
    #[must_use]
    pub fn has_addresses(&self) -> bool {
        !self.is_empty() && *self != Self::Unix
    }
}

impl fmt::Display for AccessEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Unix => f.write_str("unix:"),
            Self::Prefix(prefix) => prefix.fmt(f),
            Self::File { path, .. } => write!(f, "file:{}", path.display()),
        }
    }
}

impl Serialize for AccessEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> text::Done<S> {
        text::text(self, serializer)
    }
}

/// What becomes of a client that is one too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OverLimit {
    /// It is reset, and counted.
    Refuse,
    /// It waits in the kernel's backlog.
    Wait,
}

/// A number of events in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The number of events.
    pub events: NonZeroU32,
    /// A second, a minute or an hour.
    pub per: Duration,
}

impl Rate {
    /// The units, with their lengths.
    pub(in super::super) const UNITS: [(&str, Duration); 3] =
        [("s", Duration::from_secs(1)), ("m", Duration::from_secs(60)), ("h", Duration::from_secs(3_600))];

    /// Returns the number of events in a second, at least 1.
    #[must_use]
    pub fn per_second(self) -> u32 {
        (self.events.get() / u32::try_from(self.per.as_secs()).unwrap_or(u32::MAX)).max(1)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = Self::UNITS.iter().find(|(_, length)| *length == self.per).map_or("s", |(unit, _)| unit);
        write!(f, "{}/{unit}", self.events)
    }
}

/// `rate_limit:` of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RateLimit {
    /// New sessions of all clients together; what is more is reset. The same as `rate_limit` alone.
    #[serde(serialize_with = "text::text")]
    pub rate: Rate,
    /// New sessions that may come at once after a pause.
    pub burst: NonZeroU32,
}

/// `per_source:` of a listener: limits for each client by its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PerSource {
    /// Open sessions of one source; 0 sets no limit.
    #[serde(serialize_with = "text::limit")]
    pub max_connections: Option<NonZeroU32>,
    /// New sessions of one source.
    #[serde(serialize_with = "text::text_or_off")]
    pub rate: Option<Rate>,
    /// New sessions of one source that may come at once after a pause; only with `rate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<NonZeroU32>,
    /// Length of the prefix that is one source, for IPv4 clients.
    pub ipv4_prefix: u8,
    /// Length of the prefix that is one source, for IPv6 clients.
    pub ipv6_prefix: u8,
}

impl PerSource {
    /// Returns the limit on the rate of one source, if there is one.
    #[must_use]
    pub fn rate_limit(&self) -> Option<RateLimit> {
        Some(RateLimit { rate: self.rate?, burst: self.burst? })
    }
}
