//! What comes from outside: how backends really are, answers to connects, bytes, ends, clients that leave.

use std::time::Duration;

use ringway::balance::Sample;
use ringway::base::{BackendId, CloseReason, Tick};
use ringway::upstream::{ClientState, Fault};

use super::session::{Answer, End, Session, Stage};
use super::trace::note;
use super::world::World;

/// Ends of a relay that are not the backend's reset.
const ENDS: [CloseReason; 6] = [
    CloseReason::Normal,
    CloseReason::Normal,
    CloseReason::ClientReset,
    CloseReason::ClientIdle,
    CloseReason::BackendIdle,
    CloseReason::SessionTimeout,
];

impl World {
    /// A connect under way is answered, or it is not.
    pub fn answer(&mut self) {
        let Some(index) = self.any_session(|session| matches!(session.stage, Stage::Connecting { .. }))
        else {
            return;
        };
        let dice = self.rng.u32(..100);
        let session = &mut self.sessions[index];
        let Some(backend) = session.in_flight.as_ref().map(|in_flight| in_flight.backend()) else { return };
        let is_well = self.is_well[backend.index()];
        let new = match dice {
            0 => Answer::Shortage,
            1 => Answer::NoLocalAddress,
            2..90 if is_well => Answer::Connected,
            2..70 => Answer::Refused,
            _ => return,
        };
        note(self.now, format_args!("session {}: {new:?}", session.id));
        let Stage::Connecting { answer, .. } = &mut session.stage else { return };
        answer.get_or_insert(new);
        session.woken = true;
    }

    /// A byte moves, or a relay ends.
    pub fn relay(&mut self) {
        let Some(index) = self.any_session(|session| matches!(session.stage, Stage::Relaying { .. })) else {
            return;
        };
        let (dice, other) = (self.rng.u32(..100), ENDS[self.rng.usize(..ENDS.len())]);
        let mut session = self.sessions.swap_remove(index);
        let Some(backend) = session.in_flight.as_ref().map(|in_flight| in_flight.backend()) else { return };
        let is_well = self.is_well[backend.index()];
        let Stage::Relaying { to_backend, to_client, end } = &mut session.stage else { return };
        match dice {
            0..20 => *to_backend = true,
            20..50 if is_well => {
                if !std::mem::replace(to_client, true) {
                    self.succeeded(&session);
                    self.observe(&session);
                }
            }
            20..60 => *end = Some(End::BackendReset),
            60..70 => *end = Some(End::Empty),
            _ => *end = Some(End::Other(other)),
        }
        if let Stage::Relaying { end: Some(end), .. } = &session.stage {
            note(self.now, format_args!("session {}: {end:?}", session.id));
            session.woken = true;
        }
        self.sessions.push(session);
    }

    pub fn client_leaves(&mut self) {
        let Some(index) = self.any_session(|session| session.due().is_some()) else { return };
        let how = if self.rng.bool() { ClientState::Finished } else { ClientState::Gone };
        let session = &mut self.sessions[index];
        note(self.now, format_args!("session {}: the client is {how:?}", session.id));
        session.client = how;
        session.woken = true;
    }

    /// A backend breaks, or is well again.
    pub fn backend_changes(&mut self) {
        let index = self.rng.usize(..self.is_well.len());
        self.is_well[index] = !self.is_well[index];
        note(
            self.now,
            format_args!("backend {index} {}", if self.is_well[index] { "is well" } else { "breaks" }),
        );
    }

    /// A backend reset a connection before a byte, or ended it without an answer.
    pub fn failed(&mut self, session: &Session, fault: Fault) {
        let Some(in_flight) = &session.in_flight else { return };
        let before = self.health.reports_on_their_way();
        in_flight.failed(fault);
        in_flight.unanswered(Tick(self.shards[session.shard].now));
        self.note_fault(session.shard, in_flight.backend(), fault, before);
    }

    /// Shadow: what a fault must have led to.
    pub fn note_fault(&mut self, shard: usize, backend: BackendId, fault: Fault, before: usize) {
        let shard = &mut self.shards[shard];
        shard.view.unanswered_until = shard.now + 1_000;
        let reports = self.health.reports_on_their_way() - before;
        let expected = self.health.streaks.as_mut().map(|streaks| streaks.failed(backend, fault));
        let expected = expected.unwrap_or_default();
        assert_eq!(reports, expected.len(), "{expected:?} of {backend:?}");
    }

    /// A backend did what it is there for.
    pub fn succeeded(&mut self, session: &Session) {
        let Some(in_flight) = &session.in_flight else { return };
        in_flight.succeeded();
        if let Some(streaks) = &mut self.health.streaks {
            streaks.clear(in_flight.backend());
        }
    }

    /// The algorithm learns how long a backend took.
    pub fn observe(&mut self, session: &Session) {
        let (shard, Some(in_flight)) = (&self.shards[session.shard], &session.in_flight) else { return };
        if shard.table.wants().latency {
            let latency = Duration::from_micros(self.rng.u64(..50_000));
            shard.table.observe(in_flight.backend(), Sample::Took(latency), Tick(shard.now));
        }
    }

    pub fn any_session(&mut self, wanted: impl Fn(&Session) -> bool) -> Option<usize> {
        let indices: Vec<_> =
            (0..self.sessions.len()).filter(|index| wanted(&self.sessions[*index])).collect();
        (!indices.is_empty()).then(|| indices[self.rng.usize(..indices.len())])
    }
}
