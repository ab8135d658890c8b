//! What peers say before the bytes of a client, and how a client of TLS begins: pure parsers and writers, bytes in,
//! values out.
//!
//! A parser is given the bytes that have come so far and says whether they are complete. It keeps nothing
//! between two calls, allocates nothing for bytes that are not complete, and has a bound on what it waits for.

pub mod client_hello;
pub mod proxy;
