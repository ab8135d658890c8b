//! What the results of a backend's checks mean: a state machine without clock or socket.
//!
//! Invariants: the first result alone decides for a backend that is `Checking`; after it the state changes
//! only after `rise` successes, or `fall` failures, without the opposite result among them.

use std::time::Duration;

use crate::base::limits;
use crate::config::HealthCheck;
use crate::upstream::Health;

/// The result of one check that says something about the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It answered as it should.
    Success,
    /// It did not.
    Failure,
}

/// A change of a backend's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The state before.
    pub from: Health,
    /// The state now: `Up` or `Down`.
    pub to: Health,
    /// How many consecutive results led to it.
    pub results: u32,
}

/// The state of one backend's active check.
#[derive(Clone, Debug)]
pub struct RiseFall {
    rise: u32,
    fall: u32,
    health: Health,
    /// Consecutive results that contradict `health`; below `rise` or `fall`.
    against: u32,
    /// Failures since it is down.
    down_for: u32,
}

impl RiseFall {
    /// A backend of which no result is known.
    ///
    /// # Panics
    ///
    /// If `rise` or `fall` is 0, which no valid configuration has.
    #[must_use]
    pub fn new(check: &HealthCheck) -> Self {
        assert!(check.rise > 0 && check.fall > 0, "rise {} and fall {} are positive", check.rise, check.fall);
        Self { rise: check.rise, fall: check.fall, health: Health::Checking, against: 0, down_for: 0 }
    }

    /// A backend that is in this state by earlier checks, by other rules perhaps.
    #[must_use]
    pub fn resume(check: &HealthCheck, health: Health) -> Self {
        Self { health, ..Self::new(check) }
    }

    /// For tests: the state now.
    #[doc(hidden)]
    #[must_use]
    pub fn health(&self) -> Health {
        self.health
    }

    /// Takes the next result, and says whether the state changed.
    pub fn observe(&mut self, verdict: Verdict) -> Option<Transition> {
        let (to, needed) = match verdict {
            Verdict::Success => (Health::Up, self.rise),
            Verdict::Failure => (Health::Down, self.fall),
        };
        if self.health == to {
            self.against = 0;
            self.down_for = self.down_for.saturating_add(1);
            return None;
        }
        self.against += 1;
        if self.health != Health::Checking && self.against < needed {
            return None;
        }
        let transition = Transition { from: self.health, to, results: self.against };
        self.health = to;
        self.against = 0;
        self.down_for = 0;
        Some(transition)
    }

    /// Whether failures have begun to contradict that it is up.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.health == Health::Up && self.against > 0
    }

    /// Whether the state is changing, or has changed lately: it is unknown, a change has begun, or it is down
    /// for less than an `interval`, as a backend that is restarted is.
    fn is_changing(&self, check: &HealthCheck) -> bool {
        let is_down_lately = || check.fast_interval.saturating_mul(self.down_for) < check.interval;
        self.health == Health::Checking || self.against > 0 || self.health == Health::Down && is_down_lately()
    }

    /// Time to the next check: the fast interval while the state is changing or `is_suspect`, else the normal
    /// one, moved by up to the jitter either way. `fraction` is random, 0 to 1.
    #[must_use]
    pub fn next_check(&self, check: &HealthCheck, is_suspect: bool, fraction: f64) -> Duration {
        // A fast interval longer than the normal one, as its default is beside `interval: 1s`, would be
        // slower.
        let fast = check.fast_interval.min(check.interval);
        let interval = if is_suspect || self.is_changing(check) { fast } else { check.interval };
        jittered(interval, check.jitter, fraction)
    }
}

