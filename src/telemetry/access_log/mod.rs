//! The access log: one record for each session, at its end, and for some of the connections that were denied.
//!
//! A shard only copies a few numbers into a queue of its own; a thread of its own formats and writes them. While
//! records come, that thread looks into the queues every few milliseconds, so that a shard makes no system call; once
//! they are empty it sleeps until a shard wakes it. A target that is full, broken or blocked costs records, never time of
//! a shard; every lost one is counted.

mod format;
mod record;
mod shared;
mod warned;
mod writer;

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};

use super::counters::ShardCounters;
use super::log_file::{LogError, LogFile};
use crate::base::{CloseReason, Moment, counted};
use crate::config::{AccessFilter, AccessFormat, Logging};
use crate::upstream::Current;

pub use record::{AccessRecord, End};

use format::Scene;
use shared::Shared;
use warned::Warned;
use writer::Writer;

/// The control of the access log; dropping it ends the writer once its queues are empty.
pub struct AccessLog {
    shared: Arc<Shared>,
    thread: Thread,
    /// Asks the writer to tell when everything queued before was written.
    flushes: Sender<Sender<()>>,
    warned: Mutex<Warned>,
    filter: AccessFilter,
    format: AccessFormat,
}

/// Where a shard leaves its records.
pub struct AccessLogger {
    shared: Arc<Shared>,
    thread: Thread,
    shard: usize,
    filter: AccessFilter,
    format: AccessFormat,
}

impl AccessLog {
    /// Opens the target and starts the writer; `None` if sessions are not logged. Call it before this thread is
    /// pinned: the writer inherits the affinity.
    ///
    /// # Errors
    ///
    /// The target cannot be opened, or the thread not be started.
    pub fn start(
        logging: &Logging,
        current: Arc<Current>,
        counters: Vec<Arc<ShardCounters>>,
        cpus: Vec<usize>,
    ) -> Result<Option<Self>, LogError> {
        let Some(target) = &logging.access_log else { return Ok(None) };
        let file = LogFile::open(target)?;
        let shared = Arc::new(Shared::new(counters.len()));
        let (flushes, asked) = bounded(1);
        let format = logging.access_format;
        let writer =
            Writer::new(Arc::clone(&shared), file, (Scene::new(current, counters, cpus), format), asked);
        // Detached: `flush` waits for what was queued, and nothing ever waits for a thread that is blocked.
        let run = move || writer.run();
        let thread =
            thread::Builder::new().name("access-log".to_owned()).spawn(run).map_err(LogError::Thread)?;
        let thread = thread.thread().clone();
        Ok(Some(Self {
            shared,
            thread,
            flushes,
            warned: Mutex::default(),
            filter: logging.access_filter,
            format,
        }))
    }

    /// Returns where one shard leaves its records.
    #[must_use]
    pub fn logger(&self, shard: usize) -> AccessLogger {
        let (shared, thread) = (Arc::clone(&self.shared), self.thread.clone());
        AccessLogger { shared, thread, shard, filter: self.filter, format: self.format }
    }

    /// Returns how many records were lost since the start: a queue was full, or the target did not take them.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped()
    }

    /// Says in the log of the process that records were lost, every few seconds while it goes on. Meant to be called once
    /// a second, and not by the writer, which may be blocked.
    pub fn warn_of_lost(&self) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = warned.due(self.dropped(), Instant::now()) {
            log::warn!(event = "access_log_dropped", count; "{} lost: the target of the access log is slow, full or broken",
                counted(count, "access log record"));
        }
    }

    /// Opens the file again, before the next record is written. For a file that was renamed.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }

    /// Waits until everything queued before was written, at most `within`. Returns whether it was.
    #[must_use]
    pub fn flush(&self, within: Duration) -> bool {
        let (until, (reply, done)) = (Instant::now() + within, bounded(1));
        let asked = self.flushes.send_deadline(reply, until).is_ok();
        self.thread.unpark();
        asked && done.recv_deadline(until).is_ok()
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        // The writer finds the channel for flushes closed once this is over.
        let (nobody, _) = bounded(1);
        self.flushes = nobody;
        self.thread.unpark();
    }
}

impl AccessLogger {
    /// Returns whether a session that ended like this is logged.
    #[must_use]
    pub fn wants(&self, reason: CloseReason, retries: u8) -> bool {
        match self.filter {
            AccessFilter::All => true,
            AccessFilter::Errors => reason != CloseReason::Normal || retries > 0,
        }
    }

    /// Returns whether records say what the kernel knows of a client's connection.
    #[must_use]
    pub fn wants_info(&self) -> bool {
        self.format == AccessFormat::Json
    }

    /// Returns whether a denial may be logged: `limits::DENIALS_LOGGED_PER_SECOND` are, of the whole process.
    #[must_use]
    pub fn admits_denial(&self, now: Moment) -> bool {
        self.shared.denials.admit(now)
    }

    /// Writes a record; does not wait.
    pub fn write(&self, record: AccessRecord) {
        let queue = &self.shared.queues[self.shard];
        if queue.records.push(record).is_err() {
            queue.dropped.add(1);
        }
        // Either this sees that the writer sleeps, or the writer, which looks at the queues after it has said that it
        // will sleep, sees the record.
        fence(Ordering::SeqCst);
        if self.shared.sleeps.get().load(Ordering::Relaxed)
            && self.shared.sleeps.write().swap(false, Ordering::SeqCst)
        {
            self.thread.unpark();
        }
    }
}
