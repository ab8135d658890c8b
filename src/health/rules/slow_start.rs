//! Slow start: a backend that comes back gets a small part of its weight at first, and all of it after
//! `slow_start`.
//!
//! Invariants: a ramp never falls; a part is never 0; the first verdict of a backend starts none, so that a
//! process that starts serves with all backends at once.

use std::time::Duration;

use crate::base::{BackendId, limits};

/// The first step is there at once.
const RISES: u32 = limits::RAMP_STEPS - 1;

/// The ramps of one upstream. Times are those since a moment that stays the same.
#[derive(Debug)]
pub struct Ramps {
    duration: Duration,
    backends: Vec<Ramp>,
    /// When parts were looked at last.
    seen: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Ramp {
    /// No verdict yet.
    Unknown,
    /// Not eligible.
    Out,
    /// Eligible again since then.
    Since(Duration),
    /// Has its whole share.
    Full,
}

impl Ramps {
    /// No verdict is known yet.
    #[must_use]
    pub fn new(duration: Duration, backends: usize) -> Self {
        Self { duration, backends: vec![Ramp::Unknown; backends], seen: Duration::ZERO }
    }

    /// Goes on with what is known of a backend from the generation before.
    pub fn keep(&mut self, backend: BackendId, previous: &Self) {
        self.backends[backend.index()] = previous.backends[backend.index()];
    }

    /// Takes who is eligible now; `None` without a verdict.
    pub fn observe(&mut self, eligible: impl IntoIterator<Item = Option<bool>>, now: Duration) {
        self.seen = now;
        for (ramp, eligible) in self.backends.iter_mut().zip(eligible) {
            *ramp = match (*ramp, eligible) {
                (_, Some(false)) => Ramp::Out,
                (Ramp::Unknown, Some(true)) => Ramp::Full,
                (Ramp::Out, Some(true)) => Ramp::Since(now),
                // Also while it is judged afresh at another address.
                (Ramp::Since(begin), _) if now >= begin.saturating_add(self.duration) => Ramp::Full,
                (ramp, _) => ramp,
            };
        }
    }

    /// The part of its weight that a backend has now, of `limits::RAMP_STEPS`.
    #[must_use]
    pub fn part(&self, backend: BackendId, now: Duration) -> u32 {
        match self.backends[backend.index()] {
            Ramp::Since(begin) => 1 + self.rises(begin, now),
            Ramp::Unknown | Ramp::Out | Ramp::Full => limits::RAMP_STEPS,
        }
    }

    /// When a part changes next, at least `limits::RAMP_PAUSE_MIN` after the last look.
    #[must_use]
    pub fn next_step(&self) -> Option<Duration> {
        let next = |ramp: &Ramp| {
            let Ramp::Since(begin) = *ramp else { return None };
            let rise = (self.rises(begin, self.seen) + 1).min(RISES);
            let after = (u128::from(rise) * self.duration.as_nanos()).div_ceil(u128::from(RISES));
            Some(begin.saturating_add(Duration::from_nanos(u64::try_from(after).unwrap_or(u64::MAX))))
        };
        self.backends.iter().filter_map(next).min().map(|next| next.max(self.seen + limits::RAMP_PAUSE_MIN))
    }

    /// How often a part has risen since its ramp began.
    fn rises(&self, begin: Duration, now: Duration) -> u32 {
        let rises =
            now.saturating_sub(begin).as_nanos() * u128::from(RISES) / self.duration.as_nanos().max(1);
        u32::try_from(rises).unwrap_or(RISES).min(RISES)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONLY: BackendId = BackendId(0);

    fn returned(duration: Duration, now: Duration) -> Ramps {
        let mut ramps = Ramps::new(duration, 1);
        ramps.observe([Some(true)], Duration::ZERO);
        ramps.observe([Some(false)], Duration::ZERO);
        ramps.observe([Some(true)], now);
        ramps
    }

    #[test]
    fn the_first_verdict_starts_no_ramp() {
        let mut ramps = Ramps::new(Duration::from_secs(10), 1);
        ramps.observe([None], Duration::ZERO);
        ramps.observe([Some(true)], Duration::from_secs(1));
        assert_eq!(ramps.part(ONLY, Duration::from_secs(1)), limits::RAMP_STEPS);
        assert_eq!(ramps.next_step(), None);
    }

    #[test]
    fn a_backend_that_is_down_at_first_ramps_when_it_comes_up() {
        let mut ramps = Ramps::new(Duration::from_secs(10), 1);
        ramps.observe([Some(false)], Duration::ZERO);
        ramps.observe([Some(true)], Duration::from_secs(1));
        assert_eq!(ramps.part(ONLY, Duration::from_secs(1)), 1);
    }

    #[test]
    fn a_ramp_goes_on_while_the_backend_is_judged_afresh() {
        let mut ramps = returned(Duration::from_secs(10), Duration::ZERO);
        ramps.observe([None], Duration::from_secs(5));
        assert_eq!(ramps.part(ONLY, Duration::from_secs(5)), 10);
        ramps.observe([None], Duration::from_secs(10));
        assert_eq!((ramps.part(ONLY, Duration::from_secs(10)), ramps.next_step()), (20, None));
    }

    #[test]
    fn going_down_ends_a_ramp_and_the_next_one_starts_over() {
        let mut ramps = returned(Duration::from_secs(10), Duration::ZERO);
        ramps.observe([Some(true)], Duration::from_secs(9));
        assert_eq!(ramps.part(ONLY, Duration::from_secs(9)), 18);
        ramps.observe([Some(false)], Duration::from_secs(9));
        ramps.observe([Some(true)], Duration::from_secs(9));
        assert_eq!(ramps.part(ONLY, Duration::from_secs(9)), 1);
    }

    proptest! {
        #[test]
        fn a_ramp_rises_in_few_steps_to_the_whole(millis in 1u64..40_000, begin in 0u64..100_000) {
            let (duration, begin) = (Duration::from_millis(millis), Duration::from_millis(begin));
            let mut ramps = returned(duration, begin);
            let (mut now, mut last, mut steps) = (begin, 1, 0);
            prop_assert_eq!(ramps.part(ONLY, now), 1);
            while let Some(next) = ramps.next_step() {
                prop_assert!(next >= now + limits::RAMP_PAUSE_MIN);
                now = next;
                steps += 1;
                ramps.observe([Some(true)], now);
                let part = ramps.part(ONLY, now);
                prop_assert!(part > last && part <= limits::RAMP_STEPS, "{} after {}", part, last);
                let elapsed = (now - begin).as_secs_f64() / duration.as_secs_f64();
                let exact = 1.0 + 19.0 * elapsed.min(1.0);
                prop_assert!((f64::from(part) - exact).abs() <= 1.0, "{} instead of {}", part, exact);
                last = part;
            }
            prop_assert_eq!(last, limits::RAMP_STEPS);
            prop_assert!(steps < limits::RAMP_STEPS);
            prop_assert!(now <= begin + duration.max(limits::RAMP_PAUSE_MIN) + limits::RAMP_PAUSE_MIN);
        }
    }
}