/// `interval` moved by up to `jitter` of it either way, and never so short that checks would spin.
fn jittered(interval: Duration, jitter: f64, fraction: f64) -> Duration {
    let factor = 1.0 + jitter.clamp(0.0, 1.0) * (2.0 * fraction.clamp(0.0, 1.0) - 1.0);
    interval.mul_f64(factor).max(limits::DURATION_MIN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::CheckKind;

    const CHECK: HealthCheck = HealthCheck {
        kind: CheckKind::Tcp,
        interval: Duration::from_secs(30),
        fast_interval: Duration::from_secs(2),
        timeout: Duration::from_secs(5),
        rise: 2,
        fall: 3,
        jitter: 0.1,
        port: None,
    };

    use Health::{Checking, Down, Up};
    use Verdict::{Failure, Success};

    fn after(verdicts: &[Verdict]) -> RiseFall {
        let mut rules = RiseFall::new(&CHECK);
        verdicts.iter().for_each(|&verdict| {
            rules.observe(verdict);
        });
        rules
    }

    #[test]
    fn the_first_result_alone_decides() {
        assert_eq!(RiseFall::new(&CHECK).health(), Checking);
        assert_eq!(after(&[Success]).health(), Up);
        assert_eq!(after(&[Failure]).health(), Down);
    }

    #[test]
    fn rise_and_fall_hold_after_the_first() {
        let mut rules = after(&[Success, Failure, Failure]);
        assert_eq!(rules.health(), Up);
        assert_eq!(rules.observe(Failure), Some(Transition { from: Up, to: Down, results: 3 }));
        assert_eq!(rules.observe(Success), None);
        assert_eq!(rules.observe(Success), Some(Transition { from: Down, to: Up, results: 2 }));
    }

    #[test]
    fn a_flapping_backend_keeps_its_state() {
        let mut rules = after(&[Success]);
        for _ in 0..100 {
            for verdict in [Failure, Failure, Success] {
                assert_eq!(rules.observe(verdict), None);
            }
        }
        assert_eq!(rules.health(), Up);
    }

    #[test]
    fn the_fast_interval_applies_while_the_state_is_changing() {
        let middle = |verdicts: &[Verdict]| after(verdicts).next_check(&CHECK, false, 0.5);
        assert_eq!(middle(&[]), CHECK.fast_interval);
        assert_eq!(middle(&[Success]), CHECK.interval);
        assert_eq!(middle(&[Success, Failure]), CHECK.fast_interval);
        assert_eq!(middle(&[Success, Failure, Success]), CHECK.interval);
        assert_eq!(middle(&[Failure, Success]), CHECK.fast_interval);
        assert_eq!(after(&[Success]).next_check(&CHECK, true, 0.5), CHECK.fast_interval, "it is suspect");
    }

    #[test]
    fn a_backend_that_went_down_is_checked_fast_for_an_interval() {
        let mut rules = after(&[Failure]);
        for check in 0..15 {
            assert_eq!(rules.next_check(&CHECK, false, 0.5), CHECK.fast_interval, "{check} x 2 s after");
            rules.observe(Failure);
        }
        assert_eq!(rules.next_check(&CHECK, false, 0.5), CHECK.interval);
        rules.observe(Success);
        rules.observe(Success);
        assert_eq!(rules.next_check(&CHECK, false, 0.5), CHECK.interval, "it is up");
        (0..3).for_each(|_| assert!(rules.observe(Failure).is_none_or(|transition| transition.to == Down)));
        assert_eq!(rules.next_check(&CHECK, false, 0.5), CHECK.fast_interval, "down once more");
    }

    #[test]
    fn jitter_moves_the_interval_either_way_and_never_to_nothing() {
        let rules = after(&[Success]);
        assert_eq!(rules.next_check(&CHECK, false, 0.0), Duration::from_secs(27));
        assert_eq!(rules.next_check(&CHECK, false, 1.0), Duration::from_secs(33));
        let wild = HealthCheck { jitter: 1.0, ..CHECK };
        assert_eq!(rules.next_check(&wild, false, 0.0), limits::DURATION_MIN);
    }

    #[test]
    fn a_fast_interval_is_never_slower_than_the_normal_one() {
        let check = HealthCheck { interval: Duration::from_secs(1), ..CHECK };
        assert_eq!(RiseFall::new(&check).next_check(&check, false, 0.5), Duration::from_secs(1));
    }

    fn any_verdicts() -> impl Strategy<Value = Vec<Verdict>> {
        prop::collection::vec(prop_oneof![Just(Success), Just(Failure)], 1..60)
    }

    proptest! {
        /// The shadow model looks at the whole history instead of a counter.
        #[test]
        fn the_state_follows_the_history(verdicts in any_verdicts(), rise in 1u32..5, fall in 1u32..5) {
            let check = HealthCheck { rise, fall, ..CHECK };
            let mut rules = RiseFall::new(&check);
            let mut expected = Checking;
            for (index, &verdict) in verdicts.iter().enumerate() {
                let before = expected;
                let history = &verdicts[..=index];
                let run = history.iter().rev().take_while(|&&earlier| earlier == verdict).count();
                expected = match (before, verdict) {
                    (Checking, Success) => Up,
                    (Checking, Failure) => Down,
                    (Down, Success) if run >= rise as usize => Up,
                    (Up, Failure) if run >= fall as usize => Down,
                    (same, _) => same,
                };
                let transition = rules.observe(verdict);
                prop_assert_eq!(rules.health(), expected);
                prop_assert_eq!(transition.map(|change| (change.from, change.to)),
                    (before != expected).then_some((before, expected)));
            }
        }

        #[test]
        fn next_check_stays_within_the_jitter(
            millis in 1u64..100_000, jitter in 0f64..=1.0, fraction in 0f64..=1.0,
        ) {
            let check = HealthCheck { interval: Duration::from_millis(millis), jitter, ..CHECK };
            let next = after(&[Success]).next_check(&check, false, fraction).as_secs_f64() * 1e3;
            let interval = millis as f64;
            prop_assert!(next >= (interval * (1.0 - jitter)).max(1.0) - 1e-3);
            prop_assert!(next <= interval * (1.0 + jitter) + 1e-3);
        }
    }
}
