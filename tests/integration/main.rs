//! Ringway on real sockets: each module is a group of properties, and says at its top what it sets up and claims.
//!
//! The end of every balancer in `support` checks what must hold of all of them: accepted = denied + closed + active,
//! nothing active or in flight without a client, no session without a known reason (a panic ends one as `internal`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails at the place")]
#![expect(unreachable_pub, reason = "a test binary has no outside; `pub` is what other modules use")]

mod balancing;
mod circles;
mod command_line;
mod connecting;
mod drain;
mod ejection;
mod fairness;
mod health;
mod limits;
mod memory;
mod options;
mod pool;
mod process;
mod queue;
mod resets;
mod resort;
mod retries;
mod sessions;
mod shortage;
mod sources;
mod splicing;
mod start;
mod steering;
mod streams;
mod support;
mod timeouts;
