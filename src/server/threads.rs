//! The threads of the shards, and how the process ends because of one of them.

use std::io;
use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::control::Clocks;
use crate::shard::{self, ShardParts};
use crate::telemetry::log::ALWAYS;
use crate::telemetry::thread_clock::ThreadClock;
use crate::uring::Missing;

/// Where a shard reports its start and its end.
pub(super) struct ShardEnds {
    /// Receives whether the shard has its ring.
    pub(super) report: Sender<Result<(), Missing>>,
    /// Dropped when the shard ends.
    pub(super) ended: Sender<()>,
}

/// A dead shard would keep its listener open, and the kernel would go on sending it connections, so a shard
/// that dies takes the process down.
pub(super) fn spawn_shard(parts: ShardParts, clocks: Clocks, ends: ShardEnds) -> io::Result<()> {
    let (shard, heartbeat) = (parts.place.shard, Arc::clone(&parts.heartbeat));
    let run = move || {
        if let Some(clock) = ThreadClock::of_this_thread() {
            // Each shard starts once, so the clock is not set yet.
            let _ = clocks[shard.index()].set(clock);
        }
        let ShardEnds { report, ended } = ends;
        let mut report = Some(report);
        let mut tell = |outcome| {
            // The channel has no receiver any more if another shard did not start.
            let _ = report.take().map(|report| report.send(outcome));
        };
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            shard::run(parts, || tell(Ok(()))).map_err(|missing| tell(Err(missing)))
        }));
        match ran {
            Ok(_) => {
                heartbeat.thread_ended();
                drop(ended);
            }
            Err(_) => die("a shard panicked; see the panic above"),
        }
    };
    std::thread::Builder::new().name(format!("shard-{}", shard.0)).spawn(run).map(drop)
}

/// Ends the process because of a thread that never moves again. Where the kernel writes core dumps, the one of this
/// end shows where the thread stands.
pub(super) fn give_up(cause: &str) -> ! {
    log_end(cause);
    std::process::abort();
}

pub(super) fn die(cause: &str) -> ! {
    log_end(cause);
    std::process::exit(1);
}

fn log_end(cause: &str) {
    log::error!(target: ALWAYS, event = "stopped", cause; "the process ends: {cause}");
    log::logger().flush();
}
