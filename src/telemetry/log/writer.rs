//! The log thread: the only one that touches the log's target, and may be blocked by it for as long as it
//! likes.

#![expect(unsafe_code, reason = "fcntl(2) has no safe wrapper in the crates we use")]

use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender};
use log::Level;

use crate::base::{Plain, counted};
use crate::config::{LogFormat, LogTarget, Logging};

use super::error::LogError;
use super::format::{Entry, Style};
use super::handle::{Message, Shared};

/// Records are put together up to about this size, bytes, and written with one system call.
const BATCH_BYTES: usize = 64 << 10;
/// Pause before writing again to a target that somebody else made non-blocking.
const RETRY: Duration = Duration::from_millis(10);

/// Takes messages off the queue and writes them.
pub(super) struct Writer {
    messages: Receiver<Message>,
    shared: Arc<Shared>,
    target: LogTarget,
    file: File,
    style: Style,
    /// Lines of the current batch, each ended by the only line feed in it.
    batch: Vec<u8>,
    /// Who waits for the current batch.
    waiting: Vec<Sender<()>>,
    /// Whether the target's last line is incomplete.
    torn: bool,
    /// How many of the dropped records were reported in the log.
    reported: u64,
}

impl Writer {
    pub(super) fn open(
        logging: &Logging,
        messages: Receiver<Message>,
        shared: Arc<Shared>,
    ) -> Result<Self, LogError> {
        let file = match &logging.target {
            // A descriptor of our own: the lock of `io::stderr` would be held while a write is blocked.
            LogTarget::Stderr => {
                let stderr = io::stderr().as_fd().try_clone_to_owned().map_err(LogError::Stderr)?;
                append_to(stderr.as_fd());
                File::from(stderr)
            }
            LogTarget::File(path) => {
                open(path).map_err(|error| LogError::Open { path: path.clone(), error })?
            }
        };
        let style = match logging.format {
            LogFormat::Json => Style::Json,
            LogFormat::Text => {
                let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
                Style::Text { color: wanted && file.is_terminal() }
            }
        };
        Ok(Self {
            messages,
            shared,
            target: logging.target.clone(),
            file,
            style,
            batch: Vec::with_capacity(BATCH_BYTES),
            waiting: Vec::new(),
            torn: false,
            reported: 0,
        })
    }

    /// Writes until nobody can send any more.
    pub(super) fn run(mut self) {
        while let Ok(message) = self.messages.recv() {
            if self.shared.reopen.swap(false, Ordering::Relaxed) {
                self.reopen();
            }
            self.take(message);
            while self.batch.len() < BATCH_BYTES {
                let Ok(message) = self.messages.try_recv() else { break };
                self.take(message);
            }
            self.write_batch();
            self.waiting.drain(..).for_each(|waiting| {
                // Whoever waited may have given up.
                let _ = waiting.try_send(());
            });
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Record(entry) => self.style.render(&entry, &mut self.batch),
            Message::Wake => {}
            Message::Flush(waiting) => self.waiting.push(waiting),
        }
    }

    /// Writes the batch, then how many records are missing, if any are.
    fn write_batch(&mut self) {
        let (written, result) = self.write_lines();
        // Each line is one record: those without their line feed in the target are lost.
        let lost = self.batch[written..].iter().filter(|&&byte| byte == b'\n').count();
        self.batch.clear();
        if result.is_err() {
            self.shared.dropped.fetch_add(lost as u64, Ordering::Relaxed);
            return;
        }
        let dropped = self.shared.dropped.load(Ordering::Relaxed);
        if dropped == self.reported {
            return;
        }
        self.render_own(Level::Warn, format!("{} dropped", counted(dropped - self.reported, "log record")));
        let (_, result) = self.write_lines();
        self.batch.clear();
        if result.is_ok() {
            self.reported = dropped;
        }
    }

    /// Writes the lines of the batch, and returns how many bytes of it were written.
    fn write_lines(&mut self) -> (usize, io::Result<()>) {
        if self.torn && !self.batch.is_empty() {
            if let Err(error) = write_some(&mut self.file, b"\n") {
                return (0, Err(error));
            }
            self.torn = false;
        }
        let mut written = 0;
        while written < self.batch.len() {
            match write_some(&mut self.file, &self.batch[written..]) {
                Ok(count) => written += count,
                Err(error) => {
                    self.torn = written > 0 && self.batch[written - 1] != b'\n';
                    return (written, Err(error));
                }
            }
        }
        (written, Ok(()))
    }

    /// Opens the file again; without success the old one is used on.
    fn reopen(&mut self) {
        let LogTarget::File(path) = &self.target else { return };
        match open(path) {
            Ok(file) => {
                self.file = file;
                self.torn = false;
            }
            Err(error) => {
                let text = {
                    let (path, cause) = (path.display(), Plain(&error));
                    format!("cannot open {path} again: {cause}; the old file is used on")
                };
                self.render_own(Level::Error, text);
            }
        }
    }

    /// Adds a record of the writer itself.
    fn render_own(&mut self, level: Level, message: String) {
        let entry = Entry {
            time: SystemTime::now(),
            level,
            target: Cow::Borrowed(module_path!()),
            message,
            fields: Vec::new(),
        };
        self.style.render(&entry, &mut self.batch);
    }
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
