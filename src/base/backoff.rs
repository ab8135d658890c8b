//! Growing pauses between attempts that fail.

use std::time::Duration;

use super::Tick;

/// Doubles the pause with each failure, up to a bound, and begins anew after a calm.
pub struct Backoff {
    first: Duration,
    last: Duration,
    /// Without a failure for this long, the next one is a first one.
    calm: Duration,
    pause: Duration,
    until: Tick,
}

impl Backoff {
    /// Without a failure so far; pauses from `first` to `last`.
    #[must_use]
    pub fn new(first: Duration, last: Duration, calm: Duration) -> Self {
        assert!(!first.is_zero() && first <= last, "pauses from {first:?} to {last:?}");
        Self { first, last, calm, pause: Duration::ZERO, until: Tick::default() }
    }

    /// Notes an attempt that was begun at `begun` and failed at `now`. `chance`, from 0 to 1, shortens the pause by up to a
    /// half, so that those who failed together do not come back together.
    pub fn failed(&mut self, begun: Tick, now: Tick, chance: f64) {
        if now < self.until {
            // One of several that failed together.
            return;
        }
        // An attempt that takes its time to fail is no calm.
        let is_first = begun.since(self.until) >= self.calm;
        self.pause = if is_first { self.first } else { (self.pause * 2).clamp(self.first, self.last) };
        self.until = now.after(self.pause.mul_f64(0.5 + chance / 2.0));
    }

    /// Forgets all failures.
    pub fn reset(&mut self) {
        (self.pause, self.until) = (Duration::ZERO, Tick::default());
    }

    /// When the next attempt may begin.
    #[must_use]
    pub fn until(&self) -> Tick {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_grows_with_each_failure_however_long_that_takes_and_begins_anew_after_a_calm() {
        let [first, last, calm] = [100, 10_000, 1_000].map(Duration::from_millis);
        for attempt in [Duration::ZERO, Duration::from_secs(5)] {
            let (mut backoff, mut now) = (Backoff::new(first, last, calm), Tick(1_000_000));
            let mut fail = |calm: Duration, chance: f64| {
                let begun = now.after(calm);
                now = begun.after(attempt);
                backoff.failed(begun, now, chance);
                let pause = backoff.until().since(now);
                now = backoff.until();
                pause
            };
            for doubled in [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000] {
                assert_eq!(fail(Duration::ZERO, 1.0), Duration::from_millis(doubled), "{attempt:?}");
            }
            assert_eq!(fail(Duration::ZERO, 0.0), last / 2);
            assert_eq!(fail(calm, 1.0), first);
        }
    }
}
