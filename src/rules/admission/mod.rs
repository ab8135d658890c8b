//! Who may have a session.

mod limit;

pub use limit::{Permit, SessionLimit};
