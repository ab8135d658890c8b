//! Why settings cannot be made, although the configuration is valid.

use std::fmt::Display;

/// Names the object and the cause. The configuration checks everything beforehand, so this tells of a mistake in Ringway, or of
/// files that were not read.
#[derive(Debug, thiserror::Error)]
#[error("{object}: TLS cannot be set up: {cause}")]
pub struct Unusable {
    object: String,
    cause: String,
}

impl Unusable {
    pub(super) fn new(object: impl Into<String>, cause: impl Display) -> Self {
        Self { object: object.into(), cause: cause.to_string() }
    }
}
