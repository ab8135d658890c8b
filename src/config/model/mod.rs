//! What runs: units converted, names resolved to positions, every value within its bounds. Immutable.
//!
//! The first paragraph of a field's comment is the sentence about its key in docs/CONFIGURATION.md; a test
//! compares them.

mod admission;
mod healthcheck;
mod listener;
mod process;
mod proxy;
mod sni;
mod tls;
mod upstream;

pub use admission::*;
pub use healthcheck::*;
pub use listener::*;
pub use process::*;
pub use proxy::*;
pub use sni::*;
pub use tls::*;
pub use upstream::*;

use super::text;

/// A whole, valid configuration. Only [`super::parse`] makes one.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// Cores, limits and memory of the process.
    pub runtime: Runtime,
    /// Which log records are written, and where.
    pub logging: Logging,
    /// The endpoints of the admin API.
    pub admin: Admin,
    /// At least one; names are unique.
    pub listeners: Vec<Listener>,
    /// At least one; names are unique.
    pub upstreams: Vec<Upstream>,
}
