//! Backend states as the health thread broadcasts them: always the whole, never a change.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::words::limits;

/// What the checks say of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// No check has finished yet; not eligible.
    Checking,
    /// Takes sessions.
    Up,
    /// Does not.
    Down,
}

/// One address a connection can be made to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// TCP over IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A stream socket file.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// The addresses of all backends of all upstreams, as the resolver knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Indexed by `UpstreamId`, then by `BackendId`; empty while a name has never been resolved, and at most
    /// `limits::ADDRESSES_PER_BACKEND` each.
    pub upstreams: Vec<Vec<Arc<[Address]>>>,
}

/// The state of one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendState {
    /// What the checks say.
    pub health: Health,
    /// Its sessions failed too often: out for a while.
    pub ejected: bool,
    /// The part of its weight it gets, 1 to `limits::RAMP_STEPS`, which is all of it.
    pub ramp: u32,
    /// Tried in this order; empty while its name has never been resolved.
    pub addresses: Arc<[Address]>,
}

impl BackendState {
    /// Nothing is known yet.
    #[must_use]
    pub fn unknown() -> Self {
        Self { health: Health::Checking, ejected: false, ramp: limits::RAMP_STEPS, addresses: Arc::from([]) }
    }

    /// Whether it can take sessions but for an ejection.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.health == Health::Up && !self.addresses.is_empty()
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
    /// Strictly increases from one broadcast to the next.
    pub version: u64,
    /// Indexed by `UpstreamId`, then by `BackendId`.
    pub upstreams: Vec<Vec<BackendState>>,
}

impl UpstreamStates {
    /// Whether every backend had its first verdict. One whose name does not resolve never has: bound the wait.
    #[must_use]
    pub fn all_decided(&self) -> bool {
        self.upstreams.iter().flatten().all(|backend| backend.health != Health::Checking)
    }
}
