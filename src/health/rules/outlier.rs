//! Who is ejected, and for how long: a state machine that is told the time, as time since a moment that stays
//! the same.
//!
//! The first ejection lasts `ejection_time`, each further one as much longer, up to
//! `limits::EJECTION_GROWTH_MAX` times; each `ejection_time` that a backend is well after one takes a step
//! back (as Envoy does it). Where backends are checked, an ejection ends sooner: with as many consecutive
//! checks passed since it began as `rise` says.
//!
//! Invariants: of the primaries, and of the backups, no more than `max_ejected` are ejected, rounded down,
//! but that the last eligible primary may go where a backup is eligible; while some backend is up, some
//! backend is up and not ejected.

use std::time::Duration;

use crate::base::{BackendId, limits};
use crate::config::Outlier;
use crate::upstream::Share;

/// The ejections of one upstream.
#[derive(Debug)]
pub struct Outliers {
    ejection_time: Duration,
    /// Checks that end an ejection; `None` where there are no checks.
    rise: Option<Rise>,
    /// Most that are ejected at a time: primaries, backups.
    most: [usize; 2],
    backends: Vec<History>,
}

/// The checks that end an ejection.
#[derive(Clone, Copy, Debug)]
pub struct Rise {
    /// How many, one after the other.
    pub checks: u32,
    /// So long after each other at least; those that come faster, because sessions fail, do not count.
    pub apart: Duration,
}

#[derive(Clone, Debug)]
struct History {
    backup: bool,
    /// The ejection that lasts.
    ejection: Option<Ejection>,
    /// Ejections, less those that time has healed; the factor of the last one.
    times: u32,
    /// When the last ejection ended.
    returned: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Ejection {
    until: Duration,
    /// Consecutive checks that began since and passed.
    passed: u32,
    /// Before which none counts.
    not_before: Duration,
}

/// Why a backend that failed too often is not ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotEjected {
    /// It takes no sessions anyhow: it is ejected already, or down.
    Out,
    /// So many are ejected that one more would be too many.
    MaxEjected,
    /// Nobody else could serve.
    LastEligible,
}

/// The end of an ejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EjectionEnd {
    /// Who is back.
    pub backend: BackendId,
    /// Why now.
    pub cause: Cause,
}

/// Why an ejection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its time is over.
    Time,
    /// Nobody else is up.
    NobodyElse,
    /// It has passed as many checks as a backend needs to rise.
    Checks,
    /// Its name leads to another address: what sessions suffered was at the old one.
    Moved,
}

impl Outliers {
    /// Nobody is ejected.
    ///
    /// # Panics
    ///
    /// If the ejection time is 0, which no valid configuration has.
    #[must_use]
    pub fn new(rules: &Outlier, rise: Option<Rise>, shares: &[Share]) -> Self {
        assert!(!rules.ejection_time.is_zero(), "an ejection takes time");
        assert!(rise.is_none_or(|rise| rise.checks > 0), "no check ends an ejection");
        let most = [false, true].map(|backup| {
            let all = shares.iter().filter(|share| share.weight > 0 && share.backup == backup).count();
            all * rules.max_ejected as usize / 100
        });
        let unknown = |share: &Share| History {
            backup: share.backup,
            ejection: None,
            times: 0,
            returned: Duration::ZERO,
        };
        let backends = shares.iter().map(unknown).collect();
        Self { ejection_time: rules.ejection_time, rise, most, backends }
    }

    /// Goes on with what is known of a backend from the generation before.
    pub fn keep(&mut self, backend: BackendId, previous: &Self) {
        let history = &mut self.backends[backend.index()];
        *history = History { backup: history.backup, ..previous.backends[backend.index()].clone() };
    }

    /// Whether a backend is ejected.
    #[must_use]
    pub fn is_ejected(&self, backend: BackendId) -> bool {
        self.backends[backend.index()].ejection.is_some()
    }

