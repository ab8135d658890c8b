//! The backend table: states that the health thread publishes, eligibility, in-flight guards.

mod failures;
mod loads;
mod local_addresses;
mod serving;
mod shared;
mod state;
mod table;

pub use failures::{Failures, Fault, OnFailures, Reported, Thresholds};
pub use loads::Loads;
pub use local_addresses::LocalAddresses;
pub use serving::{Order, Serving, Share, TIERS};
pub use shared::SharedUpstream;
pub use state::{Addresses, BackendState, Health, Resolved, UpstreamStates};
pub use table::{Deliver, InFlight, Lingering, Pick, UpstreamTable};
