//! The backends of one upstream as one shard sees them: states, picks, guards.
//!
//! Invariants: a pick is nobody if and only if the order of resort ([`Order`]) has nobody left to try; the count of a backend
//! is the number of its live [`InFlight`] guards; with a limit, that many places of it are taken, and those on their way to
//! a waiter.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use super::failures::Fault;
use super::serving::{Order, Serving, Share, TIERS};
use super::shared::SharedUpstream;
use super::state::{BackendState, Health};
use crate::admission::{Ticket, Use};
use crate::balance::{Algorithm, Candidate, Demand, Sample, Start, Tried, Wants};
use crate::base::Address;
use crate::base::{BackendId, CloseReason, ShardPlace};
use crate::config::{OpenSessions, Upstream};

/// The backends of one upstream, on one shard.
pub struct UpstreamTable {
    place: ShardPlace,
    wants: Wants,
    shares: Vec<Share>,
    panic_threshold: Option<u32>,
    /// Of the sessions of a backend that goes down, and of those on backups when a primary is back.
    on_down: OpenSessions,
    on_up: OpenSessions,
    shared: Arc<SharedUpstream>,
    deliver: Deliver,
    start: Start,
    build: fn(Start) -> Box<dyn Algorithm>,
    /// For each backend the cuts of its sessions.
    cuts: Box<[Cuts]>,
    /// For each backend until when its sessions are taken for longer than they are, and the last such moment of all;
    /// milliseconds.
    in_vain: Box<[Cell<u64>]>,
    in_vain_until: Cell<u64>,
    /// For each limited backend the places that connections in this shard's pool hold.
    pooled: Box<[Cell<u32>]>,
    inner: RefCell<Inner>,
}

/// Tells a waiting client's shard that the client has a place at a backend. Whether that shard still runs.
pub type Deliver = Box<dyn Fn(Ticket, BackendId) -> bool>;

/// What a session gets that wants a backend.
pub enum Pick {
    /// A place at one.
    Backend(InFlight),
    /// All that could serve it have as many sessions as they may have, or others wait for them already.
    Full,
    /// None is eligible that was not tried.
    Nobody,
}

/// The ends of sessions that a backend was ordered.
#[derive(Default)]
struct Cuts {
    /// How many there were; a session that was picked at a smaller number may have to end.
    count: Cell<u32>,
    /// The last ones, at most [`CUTS_KEPT`].
    last: RefCell<VecDeque<Cut>>,
    /// The backend has been at other addresses, where sessions may still be.
    has_moved: Cell<bool>,
}

/// So long a session in vain tells of its backend: then one is tried again.
const IN_VAIN_MILLIS: u64 = 1_000;

/// So many can come between two turns of a session, and be judged apart.
const CUTS_KEPT: usize = 8;

/// An end of the sessions that a backend has at that moment.
#[derive(Clone)]
struct Cut {
    reason: CloseReason,
    /// Of those on these addresses only, where there may be others.
    addresses: Option<Arc<[Address]>>,
}

struct Inner {
    /// In the order of resort.
    tiers: [Tier; TIERS],
    /// For each backend its tier, if it has one.
    tier_of: Vec<Option<usize>>,
    states: Vec<BackendState>,
    serving: Serving,
    /// Sessions of all shards: this one's exact, the others' as of `others_at`. Kept only where they are wanted.
    sums: Vec<u32>,
    others_at: Option<u64>,
}

/// Backends that are as good as each other.
#[derive(Default)]
struct Tier {
    candidates: Vec<Candidate>,
    /// Made when the first session comes to it.
    algorithm: Option<Box<dyn Algorithm>>,
}

impl Tier {
    fn update(&mut self, candidates: Vec<Candidate>) {
        if candidates == self.candidates {
            return;
        }
        if let Some(algorithm) = &mut self.algorithm {
            algorithm.update(&candidates);
        }
        self.candidates = candidates;
    }

    fn has_untried(&self, tried: &Tried) -> bool {
        self.candidates.iter().any(|candidate| !tried.contains(candidate.id))
    }
}

impl Inner {
    /// All whom a session may be sent to.
    fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        self.tiers.iter().flat_map(|tier| &tier.candidates)
    }

    /// Whom a client that has tried these waits for: the first tier in which it has not tried everybody.
    fn waited_for(&self, tried: &Tried) -> impl Iterator<Item = BackendId> {
        let first = self.tiers.iter().find(|tier| tier.has_untried(tried));
        let ids = first.into_iter().flat_map(|tier| tier.candidates.iter().map(|one| one.id));
        ids.filter(|id| !tried.contains(*id))
    }

    /// Who of those that wait can use a place at a backend, which is nobody's where that is in no tier.
    fn use_of(&self, backend: BackendId) -> Option<Use<impl Fn(&Tried) -> bool>> {
        Some(use_of(&self.tiers[..self.tier_of[backend.index()]?], backend))
    }
}

/// Who of those that wait can use a place at a backend that comes behind these tiers.
fn use_of(before: &[Tier], backend: BackendId) -> Use<impl Fn(&Tried) -> bool> {
    Use {
        by: move |tried: &Tried| {
            !tried.contains(backend) && !before.iter().any(|tier| tier.has_untried(tried))
        },
        after_tries_only: before.iter().any(|tier| !tier.candidates.is_empty()),
    }
}

