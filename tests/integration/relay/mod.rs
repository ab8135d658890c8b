//! What becomes of the two streams of a session.

mod bandwidth;
mod fairness;
mod options;
mod resets;
mod sessions;
mod splicing;
mod streams;
mod timeouts;
mod tls;
