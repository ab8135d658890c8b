//! The status of a process as one value: for the admin API and everything that reads it (`ctl`, `top`, the page), for
//! the demo, for metrics and for tests.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::AdminState;
use crate::steering::CoreStatus;
use crate::telemetry::counters::{
    BackendCounters, CheckCounters, ListenerTotals, PoolCounters, UpstreamCounters, WorkCounters,
};
use crate::upstream::{Health, Serving};
use crate::uring::Turns;

/// See the module documentation. Counters are sums since the start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The version of the binary.
    pub version: String,
    /// The number of the process.
    pub pid: u32,
    /// Time since the process started.
    #[serde(rename = "uptime_seconds", with = "seconds")]
    pub uptime: Duration,
    /// What the process does with clients.
    pub phase: Phase,
    /// The generation of the configuration that runs.
    pub generation: u64,
    /// Why the last upgrade has failed; `None` if none has.
    #[serde(default)]
    pub upgrade_error: Option<String>,
    /// Maximum number of sessions at a time.
    pub max_sessions: u32,
    /// The sources of clients that `per_source` limits.
    #[serde(default)]
    pub sources: SourcesStatus,
    /// How the configuration was loaded again.
    #[serde(default)]
    pub reloads: ReloadStatus,
    /// How the process was to be replaced.
    #[serde(default)]
    pub upgrades: UpgradeStatus,
    /// Log records that were lost: their queue was full, or their target did not take them.
    pub log_dropped: LogDropped,
    /// In the order of the configuration.
    pub listeners: Vec<ListenerStatus>,
    /// In the order of the configuration.
    pub upstreams: Vec<UpstreamStatus>,
    /// By shard.
    pub shards: Vec<ShardStatus>,
}

/// The sources of clients that `per_source` limits.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct SourcesStatus {
    /// Those of which something is known.
    pub tracked: u64,
    /// Clients of sources for which there was no place, so that they shared one limit.
    pub overflowed: u64,
}

/// What a process does with clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Phase {
    /// It accepts clients.
    Running,
    /// It was asked to stop, and goes on accepting for `runtime.shutdown_delay`.
    Stopping,
    /// It accepts no clients, and serves open sessions to their end.
    Draining,
}

/// Reloads since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadStatus {
    /// Those that were applied, or found nothing changed.
    pub success: u64,
    /// Those that were refused.
    pub failure: u64,
    /// Whether the last one succeeded; true before the first.
    pub last_successful: bool,
    /// When a configuration was taken last, the one of the start included: seconds since 1970, UTC.
    pub last_success_unix_seconds: u64,
}

impl Default for ReloadStatus {
    fn default() -> Self {
        Self { success: 0, failure: 0, last_successful: true, last_success_unix_seconds: 0 }
    }
}

impl ReloadStatus {
    /// There were none; the configuration of the start was taken now.
    #[must_use]
    pub fn of_start() -> Self {
        let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default();
        Self { last_success_unix_seconds: now, ..Self::default() }
    }

    /// Notes a reload.
    pub fn note(&mut self, is_success: bool) {
        self.last_successful = is_success;
        if is_success {
            self.success += 1;
            self.last_success_unix_seconds = Self::of_start().last_success_unix_seconds;
        } else {
            self.failure += 1;
        }
    }
}

/// Upgrades since the start of the first process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeStatus {
    /// Those that led to this process.
    pub success: u64,
    /// Those that were refused or failed, so that the old process went on.
    pub failure: u64,
}

/// Lost log records by log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogDropped {
    /// Of the log of the process.
    pub process: u64,
    /// Of the access log.
    pub access: u64,
}

/// A listener.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// The name of its upstream.
    pub upstream: String,
    /// Whether a client that comes now would find an eligible backend.
    pub ready: bool,
    /// Whether it was removed, and only serves open sessions.
    pub draining: bool,
    /// The highest number of open sessions that was seen; looked at once a second.
    pub active_max: u64,
    /// Maximum number of sessions at a time: its own, or that of the process if that is lower.
    #[serde(default)]
    pub max_sessions: u32,
    /// The certificates of its TLS, one for each name; none without.
    #[serde(default)]
    pub certificates: Vec<CertificateStatus>,
    /// What all shards have counted.
    #[serde(flatten)]
    pub totals: ListenerTotals,
}

