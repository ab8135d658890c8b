//! Monotonic time, the same on all rings of the process: whole milliseconds for everything that waits, microseconds
//! for what is measured.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// The moment from which all ticks are counted.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A moment: milliseconds of `CLOCK_MONOTONIC` since the process made its first ring. Changes of the wall
/// clock do not affect it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(pub u64);

impl Tick {
    /// A moment that never comes.
    pub const NEVER: Self = Self(u64::MAX);

    /// Reads the clock, by a system call or its vDSO.
    #[must_use]
    pub fn read_clock() -> Self {
        Self(u64::try_from(EPOCH.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// Reads the clock and returns the time until this moment.
    #[must_use]
    pub fn time_left(self) -> Duration {
        Duration::from_millis(self.0).saturating_sub(EPOCH.elapsed())
    }

    /// Returns the moment `duration` later, rounded up to a whole millisecond, so that a timer never fires
    /// early.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let millis = duration.as_nanos().div_ceil(1_000_000);
        Self(self.0.saturating_add(u64::try_from(millis).unwrap_or(u64::MAX)))
    }

    /// Returns the time from `earlier` to this moment, or zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// A moment to the microsecond, counted as ticks are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// Reads the clock, by a system call or its vDSO.
    #[must_use]
    pub fn read_clock() -> Self {
        Self(u64::try_from(EPOCH.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Returns the time from `earlier` to this moment, or zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// Returns the tick at this moment, rounded up, so that what counts from it is never early.
    #[must_use]
    pub fn tick(self) -> Tick {
        Tick(self.0.div_ceil(1_000))
    }
}