    /// Takes the report of a backend that failed too often, and says for how long it is ejected. `up` tells
    /// of each backend whether it could take sessions but for an ejection.
    ///
    /// # Errors
    ///
    /// Why it is not ejected.
    pub fn report(&mut self, backend: BackendId, up: &[bool], now: Duration) -> Result<Duration, NotEjected> {
        let index = backend.index();
        if !up[index] || self.is_ejected(backend) {
            return Err(NotEjected::Out);
        }
        let backup = self.backends[index].backup;
        let has_eligible = |backup: bool| {
            let mut others = self.backends.iter().zip(up).enumerate().filter(|(other, _)| *other != index);
            others.any(|(_, (other, up))| *up && other.backup == backup && other.ejection.is_none())
        };
        let ejected = self.backends.iter().filter(|other| other.backup == backup && other.ejection.is_some());
        // The last primary that does not serve would keep every client from the backups.
        let is_last_beside_backups = !backup && !has_eligible(false) && has_eligible(true);
        if ejected.count() >= self.most[usize::from(backup)] && !is_last_beside_backups {
            return Err(NotEjected::MaxEjected);
        }
        if !has_eligible(false) && !has_eligible(true) {
            return Err(NotEjected::LastEligible);
        }
        let history = &mut self.backends[index];
        let well = now.saturating_sub(history.returned).as_nanos() / self.ejection_time.as_nanos();
        let healed = u32::try_from(well).unwrap_or(u32::MAX);
        history.times = (history.times.saturating_sub(healed) + 1).min(limits::EJECTION_GROWTH_MAX);
        let length = self.ejection_time * history.times;
        history.ejection = Some(Ejection { until: now.saturating_add(length), passed: 0, not_before: now });
        Ok(length)
    }

    /// Takes the result of a check that began at `begun`; enough that passed since a backend was ejected end
    /// that.
    pub fn checked(
        &mut self,
        backend: BackendId,
        passed: bool,
        begun: Duration,
        now: Duration,
    ) -> Option<EjectionEnd> {
        let rise = self.rise?;
        let ejection = self.backends[backend.index()].ejection.as_mut()?;
        if !passed {
            ejection.passed = 0;
        } else if begun >= ejection.not_before {
            ejection.passed += 1;
            ejection.not_before = begun.saturating_add(rise.apart);
        }
        let is_over = ejection.passed >= rise.checks;
        is_over.then(|| self.end_one(backend, now, Cause::Checks)).flatten()
    }

    /// A backend is at another address: it begins anew.
    pub fn moved(&mut self, backend: BackendId, now: Duration) -> Option<EjectionEnd> {
        let back = self.end_one(backend, now, Cause::Moved);
        self.backends[backend.index()].times = 0;
        back
    }

    /// Ends the ejections whose time is over, and all of backends that are up when nobody else is.
    pub fn settle(&mut self, up: &[bool], now: Duration) -> Vec<EjectionEnd> {
        let mut returns = Vec::new();
        self.end(&mut returns, now, Cause::Time, |_, until| until <= now);
        if !up.iter().zip(&self.backends).any(|(up, history)| *up && history.ejection.is_none()) {
            self.end(&mut returns, now, Cause::NobodyElse, |index, _| up[index]);
        }
        returns
    }

    fn end_one(&mut self, backend: BackendId, now: Duration, cause: Cause) -> Option<EjectionEnd> {
        let mut returns = Vec::new();
        self.end(&mut returns, now, cause, |index, _| index == backend.index());
        returns.pop()
    }

    /// Ends the ejections that `is_over` says so of, by position and end.
    fn end(
        &mut self,
        returns: &mut Vec<EjectionEnd>,
        now: Duration,
        cause: Cause,
        is_over: impl Fn(usize, Duration) -> bool,
    ) {
        for (index, history) in self.backends.iter_mut().enumerate() {
            if history.ejection.take_if(|ejection| is_over(index, ejection.until)).is_some() {
                history.returned = now;
                let id = u16::try_from(index).expect("limits::BACKENDS_PER_UPSTREAM_MAX fits");
                returns.push(EjectionEnd { backend: BackendId(id), cause });
            }
        }
    }

