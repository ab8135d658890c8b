//! For tests: two readings of a process, ten seconds apart.

use std::time::Duration;

use super::readings::Readings;
use crate::base::{CloseReason, ConnectFailure};
use crate::config::AdminState;
use crate::control::process::{SessionPage, SessionState, SessionStatus};
use crate::control::status::{CheckStatus, LastCheckStatus, LogDropped, Phase, ReloadStatus, UpgradeStatus};
use crate::control::{BackendStatus, ListenerStatus, ShardStatus, Status, UpstreamStatus};
use crate::steering::CoreStatus;
use crate::telemetry::counters::{
    BackendCounters, CheckCounters, ListenerTotals, PoolCounters, UpstreamCounters, WorkCounters,
};
use crate::telemetry::histogram::Histogram;
use crate::upstream::{Health, Serving};
use crate::uring::Turns;

/// The time between the two readings, seconds.
pub(super) const BETWEEN: u64 = 10;

/// Both readings.
pub(super) fn two_readings() -> Readings {
    Readings::first(status(1)).next(status(2))
}

/// A reading: everything has happened `times` as often as in the first one.
pub(super) fn status(times: u64) -> Status {
    Status {
        version: "1.2.3".into(),
        pid: 4_711,
        uptime: Duration::from_secs(BETWEEN * times),
        phase: Phase::Running,
        generation: 1,
        upgrade_error: None,
        max_sessions: 65_000,
        sources: Default::default(),
        reloads: ReloadStatus::default(),
        upgrades: UpgradeStatus::default(),
        log_dropped: LogDropped { process: 0, access: 3 },
        listeners: vec![listener(times)],
        upstreams: vec![upstream(times)],
        shards: vec![shard(times, 0), shard(times, 1)],
    }
}

fn histogram(times: u64, bucket: usize, sum_micros: u64) -> Histogram<u64> {
    let mut histogram = Histogram::default();
    (histogram.buckets[bucket], histogram.sum_micros) = (100 * times, sum_micros * times);
    histogram
}

fn listener(times: u64) -> ListenerStatus {
    let mut totals = ListenerTotals {
        accepted: 12_345 * times,
        active: 42,
        bytes_to_backend: (50 << 20) * times,
        bytes_to_client: (10 << 30) * times,
        duration: histogram(times, 9, 5_000_000),
        ..ListenerTotals::default()
    };
    totals.denied[0] = 10 * times;
    totals.closed[CloseReason::Normal.index()] = 12_000 * times;
    totals.closed[CloseReason::NoBackend.index()] = 20 * times;
    totals.closed[CloseReason::ConnectTimeout.index()] = 5 * times;
    ListenerStatus {
        draining: false,
        name: "web".into(),
        address: "0.0.0.0:8080".into(),
        upstream: "app".into(),
        ready: true,
        active_max: 99,
        max_sessions: 65_000,
        certificates: Vec::new(),
        totals,
    }
}

fn upstream(times: u64) -> UpstreamStatus {
    let totals = UpstreamCounters {
        retries: 30 * times,
        connect: histogram(times, 3, 80_000),
        ..UpstreamCounters::default()
    };
    UpstreamStatus {
        name: "app".into(),
        algorithm: "round_robin".into(),
        serving: Serving::Primaries,
        waiting: 2,
        totals,
        pool: PoolCounters::default(),
        backends: vec![
            backend("a", Health::Up, 1_000 * times),
            backend("b", Health::Down, 0),
            BackendStatus { ejected: true, ..backend("c", Health::Up, 3_000 * times) },
        ],
    }
}

fn backend(name: &str, health: Health, sessions: u64) -> BackendStatus {
    let is_down = health == Health::Down;
    let mut totals = BackendCounters {
        sessions,
        connects: sessions,
        connect_micros: sessions * 250,
        bytes_to_backend: sessions << 10,
        ..BackendCounters::default()
    };
    totals.connect_failures[ConnectFailure::Refused.index()] = if is_down { 7 } else { 0 };
    let last = LastCheckStatus {
        ok: !is_down,
        message: if is_down { "Connection refused".into() } else { String::new() },
        age: Duration::from_millis(2_500),
        took: Duration::from_micros(850),
    };
    BackendStatus {
        draining: false,
        name: name.into(),
        admin_state: AdminState::Ready,
        health,
        ejected: false,
        ejections: 0,
        backup: name == "c",
        weight: 1,
        addresses: vec![format!("10.0.0.1:80{}", name.len())],
        in_flight: 21,
        in_flight_max: 50,
        max_connections: is_down.then_some(100),
        permits_taken: None,
        totals,
        checks: Some(CheckStatus { totals: CheckCounters::default(), last: Some(last) }),
    }
}

fn shard(times: u64, cpu: usize) -> ShardStatus {
    ShardStatus {
        cpu,
        core: CoreStatus { active: 21, sessions: 6_000 * times, busy: 375, ..CoreStatus::default() },
        turns: Turns { turns: 100_000 * times, completions: 500_000 * times, slow_turns: times - 1 },
        work: WorkCounters::default(),
        listeners: Vec::new(),
    }
}

/// Three open sessions.
pub(super) fn sessions() -> SessionPage {
    let session = |id: u64| SessionStatus {
        id,
        client: format!("192.0.2.{id}:5000"),
        listener: "web".into(),
        upstream: "app".into(),
        backend: (id != 3).then(|| "a".into()),
        core: 1,
        state: if id == 3 { SessionState::Queued } else { SessionState::Relaying },
        age_seconds: 75.0 * id as f64,
        to_backend_bytes: 1_000 * id,
        to_client_bytes: 2_000_000,
        to_backend_bytes_per_second: 13.0,
        to_client_bytes_per_second: 26_000.0,
    };
    SessionPage { sessions: [1, 2, 3].map(session).to_vec(), next: None }
}
