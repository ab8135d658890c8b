//! Changes that operators make at run time, beside the file.

use serde::{Deserialize, Serialize};

use super::AdminState;

/// A change at run time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Edit {
    /// Sets values of a backend; the others stay.
    Set {
        /// The upstream.
        upstream: String,
        /// The backend.
        backend: String,
        /// Share of new sessions; 0 takes none.
        weight: Option<u32>,
        /// What is wanted of it.
        state: Option<AdminState>,
        /// Sessions at a time; 0 sets no limit.
        max_connections: Option<u32>,
    },
    /// Adds a backend.
    Add {
        /// The upstream.
        upstream: String,
        /// The backend as YAML or JSON, as an entry of `backends:`.
        entry: String,
    },
    /// Removes a backend; its open sessions are drained.
    Remove {
        /// The upstream.
        upstream: String,
        /// The backend.
        backend: String,
    },
}
