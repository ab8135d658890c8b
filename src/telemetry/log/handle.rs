//! The way from callers and operators to the log thread: its queue, the flags beside the queue, and the
//! handle to both.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use log::LevelFilter;

use super::format::Entry;

/// In `Shared::level`: no level was set at run time.
pub(super) const AS_FILTERED: usize = usize::MAX;

/// What callers, operators and the writer share.
pub(super) struct Shared {
    /// `LevelFilter` as a number, or [`AS_FILTERED`]. Written by the control plane, read by every caller; it
    /// guards nothing, so `Relaxed`.
    pub(super) level: AtomicUsize,
    /// Records that were lost. Any caller and the writer add; `Relaxed`, a counter.
    pub(super) dropped: AtomicU64,
    /// Whether the writer is to open its file again. Set by the control plane, cleared by the writer; what
    /// happened before in the file system (a rename) happened in the kernel, so `Relaxed` will do.
    pub(super) reopen: AtomicBool,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            level: AtomicUsize::new(AS_FILTERED),
            dropped: AtomicU64::new(0),
            reopen: AtomicBool::new(false),
        }
    }
}

/// What goes to the writer.
pub(super) enum Message {
    /// A record.
    Record(Entry),
    /// Look at the flags.
    Wake,
    /// Answer once everything before it was written, or given up.
    Flush(Sender<()>),
}

/// Controls logging; clones control the same.
#[derive(Clone)]
pub struct LogHandle {
    queue: Sender<Message>,
    shared: Arc<Shared>,
}

impl fmt::Debug for LogHandle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LogHandle").field("dropped", &self.dropped()).finish_non_exhaustive()
    }
}

impl LogHandle {
    pub(super) fn new(queue: Sender<Message>, shared: Arc<Shared>) -> Self {
        Self { queue, shared }
    }

    /// How many records were lost since the start: the queue was full, or the target did not take them.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Opens the log file again, before the next record is written. For a file that was renamed.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Relaxed);
        // A full queue needs no wake-up: the writer sees the flag before its next record.
        let _ = self.queue.try_send(Message::Wake);
    }

    /// Changes the level of all records from now on; `RUST_LOG` no longer counts.
    pub fn set_level(&self, level: LevelFilter) {
        self.shared.level.store(level as usize, Ordering::Relaxed);
        log::set_max_level(level.max(LevelFilter::Error));
    }

    /// Waits until everything queued before was written, at most `within`; says whether it was. Call it last
    /// thing before the process ends, with a bound: the target may be blocked for good.
    #[must_use]
    pub fn flush(&self, within: Duration) -> bool {
        flush(&self.queue, within)
    }
}

/// Waits until everything queued before was written, at most `within`; says whether it was.
pub(super) fn flush(queue: &Sender<Message>, within: Duration) -> bool {
    let begin = Instant::now();
    let (reply, done) = bounded(1);
    queue.send_timeout(Message::Flush(reply), within).is_ok()
        && done.recv_timeout(within.saturating_sub(begin.elapsed())).is_ok()
}
