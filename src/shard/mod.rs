//! One core: its ring, its listeners, its sessions, its counters. Nothing here is shared with another shard but what
//! [`ShardParts`] names.
//!
//! [`run`](run()) is where a shard starts and what its inbox task does. A [`listener`] accepts ([`accept`]) and starts
//! sessions ([`session`]); an [`upstream`] has a table of backends, a pool ([`pool_task`]) and clients that wait
//! ([`waiters`]). Both stand on [`state`], the ring and the counters of the shard.

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