/// A certificate of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// The first name that it is for.
    pub name: String,
    /// When it expires, in seconds since 1970; of several for the name the first one.
    pub not_after_unix_seconds: i64,
}

/// An upstream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UpstreamStatus {
    /// Its name.
    pub name: String,
    /// The name of its algorithm.
    pub algorithm: String,
    /// Which backends the first pick of a session goes to.
    pub serving: Serving,
    /// The number of clients that wait for a backend below its limit.
    pub waiting: usize,
    /// What all shards have counted.
    #[serde(flatten)]
    pub totals: UpstreamCounters<u64>,
    /// What all shards have counted for its pools.
    pub pool: PoolCounters<u64>,
    /// In the order of the configuration.
    pub backends: Vec<BackendStatus>,
}

/// A backend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Its name.
    pub name: String,
    /// What operators want of it.
    #[serde(default)]
    pub admin_state: AdminState,
    /// Whether it was removed, and only serves open sessions.
    pub draining: bool,
    /// The result of the health checks.
    pub health: Health,
    /// Whether the backend takes no sessions for a while, because sessions have failed on it.
    pub ejected: bool,
    /// Whether it serves only while no primary can.
    pub backup: bool,
    /// Relative share of sessions.
    pub weight: u32,
    /// The addresses at which the backend can be reached, in the order to try.
    pub addresses: Vec<String>,
    /// Sessions in flight.
    pub in_flight: u32,
    /// The highest number of sessions in flight that was seen; looked at once a second.
    pub in_flight_max: u32,
    /// Maximum number of connections; `None` if there is no limit.
    pub max_connections: Option<u32>,
    /// Permits that are taken; `None` if there is no limit.
    pub permits_taken: Option<u32>,
    /// What all shards have counted.
    #[serde(flatten)]
    pub totals: BackendCounters<u64>,
    /// Ejections because sessions failed.
    pub ejections: u64,
    /// What the health checks found; `None` if there are none.
    pub checks: Option<CheckStatus>,
}

/// The health checks of a backend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckStatus {
    /// What they have counted.
    #[serde(flatten)]
    pub totals: CheckCounters<u64>,
    /// The last one.
    pub last: Option<LastCheckStatus>,
}

/// The last check of a backend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LastCheckStatus {
    /// Whether it succeeded.
    pub ok: bool,
    /// Why it failed; empty if it did not.
    pub message: String,
    /// Time since it ended.
    #[serde(rename = "age_seconds", with = "seconds")]
    pub age: Duration,
    /// How long it took.
    #[serde(rename = "duration_seconds", with = "seconds")]
    pub took: Duration,
}

/// A shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShardStatus {
    /// The CPU it is pinned to.
    pub cpu: usize,
    /// The load of its core, and the connections that it handed off and received. Its sessions are those that
    /// were not denied.
    #[serde(flatten)]
    pub core: CoreStatus,
    /// What its event loop has counted.
    #[serde(flatten)]
    pub turns: Turns,
    /// What the shard has counted.
    #[serde(flatten)]
    pub work: WorkCounters<u64>,
    /// What the shard has counted for each listener.
    #[serde(skip)]
    pub listeners: Vec<ListenerTotals>,
}

impl Status {
    /// Returns the number of open sessions.
    #[must_use]
    pub fn open_sessions(&self) -> u64 {
        self.listeners.iter().map(|listener| listener.totals.active).sum()
    }
}

impl BackendStatus {
    /// Every word that `state` returns.
    pub const STATES: [&str; 6] = ["checking", "up", "down", "ejected", "drain", "maint"];

    /// Returns the state of the backend in one word: `drain` or `maint` if operators want it, else `up`, `down`,
    /// `checking` or `ejected`.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match (self.admin_state, self.health) {
            (AdminState::Ready, Health::Up) if self.ejected => "ejected",
            (AdminState::Ready, health) => health.name(),
            (wanted, _) => wanted.name(),
        }
    }

    /// Returns the number of failed connects.
    #[must_use]
    pub fn connect_failures_sum(&self) -> u64 {
        self.totals.connect_failures.iter().sum()
    }
}

/// Durations as seconds, the base unit of everything that is measured.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(duration.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