    /// When the next ejection ends.
    #[must_use]
    pub fn next_end(&self) -> Option<Duration> {
        self.backends.iter().filter_map(|history| Some(history.ejection?.until)).min()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIME: Duration = Duration::from_secs(30);

    fn outliers(max_ejected: u32, backups: &[bool]) -> Outliers {
        let share = |&backup: &bool| Share { weight: 1, backup, name_hash: 0, position: 0 };
        let rules =
            Outlier { consecutive_failures: 5, empty_answers: None, ejection_time: TIME, max_ejected };
        Outliers::new(
            &rules,
            Some(Rise { checks: 2, apart: secs(1) }),
            &backups.iter().map(share).collect::<Vec<_>>(),
        )
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn max_ejected_rounds_down() {
        for (backends, percent, expected) in
            [(1, 50, 0), (2, 50, 1), (3, 50, 1), (3, 66, 1), (3, 67, 2), (3, 100, 2), (100, 29, 29)]
        {
            let mut outliers = outliers(percent, &vec![false; backends]);
            let up = vec![true; backends];
            let ejected = (0..backends as u16)
                .filter(|id| outliers.report(BackendId(*id), &up, Duration::ZERO).is_ok())
                .count();
            assert_eq!(ejected, expected, "{percent}% of {backends}");
        }
    }

    #[test]
    fn an_ejection_grows_up_to_a_bound_and_heals() {
        let mut outliers = outliers(50, &[false; 2]);
        let up = [true; 2];
        let mut now = Duration::ZERO;
        for times in (1..=10).chain([10, 10]) {
            let length = outliers.report(BackendId(0), &up, now).expect("ejected");
            assert_eq!(length, TIME * times);
            assert_eq!(outliers.settle(&up, now + length - secs(1)), []);
            now += length;
            assert_eq!(outliers.next_end(), Some(now));
            assert_eq!(
                outliers.settle(&up, now),
                [EjectionEnd { backend: BackendId(0), cause: Cause::Time }]
            );
        }
        now += 4 * TIME;
        assert_eq!(outliers.report(BackendId(0), &up, now), Ok(TIME * 7));
        assert_eq!(outliers.settle(&up, now + secs(1_000)).len(), 1);
        assert_eq!(outliers.report(BackendId(0), &up, now + secs(9_999)), Ok(TIME));
    }

    #[test]
    fn the_last_primary_may_go_where_a_backup_is_up() {
        let mut outliers = outliers(100, &[false, true]);
        assert_eq!(outliers.report(BackendId(0), &[true, false], secs(1)), Err(NotEjected::LastEligible));
        assert_eq!(outliers.report(BackendId(0), &[true, true], secs(1)), Ok(TIME));
        assert_eq!(outliers.report(BackendId(1), &[true, true], secs(1)), Err(NotEjected::LastEligible));
        assert_eq!(outliers.report(BackendId(0), &[true, true], secs(1)), Err(NotEjected::Out));
    }

    #[test]
    fn max_ejected_does_not_keep_the_last_dead_primary_in_while_a_backup_is_eligible() {
        let mut outliers = outliers(50, &[false, true]);
        assert_eq!(outliers.report(BackendId(0), &[true, false], secs(1)), Err(NotEjected::MaxEjected));
        assert_eq!(outliers.report(BackendId(0), &[true, true], secs(1)), Ok(TIME));
        assert_eq!(outliers.report(BackendId(1), &[true, true], secs(1)), Err(NotEjected::MaxEjected));
        let mut outliers = self::outliers(50, &[false, false, true]);
        assert_eq!(outliers.report(BackendId(0), &[true; 3], secs(1)), Ok(TIME), "one of two may go");
        assert_eq!(
            outliers.report(BackendId(1), &[true; 3], secs(1)),
            Ok(TIME),
            "and the last, for a backup"
        );
    }

    #[test]
    fn an_ejection_ends_with_checks_that_began_and_passed_since() {
        let mut outliers = outliers(50, &[false; 2]);
        let up = [true; 2];
        let back = Some(EjectionEnd { backend: BackendId(0), cause: Cause::Checks });
        assert!(outliers.report(BackendId(0), &up, secs(10)).is_ok());
        let mut check = |passed, begun, now| outliers.checked(BackendId(0), passed, secs(begun), secs(now));
        assert_eq!(check(true, 9, 11), None, "it began before");
        assert_eq!(check(true, 11, 12), None);
        assert_eq!(check(false, 12, 13), None);
        assert_eq!(check(true, 13, 13), None, "one since the failure");
        assert_eq!(check(true, 13, 13), None, "too soon after it");
        assert_eq!(check(true, 14, 15), back);
        assert_eq!(check(true, 15, 16), None, "it is over");
        assert!(!outliers.is_ejected(BackendId(0)));
    }

    #[test]
    fn a_backend_that_has_moved_begins_anew() {
        let mut outliers = outliers(50, &[false; 2]);
        let up = [true; 2];
        assert!(outliers.report(BackendId(0), &up, secs(1)).is_ok());
        let back = Some(EjectionEnd { backend: BackendId(0), cause: Cause::Moved });
        assert_eq!(
            (outliers.moved(BackendId(0), secs(2)), outliers.moved(BackendId(0), secs(2))),
            (back, None)
        );
        assert_eq!(outliers.report(BackendId(0), &up, secs(3)), Ok(TIME), "as if it were the first time");
    }

    #[test]
    fn an_ejection_ends_early_when_nobody_else_is_up() {
        let mut outliers = outliers(50, &[false; 2]);
        assert!(outliers.report(BackendId(0), &[true, true], secs(0)).is_ok());
        assert_eq!(outliers.settle(&[true, true], secs(1)), []);
        assert_eq!(outliers.settle(&[false, false], secs(1)), [], "it would not serve either");
        assert_eq!(
            outliers.settle(&[true, false], secs(1)),
            [EjectionEnd { backend: BackendId(0), cause: Cause::NobodyElse }]
        );
    }

    /// What happens, one after the other.
    #[derive(Clone, Debug)]
    enum Step {
        Reports(usize),
        Checks(usize, bool),
        Passes(u64),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0usize..6).prop_map(Step::Reports),
            2 => (0usize..6, any::<bool>()).prop_map(|(index, up)| Step::Checks(index, up)),
            2 => (0u64..90).prop_map(Step::Passes),
        ]
    }

