//! Admission: who may have a session, limits and their permits, the queue for a permit, and the budget for retries.

mod access;
mod gate;
mod limit;
mod listener;
mod queue;
mod rate;
mod retry_budget;
mod sources;

pub use access::{Access, ClientSet, Decided};
pub use gate::Gate;
pub use limit::Limit;
pub use listener::{ListenerState, SharedListener};
pub use queue::{Eligible, Queue, Ticket};
pub use rate::{Pace, SharedPace};
pub use retry_budget::RetryBudget;
pub use sources::{SourceRules, SourceSlot, Sources};
