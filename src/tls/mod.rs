//! What handshakes of TLS need, made of the configuration: with clients [`ServerSettings`], with backends
//! [`ClientSettings`]; and the [`Tickets`] with which clients resume sessions on any core.
//!
//! One provider of cryptography, aws-lc-rs, stands behind all of it.
//!
//! Invariants: no key is ever part of a text; a ticket of one listener opens at no other one, nor once the listener asks
//! for other client certificates; no secret of a ticket older than two epochs exists.
//!
//! Left out: files, which `config` has checked; bytes and sockets.

mod client;
mod provider;
mod server;
mod tickets;
mod unusable;

pub use client::{BackendTls, ClientSettings};
pub use provider::provider;
pub use server::ServerSettings;
pub use tickets::{HandedTickets, Tickets};
pub use unusable::Unusable;

#[cfg(test)]
mod tests;
