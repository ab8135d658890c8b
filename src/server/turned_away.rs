//! Clients that were turned away: a warning every ten seconds for each listener while it continues, and
//! totals at the end.
//!
//! A client that is turned away sees a reset and nothing else, so the operator has to be told. The shards
//! only count; the log texts are made from their counters.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Server;
use crate::base::{CloseReason, DenyReason, counted};
use crate::control::ListenerStatus;
use crate::telemetry::counters::ListenerTotals;

/// Time between two warnings of one listener.
const PAUSE: Duration = Duration::from_secs(10);

/// What has been reported for each listener.
pub(super) struct TurnedAway {
    begun: Instant,
    /// By listener.
    said: HashMap<String, Said>,
}

struct Said {
    at: Instant,
    /// The counters at the time of the report.
    totals: ListenerTotals,
    /// Whether the report was a warning.
    warned: bool,
}

impl TurnedAway {
    pub(super) fn new(now: Instant) -> Self {
        Self { begun: now, said: HashMap::new() }
    }

    /// Warns of the clients that were turned away since the last warning, if a warning is due.
    pub(super) fn look(&mut self, server: &Server, now: Instant) {
        for ListenerStatus { name, totals, .. } in server.status().listeners {
            let begun = || Said { at: self.begun, totals: ListenerTotals::default(), warned: false };
            let said = self.said.entry(name.clone()).or_insert_with(begun);
            let elapsed = now.saturating_duration_since(said.at);
            if said.warned && elapsed < PAUSE {
                continue;
            }
            let since = since(&totals, &said.totals);
            let count: u64 = since.iter().map(|(_, count)| count).sum();
            let warned = count > 0;
            if warned {
                let name = &*name;
                let (reasons, seconds) = (list(&since), elapsed.as_secs().max(1));
                log::warn!(event = "turned_away", listener = name, count, reasons, seconds;
                    "listener {name} turned {} away in the last {seconds} s: {reasons}",
                    counted(count, "client"));
            }
            *said = Said { at: now, totals, warned };
        }
    }
}

/// Logs how the clients of each listener ended.
pub(super) fn log_totals(server: &Server) {
    for ListenerStatus { name, totals, .. } in server.status().listeners {
        let name = &*name;
        let closed = CloseReason::ALL.iter().map(|reason| (reason.name(), totals.closed[reason.index()]));
        let ends: Vec<_> = closed.chain(denied(&totals)).filter(|(_, count)| *count > 0).collect();
        let (count, reasons) = (totals.accepted, list(&ends));
        let colon = if ends.is_empty() { "" } else { ": " };
        log::info!(event = "totals", listener = name, count, reasons;
            "listener {name} had {}{colon}{reasons}",
                    counted(count, "client"));
    }
}

/// Returns how many connections were denied, by reason.
fn denied(totals: &ListenerTotals) -> impl Iterator<Item = (&'static str, u64)> {
    DenyReason::ALL.iter().map(|reason| (reason.name(), totals.denied[reason.index()]))
}

/// Returns how many clients were turned away since `before`, by reason, if any. Of the clients that a backend
/// reset, only those count that got no byte from any backend.
fn since(now: &ListenerTotals, before: &ListenerTotals) -> Vec<(&'static str, u64)> {
    let of = |reason: &CloseReason| now.closed[reason.index()].saturating_sub(before.closed[reason.index()]);
    let reasons = CloseReason::ALL.iter().filter(|reason| reason.turns_away());
    let closed = reasons.map(|reason| (reason.name(), of(reason)));
    let reset = (CloseReason::BackendReset.name(), now.reset_unserved.saturating_sub(before.reset_unserved));
    let denied =
        denied(now).zip(before.denied).map(|((reason, now), before)| (reason, now.saturating_sub(before)));
    closed.chain([reset]).chain(denied).filter(|(_, count)| *count > 0).collect()
}

fn list(counts: &[(&str, u64)]) -> String {
    counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_who_got_no_backend_were_turned_away() {
        let (mut before, mut now) = (ListenerTotals::default(), ListenerTotals::default());
        before.closed[CloseReason::NoBackend.index()] = 2;
        now.closed[CloseReason::NoBackend.index()] = 5;
        now.closed[CloseReason::Normal.index()] = 100;
        now.closed[CloseReason::BackendReset.index()] = 7;
        now.reset_unserved = 2;
        now.closed[CloseReason::QueueFull.index()] = 1;
        now.denied[DenyReason::ProcessLimit.index()] = 4;
        assert_eq!(
            list(&since(&now, &before)),
            "3 no_backend, 1 queue_full, 2 backend_reset, 4 process_limit"
        );
        assert_eq!(list(&since(&now, &now)), "");
    }
}
