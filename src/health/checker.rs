//! The task of one backend: check, judge, wait, again.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{self, Instant};

use crate::base::Address;
use crate::base::{counted, limits};
use crate::config::HealthCheck;
use crate::health::rules::{RiseFall, Transition, Verdict};
use crate::upstream::Health;

use super::board::HealthStates;
use super::counters::HealthCounters;
use super::departed::Departed;
use super::probe::{Connect, LATE, ProbeOutcome, Question, probe};
use crate::base::BackendKey;

/// Checks repeated one after the other because this process was not running when their time ran out. If it happens
/// more often, the process is starved rather than stopped, and a backend that hangs must still go down.
const FROZEN_REPEATS: u32 = 3;
/// Checks that became due while the process was stopped are spread over this much.
const AFTER_FREEZE_SPREAD: Duration = Duration::from_secs(1);

/// A check that a failed session asks for comes so long after the last one where that failed...
const AFTER_FAILURE: Duration = Duration::from_millis(100);
/// ...and so long after one that succeeded; doubled with each suspicion that proves wrong, up to `fast_interval`. With `fall` at 3,
/// a backend that has died just after a check is found down less than half a second after the first session that fails on it.
const AFTER_SUCCESS: Duration = Duration::from_millis(200);

/// Everything the task of one backend needs.
pub(super) struct Checker<C> {
    pub(super) which: BackendKey,
    /// Name of the upstream.
    pub(super) upstream: String,
    /// Name of the backend.
    pub(super) backend: String,
    pub(super) check: HealthCheck,
    /// Whether addresses that leave its name are still looked after.
    pub(super) watches_departed: bool,
    pub(super) question: Question,
    pub(super) board: Rc<HealthStates>,
    pub(super) counters: Arc<HealthCounters>,
    /// Bounds the checks of all backends that are under way.
    pub(super) slots: Rc<Slots>,
    pub(super) connect: Rc<C>,
}

/// The checks that may be under way: those of backends that are down hold but a part of the places, since they mostly take
/// their whole time, and keep none from those that are up.
pub(super) struct Slots {
    all: Semaphore,
    down: Semaphore,
}

impl Default for Slots {
    fn default() -> Self {
        Self { all: Semaphore::new(limits::PROBES_MAX), down: Semaphore::new(limits::PROBES_MAX / 4 * 3) }
    }
}

impl Slots {
    async fn take(&self, is_down: bool) -> (Option<SemaphorePermit<'_>>, SemaphorePermit<'_>) {
        let closed = "the semaphore is never closed";
        let down = if is_down { Some(self.down.acquire().await.expect(closed)) } else { None };
        (down, self.all.acquire().await.expect(closed))
    }
}

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

/// What one check told about the backend.
pub(super) enum Judgement {
    /// A result: the address that took the connection, if one did, and the cause of a failure.
    Verdict { verdict: Verdict, found_at: Option<usize>, cause: String },
    /// Nothing, because of this.
    Unknown(String),
}

impl<C: Connect> Checker<C> {
    /// Checks the backend until dropped; the first time after a random part of `spread`.
    pub(super) async fn run(self: Rc<Self>, spread: Duration) {
        let mut rules = RiseFall::new(&self.check);
        let mut departed = Departed::new();
        let mut is_in_trouble = false;
        let mut suspicion = Suspicion::default();
        time::sleep(spread.mul_f64(fastrand::f64())).await;
        let mut resolved = self.board.moved_from(self.which, &[]).await;
        loop {
            let addresses = self.board.state(self.which).addresses;
            let step = async {
                let begun = self.board.now();
                let judgement = self.judge(&addresses).await;
                if let Judgement::Verdict { verdict, found_at, cause } = &judgement {
                    is_in_trouble = false;
                    suspicion.checked(*verdict);
                    if let Some(found) = found_at {
                        self.board.found_at(self.which, &addresses[*found]);
                    }
                    self.observe(&mut rules, *verdict, begun, cause);
                }
                if let Judgement::Unknown(cause) = &judgement {
                    if !is_in_trouble {
                        self.log_trouble(cause);
                    }
                    is_in_trouble = true;
                }
                self.pause(&rules, is_in_trouble, &mut suspicion).await;
            };
            // New addresses are checked at once, and what an old one answers from then on says nothing of them.
            let moved = tokio::select! {
                biased;
                moved = self.board.moved_from(self.which, &resolved) => moved,
                () = step => continue,
            };
            if self.watches_departed {
                departed.follow(&self, &resolved, &moved);
            }
            resolved = moved;
            if self.board.state(self.which).health == Health::Checking {
                rules = RiseFall::new(&self.check);
            }
        }
    }

