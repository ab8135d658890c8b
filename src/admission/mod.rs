//! Who may have a session, who waits for a place, and how often a failed one is tried again.

mod limit;
mod queue;
mod retry_budget;

pub use limit::Limit;
pub use queue::{Queue, Ticket, Use};
pub use retry_budget::RetryBudget;
