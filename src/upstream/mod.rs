//! Upstreams: the states that the health thread publishes, the choice of a backend for a session, and the
//! guards that the session gets with it.

mod attempts;
mod failures;
mod forced_closes;
mod loads;
mod local_addresses;
mod names;
mod permit;
mod serving;
mod shared;
mod snapshot;
mod state;
mod table;
mod unanswered;
mod waiting;

pub use attempts::{Attempts, ClientEnd, ClientState, Failure, Step, WaitEnd};
pub use failures::{Failures, Fault, OnReport, Reported, Thresholds};
pub use loads::Loads;
pub use local_addresses::LocalAddresses;
pub use names::{Names, NumbersSpent};
pub use permit::{InFlight, Permit};
pub use serving::{Order, Serving, Share, TIERS};
pub use shared::SharedUpstream;
pub use snapshot::{BuildError, Current, Snapshot};
pub use state::{Addresses, BackendState, Health, Resolved, UpstreamStates};
pub use table::{Pick, Preview, PreviewStep, Request, UpstreamTable};
