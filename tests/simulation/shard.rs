//! A shard: its messages, its clock, its counters. The loop is that of `src/shard/run.rs`, a message or a
//! task at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use ringway::base::{BackendId, CloseReason, ListenerId};
use ringway::shard::Phase;
use ringway::telemetry::counters::{Cells, ListenerCounters, ShardCounters};
use ringway::upstream::{Permit, UpstreamStates, UpstreamTable};

use super::session::Stage;
use super::shadow::View;
use super::trace::{count, note};
use super::world::World;

pub struct Shard {
    /// Its clock, which stands still until its next turn.
    pub now: u64,
    pub table: UpstreamTable,
    pub counters: Arc<ShardCounters>,
    pub phase: Phase,
    /// The newest states, if they were not taken yet.
    pub states: Option<Arc<UpstreamStates>>,
    pub new_phase: Option<Phase>,
    pub grants: VecDeque<Grant>,
    /// Something came that the pool may have to look at.
    pub is_notified: bool,
    /// Connections in its pool, for each backend: each is its permit.
    pub pooled: Vec<Vec<Permit>>,
    pub view: View,
    pub closed: [u64; CloseReason::COUNT],
}

/// A permit of a backend, on its way to a waiter.
#[derive(Clone, Copy, Debug)]
pub struct Grant {
    pub ticket: u64,
    pub backend: BackendId,
}

impl Shard {
    pub fn listener(&self) -> Cells<ListenerCounters> {
        self.counters.listener(ListenerId(0))
    }
}

impl World {
    /// The clock of a shard moves on, and its timers fire.
    pub fn turn(&mut self, shard: usize) {
        self.shards[shard].now = self.now;
        for session in self.sessions.iter_mut().filter(|session| session.shard == shard) {
            session.woken |= session.due().is_some_and(|due| due.0 <= self.now);
        }
    }

    /// A shard takes one message. Whether there was one.
    pub fn take_mail(&mut self, index: usize) -> bool {
        let shard = &mut self.shards[index];
        if let Some(states) = shard.states.take() {
            shard.is_notified = true;
            self.apply(index, &states);
        } else if let Some(phase) = shard.new_phase.take() {
            note(self.now, format_args!("shard {index}: {phase:?}"));
            shard.phase = phase;
            self.clear_pool(index);
            self.wake(|session| session.shard == index);
        } else if let Some(grant) = shard.grants.pop_front() {
            self.take_grant(index, grant);
        } else if std::mem::take(&mut shard.is_notified) {
            self.give_way(index);
        } else {
            return false;
        }
        true
    }

    fn apply(&mut self, index: usize, states: &UpstreamStates) {
        let shard = &mut self.shards[index];
        note(self.now, format_args!("shard {index}: states {}", states.version));
        assert!(states.version > shard.view.version, "versions increase");
        if states.version > shard.view.version + 1 {
            count("states skipped");
        }
        shard.view.version = states.version;
        let orders = shard.view.apply(self.plan.upstream(), &states.upstreams[0]);
        let mut expected = false;
        for session in self.sessions.iter_mut().filter(|session| session.shard == index) {
            let Some(in_flight) = &session.in_flight else { continue };
            let orders = &orders[in_flight.backend().index()];
            session.forced_closes.extend(orders.iter().cloned());
            expected |= !orders.is_empty();
        }
        let ends_sessions = self.shards[index].table.apply(&states.upstreams[0]);
        assert_eq!(ends_sessions, expected, "whether sessions of shard {index} are to be woken");
        self.serve();
        self.wake(|session| {
            session.shard == index && (ends_sessions || matches!(session.stage, Stage::Waiting { .. }))
        });
    }

    fn take_grant(&mut self, index: usize, grant: Grant) {
        let waiter = self.sessions.iter_mut().filter(|session| session.shard == index).find_map(|session| {
            match &mut session.stage {
                Stage::Waiting { ticket, granted, .. } if ticket.number == grant.ticket => {
                    session.woken = true;
                    Some((session.id, granted))
                }
                _ => None,
            }
        });
        match waiter {
            Some((id, granted)) => {
                note(self.now, format_args!("shard {index}: {:?} for session {id}", grant.backend));
                assert!(granted.replace(grant.backend).is_none(), "session {id} got two permits");
            }
            None => {
                note(self.now, format_args!("shard {index}: {grant:?} without a waiter"));
                count("permit without a waiter");
                self.shards[index].table.refuse(grant.backend);
                self.serve();
            }
        }
    }

    pub fn wake(&mut self, who: impl Fn(&super::session::Session) -> bool) {
        self.sessions.iter_mut().filter(|session| who(session)).for_each(|session| session.woken = true);
    }

    /// Each shard serves the waiters whom it may have a permit for, and sends the permits on their way.
    pub fn serve(&mut self) {
        for by in 0..self.shards.len() {
            for (ticket, backend) in self.shards[by].table.serve() {
                note(self.now, format_args!("shard {by} gives {backend:?} to {ticket:?}"));
                let view = &self.shards[by].view;
                assert!(view.is_candidate(backend), "shard {by} gives a permit of a backend that is out");
                self.line.serve(view, ticket, backend);
                let grant = Grant { ticket: ticket.number, backend };
                self.shards[ticket.shard.index()].grants.push_back(grant);
            }
        }
    }
}
