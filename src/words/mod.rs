//! The vocabulary of the house: identifiers, limits, the reasons a session ends. No I/O, no other module.

mod close_reason;
mod ids;
pub mod limits;
mod plain;

pub use close_reason::CloseReason;
pub use ids::{BackendId, ListenerId, ShardId, UpstreamId};
pub use plain::{Plain, counted};
