//! A file, or the standard error stream, that takes lines: opened to append, opened again after a rotation, never left
//! with half a line before a new one.

#![expect(unsafe_code, reason = "fcntl(2) has no safe wrapper in the crates we use")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::base::Plain;
use crate::config::LogTarget;

/// Pause before writing again to a target that somebody else made non-blocking.
const RETRY: Duration = Duration::from_millis(10);

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

/// The target of a log; only one thread writes, and it may be blocked.
pub(super) struct LogFile {
    target: LogTarget,
    file: File,
    /// Whether the last line in the file is incomplete.
    torn: bool,
}

/// Lines that could not be written.
#[derive(Debug)]
pub(super) struct LostLines {
    /// How many.
    pub(super) lines: u64,
    /// Why.
    pub(super) error: io::Error,
}

impl LogFile {
    pub(super) fn open(target: &LogTarget) -> Result<Self, LogError> {
        let file = match target {
            LogTarget::Stderr => stderr().map_err(LogError::Stderr)?,
            LogTarget::File(path) => {
                open(path).map_err(|error| LogError::Open { path: path.clone(), error })?
            }
        };
        Ok(Self { target: target.clone(), file, torn: false })
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.file.is_terminal()
    }

    /// Opens the file again, because an operator may have renamed it; takes the standard error stream again, which may be
    /// another one after an upgrade. Without success the old one is used on.
    ///
    /// # Errors
    ///
    /// A sentence for the log.
    pub(super) fn reopen(&mut self) -> Result<(), String> {
        let LogTarget::File(path) = &self.target else {
            if let Ok(stderr) = stderr() {
                (self.file, self.torn) = (stderr, false);
            }
            return Ok(());
        };
        match open(path) {
            Ok(file) => {
                self.file = file;
                self.torn = false;
                Ok(())
            }
            Err(error) => {
                let (path, cause) = (path.display(), Plain(&error));
                Err(format!("cannot open {path} again: {cause}; the old file is used on"))
            }
        }
    }

    /// Writes whole lines, each ended by the only line feed in it.
    ///
    /// # Errors
    ///
    /// The lines that lack their line feed in the file.
    pub(super) fn write_lines(&mut self, lines: &[u8]) -> Result<(), LostLines> {
        let lost = |rest: &[u8], error| {
            Err(LostLines { lines: rest.iter().filter(|&&byte| byte == b'\n').count() as u64, error })
        };
        if self.torn && !lines.is_empty() {
            if let Err(error) = write_some(&mut self.file, b"\n") {
                return lost(lines, error);
            }
            self.torn = false;
        }
        let mut written = 0;
        while written < lines.len() {
            match write_some(&mut self.file, &lines[written..]) {
                Ok(count) => written += count,
                Err(error) => {
                    self.torn = written > 0 && lines[written - 1] != b'\n';
                    return lost(&lines[written..], error);
                }
            }
        }
        Ok(())
    }
}

/// Returns the standard error stream under a descriptor of our own: the lock of `io::stderr` would be held while a write is
/// blocked.
fn stderr() -> io::Result<File> {
    let stderr = io::stderr().as_fd().try_clone_to_owned()?;
    append_to(stderr.as_fd());
    Ok(File::from(stderr))
}

/// Has a file that the shell opened (`2> FILE`) written at its end: else, once it is truncated by whoever
/// rotates logs, the next record would stand behind a hole as large as the file was.
fn append_to(target: BorrowedFd<'_>) {
    let number = target.as_raw_fd();
    // SAFETY: takes numbers only, and the descriptor is open.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFL) };
    if flags >= 0 {
        // SAFETY: as above. What is no file has no end to write at, and takes the flag all the same.
        unsafe { libc::fcntl(number, libc::F_SETFL, flags | libc::O_APPEND) };
    }
}

/// Opens a file to append to, and creates it where it is missing.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    if fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo()) {
        // For writing alone, open(2) would wait for a reader; for both, Linux does not (fifo(7)).
        return options.read(true).write(true).open(path);
    }
    options.append(true).create(true).open(path)
}

/// One successful write of at least a byte.
fn write_some(file: &mut File, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match file.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => return Ok(count),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
}
