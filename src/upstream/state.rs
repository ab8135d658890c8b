//! Backend states as the health thread broadcasts them: always the whole state, never a change.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::{Address, BackendKey, UpstreamId, limits};

/// The result of the health checks of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// No check has finished yet; not eligible.
    Checking,
    /// The backend takes sessions.
    Up,
    /// The backend takes no sessions.
    Down,
}

impl Health {
    /// Returns the health in one word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Checking => "checking",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// The addresses of all backends of all upstreams, as the resolver knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The generation of the configuration that they are for.
    pub generation: u64,
    /// Indexed by `UpstreamId`, then by `BackendId`.
    pub upstreams: Vec<Vec<Resolved>>,
}

impl Addresses {
    /// Returns what is known of a backend.
    #[must_use]
    pub fn of(&self, key: BackendKey) -> Option<&Resolved> {
        self.upstreams.get(key.upstream.index())?.get(key.backend.index())
    }
}

/// What the resolver knows of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// In the order of the last answer, at most `limits::ADDRESSES_PER_BACKEND_MAX`; empty while the name has
    /// never been resolved.
    pub addresses: Arc<[Address]>,
    /// Whether the first look-up of the name has failed, so that it need not be waited for.
    pub has_failed: bool,
}

impl Resolved {
    /// Returns whether the first look-up is over.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.has_failed || !self.addresses.is_empty()
    }
}

/// The state of one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendState {
    /// The result of the checks.
    pub health: Health,
    /// Whether the first verdict is still awaited, so that backups and panic do not serve in the backend's
    /// place.
    pub awaited: bool,
    /// Whether the backend is ejected for a while, because its sessions failed too often.
    pub ejected: bool,
    /// The share of its weight that the backend gets, from 1 to `limits::RAMP_STEPS`, which is the whole
    /// weight.
    pub ramp: u32,
    /// The addresses in the order to try, the one of the last successful check first; empty while the name
    /// has never been resolved.
    pub addresses: Arc<[Address]>,
    /// Addresses that have left the name and whose checks have failed since: sessions on them are on a dead
    /// backend.
    pub gone: Arc<[Address]>,
}

impl BackendState {
    /// Returns the state of a backend of which nothing is known yet.
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

    /// Returns the state of a number without a backend in this generation. It is no verdict, so it ends no session.
    #[must_use]
    pub fn absent() -> Self {
        Self { awaited: false, ..Self::unknown() }
    }

    /// Returns whether the backend can take sessions, ejections aside.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.health == Health::Up && !self.addresses.is_empty()
    }

    /// Returns whether the first verdict of the backend is awaited.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.awaited && self.health == Health::Checking
    }

    /// Returns whether an address of the backend is known.
    #[must_use]
    pub fn has_address(&self) -> bool {
        !self.addresses.is_empty()
    }

    /// Returns whether checks and ejections let the backend take sessions.
    #[must_use]
    pub fn is_eligible(&self) -> bool {
        self.is_up() && !self.ejected
    }
}

/// The states of all backends of all upstreams.
#[derive(Clone, Debug)]
pub struct UpstreamStates {
    /// The generation of the configuration that was judged.
    pub generation: u64,
    /// Strictly increases from one broadcast to the next.
    pub version: u64,
    /// The upstreams and their backends, both by number. Where the generation has no such backend, the state is
    /// [`BackendState::absent`].
    pub upstreams: Vec<Vec<BackendState>>,
}

impl UpstreamStates {
    /// Returns the states of the backends of an upstream, by number; none before the first ones are published.
    #[must_use]
    pub fn of(&self, upstream: UpstreamId) -> &[BackendState] {
        self.upstreams.get(upstream.index()).map_or(&[], Vec::as_slice)
    }

    /// Returns the state of one backend.
    #[must_use]
    pub fn backend(&self, key: BackendKey) -> Option<&BackendState> {
        self.of(key.upstream).get(key.backend.index())
    }
}
