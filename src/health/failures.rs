//! What sessions say of backends: reports of the shards, what is done about them, and the words for it.
//!
//! Shards count and say no more than that a session failed, and that so many consecutive ones did. Who is ejected, for how
//! long, and who ramps is decided here alone, by [`UpstreamHealth`](crate::health::rules::UpstreamHealth).

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time;

use crate::base::{BackendId, UpstreamId, counted};
use crate::config::Config;
use crate::health::rules::{Cause, EjectionEnd, Event, NotEjected};
use crate::upstream::{Failures, Fault, Reported, Thresholds};

use super::board::HealthStates;
use super::counters::HealthCounters;
use crate::base::BackendKey;

/// The reports of all shards: at most one of each kind for each backend is on its way.
pub struct Reports {
    channel: UnboundedReceiver<(BackendKey, Reported)>,
    failures: Vec<Option<Arc<Failures>>>,
}

/// Where shards count failures, for each upstream that checks or ejects backends, and where reports of them arrive.
#[must_use]
pub fn failures(config: &Config) -> (Vec<Option<Arc<Failures>>>, Reports) {
    let (sender, channel) = unbounded_channel();
    let counts = (0..).map(UpstreamId).zip(&config.upstreams).map(|(id, upstream)| {
        if upstream.outlier.is_none() && upstream.healthcheck.is_none() {
            return None;
        }
        let sender = sender.clone();
        let report = move |backend, reported| {
            // The health thread may have ended before the last session.
            let _ = sender.send((BackendKey { upstream: id, backend }, reported));
        };
        Some(Failures::new(Thresholds::of(upstream), upstream.backends.len(), Box::new(report)))
    });
    let failures: Vec<_> = counts.collect();
    (failures.clone(), Reports { channel, failures })
}

/// Takes reports, and settles what time makes due, until dropped.
pub(super) async fn follow(board: Rc<HealthStates>, mut reports: Reports) {
    loop {
        let due = board.next_due();
        tokio::select! {
            // Where nobody is checked or ejected, the channel is closed.
            Some((which, reported)) = reports.channel.recv() => {
                if let Some(failures) = &reports.failures[which.upstream.index()] {
                    failures.take_report(which.backend, reported);
                }
                match reported {
                    Reported::Suspect => board.suspect(which),
                    Reported::TooMany(fault) => {
                        board.update(which.upstream, |verdicts, now| verdicts.report(which.backend, fault, now));
                    }
                }
            }
            () = board.rescheduled() => {}
            () = sleep_until(due) => board.settle(),
        }
    }
}

async fn sleep_until(due: Option<time::Instant>) {
    match due {
        Some(due) => time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Names, counters and counts of failures: what an event touches outside of the verdicts.
pub(super) struct HealthLog {
    upstreams: Vec<Names>,
    counters: Arc<HealthCounters>,
    failures: Vec<Option<Arc<Failures>>>,
}

struct Names {
    upstream: String,
    backends: Vec<String>,
    thresholds: Thresholds,
    panic_threshold: Option<u32>,
}

impl HealthLog {
    pub(super) fn new(config: &Config, counters: Arc<HealthCounters>, reports: &Reports) -> Self {
        let names = config.upstreams.iter().map(|upstream| Names {
            upstream: upstream.name.clone(),
            backends: upstream.backends.iter().map(|backend| backend.name.clone()).collect(),
            thresholds: Thresholds::of(upstream),
            panic_threshold: upstream.panic_threshold,
        });
        Self { upstreams: names.collect(), counters, failures: reports.failures.clone() }
    }

    /// Counts an event and says it in one line; `primaries` are those that are eligible, and all.
    pub(super) fn take(&self, id: UpstreamId, event: Event, primaries: (usize, usize)) {
        let names = &self.upstreams[id.index()];
        let upstream = &names.upstream;
        let name = |backend: BackendId| &names.backends[backend.index()];
        let left = {
            let noun = if primaries.1 == 1 { "primary" } else { "primaries" };
            format!("{} of {} {noun} of {upstream} eligible", primaries.0, primaries.1)
        };
        match event {
            Event::Ejected(backend, length, fault) => {
                self.counters.count_ejection(BackendKey { upstream: id, backend });
                let faults = match fault {
                    Fault::Failure => names.thresholds.failures,
                    Fault::EmptyAnswer => names.thresholds.empty_answers,
                };
                let faults = faults.unwrap_or_default();
                let why = match fault {
                    Fault::Failure => format!(
                        "{} (connects that failed, resets before the first byte)",
                        counted(u64::from(faults), "consecutive failure")
                    ),
                    Fault::EmptyAnswer => {
                        format!(
                            "{} ended without an answer",
                            counted(u64::from(faults), "consecutive session")
                        )
                    }
                };
                let backend = name(backend);
                log::warn!(event = "backend_ejected", upstream = &**upstream, backend = &**backend, faults,
                    seconds = length.as_secs_f64();
                    "{upstream}/{backend} is ejected for {length:?} at most: {why}; {left}");
            }
            Event::Returned(EjectionEnd { backend, cause }) => {
                // What failed meanwhile was not its own choice.
                if let Some(failures) = &self.failures[id.index()] {
                    failures.clear(backend);
                }
                let why = match cause {
                    Cause::Time => "its time is over",
                    Cause::NobodyElse => "before its time, as no other one is up",
                    Cause::Checks => "as its checks succeed",
                    Cause::Moved => "as its name leads elsewhere",
                };
                let backend = name(backend);
                log::info!(event = "backend_returned", upstream = &**upstream, backend = &**backend;
                    "{upstream}/{backend} is back from ejection, {why}; {left}");
            }
            Event::NotEjected(_, NotEjected::Out) => {}
            Event::NotEjected(backend, spared) => {
                let why = if spared == NotEjected::LastEligible {
                    "no other one is eligible"
                } else {
                    "max_ejected"
                };
                log::debug!("{upstream}/{} fails, and is not ejected ({why}); {left}", name(backend));
            }
            Event::PanicBegins => log::warn!(event = "panic_begins", upstream = &**upstream;
                "{upstream} ignores checks and ejections: {left}, panic_threshold is {}%",
                names.panic_threshold.unwrap_or_default()
            ),
            Event::PanicEnds => {
                log::info!(event = "panic_ends", upstream = &**upstream; "{upstream} heeds checks and ejections again: {left}")
            }
            Event::Deserted => {
                log::error!(event = "upstream_deserted", upstream = &**upstream;
                "{upstream} has no backend left to try: its clients are turned away")
            }
            Event::Served => {
                log::info!(event = "upstream_served", upstream = &**upstream; "{upstream} has a backend again")
            }
        }
    }
}
