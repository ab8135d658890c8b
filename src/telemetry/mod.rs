//! What the process tells about itself: counters and log records.

pub mod access_log;
mod by_reason;
mod cell;
pub mod counters;
pub mod histogram;
pub mod log;
mod log_file;
pub mod thread_clock;
