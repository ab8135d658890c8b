//! The backend table: states that the health thread publishes, eligibility, in-flight guards.

mod health_rules;
mod state;

pub use health_rules::{HealthRules, Transition, Verdict};
pub use state::{Address, Addresses, BackendState, Health, UpstreamStates};
