//! What the operator wrote, and the immutable configuration that runs.
mod model;
pub use model::*;