impl UpstreamTable {
    /// A table in which no backend is eligible yet.
    #[must_use]
    pub fn new(
        upstream: &Upstream,
        shared: Arc<SharedUpstream>,
        place: ShardPlace,
        deliver: Deliver,
    ) -> Rc<Self> {
        let backends = upstream.backends.len();
        let start = Start { shard: place.shard.index(), shards: place.shards, seed: place.seed };
        Rc::new(Self {
            place,
            wants: upstream.algorithm.wants,
            shares: upstream.backends.iter().map(Share::of).collect(),
            panic_threshold: upstream.panic_threshold,
            on_down: upstream.on_down,
            on_up: upstream.on_up,
            shared,
            deliver,
            start,
            build: upstream.algorithm.build,
            cuts: (0..backends).map(|_| Cuts::default()).collect(),
            in_vain: (0..backends).map(|_| Cell::new(0)).collect(),
            in_vain_until: Cell::new(0),
            pooled: (0..backends).map(|_| Cell::new(0)).collect(),
            inner: RefCell::new(Inner {
                tiers: Default::default(),
                tier_of: vec![None; backends],
                states: vec![BackendState::unknown(); backends],
                serving: Serving::Nobody,
                sums: vec![0; backends],
                others_at: None,
            }),
        })
    }

    /// Takes the new states of all backends, in the order of the configuration. Whether sessions of this shard have to
    /// end for it: wake them, so that they see it.
    pub fn apply(&self, states: &[BackendState]) -> bool {
        let is_cut = self.set_states(states);
        self.serve_all();
        is_cut
    }

    fn set_states(&self, states: &[BackendState]) -> bool {
        assert_eq!(states.len(), self.shares.len(), "states of another configuration");
        let inner = &mut *self.inner.borrow_mut();
        let Order { serving, tiers } = Order::of(states, &self.shares, self.panic_threshold);
        let primaries_return = serving == Serving::Primaries && inner.serving != Serving::Primaries;
        // Panic has no faith in the verdicts.
        let cuts_down = self.on_down == OpenSessions::Close && serving != Serving::Panic;
        let mut is_cut = false;
        for (index, (before, now)) in inner.states.iter().zip(states).enumerate() {
            let cuts = &self.cuts[index];
            let is_elsewhere = before.addresses.iter().any(|address| !now.addresses.contains(address));
            cuts.has_moved.set(cuts.has_moved.get() || is_elsewhere);
            // One that has moved is judged afresh, which says nothing of its sessions.
            let is_out = now.health == Health::Down || now.ejected;
            if cuts_down && before.is_eligible() && is_out {
                // The verdict is on those of now, also where the name has led elsewhere in the same moment.
                let checked = || Arc::clone(&now.addresses);
                is_cut |= self.cut(index, CloseReason::BackendDown, cuts.has_moved.get().then(checked));
            }
            let gone: Arc<[_]> =
                now.gone.iter().filter(|gone| !before.gone.contains(gone)).cloned().collect();
            if self.on_down == OpenSessions::Close && !gone.is_empty() {
                is_cut |= self.cut(index, CloseReason::BackendDown, Some(gone));
            }
            if primaries_return && self.shares[index].backup && self.on_up == OpenSessions::Close {
                is_cut |= self.cut(index, CloseReason::PrimaryUp, None);
            }
        }
        inner.serving = serving;
        inner.states.clear();
        inner.states.extend_from_slice(states);
        inner.tier_of.fill(None);
        for (index, candidates) in tiers.into_iter().enumerate() {
            candidates.iter().for_each(|one| inner.tier_of[one.id.index()] = Some(index));
            inner.tiers[index].update(candidates);
        }
        is_cut
    }

    /// Has the sessions of a backend end, or those on some addresses. Whether this shard may have such.
    fn cut(&self, backend: usize, reason: CloseReason, addresses: Option<Arc<[Address]>>) -> bool {
        let cuts = &self.cuts[backend];
        cuts.count.update(|count| count.wrapping_add(1));
        let mut last = cuts.last.borrow_mut();
        last.push_back(Cut { reason, addresses });
        if last.len() > CUTS_KEPT {
            last.pop_front();
        }
        self.shared.loads.own(self.place.shard, backend) > 0
    }

    /// Whether clients may be let in: no primary is without a first verdict that is still awaited.
    #[must_use]
    pub fn is_decided(&self) -> bool {
        Order::is_decided(&self.inner.borrow().states, &self.shares)
    }

    /// What the algorithm wants to know of a session.
    #[must_use]
    pub fn wants(&self) -> Wants {
        self.wants
    }

    /// Tells the algorithm how long a backend took; of use where it [wants](Self::wants) to know.
    pub fn observe(&self, backend: BackendId, sample: Sample, now_millis: u64) {
        let tiers = &mut self.inner.borrow_mut().tiers;
        let algorithms = tiers.iter_mut().filter_map(|tier| tier.algorithm.as_mut());
        algorithms.for_each(|algorithm| algorithm.observe(backend, sample, now_millis));
    }

