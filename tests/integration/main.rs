//! Ringway on real sockets: each file is a group of properties, and says at its top what it sets up and
//! claims.
//!
//! The end of every balancer in `support` checks what must hold of all of them: accepted = denied + closed +
//! active, nothing active or in flight without a client, no session without a known reason (a panic ends one
//! as `internal`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]
#![expect(unreachable_pub, reason = "a test binary has no outside; `pub` is what other modules use")]

mod process;
mod relay;
mod support;
mod upstreams;
