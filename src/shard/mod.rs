//! One core: its ring, its listeners, its sessions, its counters. It shares with other shards only what
//! [`ShardParts`] names.
//!
//! `run.rs` starts a shard and runs its inbox task. A listener (`listener.rs`) accepts (`accept.rs`) and
//! starts sessions (`session/`); an upstream (`upstream.rs`) has a table of backends, a pool (`pool_task.rs`)
//! and waiting clients (`waiters.rs`). Both build on `state.rs`, which holds the ring and the counters of the
//! shard.

mod accept;
mod admitted;
mod answers;
mod connect;
mod generation;
mod handoff;
mod inbox;
mod listener;
mod pool_task;
mod questions;
mod run;
mod session;
mod sessions;
mod state;
#[cfg(test)]
mod testing;
mod unresponsive;
mod upstream;
mod waiters;

pub use handoff::Handoff;
pub use inbox::{Generation, Inbox, Phase, ShardHandle, inbox};
pub use questions::{Killed, OpenSession, Question, SessionsFound, SessionsWanted};
pub use run::{ShardParts, executor, run};
pub use sessions::{SHARD_BITS, shard_of};
