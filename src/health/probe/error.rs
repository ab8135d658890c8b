//! Why an exchange with a backend failed, and whose fault that was.

use std::io;

use crate::base::Plain;
use crate::tls;

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
        let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let why = of_tls.map_or_else(|| Plain(error).to_string(), tls::words);
        Self { cause: format!("{what}: {why}"), is_own: lacks_memory(error) }
    }
}

/// Whether a call on a connection that stands failed for want of memory.
fn lacks_memory(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
}
