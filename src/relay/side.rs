//! The two sides of a session.

/// One of the two peers of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The peer that connected to us.
    Client,
    /// The peer that we connected to.
    Backend,
}
