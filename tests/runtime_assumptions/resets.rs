//! resets
