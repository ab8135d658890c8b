//! Asks a backend whether it has forgotten its client, before its connection serves another one.

use std::task::Poll;

use super::record::Record;
use crate::config::ResetRules;
use crate::net::Peer;
use crate::uring::{Receive, Sent};

/// The answer of a backend when asked whether it has forgotten its client.
#[derive(PartialEq, Eq)]
pub(super) enum ResetAnswer {
    /// Exactly the expected bytes, in time.
    Clean,
    /// Nothing, or only a part of the expected bytes.
    None,
    /// Other bytes: the rest of an answer to the client, or a refusal.
    Other,
}

/// Asks a backend to forget its client, and takes its answer.
pub(super) async fn ask(record: &Record, backend: &Peer, rules: &ResetRules) -> ResetAnswer {
    let shard = record.shard();
    backend.send(rules.send.clone());
    let mut timer = shard.ring.timer(shard.now().after(rules.timeout));
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
        if backend.ended().is_some() || record.must_end().is_some() {
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
