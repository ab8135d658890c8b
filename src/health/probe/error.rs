//! Why an exchange with a backend failed, and whose fault that was.

use std::io;

use crate::base::Plain;

/// Why an exchange failed.
#[derive(Debug)]
pub(super) struct ExchangeError {
    pub(super) cause: String,
    /// Whether this process or machine lacked something.
    pub(super) is_own: bool,
}

impl ExchangeError {
    pub(super) fn of_backend(cause: String) -> Self {
        Self { cause, is_own: false }
    }

    pub(super) fn of_socket(what: &str, error: &io::Error) -> Self {
        Self { cause: format!("{what}: {}", Plain(error)), is_own: lacks_memory(error) }
    }
}

/// Whether a call on a connection that stands failed for want of memory.
fn lacks_memory(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
}
