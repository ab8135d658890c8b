//! What the process may use, added up in one place and checked at the start: descriptors, line by line, and
//! pipes.

use std::num::NonZeroU32;

use crate::base::{counted, limits};
use crate::config::{Admin, BackendAddress, Config, OpenSessions, Relay};

/// Descriptors of a session: the client's and the backend's.
const PER_SESSION: u64 = 2;
/// A shard: its ring, both ends of its doorbell, and the executor's three rings and three eventfds.
const PER_SHARD: u64 = 9;
/// Connections on their way to a shard from other shards, if there are any.
const PASSED: u64 = limits::HANDOFFS_MAX as u64;
/// A pipe: its two ends.
const PER_PIPE: u64 = 2;
/// A check that is in flight or just ending.
const PER_CHECK: u64 = 1;
/// A listening socket, and its duplicate for a successor of the process.
const PER_SOCKET: u64 = 2;
/// Standard streams, the log file, and the runtimes of the health and control threads.
const PROCESS: u64 = 32;
/// Sessions that a listener may start in a turn while the same number of ended sessions still hold their two
/// descriptors, which are closed a turn later (`shard::accept`).
const OVERLAP: u64 = limits::SESSIONS_PER_TURN_MAX as u64 * PER_SESSION;

/// Pipes of a core if neither the configuration nor a quota sets fewer. A pipe is held for a turn, and longer
/// only while its destination is slow.
const PIPES_PER_CORE: u64 = 32;

/// Returns the number of pipes that each shard may have; none if splicing is off. `quota` is how much the
/// pipes of the user may hold, bytes.
pub(super) fn pipes(relay: &Relay, shards: usize, quota: Option<u64>) -> u32 {
    if !relay.splice {
        return 0;
    }
    let pipe_bytes = u64::from(relay.pipe_bytes.next_power_of_two());
    let share = quota.map_or(PIPES_PER_CORE, |quota| quota / pipe_bytes / shards as u64);
    // Even a quota that is too small leaves one pipe: whether the kernel grants it is known only when it is
    // made.
    let auto = share.clamp(1, PIPES_PER_CORE) as u32;
    relay.pipes_per_core.map_or(auto, NonZeroU32::get)
}

/// The process may not open enough descriptors.
#[derive(Debug, thiserror::Error)]
#[error(
    "{needed} descriptors are needed for {}, but this process may open {limit}; raise the limit \
     (`ulimit -n`, or LimitNOFILE= in the systemd unit){}",
    counted(*sessions, "session"), smaller(*possible)
)]
pub struct TooFewDescriptors {
    needed: u64,
    sessions: u64,
    limit: u64,
    possible: u64,
}

/// Returns the last part of the sentence, if a smaller number would work.
fn smaller(possible: u64) -> String {
    match possible {
        0 => String::new(),
        possible => format!(", or set runtime.max_connections to {possible} or less"),
    }
}

/// Returns how many sessions the process may serve at a time.
///
/// # Errors
///
/// `runtime.max_connections` needs more descriptors than the process may open, or there are not enough for a
/// single session.
pub(super) fn sessions(
    config: &Config,
    shards: usize,
    pipes: u32,
    limit: u64,
) -> Result<u32, TooFewDescriptors> {
    let shards = shards as u64;
    let pools = config
        .upstreams
        .iter()
        .map(|upstream| upstream.backends.len() as u64 * u64::from(upstream.pool.size));
    let pools: u64 = pools.sum();
    // With `on_down: close`, the addresses that have left a name are checked, too.
    let checked = config.upstreams.iter().filter(|upstream| upstream.healthcheck.is_some()).map(|upstream| {
        let departed =
            if upstream.on_down == OpenSessions::Close { limits::ADDRESSES_PER_BACKEND_MAX } else { 0 };
        (upstream.backends.len() * (1 + departed)) as u64
    });
    let checked: u64 = checked.sum();
    let ending = if checked > 0 { limits::PROBES_ENDING_MAX as u64 } else { 0 };
    let checks = checked.min(limits::PROBES_MAX as u64) * PER_CHECK + ending;
    let entries = config.upstreams.iter().flat_map(|upstream| &upstream.backends);
    let is_looked_up = |address: &BackendAddress| {
        matches!(address, BackendAddress::Host { .. }) && address.known().is_empty()
    };
    let names = entries.filter(|entry| is_looked_up(&entry.address)).count();
    let admin = admin(&config.admin);
    let listeners = shards * config.listeners.len() as u64 * (PER_SOCKET + OVERLAP);
    // A look-up holds a socket to a name server.
    let passed = if shards > 1 { shards * PASSED } else { 0 };
    let fixed = shards * (PER_SHARD + u64::from(pipes) * PER_PIPE)
        + passed
        + listeners
        + checks
        + pools
        + names.min(limits::LOOKUPS_MAX) as u64
        + admin
        + PROCESS;
    let possible = limit.saturating_sub(fixed) / PER_SESSION;
    let sessions =
        config.runtime.max_connections.map_or(possible.max(1), |sessions| u64::from(sessions.get()));
    if sessions > possible {
        return Err(TooFewDescriptors { needed: fixed + sessions * PER_SESSION, sessions, limit, possible });
    }
    Ok(u32::try_from(sessions).unwrap_or(NonZeroU32::MAX.get()))
}

/// Returns the descriptors of the admin API: its endpoints, and their connections.
fn admin(admin: &Admin) -> u64 {
    let tcp = admin.listen_address.as_ref().map_or(0, |_| limits::ADMIN_TCP_CONNECTIONS_MAX);
    let socket = admin.socket.as_ref().map_or(0, |_| limits::ADMIN_SOCKET_CONNECTIONS_MAX);
    admin.endpoints() as u64 * PER_SOCKET + (tcp + socket) as u64
}
