//! The thread that formats and writes the records.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError};

use super::format::Scene;
use super::shared::Shared;
use crate::config::AccessFormat;
use crate::telemetry::log_file::LogFile;

/// Pause between two looks into the queues while records come.
const PAUSE: Duration = Duration::from_millis(10);
/// Records are put together up to about this size, bytes, and written with one system call.
const BATCH_BYTES: usize = 64 << 10;

/// Takes records off the queues and writes them.
pub(super) struct Writer {
    shared: Arc<Shared>,
    file: LogFile,
    scene: Scene,
    format: AccessFormat,
    flushes: Receiver<Sender<()>>,
    /// Lines of the current batch, each ended by the only line feed in it.
    batch: Vec<u8>,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        file: LogFile,
        (scene, format): (Scene, AccessFormat),
        flushes: Receiver<Sender<()>>,
    ) -> Self {
        let batch = Vec::with_capacity(BATCH_BYTES);
        Self { shared, file, scene, format, flushes, batch }
    }

    /// Writes until the [`AccessLog`](super::AccessLog) is gone and the queues are empty.
    pub(super) fn run(mut self) {
        loop {
            let flush = self.flushes.try_recv();
            if self.shared.reopen.swap(false, Ordering::SeqCst)
                && let Err(error) = self.file.reopen()
            {
                log::error!("access log: {error}");
            }
            let wrote = self.drain();
            match flush {
                Ok(waiting) => {
                    // Whoever waited may have given up.
                    let _ = waiting.try_send(());
                }
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) if wrote => thread::park_timeout(PAUSE),
                Err(TryRecvError::Empty) => self.sleep(),
            }
        }
    }

    /// Sleeps until a shard or the [`AccessLog`](super::AccessLog) wakes this thread, unless there is something to do.
    fn sleep(&self) {
        self.shared.sleeps.write().store(true, Ordering::SeqCst);
        // See `AccessLogger::write`.
        fence(Ordering::SeqCst);
        if self.shared.queues.iter().all(|queue| queue.records.is_empty()) {
            // What is due beside records wakes with a token that this takes, whenever it came.
            thread::park();
        }
        self.shared.sleeps.write().store(false, Ordering::SeqCst);
    }

    /// Writes what is in the queues, at most as much as they held together. Returns whether there was anything.
    fn drain(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut wrote = false;
        self.scene.begin_batch();
        for queue in &shared.queues {
            for _ in 0..queue.records.len() {
                let Some(record) = queue.records.pop() else { break };
                wrote = true;
                self.scene.render(&record, self.format, &mut self.batch);
                if self.batch.len() >= BATCH_BYTES {
                    self.write_batch();
                }
            }
        }
        self.write_batch();
        wrote
    }

    fn write_batch(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if let Err(lost) = self.file.write_lines(&self.batch) {
            self.shared.unwritten.add(lost.lines);
            log::debug!("access log: {}", crate::base::Plain(&lost.error));
        }
        self.batch.clear();
    }
}
