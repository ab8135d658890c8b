//! Admission: limits and their permits, the queue for a permit, and the budget for retries.

mod limit;
mod queue;
mod retry_budget;

pub use limit::Limit;
pub use queue::{Eligible, Queue, Ticket};
pub use retry_budget::RetryBudget;