    /// Picks a backend that was not tried and has a place, by the order of resort. `key` is of use where it is
    /// [wanted](Self::wants), and `now_millis` decides how old the other shards' counts may be.
    ///
    /// A tier in which all are full is passed over where clients cannot wait for a place in it, and by a client that `spills`
    /// because it has waited in vain.
    pub fn pick(self: &Rc<Self>, now_millis: u64, tried: &Tried, key: u64, spills: bool) -> Pick {
        let inner = &mut *self.inner.borrow_mut();
        if self.wants.loads && inner.others_at != Some(now_millis) {
            inner.others_at = Some(now_millis);
            self.shared.loads.sum_into(&mut inner.sums);
        }
        let mut is_full = false;
        for tier in 0..TIERS {
            if inner.tiers[tier].candidates.is_empty() {
                continue;
            }
            match self.pick_of_tier(inner, tier, tried, key, now_millis) {
                Pick::Backend(in_flight) => return Pick::Backend(in_flight),
                Pick::Full if !spills && self.may_wait_for(&inner.tiers[tier], tried) => return Pick::Full,
                Pick::Full => is_full = true,
                Pick::Nobody => {}
            }
        }
        if is_full { Pick::Full } else { Pick::Nobody }
    }

    fn pick_of_tier(
        self: &Rc<Self>,
        inner: &mut Inner,
        tier: usize,
        tried: &Tried,
        key: u64,
        now_millis: u64,
    ) -> Pick {
        let Inner { tiers, sums, .. } = &mut *inner;
        let (before, rest) = tiers.split_at_mut(tier);
        let Tier { candidates, algorithm } = &mut rest[0];
        let corrected = self.corrected(candidates, sums, now_millis);
        let loads = corrected.as_ref().unwrap_or(sums);
        let algorithm = algorithm.get_or_insert_with(|| {
            let mut algorithm = (self.build)(self.start);
            algorithm.update(candidates);
            algorithm
        });
        // The tried ones, the full ones, and those that others wait for.
        let mut passed: Option<Tried> = None;
        loop {
            let passing = passed.as_ref().unwrap_or(tried);
            let Some(backend) = algorithm.pick(&Demand { loads, tried: passing, key, now_millis }) else {
                return if passed.is_some() { Pick::Full } else { Pick::Nobody };
            };
            debug_assert!(candidates.iter().any(|one| one.id == backend), "{backend:?} is in no tier");
            debug_assert!(!passing.contains(backend), "{backend:?} was tried");
            // A connection in the pool hands its place over; the session gets both.
            let is_wanted =
                !self.shared.queue.is_empty() && self.shared.queue.wants(&use_of(before, backend));
            if !is_wanted && (self.take(backend) || self.unhold(backend)) {
                return Pick::Backend(self.begin(inner, backend));
            }
            passed.get_or_insert_with(|| tried.clone()).insert(backend);
        }
    }

    /// The loads as an algorithm shall see them, where they are others than `sums`. A backend that ends sessions without an
    /// answer has few of them, and would get all the more; so for a while it counts as no emptier than the others are on
    /// average.
    fn corrected(&self, candidates: &[Candidate], sums: &[u32], now_millis: u64) -> Option<Vec<u32>> {
        if !self.wants.loads || now_millis >= self.in_vain_until.get() {
            return None;
        }
        let is_in_vain = |candidate: &&Candidate| now_millis < self.in_vain[candidate.id.index()].get();
        let others = candidates.iter().filter(|candidate| !is_in_vain(candidate));
        let (load, weight) = others.fold((0, 0), |(load, weight), candidate| {
            (load + u64::from(sums[candidate.id.index()]), weight + u64::from(candidate.weight))
        });
        let mut loads = sums.to_vec();
        for candidate in candidates.iter().filter(is_in_vain) {
            let average = (load * u64::from(candidate.weight)).div_ceil(weight.max(1)) + 1;
            let load = &mut loads[candidate.id.index()];
            *load = (*load).max(u32::try_from(average).unwrap_or(u32::MAX));
        }
        Some(loads)
    }

    /// Whether there can be room in the queue for somebody who waits for a place in this tier.
    fn may_wait_for(&self, tier: &Tier, tried: &Tried) -> bool {
        let untried = tier.candidates.iter().map(|one| one.id).filter(|id| !tried.contains(*id));
        self.shared.queue.may_hold() || self.pooled_of(untried) > 0
    }

    /// Whether somebody is left who was not tried.
    #[must_use]
    pub fn has_untried(&self, tried: &Tried) -> bool {
        self.inner.borrow().tiers.iter().any(|tier| tier.has_untried(tried))
    }

    /// Whether sessions may be sent to a backend, if need be.
    #[must_use]
    pub fn is_candidate(&self, backend: BackendId) -> bool {
        self.inner.borrow().tier_of[backend.index()].is_some()
    }

    /// Whether somebody waits who can use a place at a backend.
    fn is_waited_for(&self, backend: BackendId) -> bool {
        if self.shared.queue.is_empty() {
            return false;
        }
        let inner = self.inner.borrow();
        inner.use_of(backend).is_some_and(|usage| self.shared.queue.wants(&usage))
    }

    /// All to whom that applies.
    fn all_candidates(&self) -> Vec<BackendId> {
        self.inner.borrow().candidates().map(|candidate| candidate.id).collect()
    }

