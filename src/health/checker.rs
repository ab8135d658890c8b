//! The task of one backend: check, judge, wait, again.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::{self, Instant};

use crate::base::limits::LATE;
use crate::upstream::Health;

use super::departed::Departed;
use super::judge::{Judge, Judgement};
use super::probe::Connect;
use super::rules::{Checked, Event, RiseFall, Verdict};

/// Checks that became due while the process was stopped are spread over this much.
const AFTER_FREEZE_SPREAD: Duration = Duration::from_secs(1);

/// A check that a failed session asks for comes so long after the last one where that failed...
const AFTER_FAILURE: Duration = Duration::from_millis(100);
/// ...and so long after one that succeeded; doubled with each suspicion that proves wrong, up to
/// `fast_interval`. With `fall` at 3, a backend that has died just after a check is found down less than half
/// a second after the first session that fails on it.
const AFTER_SUCCESS: Duration = Duration::from_millis(200);

/// What sessions that fail have the checks ask.
#[derive(Default)]
struct Suspicion {
    /// A session has failed, and no check has succeeded since.
    is_open: bool,
    /// Consecutive suspicions that proved wrong.
    wrong: u32,
}

impl Suspicion {
    fn checked(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Failure => self.wrong = 0,
            Verdict::Success if self.is_open => self.wrong = self.wrong.saturating_add(1),
            Verdict::Success => {}
        }
        self.is_open &= verdict == Verdict::Failure;
    }

    /// How long after a check that succeeded the next one may come.
    fn gap(&self, fast: Duration) -> Duration {
        AFTER_SUCCESS.saturating_mul(1 << self.wrong.saturating_sub(1).min(10)).min(fast)
    }
}

/// The schedule of the checks of one backend.
pub(super) struct Checker<C> {
    pub(super) judge: Rc<Judge<C>>,
    /// Whether addresses that leave the backend's name are still looked after.
    pub(super) watches_departed: bool,
}

impl<C: Connect> Checker<C> {
    /// Checks the backend until dropped; the first time after a random part of `spread`.
    pub(super) async fn run(self, spread: Duration) {
        let Judge { which, check, board, .. } = &*self.judge;
        let which = *which;
        // Another checker may have judged it before, by other rules.
        let mut rules = RiseFall::resume(check, board.state(which).health);
        let mut departed = Departed::new();
        let mut is_in_trouble = false;
        let mut suspicion = Suspicion::default();
        time::sleep(spread.mul_f64(board.chance())).await;
        let mut resolved = board.moved_from(which, &[]).await;
        loop {
            let addresses = board.state(which).addresses;
            let step = async {
                let begun = board.now();
                let judgement = self.judge.judge(&addresses).await;
                let was_in_trouble = is_in_trouble;
                is_in_trouble = matches!(judgement, Judgement::Unknown(_));
                match judgement {
                    Judgement::Verdict { verdict, found_at, cause } => {
                        suspicion.checked(verdict);
                        if let Some(found) = found_at {
                            board.found_at(which, &addresses[found]);
                        }
                        let transition = rules.observe(verdict);
                        board.checked(which, &Checked { verdict, begun, transition, cause: &cause });
                    }
                    Judgement::Unknown(_) if was_in_trouble => {}
                    Judgement::Unknown(cause) => {
                        board.say(which.upstream, Event::CannotCheck(which.backend, cause));
                    }
                }
                self.pause(&rules, is_in_trouble, &mut suspicion).await;
            };
            // New addresses are checked at once, and what an old one answers from then on says nothing of
            // them.
            let moved = tokio::select! {
                biased;
                moved = board.moved_from(which, &resolved) => moved,
                () = step => continue,
            };
            if self.watches_departed {
                departed.follow(&self.judge, &resolved, &moved);
            }
            resolved = moved;
            if board.state(which).health == Health::Checking {
                rules = RiseFall::new(check);
            }
        }
    }

    /// Waits for the time of the next check, which a session that fails may bring nearer.
    async fn pause(&self, rules: &RiseFall, is_in_trouble: bool, suspicion: &mut Suspicion) {
        let Judge { which, check, board, .. } = &*self.judge;
        let ended = Instant::now();
        let fast = check.fast_interval.min(check.interval);
        let pause = if is_in_trouble {
            fast
        } else if suspicion.is_open && rules.is_failing() {
            AFTER_FAILURE.min(fast)
        } else {
            rules.next_check(check, board.state(*which).ejected, board.chance())
        };
        tokio::select! {
            () = board.suspected(*which) => {
                suspicion.is_open = true;
                let gap = if rules.is_failing() { AFTER_FAILURE.min(fast) } else { suspicion.gap(fast) };
                time::sleep_until(ended + gap.min(pause)).await;
            }
            () = sleep_and_spread(pause, board.chance()) => {}
        }
    }
}

/// Sleeps. If the process was stopped meanwhile, and with it the sleep of every backend, waits a little
/// longer, each time a different while, so that not all checks start at once.
async fn sleep_and_spread(pause: Duration, chance: f64) {
    let due = Instant::now() + pause;
    time::sleep_until(due).await;
    if Instant::now() > due + LATE {
        time::sleep(AFTER_FREEZE_SPREAD.min(pause).mul_f64(chance)).await;
    }
}
