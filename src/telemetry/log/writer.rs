//! The log thread: the only one that touches the log's target, and may be blocked by it for as long as it
//! likes.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use crossbeam_channel::{Receiver, Sender};
use log::Level;

use crate::base::counted;
use crate::config::{LogFormat, Logging};

use super::format::{Entry, Style};
use super::handle::{Message, Shared};
use crate::telemetry::log_file::{LogError, LogFile};

/// Records are put together up to about this size, bytes, and written with one system call.
const BATCH_BYTES: usize = 64 << 10;

/// Takes messages off the queue and writes them.
pub(super) struct Writer {
    messages: Receiver<Message>,
    shared: Arc<Shared>,
    file: LogFile,
    style: Style,
    /// Lines of the current batch, each ended by the only line feed in it.
    batch: Vec<u8>,
    /// Who waits for the current batch.
    waiting: Vec<Sender<()>>,
    /// How many of the dropped records were reported in the log.
    reported: u64,
}

impl Writer {
    pub(super) fn open(
        logging: &Logging,
        messages: Receiver<Message>,
        shared: Arc<Shared>,
    ) -> Result<Self, LogError> {
        let file = LogFile::open(&logging.target)?;
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
            file,
            style,
            batch: Vec::with_capacity(BATCH_BYTES),
            waiting: Vec::new(),
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
        let written = self.file.write_lines(&self.batch);
        self.batch.clear();
        if let Err(lost) = written {
            self.shared.dropped.fetch_add(lost.lines, Ordering::Relaxed);
            return;
        }
        let dropped = self.shared.dropped.load(Ordering::Relaxed);
        if dropped == self.reported {
            return;
        }
        self.render_own(Level::Warn, format!("{} dropped", counted(dropped - self.reported, "log record")));
        let written = self.file.write_lines(&self.batch);
        self.batch.clear();
        if written.is_ok() {
            self.reported = dropped;
        }
    }

    /// Opens the file again; without success the old one is used on.
    fn reopen(&mut self) {
        if let Err(error) = self.file.reopen() {
            self.render_own(Level::Error, error);
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
