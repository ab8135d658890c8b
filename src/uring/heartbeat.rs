//! The heartbeat of a ring's thread: what it does, since when, and how many turns it has made; for other threads to
//! read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::{Activity, Tick};

/// A turn that takes longer is counted as slow: no other session is served meanwhile.
const SLOW: Duration = Duration::from_millis(10);

/// The ring's thread alone writes, any thread reads. Each value stands for itself, so all accesses are `Relaxed`.
#[derive(Debug, Default)]
pub struct Heartbeat {
    turns: AtomicU64,
    completions: AtomicU64,
    slow_turns: AtomicU64,
    /// When the turn began that is under way, plus one; [`ASLEEP`] while the thread waits in the kernel, [`ENDED`]
    /// after its end.
    awake_since: AtomicU64,
    /// [`Activity::to_bits`].
    activity: AtomicU64,
    #[cfg(test)]
    stall: Stall,
}

/// See [`Heartbeat::awake_since`].
const ASLEEP: u64 = 0;
/// See [`Heartbeat::awake_since`].
const ENDED: u64 = u64::MAX;

/// The turns of a ring so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turns {
    /// Turns of the event loop.
    pub turns: u64,
    /// Completions that were taken from the ring.
    pub completions: u64,
    /// Turns that took longer than 10 ms, in which no other session was served.
    pub slow_turns: u64,
}

/// What a ring's thread does at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// A turn is under way, and the thread does this in it.
    Turn(Activity),
    /// It waits in the kernel for something to do.
    Waiting,
    /// It has ended.
    Ended,
}

fn add(cell: &AtomicU64, count: u64) {
    // A single writer needs no read-modify-write.
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

impl Heartbeat {
    /// Notes what the thread does from now on.
    pub fn set_activity(&self, activity: Activity) {
        self.activity.store(activity.to_bits(), Ordering::Relaxed);
        #[cfg(test)]
        self.stall.pause(activity);
    }

    /// Begins a turn.
    pub(super) fn begin(&self, now: Tick) {
        add(&self.turns, 1);
        self.awake_since.store(now.0 + 1, Ordering::Relaxed);
        self.set_activity(Activity::Ring);
    }

    /// Counts completions.
    pub(super) fn completed(&self, count: usize) {
        add(&self.completions, count as u64);
    }

    /// Ends the turn under way, if there is one, and counts it if it was slow.
    pub(super) fn end(&self, now: Tick) {
        let since = self.awake_since.load(Ordering::Relaxed);
        self.awake_since.store(ASLEEP, Ordering::Relaxed);
        if since != ASLEEP && now.since(Tick(since - 1)) > SLOW {
            add(&self.slow_turns, 1);
        }
    }

    /// Returns what was counted so far.
    #[must_use]
    pub fn turns(&self) -> Turns {
        let value = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        Turns {
            turns: value(&self.turns),
            completions: value(&self.completions),
            slow_turns: value(&self.slow_turns),
        }
    }

    /// Notes that the thread has ended.
    pub fn thread_ended(&self) {
        self.awake_since.store(ENDED, Ordering::Relaxed);
    }

    /// Returns what the thread does.
    #[must_use]
    pub fn beat(&self) -> Beat {
        match self.awake_since.load(Ordering::Relaxed) {
            ASLEEP => Beat::Waiting,
            ENDED => Beat::Ended,
            _ => Beat::Turn(Activity::from_bits(self.activity.load(Ordering::Relaxed))),
        }
    }
}

/// Makes the thread stand still where a test wants it to.
#[cfg(test)]
#[derive(Debug, Default)]
struct Stall {
    at: std::sync::Mutex<Option<Activity>>,
    released: std::sync::Condvar,
}

#[cfg(test)]
impl Stall {
    /// Waits for the release, if this is where the thread is to stand still.
    fn pause(&self, activity: Activity) {
        let at = self.at.lock().expect("no thread panics here");
        drop(self.released.wait_while(at, |at| *at == Some(activity)).expect("no thread panics here"));
    }
}

#[cfg(test)]
impl Heartbeat {
    /// Has the thread stand still as soon as it does this; `None` lets it go on.
    pub(crate) fn stall_at(&self, activity: Option<Activity>) {
        *self.stall.at.lock().expect("no thread panics here") = activity;
        self.stall.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turn_is_seen_while_it_lasts_and_counted_as_slow_above_ten_milliseconds() {
        let heartbeat = Heartbeat::default();
        for (length, slow) in [(10, 0), (11, 1)] {
            heartbeat.begin(Tick(5));
            heartbeat.set_activity(Activity::Relay(7));
            assert_eq!(heartbeat.beat(), Beat::Turn(Activity::Relay(7)));
            heartbeat.end(Tick(5 + length));
            assert_eq!((heartbeat.beat(), heartbeat.turns().slow_turns), (Beat::Waiting, slow));
        }
        // Nothing was under way.
        heartbeat.end(Tick(1_000));
        assert_eq!(heartbeat.turns(), Turns { turns: 2, completions: 0, slow_turns: 1 });
        heartbeat.thread_ended();
        assert_eq!(heartbeat.beat(), Beat::Ended);
    }
}
