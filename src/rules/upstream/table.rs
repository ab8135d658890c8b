//! The backends of one upstream as one shard sees them: states, picks, guards.
//!
//! Invariants: a pick is nobody if and only if no eligible backend is left to try; the count of a backend is the number
//! of its live [`InFlight`] guards; with a limit, that many places of it are taken, and those on their way to a waiter.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::serving::{Serving, Share};
use super::shared::Shared;
use super::state::{Address, BackendState};
use crate::rules::admission::Ticket;
use crate::rules::balance::{Algorithm, Candidate, Demand, Start, Tried, Wants};
use crate::rules::config::{OpenSessions, Upstream};
use crate::words::{BackendId, CloseReason, ShardId};

/// Which shard of how many.
#[derive(Clone, Copy, Debug)]
pub struct ShardPlace {
    /// This shard.
    pub shard: ShardId,
    /// How many there are.
    pub shards: usize,
    /// Seed of the process for what is left to chance.
    pub seed: u64,
}

impl ShardPlace {
    /// The part of this shard of a number for the process.
    #[must_use]
    pub fn share_of(&self, number: u32) -> usize {
        let (number, shard) = (number as usize, self.shard.index());
        number / self.shards + usize::from(shard < number % self.shards)
    }
}

/// The backends of one upstream, on one shard.
pub struct UpstreamTable {
    place: ShardPlace,
    wants: Wants,
    shares: Vec<Share>,
    panic_threshold: Option<u32>,
    /// Of the sessions of a backend that goes down, and of those on backups when a primary is back.
    on_down: OpenSessions,
    on_up: OpenSessions,
    shared: Arc<Shared>,
    deliver: Deliver,
    /// For each backend the last cut of its sessions.
    cuts: Box<[Cell<Cut>]>,
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

/// An end of all sessions that a backend has at that moment.
#[derive(Clone, Copy)]
struct Cut {
    /// Cuts so far; a session that was picked at a smaller number has to end.
    count: u32,
    reason: CloseReason,
}

struct Inner {
    algorithm: Box<dyn Algorithm>,
    states: Vec<BackendState>,
    serving: Serving,
    candidates: Vec<Candidate>,
    /// Sessions of all shards: this one's exact, the others' as of `others_at`. Kept only where they are wanted.
    sums: Vec<u32>,
    others_at: Option<u64>,
}

impl UpstreamTable {
    /// A table in which no backend is eligible yet.
    #[must_use]
    pub fn new(upstream: &Upstream, shared: Arc<Shared>, place: ShardPlace, deliver: Deliver) -> Rc<Self> {
        let backends = upstream.backends.len();
        let start = Start { shard: place.shard.index(), shards: place.shards, seed: place.seed };
        let no_cut = Cut { count: 0, reason: CloseReason::BackendDown };
        Rc::new(Self {
            place,
            wants: upstream.algorithm.wants,
            shares: upstream.backends.iter().map(Share::of).collect(),
            panic_threshold: upstream.panic_threshold,
            on_down: upstream.on_down,
            on_up: upstream.on_up,
            shared,
            deliver,
            cuts: (0..backends).map(|_| Cell::new(no_cut)).collect(),
            pooled: (0..backends).map(|_| Cell::new(0)).collect(),
            inner: RefCell::new(Inner {
                algorithm: (upstream.algorithm.build)(start),
                states: vec![BackendState::unknown(); backends],
                serving: Serving::Nobody,
                candidates: Vec::new(),
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
        let serving = Serving::of(states, &self.shares, self.panic_threshold);
        let primaries_return = serving == Serving::Primaries && inner.serving != Serving::Primaries;
        // Panic has no faith in the verdicts.
        let cuts_down = self.on_down == OpenSessions::Close && serving != Serving::Panic;
        let mut is_cut = false;
        for (index, (before, now)) in inner.states.iter().zip(states).enumerate() {
            if cuts_down && before.is_eligible() && !now.is_eligible() {
                is_cut |= self.cut(index, CloseReason::BackendDown);
            }
            if primaries_return && self.shares[index].backup && self.on_up == OpenSessions::Close {
                is_cut |= self.cut(index, CloseReason::PrimaryUp);
            }
        }
        inner.serving = serving;
        inner.states.clear();
        inner.states.extend_from_slice(states);
        let candidates = serving.candidates(states, &self.shares);
        if candidates != inner.candidates {
            inner.algorithm.update(&candidates);
            inner.candidates = candidates;
        }
        is_cut
    }

    /// Has the sessions of a backend end. Whether this shard has such.
    fn cut(&self, backend: usize, reason: CloseReason) -> bool {
        let count = self.cuts[backend].get().count.wrapping_add(1);
        self.cuts[backend].set(Cut { count, reason });
        self.shared.loads.own(self.place.shard, backend) > 0
    }

    /// What the algorithm wants to know of a session.
    #[must_use]
    pub fn wants(&self) -> Wants {
        self.wants
    }

    /// Tells the algorithm how long a backend took; of use where it [wants](Self::wants) to know.
    pub fn observe(&self, backend: BackendId, latency: Duration, now_millis: u64) {
        self.inner.borrow_mut().algorithm.observe(backend, latency, now_millis);
    }

    /// Picks an eligible backend that was not tried and has a place. `key` is of use where it is [wanted](Self::wants),
    /// and `now_millis` decides how old the other shards' counts may be.
    pub fn pick(self: &Rc<Self>, now_millis: u64, tried: &Tried, key: u64) -> Pick {
        let inner = &mut *self.inner.borrow_mut();
        if self.wants.loads && inner.others_at != Some(now_millis) {
            inner.others_at = Some(now_millis);
            self.shared.loads.sum_into(&mut inner.sums);
        }
        // The tried ones, the full ones, and those that others wait for.
        let mut passed: Option<Tried> = None;
        loop {
            let passing = passed.as_ref().unwrap_or(tried);
            let demand = Demand { loads: &inner.sums, tried: passing, key, now_millis };
            let Some(backend) = inner.algorithm.pick(&demand) else {
                return if passed.is_some() { Pick::Full } else { Pick::Nobody };
            };
            debug_assert!(
                inner.candidates.iter().any(|candidate| candidate.id == backend),
                "{backend:?} is not eligible"
            );
            debug_assert!(!passing.contains(backend), "{backend:?} was tried");
            // A connection in the pool hands its place over; the session gets both.
            if !self.shared.queue.wants(backend) && (self.take(backend) || self.unhold(backend)) {
                return Pick::Backend(self.begin(inner, backend));
            }
            passed.get_or_insert_with(|| tried.clone()).insert(backend);
        }
    }

    /// Whether a backend is eligible that was not tried.
    #[must_use]
    pub fn has_untried(&self, tried: &Tried) -> bool {
        self.inner.borrow().candidates.iter().any(|candidate| !tried.contains(candidate.id))
    }

    /// Whether sessions may be sent to a backend.
    #[must_use]
    pub fn is_eligible(&self, backend: BackendId) -> bool {
        self.inner.borrow().candidates.iter().any(|candidate| candidate.id == backend)
    }

    /// The eligible backends.
    fn eligible(&self) -> Vec<BackendId> {
        self.inner.borrow().candidates.iter().map(|candidate| candidate.id).collect()
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
        let cuts = self.cuts[backend.index()].get().count;
        InFlight { table: self.clone(), backend, cuts, keeps_place: false }
    }

    // The queue of the upstream.

    /// Waits for a place, behind all who do already; `None` where the queue is full. The place is
    /// [delivered](Deliver), maybe at once.
    pub fn join(&self, tried: &Tried) -> Option<Ticket> {
        let more = self.places_in_pools(tried);
        let ticket = self.shared.queue.join(self.place.shard, tried.clone(), more)?;
        self.serve_all();
        Some(ticket)
    }

    /// Waits no more. If that comes too late, a place is delivered all the same.
    pub fn leave(&self, ticket: Ticket) {
        // Where it is too late, whoever takes the delivery finds nobody and refuses it.
        let _ = self.shared.queue.leave(ticket);
    }

    /// Waits again, where it did before; `false` where the queue is full by now.
    #[must_use]
    pub fn join_again(&self, ticket: Ticket, tried: &Tried) -> bool {
        let more = self.places_in_pools(tried);
        let is_in = self.shared.queue.join_again(ticket, tried.clone(), more);
        if is_in {
            self.serve_all();
        }
        is_in
    }

    /// Takes a place that was delivered. `None` if the backend has become ineligible while the place was on its way: it is
    /// given back, and the client has to [wait again](Self::join_again).
    pub fn accept(self: &Rc<Self>, backend: BackendId) -> Option<InFlight> {
        if !self.is_eligible(backend) {
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

    /// Gives free places of an eligible backend to those who wait.
    fn serve(&self, backend: BackendId) {
        let queue = &self.shared.queue;
        if queue.is_empty() || !self.is_eligible(backend) {
            return;
        }
        let served = queue.serve(backend, || self.take(backend));
        let delivered = served.iter().filter(|ticket| (self.deliver)(**ticket, backend)).count();
        // Shards that have ended have nobody who waits.
        (delivered..served.len()).for_each(|_| self.give_back(backend));
    }

    fn serve_all(&self) {
        if !self.shared.queue.is_empty() {
            self.eligible().into_iter().for_each(|backend| self.serve(backend));
        }
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
        if !self.may_pool(backend) || self.shared.queue.wants(backend) || !self.take(backend) {
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

    /// Places that the pools of all shards hold of the backends that a client can use.
    #[must_use]
    pub fn places_in_pools(&self, tried: &Tried) -> usize {
        let candidates = &self.inner.borrow().candidates;
        let usable = candidates.iter().map(|one| one.id).filter(|id| !tried.contains(*id));
        usable.map(|id| self.shared.pooled[id.index()].load(SeqCst)).sum()
    }

    /// Whether a place that this shard's pool holds is waited for.
    #[must_use]
    pub fn is_wanted(&self, backend: BackendId) -> bool {
        self.pooled[backend.index()].get() > 0
            && self.shared.queue.wants(backend)
            && self.is_eligible(backend)
    }

    /// Backends of which that is so.
    #[must_use]
    pub fn wanted(&self) -> Vec<BackendId> {
        self.eligible().into_iter().filter(|&backend| self.is_wanted(backend)).collect()
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
    /// Cuts of its backend before its pick.
    cuts: u32,
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

    /// Why the session has to end, if it has to.
    #[must_use]
    pub fn cut(&self) -> Option<CloseReason> {
        let cut = self.table.cuts[self.backend.index()].get();
        (cut.count != self.cuts).then_some(cut.reason)
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

    /// Notes that the backend failed: it took no connection, or reset one before the first byte.
    pub fn failed(&self) {
        if let Some(failures) = &self.table.shared.failures {
            failures.failed(self.backend);
        }
    }

    /// Notes that the backend did what it is there for.
    pub fn succeeded(&self) {
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
        self.table.shared.queue.wants(self.backend) && self.table.is_eligible(self.backend)
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
    use crate::rules::config;

    const FIRST: BackendId = BackendId(0);

    /// Two primaries and a backup.
    fn table(keys: &str) -> Rc<UpstreamTable> {
        limited(0, keys)
    }

    /// The same, each with so many places.
    fn limited(places: u32, keys: &str) -> Rc<UpstreamTable> {
        let backend = |port| {
            let backup = port == 4;
            format!("{{address: 127.0.0.1, port: {port}, backup: {backup}, max_connections: {places}}}")
        };
        let backends = [2, 3, 4].map(backend).join(", ");
        let yaml = format!("loadbalancer: {{listen_address: ':1'}}\nbackends: [{backends}]\n{keys}\n");
        let parsed = config::parse("test", yaml.as_bytes()).unwrap_or_else(|report| panic!("{report}"));
        let place = ShardPlace { shard: ShardId(0), shards: 1, seed: 0 };
        let upstream = &parsed.config.upstreams[0];
        UpstreamTable::new(upstream, Shared::new(upstream, 1, None), place, Box::new(|_, _| true))
    }

    fn states(up: [bool; 3]) -> Vec<BackendState> {
        let addresses: Arc<[Address]> = Arc::from([Address::Tcp(([127, 0, 0, 1], 2).into())]);
        let health = |up| if up { Health::Up } else { Health::Down };
        let state = |up| BackendState {
            health: health(up),
            addresses: Arc::clone(&addresses),
            ..BackendState::unknown()
        };
        up.map(state).to_vec()
    }

    fn pick(table: &Rc<UpstreamTable>) -> InFlight {
        match table.pick(0, &Tried::default(), 0) {
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
        assert!(matches!(table.pick(0, &tried, 0), Pick::Full), "the other one is wanted already");
        for _ in 0..3 {
            assert_eq!(pick(&table).backend(), BackendId(0));
        }
        tried.insert(BackendId(1));
        assert!(matches!(table.pick(0, &tried, 0), Pick::Nobody));
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
        let served = [0, 1].map(|id| table.is_eligible(BackendId(id)) && !table.may_pool(BackendId(id)));
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
            assert_eq!(session.cut(), expected);
        }
        assert!(!table.apply(&states([true, true, true])), "coming up ends nobody");
        let later = pick(&table);
        assert_eq!((later.backend(), later.cut()), (BackendId(0), None));
        let mut ejected = states([true, true, true]);
        ejected[0].ejected = true;
        assert!(table.apply(&ejected));
        assert_eq!(later.cut(), Some(CloseReason::BackendDown));
    }

    #[test]
    fn panic_ends_no_sessions() {
        let table = table("on_down: close\npanic_threshold: 50%");
        table.apply(&states([true, true, false]));
        let sessions = [pick(&table), pick(&table)];
        assert!(!table.apply(&states([false, false, false])));
        assert!(sessions.iter().all(|session| session.cut().is_none()));
        let later = pick(&table);
        assert!(!table.apply(&states([false, true, false])), "it was down before");
        assert_eq!(later.cut(), None);
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
        assert_eq!((early.cut(), waiting.cut()), (None, Some(CloseReason::PrimaryUp)));
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
        assert_eq!(session.cut(), None);
    }
}
