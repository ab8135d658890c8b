//! What becomes of the backend's connection when a session ends: whether it may serve another client.

use std::rc::Rc;
use std::task::Poll;

use super::Shard;
use super::session::{Leg, Session};
use crate::relay::{Outcome, Side, Sides};
use crate::rules::config::{ResetRules, Reuse};
use crate::uring::{Sent, Socket};
use crate::words::CloseReason;

impl Session {
    /// Whether the backend's connection may serve another client now that this session has ended so.
    pub(super) fn may_return(&self, outcome: Outcome) -> bool {
        let rules = &self.shard().relay_rules[self.listener.index()];
        let Some(Leg { backend, relay, .. }) = &self.leg else { return false };
        match outcome {
            Outcome::ClientDone => true,
            // It knows nothing of a client that has reset before a byte.
            Outcome::Reset(Side::Client) => {
                rules.reuse != Reuse::Off
                    && relay.is_untouched(Sides { client: &self.client, backend, rules })
                    && !backend.is_dead()
            }
            _ => false,
        }
    }

    /// Ends the client's part, and has the backend's connection go back to the pool if it is clean.
    pub(super) async fn return_backend(&mut self, outcome: Outcome) -> CloseReason {
        self.stop();
        let shard = Rc::clone(self.shard());
        let Self { client, leg: Some(leg), .. } = self else { return CloseReason::Internal };
        let reason = match outcome {
            Outcome::Reset(_) => {
                client.reset_on_close();
                CloseReason::ClientReset
            }
            _ => {
                // Its end comes now, not with the close, which waits for the backend.
                let _ = client.shutdown_write();
                CloseReason::Normal
            }
        };
        let untouched = leg.relay.bytes_to_backend() == 0 && leg.relay.bytes_to_client() == 0;
        let upstream = &shard.config.upstreams[self.upstream().index()];
        self.returns = match (&upstream.pool.reset, &self.leg) {
            _ if untouched => Some(true),
            (Some(reset), Some(leg)) => {
                let clean = ask_for_reset(&shard, &leg.backend, reset).await;
                if !clean {
                    shard.counters.pool(self.upstream()).reset_failed.add(1);
                }
                clean.then_some(false)
            }
            _ => None,
        };
        reason
    }
}

/// Asks a backend to forget its client. Whether it says that it has, in time, and nothing else.
async fn ask_for_reset(shard: &Shard, backend: &Socket, rules: &ResetRules) -> bool {
    backend.send(rules.send.clone());
    let mut timer = shard.ring.timer(shard.ring.now().after(rules.timeout));
    let mut answer = Vec::new();
    std::future::poll_fn(|context| {
        backend.register(context.waker());
        let sent = match backend.sent() {
            Sent::Failed { .. } => return Poll::Ready(false),
            Sent::Busy { .. } => false,
            Sent::Done { .. } | Sent::Nothing => true,
        };
        answer.extend(backend.take_received());
        if !rules.expect.starts_with(&answer) || backend.ended().is_some() || shard.is_closing() {
            return Poll::Ready(false);
        }
        if sent && answer == rules.expect {
            return Poll::Ready(true);
        }
        backend.receive(false);
        timer.poll_due(context).map(|()| false)
    })
    .await
}
