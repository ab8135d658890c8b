//! What must hold after every step, and of every pick.

use ringway::base::{BackendId, CloseReason};
use ringway::telemetry::counters::ListenerTotals;
use ringway::upstream::Step;

use super::session::{Session, Stage};
use super::shadow::untried;
use super::shard::Shard;
use super::trace::count;
use super::world::World;

/// Orders to end sessions that a table keeps for each backend.
const ORDERS_KEPT: usize = 8;

/// What is known before a pick.
pub struct Expectation {
    outcome: Expected,
    spills: bool,
    /// Sessions of the shard that picks, and of all.
    own: Vec<u32>,
    all: Vec<u32>,
}

/// What a pick should come to.
#[derive(Debug)]
enum Expected {
    OneOf { open: Vec<BackendId>, tier: usize },
    Full,
    Nobody,
}

impl World {
    /// What the next pick of a session has to come to.
    pub fn expect_pick(&self, session: &Session, spills: bool) -> Expectation {
        Expectation {
            outcome: self.expected(session, spills),
            spills,
            own: self.in_flight(|other| other.shard == session.shard),
            all: self.shared.in_flight(),
        }
    }

    /// Checks that the backend is one that may be picked, or that there is none.
    pub fn check_pick(&mut self, session: &Session, step: &Step, expectation: &Expectation) {
        let Expectation { outcome: expected, spills, own, all } = expectation;
        let shard = &mut self.shards[session.shard];
        // The table looks at the sessions of other shards once in a millisecond.
        if shard.view.others_at.replace(shard.now) != Some(shard.now) {
            shard.view.others = all.iter().zip(own).map(|(all, own)| all - own).collect();
        }
        count(self.shards[session.shard].view.serving.name());
        match (step, expected) {
            (Step::Connect(in_flight), Expected::OneOf { open, tier }) => {
                let backend = in_flight.backend();
                assert!(open.contains(&backend), "{backend:?} is picked, of {open:?}");
                if *tier > 0 {
                    count(if *spills { "spilled after waiting" } else { "later tier" });
                }
                self.check_choice(session, backend, open, *tier, own);
            }
            (Step::Wait(_), Expected::Full) | (Step::End(_), Expected::Full | Expected::Nobody) => {}
            (Step::Connect(in_flight), _) => {
                panic!("{:?} is picked, where {expected:?} was expected", in_flight.backend())
            }
            (Step::Wait(_), _) => {
                panic!("session {} is to wait, where {expected:?} was expected", session.id)
            }
            (Step::End(_) | Step::OverBudget(_), _) => {
                panic!("no backend is picked, where {expected:?} was expected")
            }
        }
    }

    /// By the order of resort: the first tier in which an untried backend has a permit that no client waits
    /// for, unless there is a tier before it that one can wait for.
    fn expected(&self, session: &Session, spills: bool) -> Expected {
        let mut is_full = false;
        for (index, tier) in self.shards[session.shard].view.tiers.iter().enumerate() {
            let left = untried(tier, session.attempts.tried());
            let is_open = |id: &BackendId| {
                self.may_have(session.shard, *id)
                    && !self.line.wants(&[&self.shards[session.shard].view], *id)
            };
            let open: Vec<_> = left.iter().copied().filter(is_open).collect();
            if !open.is_empty() {
                return Expected::OneOf { open, tier: index };
            }
            if left.is_empty() {
                continue;
            }
            is_full = true;
            let pooled = |id: &BackendId| self.is_limited(*id) && self.pooled_of(*id) > 0;
            if !spills && (self.plan.upstream().queue.max > 0 || left.iter().any(pooled)) {
                return Expected::Full;
            }
        }
        if is_full { Expected::Full } else { Expected::Nobody }
    }