    /// Sessions of this shard that are in flight on a backend.
    #[must_use]
    pub fn own_sessions(&self, backend: BackendId) -> usize {
        self.shared.loads.own(self.place.shard, backend.index()) as usize
    }

    fn take(&self, backend: BackendId) -> bool {
        self.shared.limits[backend.index()].as_ref().is_none_or(|limit| limit.take())
    }

    fn begin(self: &Rc<Self>, inner: &mut Inner, backend: BackendId) -> InFlight {
        let own = self.shared.loads.own(self.place.shard, backend.index());
        self.shared.loads.set(self.place.shard, backend.index(), own + 1);
        inner.sums[backend.index()] += 1;
        let cuts = Cell::new(self.cuts[backend.index()].count.get());
        InFlight { table: self.clone(), backend, cuts, keeps_place: false }
    }

    // The queue of the upstream.

    /// Waits for a place, behind all who do already; `None` where the queue is full. The place is [delivered](Deliver), maybe
    /// at once. It is one of the first tier in which the client has not tried everybody, as whoever gives it knows the tiers.
    pub fn join(&self, tried: &Tried) -> Option<Ticket> {
        let more = self.places_in_pools(tried);
        let ticket = self.shared.queue.join(self.place.shard, tried.clone(), more)?;
        self.serve_waited_for(tried);
        Some(ticket)
    }

    /// Waits no more. `false` if that comes too late: a place is delivered all the same, and whoever takes the delivery
    /// refuses it where nobody waits for it any more.
    pub fn leave(&self, ticket: Ticket) -> bool {
        self.shared.queue.leave(ticket)
    }

    /// Waits again, where it did before.
    pub fn join_again(&self, ticket: Ticket, tried: &Tried) {
        self.shared.queue.join_again(ticket, tried.clone());
        self.serve_waited_for(tried);
    }

    /// Takes a place that was delivered. `None` if the backend has gone out while the place was on its way: it is
    /// given back, and the client has to [wait again](Self::join_again).
    pub fn accept(self: &Rc<Self>, backend: BackendId) -> Option<InFlight> {
        if !self.is_candidate(backend) {
            self.give_back(backend);
            return None;
        }
        Some(self.begin(&mut self.inner.borrow_mut(), backend))
    }

    /// Gives back a place that was delivered to somebody who has left.
    pub fn refuse(&self, backend: BackendId) {
        self.give_back(backend);
    }

    fn give_back(&self, backend: BackendId) {
        if let Some(limit) = &self.shared.limits[backend.index()] {
            limit.give_back();
            self.serve(backend);
        }
    }

    /// Gives free places of a backend to those who wait for it.
    fn serve(&self, backend: BackendId) {
        if self.shared.queue.is_empty() {
            return;
        }
        let served = {
            let inner = self.inner.borrow();
            let Some(usage) = inner.use_of(backend) else { return };
            self.shared.queue.serve(&usage, || self.take(backend))
        };
        let delivered = served.iter().filter(|ticket| (self.deliver)(**ticket, backend)).count();
        // Shards that have ended have nobody who waits.
        (delivered..served.len()).for_each(|_| self.give_back(backend));
    }

    fn serve_all(&self) {
        if !self.shared.queue.is_empty() {
            self.all_candidates().into_iter().for_each(|backend| self.serve(backend));
        }
    }

    fn serve_waited_for(&self, tried: &Tried) {
        let waited_for: Vec<_> = self.inner.borrow().waited_for(tried).collect();
        waited_for.into_iter().for_each(|backend| self.serve(backend));
    }

    // The places that the pool of this shard holds.

    /// Whether there may be ready connections to a backend: it is well, and has a weight. One that stands by gets sessions
    /// just when others fail, and panic knows nothing of those it sends them to.
    #[must_use]
    pub fn may_pool(&self, backend: BackendId) -> bool {
        self.inner.borrow().states[backend.index()].is_eligible() && self.shares[backend.index()].weight > 0
    }

    /// Takes a place for a connection in the pool, unless sessions need it.
    #[must_use]
    pub fn hold(&self, backend: BackendId) -> bool {
        if !self.may_pool(backend) || self.is_waited_for(backend) || !self.take(backend) {
            return false;
        }
        self.note_held(backend);
        // Whoever has begun to wait since has looked whether pools hold places; one of both sees the other.
        let is_lost = self.is_wanted(backend) && self.unhold(backend);
        if is_lost {
            self.give_back(backend);
        }
        !is_lost
    }

    /// Ends what counts a session, whose place goes over to the pool without coming free in between.
    pub fn hold_place_of(&self, mut in_flight: InFlight) {
        in_flight.keeps_place = true;
        self.note_held(in_flight.backend);
    }

    fn note_held(&self, backend: BackendId) {
        if self.shared.limits[backend.index()].is_some() {
            self.pooled[backend.index()].update(|places| places + 1);
            self.shared.pooled[backend.index()].fetch_add(1, SeqCst);
        }
    }

