//! What the process tells about itself: counters and log records.

pub mod counters;
pub mod log;
pub mod thread_clock;
