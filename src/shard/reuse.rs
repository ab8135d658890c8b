//! What becomes of the backend's connection when a session ends: whether it may serve another client.

use std::rc::Rc;
use std::task::Poll;

use super::Shard;
use super::session::{Leg, Session};
use crate::base::CloseReason;
use crate::config::{ResetRules, Reuse};
use crate::net::Peer;
use crate::relay::{Outcome, Side};
use crate::uring::{Receive, Sent};

/// What a backend says to the question whether it has forgotten its client.
#[derive(PartialEq)]
enum ResetAnswer {
    /// Exactly that, and in time.
    Clean,
    /// Nothing, or not all of it.
    None,
    /// Something else: the rest of an answer to the client, or a refusal.
    Other,
}

impl Session {
    /// Whether the backend's connection may serve another client now that this session has ended so.
    pub(super) fn may_return(&self, outcome: Outcome) -> bool {
        let Some(Leg { backend, relay, in_flight }) = &self.leg else { return false };
        match outcome {
            Outcome::ClientDone => true,
            // It knows nothing of a client that has reset before a byte.
            Outcome::Reset(Side::Client) => {
                self.shard().reuse(self.upstream(), in_flight.backend()) != Reuse::Off
                    && relay.has_sent_nothing()
                    && !backend.is_dead()
            }
            _ => false,
        }
    }

    /// Ends the client's part, and has the backend's connection go back to the pool if it is clean.
    pub(super) async fn return_backend(&mut self, outcome: Outcome) -> CloseReason {
        self.stop();
        let shard = Rc::clone(self.shard());
        let Some(leg) = &self.leg else { return CloseReason::Internal };
        if leg.relay.has_sent_nothing() {
            self.returns = Some(self.tries.as_ref().is_none_or(|tries| tries.is_fresh()));
            if outcome == Outcome::ClientDone {
                return CloseReason::Normal;
            }
            self.client.reset_on_close();
            return self.reset_by(Side::Client);
        }
        let upstream = &shard.config.upstreams[self.upstream().index()];
        let Some(reset) = &upstream.pool.reset else { return CloseReason::Normal };
        let answer = ask_for_reset(&shard, &leg.backend, reset).await;
        if answer == ResetAnswer::Clean {
            self.returns = Some(false);
            return CloseReason::Normal;
        }
        shard.counters.pool(self.upstream()).reset_failed.add(1);
        if answer == ResetAnswer::None {
            return CloseReason::Normal;
        }
        // It was on its way to the client. What is cut must not look whole.
        self.client.reset_on_close();
        CloseReason::AnswerCut
    }
}

/// Asks a backend to forget its client.
async fn ask_for_reset(shard: &Shard, backend: &Peer, rules: &ResetRules) -> ResetAnswer {
    backend.send(rules.send.clone());
    let mut timer = shard.ring.timer(shard.ring.now().after(rules.timeout));
    let mut answer = Vec::new();
    std::future::poll_fn(|context| {
        backend.register(context.waker());
        let sent = match backend.sent() {
            Sent::Failed { .. } => return Poll::Ready(ResetAnswer::None),
            Sent::Busy { .. } => false,
            Sent::Done { .. } | Sent::Nothing => true,
        };
        answer.extend(backend.take_received());
        if !rules.expect.starts_with(&answer) {
            return Poll::Ready(ResetAnswer::Other);
        }
        if backend.ended().is_some() || shard.is_closing() {
            return Poll::Ready(ResetAnswer::None);
        }
        if sent && answer == rules.expect {
            return Poll::Ready(ResetAnswer::Clean);
        }
        backend.receive(Receive::One);
        timer.poll_due(context).map(|()| ResetAnswer::None)
    })
    .await
}
