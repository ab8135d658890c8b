//! How many bytes a direction with a limited rate may move, and when: a token bucket whose whole state is a moment.
//!
//! The bucket gains the bytes of the rate and holds those of [`BURST`]. A direction whose bucket has run out rests until
//! it holds those of [`PIECE`], so that it moves a few larger pieces instead of many small ones. In any time it moves at
//! most what the rate brings and one burst: 4 % more than the rate in a second. A task that is late by less than
//! `BURST - PIECE` loses nothing.

use std::time::Duration;

use crate::base::Moment;
use crate::config::ByteRate;

/// What the bucket holds, as time of the rate.
const BURST: Duration = Duration::from_millis(40);
/// What the bucket must hold after a rest, as time of the rate.
const PIECE: Duration = Duration::from_millis(20);
/// Fewer bytes than this are no reason to go on, unless a piece is smaller.
const SCRAP: u64 = 16 << 10;

const SECOND: u128 = 1_000_000_000;

/// See the module documentation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Bytes a second.
    rate: u64,
    /// The moment since which the bucket has filled from empty, in nanoseconds; in the future after an overdraft.
    empty_at: u64,
    /// The end of the rest, in nanoseconds.
    rests_until: u64,
}

impl Budget {
    /// Creates a budget that begins with a whole burst.
    pub(super) fn new(rate: ByteRate, now: Moment) -> Self {
        Self { rate: rate.bytes(), empty_at: nanos(now).saturating_sub(length(BURST)), rests_until: 0 }
    }

    /// Returns how many bytes may be moved at `now`. If none, the budget rests until [`Self::rests_until`].
    pub(super) fn allowance(&mut self, now: Moment) -> u32 {
        let now = nanos(now);
        if now < self.rests_until {
            return 0;
        }
        self.empty_at = self.empty_at.max(now.saturating_sub(length(BURST)));
        let held = self.bytes_in(now.saturating_sub(self.empty_at));
        if held < SCRAP.min(self.piece()) {
            self.rests_until = self.empty_at.saturating_add(length(PIECE));
            return 0;
        }
        u32::try_from(held).unwrap_or(u32::MAX)
    }

    /// Returns the end of the rest.
    pub(super) fn rests_until(&self) -> Moment {
        Moment(self.rests_until.div_ceil(1_000))
    }

    /// Counts bytes that were moved. More than the allowance is an overdraft, which the next ones wait for.
    pub(super) fn spend(&mut self, bytes: u32) {
        let time = (u128::from(bytes) * SECOND).div_ceil(u128::from(self.rate));
        self.empty_at = self.empty_at.saturating_add(u64::try_from(time).unwrap_or(u64::MAX));
    }

    /// Returns the bytes of a piece after a rest.
    pub(super) fn piece(&self) -> u64 {
        self.bytes_in(length(PIECE))
    }

    fn bytes_in(&self, nanos: u64) -> u64 {
        u64::try_from(u128::from(nanos) * u128::from(self.rate) / SECOND).unwrap_or(u64::MAX)
    }
}

fn nanos(moment: Moment) -> u64 {
    moment.0.saturating_mul(1_000)
}

const fn length(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn budget(rate: u64) -> Budget {
        Budget::new(ByteRate::new(rate).expect("not 0"), Moment(1_000_000))
    }

    proptest! {
        /// Whenever a direction looks, and whatever its source has, no time brings more than the rate and a burst.
        #[test]
        fn bytes_are_within_burst_and_rate(
            rate in 1024..10_u64 << 30, steps in prop::collection::vec((0..60_000_u64, 0..=100_u64), 1..300),
        ) {
            let (mut budget, mut now) = (budget(rate), Moment(1_000_000));
            let mut moved: Vec<(Moment, u64)> = Vec::new();
            for (gap, percent) in steps {
                now.0 += gap;
                let bytes = u64::from(budget.allowance(now)) * percent / 100;
                budget.spend(bytes as u32);
                moved.push((now, bytes));
            }
            for (index, (first, _)) in moved.iter().enumerate() {
                let mut sum = 0;
                for (last, bytes) in &moved[index..] {
                    sum += bytes;
                    let allowed = last.since(*first) + BURST;
                    prop_assert!(sum as f64 <= allowed.as_secs_f64() * rate as f64 + 1.0, "{sum} in {allowed:?}");
                }
            }
        }

        /// A task that is woken late, but not by more than the bucket makes up for, gets the whole rate.
        #[test]
        fn rate_is_reached_in_spite_of_late_tasks(
            rate in 1024..4_u64 << 30, late in prop::collection::vec(0..19_000_u64, 200),
        ) {
            let begin = Moment(1_000_000);
            let (mut budget, mut now, mut sum) = (budget(rate), begin, 0_u64);
            for late in late {
                while let bytes @ 1.. = budget.allowance(now) {
                    budget.spend(bytes);
                    sum += u64::from(bytes);
                }
                prop_assert!(budget.rests_until() > now);
                now = Moment(budget.rests_until().0 + late);
            }
            // What has come since the last look is not counted.
            let expected = (now.since(begin)).as_secs_f64() * rate as f64;
            prop_assert!(sum as f64 >= expected * 0.99, "{sum} of {expected}");
        }
    }

    #[test]
    fn overdraft_is_waited_for_and_then_a_piece_comes() {
        let (mut budget, now) = (budget(100_000), Moment(1_000_000));
        assert_eq!(budget.allowance(now), 4_000);
        budget.spend(104_000);
        assert_eq!(budget.allowance(now), 0);
        assert_eq!(budget.rests_until(), Moment(2_020_000));
        assert_eq!(budget.allowance(Moment(2_019_999)), 0);
        assert_eq!(budget.allowance(Moment(2_020_000)), 2_000);
    }

    #[test]
    fn unused_budget_is_no_more_than_a_burst() {
        let mut budget = budget(100_000);
        assert_eq!(budget.allowance(Moment(1_000_000_000)), 4_000);
    }
}
