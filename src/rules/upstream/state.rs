//! Backend states as the health thread broadcasts them: always the whole, never a change.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

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

/// The state of one backend.
#[derive(Clone, Debug)]
pub struct BackendState {
    /// What the checks say.
    pub health: Health,
    /// Tried in this order; empty while its name has never been resolved.
    pub addresses: Arc<[Address]>,
}

/// The states of all backends of all upstreams.
#[derive(Clone, Debug)]
pub struct UpstreamStates {
    /// Strictly increases from one broadcast to the next.
    pub version: u64,
    /// Indexed by `UpstreamId`, then by `BackendId`.
    pub upstreams: Vec<Vec<BackendState>>,
}
