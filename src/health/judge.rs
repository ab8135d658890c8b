//! What one check says of one backend.

use std::rc::Rc;
use std::time::Instant;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::base::{Address, BackendKey, limits};
use crate::config::HealthCheck;
use crate::protocol::proxy::Version;
use crate::telemetry::counters::{Cells, Checks, LastCheck};
use crate::upstream::Health;

use super::board::HealthStates;
use super::probe::{Connect, ProbeOutcome, Question, probe};
use super::rules::{Event, Verdict};

/// Checks repeated one after the other because this process was not running when their time ran out. If it
/// happens more often, the process is starved rather than stopped, and a backend that hangs must still go
/// down.
const FROZEN_REPEATS: u32 = 3;

/// The checks that may be under way: those of backends that are down get only a part of the permits, since
/// they mostly take their whole time, and keep none from those that are up.
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

/// What a check told about a backend.
pub(super) enum Judgement {
    /// A result: the address that took the connection, if one did, and the cause of a failure.
    Verdict { verdict: Verdict, found_at: Option<usize>, cause: String },
    /// Nothing, because of this.
    Unknown(String),
}

/// Everything that checks of one backend need.
pub(super) struct Judge<C> {
    pub(super) which: BackendKey,
    pub(super) check: HealthCheck,
    pub(super) question: Question,
    /// The version of the PROXY header that comes before.
    pub(super) announces: Option<Version>,
    pub(super) board: Rc<HealthStates>,
    pub(super) checks: Cells<Checks>,
    /// Bounds the checks of all backends that are under way.
    pub(super) slots: Rc<Slots>,
    pub(super) connect: Rc<C>,
}

impl<C: Connect> Judge<C> {
    /// One check, repeated while it says nothing because this process was stopped.
    pub(super) async fn judge(&self, addresses: &[Address]) -> Judgement {
        let addresses: Vec<_> = addresses.iter().map(|address| at_port(address, self.check.port)).collect();
        let failure = |cause| Judgement::Verdict { verdict: Verdict::Failure, found_at: None, cause };
        for _ in 0..FROZEN_REPEATS {
            let outcome = {
                let is_down = self.board.state(self.which).health == Health::Down;
                let _slot = self.slots.take(is_down).await;
                let begun = Instant::now();
                let outcome =
                    probe(&*self.connect, &addresses, &self.question, self.announces, self.check.timeout)
                        .await;
                self.note(&outcome, begun);
                outcome
            };
            match outcome {
                ProbeOutcome::Success(found) => {
                    let (verdict, found_at) = (Verdict::Success, Some(found));
                    return Judgement::Verdict { verdict, found_at, cause: String::new() };
                }
                ProbeOutcome::Failure(cause) | ProbeOutcome::Timeout(cause) => return failure(cause),
                ProbeOutcome::Local(cause) => return Judgement::Unknown(cause),
                ProbeOutcome::Frozen => {
                    self.board.say(self.which.upstream, Event::CheckRepeated(self.which.backend));
                }
            }
        }
        failure(format!("no answer in {:?}, with this process short of CPU time", self.check.timeout))
    }
}

impl<C> Judge<C> {
    /// Counts a check, and keeps its result for the status.
    fn note(&self, outcome: &ProbeOutcome, begun: Instant) {
        let counters = &self.checks.counters;
        let (counter, cause) = match outcome {
            ProbeOutcome::Success(_) => (&counters.success, ""),
            ProbeOutcome::Failure(cause) => (&counters.failure, &**cause),
            ProbeOutcome::Timeout(cause) => (&counters.timeout, &**cause),
            ProbeOutcome::Local(cause) => (&counters.local, &**cause),
            ProbeOutcome::Frozen => (&counters.local, "this process was not running"),
        };
        counter.add(1);
        let at = Instant::now();
        let ok = matches!(outcome, ProbeOutcome::Success(_));
        self.checks.note_last(LastCheck { ok, cause: cause.to_owned(), at, took: at - begun });
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
