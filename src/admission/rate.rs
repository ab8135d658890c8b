//! A limit on a rate, exact over all shards: the generic cell rate algorithm, whose whole state is one word.
//!
//! The word is the moment at which a steady stream of the configured rate would have brought the next event (the
//! "theoretical arrival time" of ITU-T I.371). An event that comes earlier than that, by more than the burst allows, is
//! one too many and changes nothing.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::base::{Moment, Shared};
use crate::config::RateLimit;

/// A rate and its burst, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Time between two events of a steady stream.
    interval: u64,
    /// How much earlier an event may come.
    tolerance: u64,
}

/// How long a thread may rest between its look at the clock and its event, in nanoseconds.
const LATE: u64 = 1_000_000_000;

impl Pace {
    /// Returns the state after an event at `now`, given the state before it; `None` if it is one too many.
    fn after(self, state: u64, now: Moment) -> Option<u64> {
        let now = nanos(now);
        let full = now.saturating_add(self.tolerance);
        // No state of this pace is later than that of an event just now. One that is much later comes from a slower pace, before
        // a reload, and would shut clients out for long: it counts as a burst that is used up. One that is a little later
        // comes from a thread whose clock was read after ours.
        let latest = full.saturating_add(self.interval).saturating_add(LATE);
        let due = if state > latest { full } else { state.max(now) };
        (due - now <= self.tolerance).then(|| due.saturating_add(self.interval))
    }
}

impl From<RateLimit> for Pace {
    fn from(limit: RateLimit) -> Self {
        let per = u64::try_from(limit.rate.per.as_nanos()).unwrap_or(u64::MAX);
        let interval = per / u64::from(limit.rate.events.get());
        Self { interval, tolerance: interval.saturating_mul(u64::from(limit.burst.get()) - 1) }
    }
}

/// The state of a rate of which one thread at a time makes use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Paced(u64);

impl Paced {
    /// Counts an event at `now`; `None` if it is one too many. The state is the caller's to keep.
    pub(super) fn after(self, pace: Pace, now: Moment) -> Option<Self> {
        pace.after(self.0, now).map(Self)
    }

    /// Takes an event back that was counted.
    pub(super) fn before(self, pace: Pace) -> Self {
        Self(self.0.saturating_sub(pace.interval))
    }

    /// Returns whether it says nothing more at `now` than a new one.
    pub(super) fn is_as_new(self, now: Moment) -> bool {
        self.0 <= nanos(now)
    }
}

/// The state of a rate that all shards share.
#[derive(Debug, Default)]
pub struct SharedPace(Shared<AtomicU64>);

impl SharedPace {
    /// Counts an event at `now`. Returns whether it was within the rate.
    #[must_use]
    pub fn take(&self, pace: Pace, now: Moment) -> bool {
        self.0.write().fetch_update(Relaxed, Relaxed, |state| pace.after(state, now)).is_ok()
    }

    /// Returns whether an event at `now` would be within the rate.
    #[must_use]
    pub fn would_take(&self, pace: Pace, now: Moment) -> bool {
        pace.after(self.0.get().load(Relaxed), now).is_some()
    }
}

fn nanos(moment: Moment) -> u64 {
    moment.0.saturating_mul(1_000)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::atomic::{AtomicU32, AtomicU64};
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::config::Rate;

    fn limit(events: u32, seconds: u64, burst: u32) -> Pace {
        let number = |number| NonZeroU32::new(number).expect("not 0");
        let rate = Rate { events: number(events), per: Duration::from_secs(seconds) };
        Pace::from(RateLimit { rate, burst: number(burst) })
    }

    proptest! {
        /// In any time there are at most the burst and what the rate gives, and of what comes steadily nothing is lost.
        #[test]
        fn events_are_within_burst_and_rate(
            rate in 1..10_000_u32, burst in 1..100_u32, gaps in prop::collection::vec(0..5_000_u64, 1..500),
        ) {
            let (pace, state) = (limit(rate, 1, burst), SharedPace::default());
            let (mut now, mut taken) = (Moment(0), Vec::new());
            for gap in gaps {
                now.0 += gap;
                if state.take(pace, now) {
                    taken.push(now);
                }
            }
            for (index, first) in taken.iter().enumerate() {
                for (more, last) in taken[index..].iter().enumerate() {
                    let allowed = f64::from(burst) + (last.0 - first.0) as f64 * f64::from(rate) / 1e6;
                    prop_assert!(more as f64 <= allowed + 1e-3, "{more} within {}", last.0 - first.0);
                }
            }
            let interval = 1_000_000_u64.div_ceil(u64::from(rate));
            for _ in 0..50 {
                now.0 += interval;
                let _ = state.take(pace, now);
            }
            now.0 += interval * u64::from(burst);
            for _ in 0..50 {
                now.0 += interval;
                prop_assert!(state.take(pace, now), "a steady stream of the rate is let in");
            }
        }
    }

    #[test]
    fn rates_below_one_a_second_and_at_the_most_are_kept() {
        let (hourly, state) = (limit(2, 3_600, 1), SharedPace::default());
        assert!(state.take(hourly, Moment(5)));
        assert!(!state.take(hourly, Moment(1_799_999_000 + 5)));
        assert!(state.take(hourly, Moment(1_800_000_000 + 5)));
        let fastest = limit(1_000_000, 1, 1);
        let state = SharedPace::default();
        assert_eq!((0..1_000).filter(|micros| state.take(fastest, Moment(*micros))).count(), 1_000);
    }

    /// A reload may loosen a limit that many clients have used up.
    #[test]
    fn faster_pace_is_in_force_at_once() {
        let (slow, fast) = (limit(5, 3_600, 5), limit(1_000, 1, 10));
        let state = SharedPace::default();
        assert!((0..5).all(|_| state.take(slow, Moment(0))) && !state.take(slow, Moment(0)));
        assert!(state.take(fast, Moment(1_000)));
        assert!((0..50).all(|number| state.take(fast, Moment(2_000 + number * 1_000))));
    }

    /// Exact over all threads to within the burst.
    #[test]
    fn racing_threads_share_one_rate() {
        let (pace, state) = (limit(1_000, 1, 50), SharedPace::default());
        let (taken, clock) = (AtomicU32::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while clock.load(Relaxed) < 900_000 {
                        let now = Moment(clock.fetch_add(1, Relaxed));
                        taken.fetch_add(u32::from(state.take(pace, now)), Relaxed);
                    }
                });
            }
        });
        // 0.9 s of 1,000 a second: however long a thread rests, it is not `LATE` on this clock, which others move.
        let taken = taken.load(Relaxed);
        assert!((900..=951).contains(&taken), "{taken}");
    }
}
