//! One core: its ring, its listeners, its sessions, its counters. Nothing here is shared with another shard but what
//! [`ShardParts`] names.
//!
//! `run.rs` is where a shard starts and what its inbox task does. A listener (`listener.rs`) accepts (`accept.rs`) and
//! starts sessions (`session/`); an upstream (`upstream.rs`) has a table of backends, a pool (`pool_task.rs`) and
//! clients that wait (`waiters.rs`). Both stand on `state.rs`, the ring and the counters of the shard.

mod accept;
mod connect;
mod handoff;
mod inbox;
mod listener;
mod pool_task;
mod run;
mod session;
mod state;
#[cfg(test)]
mod testing;
mod unresponsive;
mod upstream;
mod waiters;

pub use handoff::Handoff;
pub use inbox::{Inbox, Phase, ShardHandle, inbox};
pub use run::{ShardParts, executor, run};
