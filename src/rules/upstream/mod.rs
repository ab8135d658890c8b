//! The backend table: states that the health thread publishes, eligibility, in-flight guards.

mod state;

pub use state::{Address, BackendState, Health, UpstreamStates};
