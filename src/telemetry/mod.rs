//! What the process tells about itself: counters and log records.

mod by_reason;
mod cell;
pub mod counters;
pub mod histogram;
pub mod log;
pub mod thread_clock;
