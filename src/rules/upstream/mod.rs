//! The backend table: states that the health thread publishes, eligibility, in-flight guards.

mod failures;
mod health_rules;
mod loads;
mod outlier;
mod serving;
mod slow_start;
mod state;
mod table;
mod verdicts;

pub use failures::{Failures, Report};
pub use health_rules::{HealthRules, Transition, Verdict};
pub use loads::Loads;
pub use outlier::{Outliers, Return, Spared};
pub use serving::{Serving, Share};
pub use slow_start::Ramps;
pub use state::{Address, Addresses, BackendState, Health, UpstreamStates};
pub use table::{InFlight, ShardPlace, UpstreamTable};
pub use verdicts::{Event, Verdicts};
