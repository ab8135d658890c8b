//! The backend table: states that the health thread publishes, eligibility, in-flight guards.

mod health_rules;
mod loads;
mod shared;
mod sources;
mod state;
mod table;

pub use health_rules::{HealthRules, Transition, Verdict};
pub use loads::Loads;
pub use shared::Shared;
pub use sources::Sources;
pub use state::{Address, Addresses, BackendState, Health, UpstreamStates};
pub use table::{Deliver, InFlight, Pick, ShardPlace, Share, UpstreamTable};
