//! Monotonic time of a ring in whole milliseconds.

use std::time::Duration;

/// A moment: milliseconds of `CLOCK_MONOTONIC` since the ring was made. The wall clock does not touch it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(pub u64);

impl Tick {
    /// A moment that does not come.
    pub const NEVER: Self = Self(u64::MAX);

    /// The moment `duration` later, rounded up to a whole millisecond, so that a timer never fires early.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let millis = duration.as_nanos().div_ceil(1_000_000);
        Self(self.0.saturating_add(u64::try_from(millis).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` to this moment; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}