    /// Takes a place away from the pool, for the caller. Whether it had one.
    fn unhold(&self, backend: BackendId) -> bool {
        let places = &self.pooled[backend.index()];
        let had = places.get() > 0;
        if had {
            places.update(|places| places - 1);
            self.shared.pooled[backend.index()].fetch_sub(1, SeqCst);
        }
        had
    }

    /// Places that this shard's pool holds; `None` where there is no limit.
    #[must_use]
    pub fn held(&self, backend: BackendId) -> Option<usize> {
        self.shared.limits[backend.index()].as_ref().map(|_| self.pooled[backend.index()].get() as usize)
    }

    /// Gives back the places that the pool holds beyond its number of connections.
    pub fn settle(&self, backend: BackendId, connections: usize) {
        while self.pooled[backend.index()].get() as usize > connections && self.unhold(backend) {
            self.give_back(backend);
        }
    }

    /// Whether somebody waits.
    #[must_use]
    pub fn has_waiters(&self) -> bool {
        !self.shared.queue.is_empty()
    }

    /// Places that the pools of all shards hold of the backends that a client waits for.
    #[must_use]
    pub fn places_in_pools(&self, tried: &Tried) -> usize {
        self.pooled_of(self.inner.borrow().waited_for(tried))
    }

    fn pooled_of(&self, backends: impl Iterator<Item = BackendId>) -> usize {
        backends.map(|id| self.shared.pooled[id.index()].load(SeqCst)).sum()
    }

    /// Whether a place that this shard's pool holds is waited for.
    #[must_use]
    pub fn is_wanted(&self, backend: BackendId) -> bool {
        self.pooled[backend.index()].get() > 0 && self.is_waited_for(backend)
    }

    /// Backends of which that is so.
    #[must_use]
    pub fn wanted(&self) -> Vec<BackendId> {
        self.all_candidates().into_iter().filter(|&backend| self.is_wanted(backend)).collect()
    }

    // The retries of the upstream.

    /// Counts a session that wants a backend.
    pub fn note_session(&self, now_millis: u64) {
        if let Some(budget) = &self.shared.retry_budget {
            budget.note_session(self.place.shard, now_millis);
        }
    }

    /// Takes a retry out of the budget, if there is one left.
    #[must_use]
    pub fn take_retry(&self, now_millis: u64) -> bool {
        self.shared.retry_budget.as_ref().is_none_or(|budget| budget.take(now_millis))
    }

    /// Where a backend can be reached, in the order to try.
    #[must_use]
    pub fn addresses(&self, backend: BackendId) -> Arc<[Address]> {
        self.inner.borrow().states[backend.index()].addresses.clone()
    }
}

/// A session between its pick and its close; counted for its backend until it is dropped.
pub struct InFlight {
    table: Rc<UpstreamTable>,
    backend: BackendId,
    /// Cuts of its backend before its pick, and those since that did not concern it.
    cuts: Cell<u32>,
    /// Its place is the pool's by now.
    keeps_place: bool,
}

impl InFlight {
    /// The backend that was picked.
    #[must_use]
    pub fn backend(&self) -> BackendId {
        self.backend
    }

    /// Whether it holds one of a limited number of places.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.table.shared.limits[self.backend.index()].is_some()
    }

    /// Why the session has to end, if it has to; `address` says where it is connected to, if it is.
    #[must_use]
    pub fn cut(&self, address: impl FnOnce() -> Option<Address>) -> Option<CloseReason> {
        let cuts = &self.table.cuts[self.backend.index()];
        let new = cuts.count.get().wrapping_sub(self.cuts.get()) as usize;
        if new == 0 {
            return None;
        }
        let last = cuts.last.borrow();
        let mut later = last.iter().skip(last.len().saturating_sub(new));
        // Where some are forgotten, it may be concerned.
        let forgotten = last.front().filter(|_| new > last.len());
        let cut = forgotten.or_else(|| {
            let address = address();
            later.find(|cut| match (&cut.addresses, &address) {
                (Some(addresses), Some(address)) => addresses.iter().any(|one| one.leads_to(address)),
                _ => true,
            })
        });
        if cut.is_none() {
            self.cuts.set(cuts.count.get());
        }
        cut.map(|cut| cut.reason)
    }

    /// Notes that the session may give its place up, until the guard is dropped; `None` where nobody can want it.
    #[must_use]
    pub fn linger(&self) -> Option<Lingering> {
        self.is_limited().then(|| {
            let lingering = Lingering { table: Rc::clone(&self.table), backend: self.backend };
            self.table.shared.pooled[self.backend.index()].fetch_add(1, SeqCst);
            lingering
        })
    }

    /// Notes that the backend ended the session, or took none, without a byte for the client.
    pub fn was_in_vain(&self, now_millis: u64) {
        let until = now_millis + IN_VAIN_MILLIS;
        self.table.in_vain[self.backend.index()].set(until);
        self.table.in_vain_until.set(until.max(self.table.in_vain_until.get()));
    }

    /// Notes that the session suffered a fault of the backend.
    pub fn failed(&self, fault: Fault) {
        if let Some(failures) = &self.table.shared.failures {
            failures.failed(self.backend, fault);
        }
    }

    /// Notes that the backend did what it is there for.
    pub fn succeeded(&self) {
        self.table.in_vain[self.backend.index()].set(0);
        if let Some(failures) = &self.table.shared.failures {
            failures.clear(self.backend);
        }
    }
}

