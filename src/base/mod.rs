//! The vocabulary of the crate: identifiers, limits, time, addresses, and the reasons for which sessions end.

mod activity;
mod address;
mod backoff;
mod client_address;
mod escaped;
mod growing;
mod ids;
pub mod limits;
mod local;
mod plain;
mod reasons;
mod shared;
mod spares;
mod tick;

pub use activity::Activity;
pub use address::Address;
pub use backoff::Backoff;
pub use client_address::ClientAddress;
pub use escaped::Escaped;
pub use growing::Growing;
pub use ids::{BackendId, BackendKey, ListenerId, ShardId, ShardPlace, UpstreamId};
pub use local::{LocalEnd, PortRange};
pub use plain::{Plain, counted};
pub use reasons::{CloseReason, ConnectFailure, DenyReason, SessionPhase, TlsFailure, TlsHandshake};
pub use shared::Shared;
pub use spares::Spares;
pub use tick::{Moment, Tick};

#[cfg(test)]
pub(crate) use shared::writes;