    proptest! {
        /// The shadow model keeps a list of ejections and looks at all of it.
        #[test]
        fn ejections_follow_the_model(
            steps in prop::collection::vec(any_step(), 1..80),
            backups in prop::collection::vec(any::<bool>(), 1..6),
            percent in 1u32..=100,
        ) {
            let mut outliers = outliers(percent, &backups);
            let count = backups.len();
            let mut up = vec![true; count];
            let mut now = Duration::ZERO;
            let mut ends: Vec<Option<Duration>> = vec![None; count];
            for step in steps {
                match step {
                    Step::Reports(index) if index < count => {
                        let of_kind = |other: &usize| backups[*other] == backups[index];
                        let all = (0..count).filter(of_kind).count();
                        let out = (0..count).filter(of_kind).filter(|other| ends[*other].is_some()).count();
                        let others = (0..count).any(|other| other != index && up[other] && ends[other].is_none());
                        let fits = (out + 1) * 100 <= all * percent as usize;
                        let eligible = |backup: bool| {
                            (0..count).any(|other| {
                                other != index && up[other] && ends[other].is_none() && backups[other] == backup
                            })
                        };
                        let last = !backups[index] && !eligible(false) && eligible(true);
                        let expected = up[index] && ends[index].is_none() && (fits || last) && others;
                        let result = outliers.report(BackendId(index as u16), &up, now);
                        prop_assert_eq!(result.is_ok(), expected, "{:?}", result);
                        if let Ok(length) = result {
                            prop_assert!(length >= TIME && length <= TIME * limits::EJECTION_GROWTH_MAX);
                            ends[index] = Some(now + length);
                        }
                    }
                    Step::Checks(index, is_up) if index < count => up[index] = is_up,
                    Step::Passes(seconds) => now += secs(seconds),
                    _ => {}
                }
                let returns = outliers.settle(&up, now);
                for back in &returns {
                    let end = ends[back.backend.index()].take().expect("it was ejected");
                    prop_assert_eq!(back.cause != Cause::Time, end > now);
                }
                for (index, end) in ends.iter().enumerate() {
                    prop_assert!(end.is_none_or(|end| end > now));
                    prop_assert_eq!(outliers.is_ejected(BackendId(index as u16)), end.is_some());
                }
                prop_assert_eq!(outliers.next_end(), ends.iter().flatten().min().copied());
                let serves = (0..count).any(|index| up[index] && ends[index].is_none());
                prop_assert_eq!(serves, up.iter().any(|up| *up), "while one is up, one is eligible");
            }
        }
    }
}
