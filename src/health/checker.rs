//! The task of one backend: check, judge, wait, again.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{self, Instant};

use crate::rules::config::HealthCheck;
use crate::rules::upstream::{Address, Health, HealthRules, Transition, Verdict};
use crate::words::counted;

use super::Which;
use super::board::Board;
use super::counters::HealthCounters;
use super::probe::{Connect, LATE, Outcome, Question, probe};

/// Checks repeated in a row because this process was not running when their time ran out. If it happens
/// more often, the process is starved rather than stopped, and a backend that hangs must still go down.
const FROZEN_REPEATS: u32 = 3;
/// Checks that became due while the process was stopped are spread over this much.
const AFTER_FREEZE_SPREAD: Duration = Duration::from_secs(1);

/// Everything the task of one backend needs.
pub(super) struct Checker<C> {
    pub(super) which: Which,
    /// Name of the upstream.
    pub(super) upstream: String,
    /// Name of the backend.
    pub(super) backend: String,
    pub(super) check: HealthCheck,
    pub(super) question: Question,
    pub(super) board: Rc<Board>,
    pub(super) counters: Arc<HealthCounters>,
    /// Bounds the checks of all backends that are under way.
    pub(super) slots: Rc<Semaphore>,
    pub(super) connect: Rc<C>,
}

/// What one check told about the backend.
enum Judgement {
    /// A result, with the cause of a failure.
    Verdict(Verdict, String),
    /// Nothing, because of this.
    Unknown(String),
}

impl<C: Connect> Checker<C> {
    /// Checks the backend until dropped; the first time after a random part of `spread`.
    pub(super) async fn run(self, spread: Duration) {
        let mut rules = HealthRules::new(&self.check);
        let mut is_in_trouble = false;
        time::sleep(spread.mul_f64(fastrand::f64())).await;
        let mut addresses = self.board.moved_from(self.which, &[]).await;
        loop {
            match self.judge(&addresses).await {
                Judgement::Verdict(verdict, cause) => {
                    is_in_trouble = false;
                    self.observe(&mut rules, verdict, &cause);
                }
                Judgement::Unknown(cause) => {
                    if !is_in_trouble {
                        self.log_trouble(&cause);
                    }
                    is_in_trouble = true;
                }
            }
            let pause = if is_in_trouble {
                self.check.fast_interval.min(self.check.interval)
            } else {
                rules.next_check(&self.check, fastrand::f64())
            };
            tokio::select! {
                // New addresses are checked at once.
                moved = self.board.moved_from(self.which, &addresses) => addresses = moved,
                () = sleep_and_spread(pause) => {}
            }
        }
    }

    /// One check, repeated while it says nothing because this process was stopped.
    async fn judge(&self, addresses: &[Address]) -> Judgement {
        let addresses: Vec<_> = addresses.iter().map(|address| at_port(address, self.check.port)).collect();
        for _ in 0..FROZEN_REPEATS {
            let outcome = {
                let _slot = self.slots.acquire().await.expect("the semaphore is never closed");
                probe(&*self.connect, &addresses, &self.question, self.check.timeout).await
            };
            self.counters.count_check(self.which, &outcome);
            match outcome {
                Outcome::Success => return Judgement::Verdict(Verdict::Success, String::new()),
                Outcome::Failure(cause) | Outcome::Timeout(cause) => {
                    return Judgement::Verdict(Verdict::Failure, cause);
                }
                Outcome::Local(cause) => return Judgement::Unknown(cause),
                Outcome::Frozen => log::debug!(
                    "check of {}/{} repeated: this process was not running when its time ran out",
                    self.upstream,
                    self.backend
                ),
            }
        }
        let cause = format!("no answer in {:?}, with this process short of CPU time", self.check.timeout);
        Judgement::Verdict(Verdict::Failure, cause)
    }

    /// Takes a verdict, and makes a transition known.
    fn observe(&self, rules: &mut HealthRules, verdict: Verdict, cause: &str) {
        let Some(transition) = rules.observe(verdict) else {
            if verdict == Verdict::Failure {
                log::debug!("check of {}/{} failed: {cause}", self.upstream, self.backend);
            }
            return;
        };
        self.board.set_health(self.which, transition.to);
        self.counters.count_transition(self.which, transition.to);
        self.log_transition(transition, cause);
    }

    /// One line that says what happened, why, and what is left.
    fn log_transition(&self, transition: Transition, cause: &str) {
        let Self { upstream, backend, .. } = self;
        let (up, all) = self.board.count_up(self.which.upstream);
        let first = transition.from == Health::Checking;
        let checks = match transition.results {
            1 if first => "its first check".to_owned(),
            1 => "a check".to_owned(),
            several => format!("{several} checks in a row"),
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
