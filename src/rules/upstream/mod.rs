//! The backend table: states that the health thread publishes, eligibility, in-flight guards.

mod loads;
mod state;
mod table;

pub use loads::Loads;
pub use state::{Address, BackendState, Health, UpstreamStates};
pub use table::{InFlight, ShardPlace, UpstreamTable};
