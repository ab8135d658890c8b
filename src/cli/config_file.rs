//! Reading a configuration file: a bounded read of a regular file, and nothing that could wait.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use crate::rules::config::{Parsed, Report, parse};
use crate::words::limits;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The operating system does not let us read the file.
    #[error("{file}: cannot be read: {source}")]
    Unreadable {
        /// The file as it was named.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// It is there, and it is no configuration file.
    #[error("{file}: {what}; a configuration is a regular file of at most {} bytes", limits::CONFIG_BYTES)]
    Unfit {
        /// The file as it was named.
        file: String,
        /// What it is instead.
        what: String,
    },
    /// What it says is wrong.
    #[error(transparent)]
    Invalid(#[from] Report),
}

/// Reads and parses a configuration file. Warnings are in the report of the result.
///
/// # Errors
///
/// See [`LoadError`]; as text it is complete and names the file.
pub fn load(path: &Path) -> Result<Parsed, LoadError> {
    let name = path.display().to_string();
    let file = name.escape_debug().to_string();
    let unreadable = |source| LoadError::Unreadable { file: file.clone(), source };
    let unfit = |what: String| LoadError::Unfit { file: file.clone(), what };

    let opened = open(path).map_err(unreadable)?;
    let metadata = opened.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(unfit(format!("is {}", kind(metadata.file_type()))));
    }
    if metadata.len() > limits::CONFIG_BYTES {
        return Err(unfit(format!("has {} bytes", metadata.len())));
    }
    // The file may grow meanwhile, and those of /proc have no length: one byte more shows it.
    let mut text = Vec::new();
    opened.take(limits::CONFIG_BYTES + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > limits::CONFIG_BYTES {
        return Err(unfit(format!("has more than {} bytes", limits::CONFIG_BYTES)));
    }
    Ok(parse(&name, &text)?)
}

/// Without `O_NONBLOCK` a FIFO would hold us until somebody writes, open(2).
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

fn kind(file_type: FileType) -> &'static str {
    match file_type {
        t if t.is_dir() => "a directory",
        t if t.is_fifo() => "a pipe",
        t if t.is_char_device() || t.is_block_device() => "a device",
        t if t.is_socket() => "a socket",
        _ => "not a regular file",
    }
}
