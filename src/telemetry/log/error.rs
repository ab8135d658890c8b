//! Why logging cannot start.

use std::io;
use std::path::PathBuf;

use crate::base::Plain;

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The target cannot be opened.
    #[error("cannot open the log file {path}: {}", Plain(error))]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The standard error stream is closed.
    #[error("cannot log to the standard error stream: {}", Plain(.0))]
    Stderr(io::Error),
    /// The system gave no thread.
    #[error("cannot start the log thread: {}", Plain(.0))]
    Thread(io::Error),
    /// A logger was set before.
    #[error("logging was started twice")]
    Taken,
}