/// A session whose client seems to have left. Who begins to wait finds its place among those of the pools, and asks for it.
pub struct Lingering {
    table: Rc<UpstreamTable>,
    backend: BackendId,
}

impl Lingering {
    /// Whether a client waits for its place.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.table.is_waited_for(self.backend)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        self.table.shared.pooled[self.backend.index()].fetch_sub(1, SeqCst);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let (table, index) = (&self.table, self.backend.index());
        let own = table.shared.loads.own(table.place.shard, index);
        debug_assert!(own > 0, "more guards dropped than made");
        table.shared.loads.set(table.place.shard, index, own.saturating_sub(1));
        {
            let sums = &mut table.inner.borrow_mut().sums;
            sums[index] = sums[index].saturating_sub(1);
        }
        if !self.keeps_place {
            table.give_back(self.backend);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Health;
    use super::*;
    use crate::base::ShardId;
    use crate::config;

    const FIRST: BackendId = BackendId(0);

    /// Two primaries and a backup.
    fn table(keys: &str) -> Rc<UpstreamTable> {
        limited(0, keys)
    }

    fn of_algorithm(algorithm: &str) -> Rc<UpstreamTable> {
        made(0, "", algorithm)
    }

    /// The same, each with so many places.
    fn limited(places: u32, keys: &str) -> Rc<UpstreamTable> {
        made(places, keys, "round_robin")
    }

    fn made(places: u32, keys: &str, algorithm: &str) -> Rc<UpstreamTable> {
        let backend = |port| {
            let backup = port == 4;
            format!("{{address: 127.0.0.1, port: {port}, backup: {backup}, max_connections: {places}}}")
        };
        let backends = [2, 3, 4].map(backend).join(", ");
        let yaml = format!(
            "loadbalancer: {{listen_address: ':1', algorithm: {algorithm}}}\nbackends: [{backends}]\n{keys}\n"
        );
        let parsed = config::parse("test", yaml.as_bytes()).unwrap_or_else(|report| panic!("{report}"));
        let place = ShardPlace { shard: ShardId(0), shards: 1, seed: 0 };
        let upstream = &parsed.config.upstreams[0];
        UpstreamTable::new(upstream, SharedUpstream::new(upstream, 1, None), place, Box::new(|_, _| true))
    }

    fn states(up: [bool; 3]) -> Vec<BackendState> {
        let addresses: Arc<[Address]> = Arc::from([Address::Tcp(([127, 0, 0, 1], 2).into())]);
        let health = |up| if up { Health::Up } else { Health::Down };
        let state = |up| BackendState {
            health: health(up),
            awaited: false,
            addresses: Arc::clone(&addresses),
            ..BackendState::unknown()
        };
        up.map(state).to_vec()
    }

    fn pick(table: &Rc<UpstreamTable>) -> InFlight {
        match table.pick(0, &Tried::default(), 0, false) {
            Pick::Backend(in_flight) => in_flight,
            Pick::Full | Pick::Nobody => panic!("one is eligible"),
        }
    }

    #[test]
    fn who_waits_for_another_backend_keeps_nobody_away() {
        let table = table("queue: {max: 1}");
        table.apply(&states([true, true, true]));
        let mut tried = Tried::default();
        tried.insert(BackendId(0));
        table.shared.queue.join(ShardId(0), tried.clone(), 0).expect("room");
        assert!(matches!(table.pick(0, &tried, 0, false), Pick::Full), "the other one is wanted already");
        for _ in 0..3 {
            assert_eq!(pick(&table).backend(), BackendId(0));
        }
    }

    /// The backends that sessions get one after the other, until nobody is left, each with what it says to that.
    fn in_order(table: &Rc<UpstreamTable>) -> Vec<u16> {
        let (mut tried, mut order) = (Tried::default(), Vec::new());
        while let Pick::Backend(in_flight) = table.pick(0, &tried, 0, false) {
            tried.insert(in_flight.backend());
            order.push(in_flight.backend().0);
        }
        assert!(!table.has_untried(&tried));
        order
    }

    #[test]
    fn every_try_follows_the_order_of_resort() {
        let table = table("");
        assert!(in_order(&table).is_empty(), "nothing is known");
        table.apply(&states([true, true, true]));
        assert_eq!(in_order(&table)[2], 2, "the backup after all primaries");
        table.apply(&states([false, true, true]));
        assert_eq!(in_order(&table), [1, 2], "nobody is sent to the dead");
        let mut ejected = states([true, true, true]);
        ejected[0].ejected = true;
        table.apply(&ejected);
        assert_eq!(in_order(&table), [1, 2, 0], "whom sessions alone blame comes last");
        ejected[1].ejected = true;
        ejected[2].ejected = true;
        table.apply(&ejected);
        assert_eq!(in_order(&table)[2], 2, "primaries first here too");
        table.apply(&states([false; 3]));
        assert!(in_order(&table).is_empty());
    }

    #[test]
    fn full_primary_spills_over_to_a_backup_where_nobody_can_wait() {
        let table = limited(1, "");
        table.apply(&states([true, true, true]));
        let sessions = [pick(&table), pick(&table), pick(&table)];
        assert_eq!(sessions.each_ref().map(|session| session.backend().0), [0, 1, 2]);
        assert!(matches!(table.pick(0, &Tried::default(), 0, false), Pick::Full));
    }

    #[test]
    fn full_primary_is_waited_for_where_there_is_a_queue_and_spills_over_when_that_was_in_vain() {
        let table = limited(1, "queue: {max: 2}");
        table.apply(&states([true, true, true]));
        let sessions = [pick(&table), pick(&table)];
        assert!(matches!(table.pick(0, &Tried::default(), 0, false), Pick::Full));
        let ticket = table.join(&Tried::default()).expect("room");
        assert_eq!(
            table.shared.queue_length(),
            1,
            "it does not wait for the backup, whose free place it does not get"
        );
        table.apply(&states([true, true, false]));
        table.apply(&states([true, true, true]));
        assert_eq!(table.shared.queue_length(), 1, "whatever becomes of that");
        let Pick::Backend(spilled) = table.pick(0, &Tried::default(), 0, true) else { panic!("it is free") };
        assert_eq!(spilled.backend(), BackendId(2));
        drop(sessions);
        assert_eq!(table.shared.queue_length(), 0, "{ticket:?} is served");
    }

    #[test]
    fn who_waits_for_a_primary_is_served_by_the_backup_when_the_primaries_go_down() {
        let table = limited(1, "queue: {max: 2}");
        table.apply(&states([true, true, true]));
        let _sessions = [pick(&table), pick(&table)];
        table.join(&Tried::default()).expect("room");
        table.apply(&states([false, true, true]));
        assert_eq!(table.shared.queue_length(), 1);
        table.apply(&states([false, false, true]));
        assert_eq!((table.shared.queue_length(), table.shared.places_taken(BackendId(2))), (0, Some(1)));
    }

    #[test]
    fn who_has_tried_the_primaries_waits_for_the_backup() {
        let table = limited(1, "queue: {max: 2}");
        table.apply(&states([true, true, true]));
        let mut tried = Tried::default();
        [0, 1].into_iter().for_each(|id| tried.insert(BackendId(id)));
        let Pick::Backend(backup) = table.pick(0, &tried, 0, false) else { panic!("it is free") };
        assert!(matches!(table.pick(0, &tried, 0, false), Pick::Full));
        table.join(&tried).expect("room");
        drop(backup);
        assert_eq!((table.shared.queue_length(), table.shared.places_taken(BackendId(2))), (0, Some(1)));
    }

    #[test]
    fn verdict_on_one_address_ends_no_session_on_another() {
        let table = table("on_down: close");
        table.apply(&states([true, true, true]));
        let session = pick(&table);
        let [old, new] = [2, 9].map(|port| Address::Tcp(([127, 0, 0, 1], port).into()));
        let on = |address: &Address| session.cut(|| Some(address.clone()));
        let mut moved = states([true, true, true]);
        moved[0].addresses = Arc::from([new.clone()]);
        moved[0].health = Health::Checking;
        assert!(!table.apply(&moved), "judged afresh is not down");
        moved[0].health = Health::Down;
        table.apply(&moved);
        assert_eq!(on(&old), None, "the new address was never up");
        moved[0].health = Health::Up;
        table.apply(&moved);
        moved[0].health = Health::Down;
        assert!(table.apply(&moved));
        assert_eq!((on(&new), on(&old)), (Some(CloseReason::BackendDown), None));
        assert_eq!(on(&new), None, "that cut is settled");
        moved[0].gone = Arc::from([old.clone()]);
        assert!(table.apply(&moved));
        assert_eq!(on(&old), Some(CloseReason::BackendDown));
    }

    #[test]
    fn move_and_verdict_that_come_together_end_no_session_at_the_old_address() {
        let table = table("on_down: close");
        table.apply(&states([true, true, true]));
        let session = pick(&table);
        let mut moved = states([false, true, true]);
        moved[0].addresses = Arc::from([Address::Tcp(([127, 0, 0, 1], 9).into())]);
        table.apply(&moved);
        assert_eq!(session.cut(|| Some(Address::Tcp(([127, 0, 0, 1], 2).into()))), None);
    }

    #[test]
    fn cuts_that_follow_each_other_are_all_heeded() {
        let table = table("on_down: close");
        table.apply(&states([true, true, true]));
        let session = pick(&table);
        let address = |port| Address::Tcp(([127, 0, 0, 1], port).into());
        let mut moving = states([true, true, true]);
        moving[0].gone = Arc::from([address(2)]);
        table.apply(&moving);
        for port in 3..20 {
            moving[0].gone = Arc::from([address(2), address(port)]);
            table.apply(&moving);
        }
        assert_eq!(session.cut(|| Some(address(2))), Some(CloseReason::BackendDown));
    }

    #[test]
    fn backend_whose_sessions_are_in_vain_does_not_win_by_being_empty() {
        for algorithm in ["least_connections", "random", "peak_ewma"] {
            let table = of_algorithm(algorithm);
            table.apply(&states([true, true, true]));
            // The other one has ten sessions that last.
            let mut tried = Tried::default();
            tried.insert(FIRST);
            let pick_at = |now, tried: &Tried| match table.pick(now, tried, 0, false) {
                Pick::Backend(in_flight) => in_flight,
                Pick::Full | Pick::Nobody => panic!("one is eligible"),
            };
            let _lasting: Vec<_> = (0..10).map(|_| pick_at(0, &tried)).collect();
            let failing = pick_at(0, &Tried::default());
            assert_eq!(failing.backend(), FIRST, "it is the emptier one");
            failing.was_in_vain(0);
            drop(failing);
            let next: Vec<_> = (0..20).map(|_| pick_at(500, &Tried::default())).collect();
            let of_first = next.iter().filter(|session| session.backend() == FIRST).count();
            assert!(of_first <= 10, "{algorithm}: {of_first} of 20");
            drop(next);
            let again = pick_at(1_000, &Tried::default());
            assert_eq!(again.backend(), FIRST, "once more");
            again.was_in_vain(1_000);
            again.succeeded();
            drop(again);
            assert_eq!(pick_at(1_001, &Tried::default()).backend(), FIRST, "all is well");
        }
    }

    #[test]
    fn place_at_a_backend_that_has_gone_out_is_not_taken() {
        let table = table("queue: {max: 1}");
        table.apply(&states([true, true, true]));
        assert!(table.accept(BackendId(0)).is_some());
        table.apply(&states([false, true, true]));
        assert!(table.accept(BackendId(0)).is_none());
        assert_eq!(table.shared.loads.totals(), [0; 3]);
    }

    #[test]
    fn place_that_goes_over_to_the_pool_does_not_come_free_in_between() {
        let table = limited(1, "queue: {max: 1}");
        table.apply(&states([true, false, false]));
        let session = pick(&table);
        let ticket = table.join(&Tried::default());
        table.hold_place_of(session);
        assert_eq!((table.shared.loads.totals()[0], table.held(FIRST)), (0, Some(1)));
        assert!(ticket.is_some() && table.has_waiters() && table.is_wanted(FIRST));
        table.settle(FIRST, 0);
        assert_eq!((table.has_waiters(), table.held(FIRST)), (false, Some(0)));
        assert_eq!(table.shared.places_taken(FIRST), Some(1), "the waiter has it");
    }

    #[test]
    fn pools_have_places_of_whoever_is_well_and_of_nobody_else() {
        let table = limited(1, "panic_threshold: 100%");
        table.apply(&states([true, true, true]));
        assert_eq!(
            [0, 1, 2].map(|id| table.hold(BackendId(id))),
            [true; 3],
            "also of the one that stands by"
        );
        table.apply(&states([false; 3]));
        let served = [0, 1].map(|id| table.is_candidate(BackendId(id)) && !table.may_pool(BackendId(id)));
        assert_eq!(served, [true; 2], "panic");
    }

    #[test]
    fn on_down_ends_the_sessions_of_that_backend_alone() {
        let table = table("on_down: close");
        assert!(!table.apply(&states([true, true, true])));
        let sessions = [pick(&table), pick(&table)];
        assert!(table.apply(&states([false, true, true])));
        for session in &sessions {
            let expected = (session.backend() == BackendId(0)).then_some(CloseReason::BackendDown);
            assert_eq!(session.cut(|| None), expected);
        }
        assert!(!table.apply(&states([true, true, true])), "coming up ends nobody");
        let later = pick(&table);
        assert_eq!((later.backend(), later.cut(|| None)), (BackendId(0), None));
        let mut ejected = states([true, true, true]);
        ejected[0].ejected = true;
        assert!(table.apply(&ejected));
        assert_eq!(later.cut(|| None), Some(CloseReason::BackendDown));
    }

    #[test]
    fn panic_ends_no_sessions() {
        let table = table("on_down: close\npanic_threshold: 50%");
        table.apply(&states([true, true, false]));
        let sessions = [pick(&table), pick(&table)];
        assert!(!table.apply(&states([false, false, false])));
        assert!(sessions.iter().all(|session| session.cut(|| None).is_none()));
        let later = pick(&table);
        assert!(!table.apply(&states([false, true, false])), "it was down before");
        assert_eq!(later.cut(|| None), None);
    }

    #[test]
    fn on_up_ends_the_sessions_on_backups_when_a_primary_is_back() {
        let table = table("on_up: close");
        table.apply(&states([true, true, true]));
        let early = pick(&table);
        assert!(!table.apply(&states([false, false, true])), "on_down keeps");
        let waiting = pick(&table);
        assert_eq!(waiting.backend(), BackendId(2));
        assert!(table.apply(&states([true, false, true])));
        assert_eq!((early.cut(|| None), waiting.cut(|| None)), (None, Some(CloseReason::PrimaryUp)));
        drop(waiting);
        assert!(!table.apply(&states([false, false, true])));
        assert!(!table.apply(&states([true, false, true])), "there is no session to wake");
    }

    #[test]
    fn open_sessions_are_kept_where_nothing_else_is_said() {
        let table = table("");
        table.apply(&states([true, false, true]));
        let session = pick(&table);
        for up in [[false, false, true], [true, true, true], [false, false, false]] {
            assert!(!table.apply(&states(up)));
        }
        assert_eq!(session.cut(|| None), None);
    }
}
