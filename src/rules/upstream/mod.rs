//! The backend table: states that the health thread publishes, eligibility, in-flight guards.

mod failures;
mod health_rules;
mod loads;
mod outlier;
mod serving;
mod shared;
mod slow_start;
mod sources;
mod state;
mod table;
mod verdicts;

pub use failures::{Failures, Fault, Report, Reported, Thresholds};
pub use health_rules::{HealthRules, Transition, Verdict};
pub use loads::Loads;
pub use outlier::{Cause, Outliers, Return, Spared};
pub use serving::{Order, Serving, Share, TIERS};
pub use shared::Shared;
pub use slow_start::Ramps;
pub use sources::Sources;
pub use state::{Address, Addresses, BackendState, Health, Resolved, UpstreamStates};
pub use table::{Deliver, InFlight, Lingering, Pick, ShardPlace, UpstreamTable};
pub use verdicts::{Event, Verdicts};
