//! What sessions say of backends: reports of the shards, and what is done about them.
//!
//! Shards count and say no more than that a session failed, and that so many consecutive ones did. The health
//! thread alone decides by [`UpstreamHealth`](super::rules::UpstreamHealth) which backend is ejected, for how
//! long, and which one ramps.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time;

use crate::base::{BackendKey, UpstreamId};
use crate::config::Config;
use crate::upstream::{Failures, Reported, Thresholds};

use super::board::HealthStates;

/// The reports of all shards: at most one of each kind for each backend is on its way.
pub struct Reports {
    channel: UnboundedReceiver<(BackendKey, Reported)>,
    /// What the shards count, by upstream.
    pub(super) failures: Vec<Option<Arc<Failures>>>,
}

/// Where shards count failures, for each upstream that checks or ejects backends, and where reports of them
/// arrive.
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
                        board.update(which.upstream, |health, now| health.report(which.backend, fault, now));
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
