//! What sessions say of backends: reports of the shards, and what is done about them.
//!
//! Shards count and say no more than that a session failed, and that so many consecutive ones did. The health
//! thread alone decides by [`UpstreamHealth`](super::rules::UpstreamHealth) which backend is ejected, for how
//! long, and which one ramps.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time;

use crate::base::BackendKey;
use crate::upstream::{OnReport, Reported};

use super::board::HealthStates;

/// The reports of all shards: at most one of each kind for each backend is on its way.
pub struct Reports(UnboundedReceiver<(BackendKey, Reported)>);

/// Where shards report failures, and where the reports arrive.
#[must_use]
pub fn reports() -> (OnReport, Reports) {
    let (sender, channel) = unbounded_channel();
    let report = move |which, reported| {
        // The health thread may have ended before the last session.
        let _ = sender.send((which, reported));
    };
    (Arc::new(report), Reports(channel))
}

/// Takes reports, and settles what time makes due, until dropped.
pub(super) async fn follow(board: Rc<HealthStates>, mut reports: Reports) {
    loop {
        let due = board.next_due();
        tokio::select! {
            // The channel is closed once nobody can report any more.
            Some((which, reported)) = reports.0.recv() => {
                board.take_report(which, reported);
                match reported {
                    Reported::Suspect => board.suspect(which),
                    Reported::TooMany(fault) => {
                        board.update_backend(which, |health, now| health.report(which.backend, fault, now));
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
