//! Backend states as the health thread broadcasts them: always the whole, never a change.

use std::sync::Arc;

use crate::base::{Address, limits};

/// What the checks say of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// No check has finished yet; not eligible.
    Checking,
    /// Takes sessions.
    Up,
    /// Does not.
    Down,
}

/// The addresses of all backends of all upstreams, as the resolver knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Indexed by `UpstreamId`, then by `BackendId`.
    pub upstreams: Vec<Vec<Resolved>>,
}

/// What the resolver knows of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// In the order of the last answer; empty while the name has never been resolved, and at most
    /// `limits::ADDRESSES_PER_BACKEND_MAX`.
    pub addresses: Arc<[Address]>,
    /// Whether the first look-up of the name has failed, so that nobody need wait for it.
    pub has_failed: bool,
}

/// The state of one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendState {
    /// What the checks say.
    pub health: Health,
    /// While it has no verdict: others still wait for the first one, so backups and panic do not serve in its place.
    pub awaited: bool,
    /// Its sessions failed too often: out for a while.
    pub ejected: bool,
    /// The part of its weight it gets, 1 to `limits::RAMP_STEPS`, which is all of it.
    pub ramp: u32,
    /// Tried in this order, the one first that the last check found well; empty while its name has never been resolved.
    pub addresses: Arc<[Address]>,
    /// Addresses that have left the name and whose checks have failed since: sessions on them are on a dead backend.
    pub gone: Arc<[Address]>,
}

impl BackendState {
    /// Nothing is known yet.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            health: Health::Checking,
            awaited: true,
            ejected: false,
            ramp: limits::RAMP_STEPS,
            addresses: Arc::from([]),
            gone: Arc::from([]),
        }
    }

    /// Whether it can take sessions but for an ejection.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.health == Health::Up && !self.addresses.is_empty()
    }

    /// Whether others wait for its first verdict.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.awaited && self.health == Health::Checking
    }

    /// Whether it is known where it is.
    #[must_use]
    pub fn has_address(&self) -> bool {
        !self.addresses.is_empty()
    }

    /// Whether checks and ejections let it take sessions.
    #[must_use]
    pub fn is_eligible(&self) -> bool {
        self.is_up() && !self.ejected
    }
}

/// The states of all backends of all upstreams.
#[derive(Clone, Debug)]
pub struct UpstreamStates {
    /// The generation of the configuration whose backends these are; those of another one are ignored.
    pub generation: u64,
    /// Strictly increases from one broadcast to the next.
    pub version: u64,
    /// In the order of the configuration, as are the backends of each.
    pub upstreams: Vec<Vec<BackendState>>,
}

impl UpstreamStates {
    /// Whether every backend has had its first verdict. One whose name does not resolve never has: bound the wait.
    #[must_use]
    pub fn all_decided(&self) -> bool {
        self.upstreams.iter().flatten().all(|backend| backend.health != Health::Checking)
    }
}
