//! What an operator reads of backends: each event is one line here, and counted here.

use std::sync::Arc;
use std::time::Duration;

use crate::base::{BackendId, BackendKey, counted};
use crate::telemetry::counters::HealthCounters;
use crate::upstream::{Fault, Health, SharedUpstream, Thresholds};

use super::rules::{Cause, EjectionEnd, Event, NotEjected, Transition, UpstreamHealth};

/// Words and counters: what an event touches outside of the states.
pub(super) struct HealthLog {
    counters: Arc<HealthCounters>,
}

impl HealthLog {
    pub(super) fn new(counters: Arc<HealthCounters>) -> Self {
        Self { counters }
    }

    /// Counts an event and says it in one line; `health` is what it left.
    pub(super) fn take(&self, shared: &SharedUpstream, event: Event, health: &UpstreamHealth) {
        let checks = |backend| self.counters.backend(BackendKey { upstream: shared.id(), backend });
        match event {
            Event::Judged(backend, transition, _) => match transition.to {
                Health::Up => checks(backend).counters.up.add(1),
                _ => checks(backend).counters.down.add(1),
            },
            Event::Ejected(backend, ..) => checks(backend).counters.ejections.add(1),
            // Sessions that failed during the ejection were not sent to the backend by choice.
            Event::Returned(EjectionEnd { backend, .. }) => {
                shared.failures().iter().for_each(|failures| failures.clear(backend));
            }
            _ => {}
        }
        Words(shared).say(event, health);
    }
}

/// What the lines about one upstream name.
struct Words<'s>(&'s SharedUpstream);

impl Words<'_> {
    fn upstream(&self) -> &str {
        &self.0.config().name
    }

    fn name(&self, backend: BackendId) -> &str {
        self.0.backend(backend).map_or("-", |backend| &backend.name)
    }

    fn say(&self, event: Event, health: &UpstreamHealth) {
        let upstream = self.upstream();
        let name = |backend: BackendId| self.name(backend);
        match event {
            Event::Judged(backend, transition, cause) => {
                self.say_judged(name(backend), transition, &cause, health);
            }
            Event::CheckFailed(backend, cause) => {
                log::debug!("check of {upstream}/{} failed: {cause}", name(backend));
            }
            Event::CheckRepeated(backend) => log::debug!(
                "check of {upstream}/{} repeated: this process was not running when its time ran out",
                name(backend)
            ),
            Event::CannotCheck(backend, cause) => {
                let backend = name(backend);
                log::warn!(
                    "cannot check {upstream}/{backend} ({cause}): no fault of the backend, its state stays"
                );
            }
            Event::DepartedDown(backend, address, cause) => {
                let backend = name(backend);
                log::warn!(
                    "{upstream}/{backend} has left {address}, which is down now ({cause}): its sessions end"
                );
            }
            Event::Ejected(backend, length, fault) => self.say_ejected(name(backend), length, fault, health),
            Event::Returned(EjectionEnd { backend, cause }) => {
                let why = match cause {
                    Cause::Time => "its time is over",
                    Cause::NobodyElse => "before its time, as no other one is up",
                    Cause::Checks => "as its checks succeed",
                    Cause::Moved => "as its name leads elsewhere",
                };
                let (backend, left) = (name(backend), self.left(health));
                log::info!(event = "backend_returned", upstream, backend;
                    "{upstream}/{backend} is back from ejection, {why}; {left}");
            }
            Event::NotEjected(_, NotEjected::Out) => {}
            Event::NotEjected(backend, spared) => {
                let is_last = spared == NotEjected::LastEligible;
                let why = if is_last { "no other one is eligible" } else { "max_ejected" };
                let (backend, left) = (name(backend), self.left(health));
                log::debug!("{upstream}/{backend} fails, and is not ejected ({why}); {left}");
            }
            Event::PanicBegins => log::warn!(event = "panic_begins", upstream;
                "{upstream} ignores checks and ejections: {}, panic_threshold is {}%",
                self.left(health),
                self.0.config().panic_threshold.unwrap_or_default()
            ),
            Event::PanicEnds => log::info!(event = "panic_ends", upstream;
                "{upstream} heeds checks and ejections again: {}", self.left(health)),
            Event::Deserted => log::error!(event = "upstream_deserted", upstream;
                "{upstream} has no backend left to try: its clients are turned away"),
            Event::Served => {
                log::info!(event = "upstream_served", upstream; "{upstream} has a backend again");
            }
        }
    }

    fn say_judged(&self, backend: &str, transition: Transition, cause: &str, health: &UpstreamHealth) {
        let upstream = self.upstream();
        let (up, all) = (health.count_up(), self.0.numbers().len());
        let checks = match transition.results {
            1 if transition.from == Health::Checking => "its first check".to_owned(),
            1 => "a check".to_owned(),
            several => format!("{several} consecutive checks"),
        };
        let left = format!("{up} of {} of {upstream} up", counted(all as u64, "backend"));
        if transition.to == Health::Up {
            log::info!(event = "backend_up", upstream, backend, up, all;
                "{upstream}/{backend} is up: {checks} succeeded; {left}");
        } else {
            log::warn!(event = "backend_down", upstream, backend, up, all, cause;
                "{upstream}/{backend} is down: {checks} failed ({cause}); {left}");
        }
    }

    fn say_ejected(&self, backend: &str, length: Duration, fault: Fault, health: &UpstreamHealth) {
        let upstream = self.upstream();
        let thresholds = Thresholds::of(self.0.config());
        let (faults, noun, what) = match fault {
            Fault::Failure => (
                thresholds.failures,
                "consecutive failure",
                "(connects that failed, resets before the first byte)",
            ),
            Fault::EmptyAnswer => {
                (thresholds.empty_answers, "consecutive session", "ended without an answer")
            }
        };
        let faults = faults.unwrap_or_default();
        let (why, left) = (counted(u64::from(faults), noun), self.left(health));
        log::warn!(event = "backend_ejected", upstream, backend, faults, seconds = length.as_secs_f64();
            "{upstream}/{backend} is ejected for {length:?} at most: {why} {what}; {left}");
    }

    /// Returns how many primaries are left.
    fn left(&self, health: &UpstreamHealth) -> String {
        let (eligible, all) = health.count_primaries();
        let noun = if all == 1 { "primary" } else { "primaries" };
        format!("{eligible} of {all} {noun} of {} eligible", self.upstream())
    }
}
