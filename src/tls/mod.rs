//! TLS: what its handshakes need, made of the configuration, and connections without I/O.
//!
//! * Handshakes with clients need [`ServerSettings`], those with backends [`ClientSettings`]; with [`Tickets`], clients
//!   resume sessions on any core.
//! * A [`Stream`] is one connection, as bytes in and bytes out. `net::Peer` ties it to a socket.
//! * [`Agreed`] is what two sides have agreed on, and [`words`] say why a handshake with a backend failed.
//! * A [`Pace`] bounds what all connections of a shard do in one turn.
//!
//! One provider of cryptography, aws-lc-rs, stands behind all of it.
//!
//! Invariants: no key is ever part of a text; a ticket of one listener opens at no other one, nor once the listener asks
//! for other client certificates; a handshake leaves no secret of tickets that
//! is older than two epochs.
//!
//! Left out: files, which `config` has checked; sockets.

mod agreed;
mod client;
mod pace;
mod provider;
mod server;
mod stream;
mod tickets;
mod unusable;
mod verifier;
mod words;

#[cfg(test)]
pub(crate) mod testing;

pub use agreed::Agreed;
pub use client::{BackendTls, ClientSettings};
pub use pace::Pace;
pub use provider::provider;
pub use server::ServerSettings;
pub use stream::{Stream, Taken};
pub use tickets::{HandedTickets, Tickets};
pub use unusable::Unusable;
pub use words::words;

#[cfg(test)]
mod tests;