    /// What an algorithm promises of its choice, beyond that it may be chosen.
    fn check_choice(
        &mut self,
        session: &Session,
        picked: BackendId,
        open: &[BackendId],
        tier: usize,
        own: &[u32],
    ) {
        let algorithm = self.plan.upstream().algorithm;
        let view = &self.shards[session.shard].view;
        let tier = &view.tiers[tier];
        match algorithm.name {
            "first" => assert_eq!(Some(&picked), open.first(), "the first one of {open:?}"),
            "least_connections" if self.shards[session.shard].now >= view.unanswered_until => {
                let fill = |backend: BackendId| {
                    let weight = tier.iter().find(|(candidate, _)| *candidate == backend);
                    let load = own[backend.index()] + view.others[backend.index()];
                    f64::from(load + 1) / f64::from(weight.map_or(1, |(_, weight)| *weight))
                };
                let least = open.iter().map(|backend| fill(*backend)).min_by(f64::total_cmp);
                assert_eq!(Some(fill(picked)), least, "how full {picked:?} is, and the emptiest of {open:?}");
            }
            // The same client goes to the same backend, on whatever shard and with whatever history.
            _ if algorithm.wants.key && open.len() == tier.len() => {
                let home = self.homes.entry((tier.clone(), session.key)).or_insert(picked);
                assert_eq!(*home, picked, "where the client {} goes", session.key);
            }
            _ => {}
        }
    }

    /// A session may be turned away for want of room in the queue only if the queue is full.
    pub fn check_full(&self, session: &Session) {
        let usable = self.shards[session.shard].view.waited_for(session.attempts.tried());
        let in_pools: u32 =
            usable.into_iter().filter(|id| self.is_limited(*id)).map(|id| self.pooled_of(id)).sum();
        let most = self.plan.upstream().queue.max + in_pools;
        assert!(self.line.len() >= most as usize, "session {} finds the queue full", session.id);
    }

    fn is_limited(&self, backend: BackendId) -> bool {
        self.plan.upstream().backends[backend.index()].max_connections.is_some()
    }

    /// A client has joined the queue; beside its permits there are those of pools, which give way.
    pub fn check_joined(&self) {
        let most = self.plan.upstream().queue.max + self.pooled();
        assert!(self.line.len() <= most as usize, "{} wait, of {most}", self.line.len());
    }

    pub fn has_permit(&self, backend: BackendId) -> bool {
        let most = self.plan.upstream().backends[backend.index()].max_connections;
        let taken = self.shared.permits_taken(backend);
        assert_eq!(most.is_some(), taken.is_some(), "{backend:?} is limited, or not");
        most.is_none_or(|most| taken < Some(most.get()))
    }

    /// Whether a shard has a permit of a backend for a session: a free one, or one of its pool.
    fn may_have(&self, shard: usize, backend: BackendId) -> bool {
        self.has_permit(backend) || !self.shards[shard].pooled[backend.index()].is_empty()
    }

    /// For each backend the sessions that are between pick and close.
    pub fn in_flight(&self, of: impl Fn(&Session) -> bool) -> Vec<u32> {
        let mut counts = vec![0; self.is_well.len()];
        let sessions = self.sessions.iter().filter(|session| of(session));
        for in_flight in sessions.filter_map(|session| session.in_flight.as_ref()) {
            counts[in_flight.backend().index()] += 1;
        }
        counts
    }

    /// What must hold between any two steps.
    pub fn check(&self) {
        self.check_conservation();
        self.check_limits();
        self.check_queue();
        for session in &self.sessions {
            let forced = session
                .in_flight
                .as_ref()
                .and_then(|in_flight| in_flight.forced_close(|| session.address.clone()));
            // Of more orders than a table keeps, the reason may be that of a later one.
            if session.forced_closes.len() > ORDERS_KEPT {
                assert!(forced.is_some(), "session {} has to end", session.id);
                continue;
            }
            assert_eq!(forced, session.expected_close(), "whether session {} has to end", session.id);
        }
    }

