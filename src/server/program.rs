//! The binary that this process was started from.

use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;

/// The kernel's link follows a file that is moved aside, so it is read once.
static PATH: OnceLock<io::Result<PathBuf>> = OnceLock::new();

/// Notes the path. Call this at the start.
pub(super) fn note() {
    PATH.get_or_init(std::env::current_exe);
}

/// Returns the path, whatever is there now.
pub(super) fn path() -> io::Result<PathBuf> {
    match PATH.get_or_init(std::env::current_exe) {
        Ok(path) => Ok(path.clone()),
        Err(error) => Err(error.kind().into()),
    }
}
