//! What is different between two configurations.

use serde::{Deserialize, Serialize};

/// One difference between two configurations. Objects go by their names, so their order in the file is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What has changed, such as `listeners.web` or `upstreams.web.backends.a.weight`.
    pub what: String,
    /// The value before, as the file would say it; `None` if the object or value was added.
    pub before: Option<String>,
    /// The value now; `None` if the object or value was removed.
    pub after: Option<String>,
}
