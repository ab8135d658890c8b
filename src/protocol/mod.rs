//! What peers say before the bytes of a client: pure parsers and writers, bytes in, values out.
//!
//! A parser is given the bytes that have come so far and says whether they are complete. It keeps nothing
//! between two calls, allocates nothing, and has a bound on what it waits for.

pub mod proxy;