    fn check_conservation(&self) {
        for (index, shard) in self.shards.iter().enumerate() {
            let mut totals = ListenerTotals::default();
            totals.add(&shard.listener());
            assert!(totals.is_conserved(), "shard {index}: {totals:?}");
            let active = self.sessions.iter().filter(|session| session.shard == index).count();
            assert_eq!(totals.active, active as u64, "active on shard {index}");
            assert_eq!(totals.closed, shard.closed, "reasons on shard {index}");
        }
        assert_eq!(self.limit.taken() as usize, self.sessions.len(), "sessions of the process");
        assert!(self.limit.taken() <= self.limit.maximum());
    }

    fn check_limits(&self) {
        let in_flight = self.in_flight(|_| true);
        assert_eq!(self.shared.in_flight(), in_flight, "the sum of the shards, and the sessions in flight");
        for (id, backend) in self.plan.backends() {
            let Some(most) = backend.max_connections else { continue };
            let taken = in_flight[id.index()] + self.on_their_way(id) + self.pooled_of(id);
            assert_eq!(self.shared.permits_taken(id), Some(taken), "permits of {id:?}");
            let idle = self.shared.idle_permits([id]);
            assert_eq!(idle, self.pooled_of(id) as usize, "permits of {id:?} that pools hold");
            assert!(taken <= most.get(), "{taken} permits of {id:?}, of {most}");
        }
    }

    /// Permits of a backend that were given to waiters who have not taken them yet.
    fn on_their_way(&self, backend: BackendId) -> u32 {
        let mail =
            self.shards.iter().flat_map(|shard| &shard.grants).filter(|grant| grant.backend == backend);
        let has_one = |session: &&Session| matches!(session.stage, Stage::Waiting { granted: Some(granted), .. } if granted == backend);
        (mail.count() + self.sessions.iter().filter(has_one).count()) as u32
    }

    fn check_queue(&self) {
        assert_eq!(self.shared.queue_length(), self.line.len(), "who waits");
        let views: Vec<_> = self.shards.iter().map(|shard| &shard.view).collect();
        for (id, _) in self.plan.backends() {
            // A shard that does not know yet that a backend is of use gives no permit of it away; the one
            // that learns it does.
            assert!(
                !(self.has_permit(id) && self.line.wants(&views, id)),
                "{id:?} has a permit, and a client waits for it"
            );
        }
    }

    /// What must hold when everything was delivered.
    pub fn check_settled(&self) {
        for (index, shard) in self.shards.iter().enumerate() {
            assert_eq!(shard.view.version, self.health.version, "the newest states on shard {index}");
            assert_eq!(shard.view.states, self.health.verdicts.states(), "states on shard {index}");
            assert!(shard.grants.is_empty());
        }
        let views: Vec<_> = self.shards.iter().map(|shard| &shard.view).collect();
        for (id, backend) in self.plan.backends().filter(|(id, _)| self.line.wants(&views, *id)) {
            let keeps = |shard: &Shard| !shard.pooled[id.index()].is_empty() && shard.view.is_candidate(id);
            let is_kept = backend.max_connections.is_some() && self.shards.iter().any(keeps);
            assert!(!is_kept, "a pool keeps a permit of {id:?}, and a client waits");
        }
        for session in &self.sessions {
            assert!(!session.woken);
            assert!(
                session.due().is_none_or(|due| due.0 > self.now),
                "session {} waits too long",
                session.id
            );
        }
    }

    /// What must hold when every client has gone.
    pub fn check_end(&self) {
        assert!(self.sessions.is_empty());
        assert!(self.shared.in_flight().iter().all(|count| *count == 0), "sessions in flight");
        for (id, backend) in self.plan.backends() {
            assert_eq!(
                self.shared.permits_taken(id),
                backend.max_connections.map(|_| 0),
                "permits of {id:?}"
            );
        }
        assert_eq!((self.shared.queue_length(), self.limit.taken()), (0, 0), "who waits, sessions");
        let internal: u64 = self.shards.iter().map(|shard| shard.closed[CloseReason::Internal.index()]).sum();
        assert_eq!(internal, self.panics, "sessions that panicked");
        for state in self.health.verdicts.states() {
            assert!(!state.ejected && state.ramp == ringway::base::limits::RAMP_STEPS, "{state:?}");
        }
    }
}