    /// Waits for the time of the next check, which a session that fails may bring nearer.
    async fn pause(&self, rules: &RiseFall, is_in_trouble: bool, suspicion: &mut Suspicion) {
        let ended = Instant::now();
        let fast = self.check.fast_interval.min(self.check.interval);
        let pause = if is_in_trouble {
            fast
        } else if suspicion.is_open && rules.is_failing() {
            AFTER_FAILURE.min(fast)
        } else {
            rules.next_check(&self.check, self.board.state(self.which).ejected, fastrand::f64())
        };
        tokio::select! {
            () = self.board.suspected(self.which) => {
                suspicion.is_open = true;
                let gap = if rules.is_failing() { AFTER_FAILURE.min(fast) } else { suspicion.gap(fast) };
                time::sleep_until(ended + gap.min(pause)).await;
            }
            () = sleep_and_spread(pause) => {}
        }
    }

    /// One check, repeated while it says nothing because this process was stopped.
    pub(super) async fn judge(&self, addresses: &[Address]) -> Judgement {
        let addresses: Vec<_> = addresses.iter().map(|address| at_port(address, self.check.port)).collect();
        for _ in 0..FROZEN_REPEATS {
            let outcome = {
                let is_down = self.board.state(self.which).health == Health::Down;
                let _slot = self.slots.take(is_down).await;
                probe(&*self.connect, &addresses, &self.question, self.check.timeout).await
            };
            self.counters.count_check(self.which, &outcome);
            let failure = |cause| Judgement::Verdict { verdict: Verdict::Failure, found_at: None, cause };
            match outcome {
                ProbeOutcome::Success(found) => {
                    let (verdict, found_at) = (Verdict::Success, Some(found));
                    return Judgement::Verdict { verdict, found_at, cause: String::new() };
                }
                ProbeOutcome::Failure(cause) | ProbeOutcome::Timeout(cause) => return failure(cause),
                ProbeOutcome::Local(cause) => return Judgement::Unknown(cause),
                ProbeOutcome::Frozen => log::debug!(
                    "check of {}/{} repeated: this process was not running when its time ran out",
                    self.upstream,
                    self.backend
                ),
            }
        }
        let cause = format!("no answer in {:?}, with this process short of CPU time", self.check.timeout);
        Judgement::Verdict { verdict: Verdict::Failure, found_at: None, cause }
    }

    /// Takes a verdict, and makes a transition known: first to the operator, whom what follows from it will make more sense to.
    fn observe(&self, rules: &mut RiseFall, verdict: Verdict, begun: Duration, cause: &str) {
        let transition = rules.observe(verdict);
        match transition {
            Some(transition) => {
                self.counters.count_transition(self.which, transition.to);
                self.log_transition(transition, cause);
            }
            None if verdict == Verdict::Failure => {
                log::debug!("check of {}/{} failed: {cause}", self.upstream, self.backend);
            }
            None => {}
        }
        self.board.checked(self.which, verdict, begun, transition.map(|transition| transition.to));
    }

    /// One line that says what happened, why, and what is left.
    fn log_transition(&self, transition: Transition, cause: &str) {
        let Self { upstream, backend, .. } = self;
        let (others, all) = self.board.count_others_up(self.which);
        let up = others + usize::from(transition.to == Health::Up);
        let first = transition.from == Health::Checking;
        let checks = match transition.results {
            1 if first => "its first check".to_owned(),
            1 => "a check".to_owned(),
            several => format!("{several} consecutive checks"),
        };
        let left = format!("{up} of {} of {upstream} up", counted(all as u64, "backend"));
        if transition.to == Health::Up {
            log::info!(event = "backend_up", upstream = &**upstream, backend = &**backend, up, all;
                "{upstream}/{backend} is up: {checks} succeeded; {left}");
        } else {
            log::warn!(event = "backend_down", upstream = &**upstream, backend = &**backend, up, all, cause;
                "{upstream}/{backend} is down: {checks} failed ({cause}); {left}");
        }
    }

    fn log_trouble(&self, cause: &str) {
        let Self { upstream, backend, .. } = self;
        log::warn!("cannot check {upstream}/{backend} ({cause}): no fault of the backend, its state stays");
    }
}

/// The address with another port, where one is given and it has one.
fn at_port(address: &Address, port: Option<u16>) -> Address {
    let mut address = address.clone();
    if let (Address::Tcp(address), Some(port)) = (&mut address, port) {
        address.set_port(port);
    }
    address
}

/// Sleeps. If the process was stopped meanwhile, and with it the sleep of every backend, waits a little longer,
/// each time a different while, so that not all checks start at once.
async fn sleep_and_spread(pause: Duration) {
    let due = Instant::now() + pause;
    time::sleep_until(due).await;
    if Instant::now() > due + LATE {
        time::sleep(AFTER_FREEZE_SPREAD.min(pause).mul_f64(fastrand::f64())).await;
    }
}
