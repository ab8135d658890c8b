//! Growing pauses between failing attempts.

use std::time::Duration;

use super::Tick;

/// Doubles the pause with each failure, up to a bound, and starts over after a calm period.
pub struct Backoff {
    first: Duration,
    last: Duration,
    /// After this long without a failure, the next failure counts as a first one.
    calm: Duration,
    pause: Duration,
    until: Tick,
}

impl Backoff {
    /// Creates a back-off without failures; its pauses range from `first` to `last`.
    #[must_use]
    pub fn new(first: Duration, last: Duration, calm: Duration) -> Self {
        assert!(!first.is_zero() && first <= last, "pauses from {first:?} to {last:?}");
        Self { first, last, calm, pause: Duration::ZERO, until: Tick::default() }
    }

    /// Notes an attempt that began at `begun` and failed at `now`. `chance`, from 0 to 1, shortens the pause
    /// by up to half, so that attempts that failed together are not repeated together.
    pub fn failed(&mut self, begun: Tick, now: Tick, chance: f64) {
        if now < self.until {
            // One of several attempts that failed together.
            return;
        }
        // The time that an attempt takes to fail is not calm.
        let is_first = begun.since(self.until) >= self.calm;
        self.pause = if is_first { self.first } else { (self.pause * 2).clamp(self.first, self.last) };
        self.until = now.after(self.pause.mul_f64(0.5 + chance / 2.0));
    }

    /// Forgets all failures.
    pub fn reset(&mut self) {
        (self.pause, self.until) = (Duration::ZERO, Tick::default());
    }

    /// Returns when the next attempt may begin.
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
