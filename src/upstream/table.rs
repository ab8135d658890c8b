//! The backends of one upstream as one shard sees them: their states, and which of them a session gets.
//!
//! Invariant: a pick is [`Pick::Nobody`] if and only if the order of resort ([`Order`]) has no untried
//! backend left.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use super::permit::{InFlight, Permit, Permits};
use super::serving::{Order, Serving, Share, TIERS};
use super::shared::SharedUpstream;
use super::state::BackendState;
use crate::admission::Eligible;
use crate::balance::{Algorithm, Candidate, Demand, Registered, Sample, Start, Tried, Wants};
use crate::base::{Address, BackendId, CloseReason, ShardPlace, Tick};

/// The backends of one upstream, on one shard.
pub struct UpstreamTable {
    pub(super) permits: Rc<Permits>,
    /// When the sessions of other shards were last counted.
    others_at: Cell<Option<Tick>>,
    wants: Wants,
    shares: Vec<Share>,
    panic_threshold: Option<u32>,
    start: Start,
    algorithm: &'static Registered,
    inner: RefCell<Inner>,
}

/// What a client would meet now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// What was asked, in order. At its end is what the client gets or waits for; else it gets no backend.
    pub steps: Vec<PreviewStep>,
}

/// One step of a [`Preview`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PreviewStep {
    /// This tier of the order of resort has these backends.
    Tier(usize, Vec<Candidate>),
    /// The algorithm chose this backend, which has its maximum number of connections, or for which others wait.
    Full(BackendId),
    /// The algorithm chose this backend, which has room.
    Gets(BackendId),
    /// The algorithm chose this backend, to which the pool has a connection ready.
    Pooled(BackendId),
    /// The client would wait for one of the full backends.
    Waits,
    /// The client would wait for a permit that a connection in a pool gives up.
    WaitsForPool,
    /// The client would wait, but the queue is full.
    QueueFull,
    /// The client would wait in the backlog: no session begins before every primary has its first verdict.
    AwaitsVerdicts,
}

/// The request of a session for a backend.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// Decides how old the counts of other shards may be.
    pub now: Tick,
    /// Backends to pass over.
    pub tried: &'a Tried,
    /// Hash of the client, if the algorithm [wants](UpstreamTable::wants) one.
    pub key: u64,
    /// Whether the client has waited until its time was up, or found the queue full, and so also takes a
    /// backend of a later tier.
    pub spills: bool,
}

/// The result of a pick.
pub enum Pick {
    /// A backend.
    Backend(InFlight),
    /// In the first tier that the session may wait for, every untried backend has its maximum number of
    /// connections, or other clients already wait for it. A backend of a later tier may have room.
    Full,
    /// No eligible backend is untried.
    Nobody,
}

struct Inner {
    /// In the order of resort.
    tiers: [Tier; TIERS],
    /// The tier of each backend that has one.
    tier_of: Vec<Option<usize>>,
    states: Vec<BackendState>,
    /// The addresses of each backend in the order to try. All shards have those of the states in common, and a session that
    /// counted its use of them would write what all others read.
    addresses: Vec<Rc<[Address]>>,
    serving: Serving,
}

impl Inner {
    fn tier(&self, backend: BackendId) -> Option<usize> {
        self.tier_of.get(backend.index()).copied().flatten()
    }
}

/// Backends of equal rank.
#[derive(Default)]
struct Tier {
    candidates: Vec<Candidate>,
    /// Created when the first session comes to this tier.
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

    fn untried<'a>(&'a self, tried: &'a Tried) -> impl Iterator<Item = BackendId> + 'a {
        self.candidates.iter().map(|candidate| candidate.id).filter(|id| !tried.contains(*id))
    }

    fn has_untried(&self, tried: &Tried) -> bool {
        self.untried(tried).next().is_some()
    }
}

/// Returns which waiting clients can use a permit of a backend that comes after these tiers.
fn eligible_for(before: &[Tier], backend: BackendId) -> Eligible<impl Fn(&Tried) -> bool> {
    Eligible {
        by: move |tried: &Tried| {
            !tried.contains(backend) && !before.iter().any(|tier| tier.has_untried(tried))
        },
        after_attempts_only: before.iter().any(|tier| !tier.candidates.is_empty()),
    }
}

impl UpstreamTable {
    /// Creates the table of one generation. Backends that were in the generation before, `previous`, too, keep their
    /// states, and the algorithm goes on where it was; new backends are not eligible yet.
    #[must_use]
    pub fn new(shared: Arc<SharedUpstream>, place: ShardPlace, previous: Option<&Self>) -> Self {
        let (upstream, given) = (shared.config(), shared.given());
        let mut shares = vec![Share::NONE; given];
        let mut states = vec![BackendState::absent(); given];
        for (position, (number, backend)) in shared.numbers().iter().zip(&upstream.backends).enumerate() {
            shares[number.index()] = Share::of(position, backend);
            let known = previous.and_then(|previous| previous.state(*number));
            states[number.index()] = known.unwrap_or_else(BackendState::unknown);
        }
        let hooks = previous.map_or_else(Rc::default, |previous| Rc::clone(&previous.permits.hooks));
        let same = previous.filter(|previous| previous.algorithm == upstream.algorithm);
        let table = Self {
            others_at: Cell::new(None),
            wants: upstream.algorithm.wants,
            algorithm: upstream.algorithm,
            shares,
            panic_threshold: upstream.panic_threshold,
            start: Start { shard: place.shard.index(), shards: place.shards, seed: place.seed },
            inner: RefCell::new(Inner {
                tiers: same.map_or_else(Default::default, Self::tiers),
                tier_of: vec![None; given],
                states: states.clone(),
                addresses: states.iter().map(|state| Rc::from(&*state.addresses)).collect(),
                serving: previous.map_or(Serving::Nobody, |previous| previous.inner.borrow().serving),
            }),
            permits: Permits::new(shared, place.shard, hooks),
        };
        table.set_states(&states);
        table
    }

    /// The state of a backend of this generation.
    fn state(&self, number: BackendId) -> Option<BackendState> {
        self.permits.shared.backend(number)?;
        self.inner.borrow().states.get(number.index()).cloned()
    }

    /// Returns a copy of the tiers, with algorithms in the same state.
    fn tiers(&self) -> [Tier; TIERS] {
        self.inner.borrow().tiers.each_ref().map(|tier| Tier {
            candidates: tier.candidates.clone(),
            algorithm: tier.algorithm.as_ref().map(|algorithm| algorithm.copy()),
        })
    }

    /// Applies the new states of all backends, by number; those of another generation, too, as far as they concern
    /// the backends of this one. Returns whether sessions of this shard have to end because of them, and so have to be
    /// woken.
    pub fn apply(&self, states: &[BackendState]) -> bool {
        let mut all = self.inner.borrow().states.clone();
        all.iter_mut().zip(states).for_each(|(known, state)| known.clone_from(state));
        self.set_states(&all)
    }

    /// Has the sessions of a backend end for this reason. Returns whether this shard has any, which have to be woken.
    pub fn end_sessions(&self, backend: BackendId, reason: CloseReason) -> bool {
        self.permits.forced_closes.order(backend.index(), reason);
        self.own_sessions(backend) > 0
    }

    fn set_states(&self, states: &[BackendState]) -> bool {
        let inner = &mut *self.inner.borrow_mut();
        let Order { serving, tiers } = Order::of(states, &self.shares, self.panic_threshold);
        let primaries_return = serving == Serving::Primaries && inner.serving != Serving::Primaries;
        let mut ends_sessions = false;
        for (index, (before, now)) in inner.states.iter().zip(states).enumerate() {
            let returns_to_primaries = primaries_return && self.shares[index].backup;
            let is_ordered = self.permits.forced_closes.note(
                index,
                (before, now),
                serving == Serving::Panic,
                returns_to_primaries,
            );
            ends_sessions |= is_ordered && self.own_sessions(BackendId(index as u16)) > 0;
            if !Arc::ptr_eq(&before.addresses, &now.addresses) {
                inner.addresses[index] = Rc::from(&*now.addresses);
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
        let candidates = inner.tiers.iter().flat_map(|tier| &tier.candidates).map(|one| one.id);
        self.permits.hooks.released.borrow_mut().extend(candidates);
        ends_sessions
    }

    /// Returns whether clients may be let in: no primary is without a first verdict that is still awaited.
    #[must_use]
    pub fn is_decided(&self) -> bool {
        Order::is_decided(&self.inner.borrow().states, &self.shares)
    }

    /// Returns whether there is a backend for a session.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.inner.borrow().serving != Serving::Nobody
    }

    /// Returns what the algorithm wants to know of a session.
    #[must_use]
    pub fn wants(&self) -> Wants {
        self.wants
    }

    /// Tells the algorithm how long a backend took, which matters if the algorithm [wants](Self::wants)
    /// latencies.
    pub fn observe(&self, backend: BackendId, sample: Sample, now: Tick) {
        let tiers = &mut self.inner.borrow_mut().tiers;
        let algorithms = tiers.iter_mut().filter_map(|tier| tier.algorithm.as_mut());
        algorithms.for_each(|algorithm| algorithm.observe(backend, sample, now));
    }

    /// Picks an untried backend by the order of resort, together with a permit of that backend.
    ///
    /// `pooled` hands over the permit of a ready connection to a backend, if the pool has one. A tier in
    /// which all backends are full is passed over if clients cannot wait for a permit in it, and also by a
    /// client that spills.
    pub fn pick(&self, request: Request<'_>, mut pooled: impl FnMut(BackendId) -> Option<Permit>) -> Pick {
        self.refresh_loads(request.now);
        let inner = &mut *self.inner.borrow_mut();
        let mut is_full = false;
        for tier in 0..TIERS {
            if inner.tiers[tier].candidates.is_empty() {
                continue;
            }
            match self.pick_of_tier(inner, tier, request, &mut pooled) {
                Pick::Backend(in_flight) => return Pick::Backend(in_flight),
                Pick::Full if !request.spills && self.may_wait_for(&inner.tiers[tier], request.tried) => {
                    return Pick::Full;
                }
                Pick::Full => is_full = true,
                Pick::Nobody => {}
            }
        }
        if is_full { Pick::Full } else { Pick::Nobody }
    }

    fn refresh_loads(&self, now: Tick) {
        if self.wants.loads && self.others_at.replace(Some(now)) != Some(now) {
            self.permits.shared.loads.sum_into(&mut self.permits.loads.borrow_mut());
        }
    }

    fn pick_of_tier(
        &self,
        inner: &mut Inner,
        tier: usize,
        Request { now, tried, key, .. }: Request<'_>,
        pooled: &mut impl FnMut(BackendId) -> Option<Permit>,
    ) -> Pick {
        let (before, rest) = inner.tiers.split_at_mut(tier);
        let Tier { candidates, algorithm } = &mut rest[0];
        let algorithm = algorithm.get_or_insert_with(|| {
            let mut algorithm = (self.algorithm.build)(self.start);
            algorithm.update(candidates);
            algorithm
        });
        let corrected = self
            .wants
            .loads
            .then(|| self.permits.unanswered.corrected(candidates, &self.permits.loads.borrow(), now))
            .flatten();
        // The backends that were tried, that are full, or that other clients wait for.
        let mut passed_over: Option<Tried> = None;
        loop {
            let backend = {
                let loads = self.permits.loads.borrow();
                let loads = corrected.as_deref().unwrap_or(&loads);
                let tried = passed_over.as_ref().unwrap_or(tried);
                algorithm.pick(&Demand { loads, tried, key, now })
            };
            let Some(backend) = backend else {
                return if passed_over.is_some() { Pick::Full } else { Pick::Nobody };
            };
            debug_assert!(candidates.iter().any(|one| one.id == backend), "{backend:?} is in no tier");
            if !self.is_queued_for(&eligible_for(before, backend))
                && let Some(permit) = pooled(backend).or_else(|| self.permits.take(backend))
            {
                return Pick::Backend(InFlight::new(permit));
            }
            passed_over.get_or_insert_with(|| tried.clone()).insert(backend);
        }
    }

    /// Returns which backend a client with this key would get now, and what was asked on the way. Changes nothing.
    /// `has_pooled` says whether the pool has a connection to a backend ready.
    #[must_use]
    pub fn preview(&self, key: u64, now: Tick, has_pooled: impl Fn(BackendId) -> bool) -> Preview {
        self.refresh_loads(now);
        let inner = self.inner.borrow();
        let mut preview = Preview { steps: Vec::new() };
        for index in 0..TIERS {
            let Tier { candidates, algorithm } = &inner.tiers[index];
            if candidates.is_empty() {
                continue;
            }
            preview.steps.push(PreviewStep::Tier(index, candidates.clone()));
            let mut algorithm = algorithm.as_ref().map_or_else(
                || {
                    let mut algorithm = (self.algorithm.build)(self.start);
                    algorithm.update(candidates);
                    algorithm
                },
                |algorithm| algorithm.copy(),
            );
            let (loads, mut tried) = (self.permits.loads.borrow(), Tried::default());
            let corrected =
                self.permits.unanswered.corrected(candidates, &loads, now).filter(|_| self.wants.loads);
            let loads = corrected.as_deref().unwrap_or(&loads);
            while let Some(backend) = algorithm.pick(&Demand { loads, tried: &tried, key, now }) {
                let is_waited_for = self.is_queued_for(&eligible_for(&inner.tiers[..index], backend));
                let gets = match is_waited_for {
                    true => None,
                    false if has_pooled(backend) => Some(PreviewStep::Pooled(backend)),
                    false => self.permits.shared.has_permit(backend).then_some(PreviewStep::Gets(backend)),
                };
                if let Some(gets) = gets {
                    preview.steps.push(gets);
                    return preview;
                }
                preview.steps.push(PreviewStep::Full(backend));
                tried.insert(backend);
            }
            let (queue, idle) = (&self.permits.shared.queue, self.idle_permits(&Tried::default()));
            if self.may_wait_for(&inner.tiers[index], &Tried::default()) {
                // With a full queue the session goes on as if there were none.
                preview.steps.push(match queue.has_room(idle) {
                    true if idle > 0 => PreviewStep::WaitsForPool,
                    true => PreviewStep::Waits,
                    false => PreviewStep::QueueFull,
                });
                if queue.has_room(idle) {
                    return preview;
                }
            }
        }
        preview
    }

    /// Returns the permit of a connection in the pool as one of this generation, if it can be.
    #[must_use]
    pub fn adopt(&self, permit: Permit) -> Option<Permit> {
        self.permits.adopt(permit)
    }

    /// Takes a permit for a connection in the pool, unless sessions need the permit.
    #[must_use]
    pub fn idle_permit(&self, backend: BackendId) -> Option<Permit> {
        if !self.may_pool(backend) || self.is_waited_for(backend) {
            return None;
        }
        let permit = self.permits.take(backend)?.idle();
        // A client that has begun to wait since then has looked at the idle permits; at least one of the two
        // sees the other.
        (!permit.is_limited() || !self.is_waited_for(backend)).then_some(permit)
    }

    /// Returns whether the queue can have room for a client that waits for a permit in this tier.
    fn may_wait_for(&self, tier: &Tier, tried: &Tried) -> bool {
        self.permits.shared.queue.may_hold() || self.permits.shared.idle_permits(tier.untried(tried)) > 0
    }

    fn is_queued_for(&self, usage: &Eligible<impl Fn(&Tried) -> bool>) -> bool {
        !self.permits.shared.queue.is_empty() && self.permits.shared.queue.wants(usage)
    }

    /// Returns whether a client waits that can use a permit of this backend.
    #[must_use]
    pub fn is_waited_for(&self, backend: BackendId) -> bool {
        !self.permits.shared.queue.is_empty()
            && self.with_eligible(backend, |usage| self.is_queued_for(&usage)).unwrap_or(false)
    }

    /// Calls `f` with the waiting clients that can use a permit of this backend; returns `None` if no client
    /// may have one.
    pub(super) fn with_eligible<T>(
        &self,
        backend: BackendId,
        f: impl FnOnce(Eligible<&dyn Fn(&Tried) -> bool>) -> T,
    ) -> Option<T> {
        let inner = self.inner.borrow();
        let Eligible { by, after_attempts_only } =
            eligible_for(&inner.tiers[..inner.tier(backend)?], backend);
        Some(f(Eligible { by: &by, after_attempts_only }))
    }

    /// Returns the backends that a client with these attempts waits for: those of the first tier with an
    /// untried backend.
    pub(super) fn waited_for(&self, tried: &Tried) -> Vec<BackendId> {
        let inner = self.inner.borrow();
        let first = inner.tiers.iter().find(|tier| tier.has_untried(tried));
        first.into_iter().flat_map(|tier| tier.untried(tried)).collect()
    }

    /// Returns all backends that sessions may be sent to.
    #[must_use]
    pub fn candidates(&self) -> Vec<BackendId> {
        let inner = self.inner.borrow();
        inner.tiers.iter().flat_map(|tier| &tier.candidates).map(|candidate| candidate.id).collect()
    }

    /// Returns whether an untried backend is left.
    #[must_use]
    pub fn has_untried(&self, tried: &Tried) -> bool {
        self.inner.borrow().tiers.iter().any(|tier| tier.has_untried(tried))
    }

    /// Returns whether sessions may be sent to this backend, if need be.
    #[must_use]
    pub fn is_candidate(&self, backend: BackendId) -> bool {
        self.inner.borrow().tier(backend).is_some()
    }

    /// Returns whether the pool may connect to this backend: eligible and weighted. Backups count, because
    /// failover is when a ready connection pays; panic does not, because it ignores health.
    #[must_use]
    pub fn may_pool(&self, backend: BackendId) -> bool {
        self.inner.borrow().states[backend.index()].is_eligible() && self.shares[backend.index()].weight > 0
    }

    /// Returns whether a backend has a limit on its connections.
    #[must_use]
    pub fn is_limited(&self, backend: BackendId) -> bool {
        self.permits.shared.is_limited(backend)
    }

    /// Returns the number of this shard's sessions that are in flight on a backend.
    #[must_use]
    pub fn own_sessions(&self, backend: BackendId) -> usize {
        self.permits.shared.loads.own(self.permits.shard, backend.index()) as usize
    }

    /// Has this task woken whenever a session of this shard on a backend ends.
    pub fn watch_sessions(&self, backend: BackendId, watcher: &Waker) {
        let mut watchers = self.permits.hooks.watchers.borrow_mut();
        if !watchers.get(&backend).is_some_and(|known| known.will_wake(watcher)) {
            watchers.insert(backend, watcher.clone());
        }
    }

    /// Returns the addresses of a backend in the order to try.
    #[must_use]
    pub fn addresses(&self, backend: BackendId) -> Rc<[Address]> {
        Rc::clone(&self.inner.borrow().addresses[backend.index()])
    }

    /// Counts a session that wants a backend, for the retry budget.
    pub fn note_session(&self, now: Tick) {
        if let Some(budget) = &self.permits.shared.retry_budget {
            budget.note_session(self.permits.shard, now);
        }
    }

    /// Takes a retry out of the budget. Returns whether one was left.
    #[must_use]
    pub fn take_retry(&self, now: Tick) -> bool {
        self.permits.shared.retry_budget.as_ref().is_none_or(|budget| budget.take(now))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Health, Snapshot};
    use super::*;
    use crate::base::CloseReason;
    use crate::base::ShardId;
    use crate::config;

    const FIRST: BackendId = BackendId(0);

    /// Two primaries and a backup.
    fn table(keys: &str) -> UpstreamTable {
        limited(0, keys)
    }

    fn of_algorithm(algorithm: &str) -> UpstreamTable {
        made(0, "", algorithm)
    }

    /// The same table, with this many permits for each backend.
    fn limited(permits: u32, keys: &str) -> UpstreamTable {
        made(permits, keys, "round_robin")
    }

    fn made(permits: u32, keys: &str, algorithm: &str) -> UpstreamTable {
        let backend = |port| {
            let backup = port == 4;
            format!("{{address: 127.0.0.1, port: {port}, backup: {backup}, max_connections: {permits}}}")
        };
        let backends = [2, 3, 4].map(backend).join(", ");
        let yaml = format!(
            "loadbalancer: {{listen_address: ':1', algorithm: {algorithm}}}\nbackends: [{backends}]\n{keys}\n"
        );
        let parsed = config::parse("test", yaml.as_bytes()).unwrap_or_else(|report| panic!("{report}"));
        let place = ShardPlace { shard: ShardId(0), shards: 1, seed: 0 };
        let snapshot = Snapshot::build(Arc::new(parsed.config), 1, None, None).expect("numbers");
        UpstreamTable::new(Arc::clone(&snapshot.upstreams()[0]), place, None)
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

    /// Picks without a pool, at the first moment.
    fn try_pick(table: &UpstreamTable, tried: &Tried, spills: bool) -> Pick {
        table.pick(Request { now: Tick(0), tried, key: 0, spills }, |_| None)
    }

    fn pick(table: &UpstreamTable) -> InFlight {
        match try_pick(table, &Tried::default(), false) {
            Pick::Backend(in_flight) => in_flight,
            Pick::Full | Pick::Nobody => panic!("one is eligible"),
        }
    }

    fn served(table: &UpstreamTable) -> Vec<BackendId> {
        table.serve().into_iter().map(|(_, backend)| backend).collect()
    }

    /// What a session takes of the addresses is counted by its shard alone.
    #[test]
    fn addresses_of_a_session_touch_nothing_that_shards_have_in_common() {
        let table = table("");
        let mut moved = states([true, true, true]);
        table.apply(&moved);
        let counts = Arc::strong_count(&moved[0].addresses);
        let (first, second) = (table.addresses(BackendId(0)), table.addresses(BackendId(0)));
        assert!(Rc::ptr_eq(&first, &second) && *first == *moved[0].addresses);
        assert_eq!(Arc::strong_count(&moved[0].addresses), counts);
        moved[0].addresses = Arc::from([Address::Unix("elsewhere".into())]);
        table.apply(&moved);
        assert_eq!(*table.addresses(BackendId(0)), *moved[0].addresses);
        assert_eq!(table.addresses(BackendId(1)), second);
    }

    #[test]
    fn client_that_waits_for_another_backend_blocks_no_other_client() {
        let table = table("queue: {max: 1}");
        table.apply(&states([true, true, true]));
        let mut tried = Tried::default();
        tried.insert(BackendId(0));
        table.permits.shared.queue.join(ShardId(0), tried.clone(), 0).expect("room");
        assert!(matches!(try_pick(&table, &tried, false), Pick::Full), "the other one is wanted already");
        for _ in 0..3 {
            assert_eq!(pick(&table).backend(), BackendId(0));
        }
    }

    /// The backends that sessions get one after another, until none is left.
    fn in_order(table: &UpstreamTable) -> Vec<u16> {
        let (mut tried, mut order) = (Tried::default(), Vec::new());
        while let Pick::Backend(in_flight) = try_pick(table, &tried, false) {
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
        assert!(matches!(try_pick(&table, &Tried::default(), false), Pick::Full));
    }

    #[test]
    fn full_primary_is_waited_for_where_there_is_a_queue_and_spills_over_when_that_was_for_nothing() {
        let table = limited(1, "queue: {max: 2}");
        table.apply(&states([true, true, true]));
        let sessions = [pick(&table), pick(&table)];
        assert!(matches!(try_pick(&table, &Tried::default(), false), Pick::Full));
        let ticket = table.join(&Tried::default()).expect("room");
        assert_eq!(
            table.permits.shared.queue_length(),
            1,
            "it does not wait for the backup, whose free permit it does not get"
        );
        for up in [[true, true, false], [true, true, true]] {
            table.apply(&states(up));
            assert!(served(&table).is_empty());
        }
        assert_eq!(table.permits.shared.queue_length(), 1, "whatever becomes of that");
        let Pick::Backend(spilled) = try_pick(&table, &Tried::default(), true) else { panic!("it is free") };
        assert_eq!(spilled.backend(), BackendId(2));
        drop(sessions);
        assert_eq!(
            (served(&table).len(), table.permits.shared.queue_length()),
            (1, 0),
            "{ticket:?} is served"
        );
    }

    #[test]
    fn who_waits_for_a_primary_is_served_by_the_backup_when_the_primaries_go_down() {
        let table = limited(1, "queue: {max: 2}");
        table.apply(&states([true, true, true]));
        let _sessions = [pick(&table), pick(&table)];
        table.join(&Tried::default()).expect("room");
        table.apply(&states([false, true, true]));
        assert!(served(&table).is_empty());
        table.apply(&states([false, false, true]));
        assert_eq!(served(&table), [BackendId(2)]);
        assert_eq!(
            (table.permits.shared.queue_length(), table.permits.shared.permits_taken(BackendId(2))),
            (0, Some(1))
        );
    }

    #[test]
    fn who_has_tried_the_primaries_waits_for_the_backup() {
        let table = limited(1, "queue: {max: 2}");
        table.apply(&states([true, true, true]));
        let mut tried = Tried::default();
        [0, 1].into_iter().for_each(|id| tried.insert(BackendId(id)));
        let Pick::Backend(backup) = try_pick(&table, &tried, false) else { panic!("it is free") };
        assert!(matches!(try_pick(&table, &tried, false), Pick::Full));
        table.join(&tried).expect("room");
        drop(backup);
        assert_eq!(served(&table), [BackendId(2)]);
        assert_eq!(
            (table.permits.shared.queue_length(), table.permits.shared.permits_taken(BackendId(2))),
            (0, Some(1))
        );
    }

    #[test]
    fn verdict_on_one_address_ends_no_session_on_another() {
        let table = table("on_down: close");
        table.apply(&states([true, true, true]));
        let session = pick(&table);
        let [old, new] = [2, 9].map(|port| Address::Tcp(([127, 0, 0, 1], port).into()));
        let on = |address: &Address| session.forced_close(|| Some(address.clone()));
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
        assert_eq!(session.forced_close(|| Some(Address::Tcp(([127, 0, 0, 1], 2).into()))), None);
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
        assert_eq!(session.forced_close(|| Some(address(2))), Some(CloseReason::BackendDown));
    }

    #[test]
    fn backend_whose_sessions_go_unanswered_does_not_win_by_being_empty() {
        for algorithm in ["least_connections", "random", "peak_ewma"] {
            let table = of_algorithm(algorithm);
            table.apply(&states([true, true, true]));
            // The other backend has ten sessions that last.
            let mut tried = Tried::default();
            tried.insert(FIRST);
            let pick_at = |now, tried: &Tried| match table
                .pick(Request { now: Tick(now), tried, key: 0, spills: false }, |_| None)
            {
                Pick::Backend(in_flight) => in_flight,
                Pick::Full | Pick::Nobody => panic!("one is eligible"),
            };
            let _lasting: Vec<_> = (0..10).map(|_| pick_at(0, &tried)).collect();
            let failing = pick_at(0, &Tried::default());
            assert_eq!(failing.backend(), FIRST, "it is the emptier one");
            failing.unanswered(Tick(0));
            drop(failing);
            let next: Vec<_> = (0..20).map(|_| pick_at(500, &Tried::default())).collect();
            let of_first = next.iter().filter(|session| session.backend() == FIRST).count();
            assert!(of_first <= 10, "{algorithm}: {of_first} of 20");
            drop(next);
            let again = pick_at(1_000, &Tried::default());
            assert_eq!(again.backend(), FIRST, "once more");
            again.unanswered(Tick(1_000));
            again.succeeded();
            drop(again);
            assert_eq!(pick_at(1_001, &Tried::default()).backend(), FIRST, "all is well");
        }
    }

    #[test]
    fn permit_of_a_backend_that_has_become_ineligible_is_given_back() {
        let table = limited(1, "queue: {max: 1}");
        table.apply(&states([true, false, false]));
        let session = pick(&table);
        let tried = Tried::default();
        let ticket = table.join(&tried).expect("room");
        drop(session);
        assert_eq!(served(&table), [FIRST]);
        table.apply(&states([false, true, false]));
        assert!(table.poll_wait(ticket, &tried, Some(FIRST)).expect("another is up").is_none());
        assert_eq!(table.permits.shared.permits_taken(FIRST), Some(0));
        assert_eq!(served(&table), [BackendId(1)], "the client waits again");
        let session = table.poll_wait(ticket, &tried, Some(BackendId(1))).expect("it is up");
        assert_eq!(session.map(|session| session.backend()), Some(BackendId(1)));
        table.apply(&states([false; 3]));
        assert_eq!(table.poll_wait(ticket, &tried, None).err(), Some(CloseReason::NoBackend));
        assert_eq!(table.permits.shared.in_flight(), [0; 3]);
    }

    #[test]
    fn permit_that_goes_over_to_the_pool_does_not_come_free_in_between() {
        let table = limited(1, "queue: {max: 1}");
        table.apply(&states([true, false, false]));
        let session = pick(&table);
        table.join(&Tried::default()).expect("room");
        let permit = session.into_permit().idle();
        assert_eq!((table.permits.shared.in_flight()[0], table.idle_permits(&Tried::default())), (0, 1));
        assert!(served(&table).is_empty() && table.is_waited_for(FIRST));
        drop(permit);
        assert_eq!((served(&table), table.has_waiters()), (vec![FIRST], false));
        assert_eq!(table.permits.shared.permits_taken(FIRST), Some(1), "the waiting client has it");
        assert_eq!(table.idle_permits(&Tried::default()), 0);
    }

    #[test]
    fn session_gets_the_permit_of_a_ready_connection() {
        let table = limited(1, "");
        table.apply(&states([true, false, false]));
        let mut pooled = table.idle_permit(FIRST);
        assert!(pooled.is_some() && matches!(try_pick(&table, &Tried::default(), false), Pick::Full));
        let tried = Tried::default();
        let request = Request { now: Tick(0), tried: &tried, key: 0, spills: false };
        let Pick::Backend(session) = table.pick(request, |_| pooled.take()) else {
            panic!("a permit is ready")
        };
        assert_eq!((table.permits.shared.permits_taken(FIRST), table.idle_permits(&tried)), (Some(1), 0));
        drop(session);
        assert_eq!(table.permits.shared.permits_taken(FIRST), Some(0));
    }

    #[test]
    fn pools_have_permits_of_healthy_backends_only() {
        let table = limited(1, "panic_threshold: 100%");
        table.apply(&states([true, true, true]));
        let permits = [0, 1, 2].map(|id| table.idle_permit(BackendId(id)).is_some());
        assert_eq!(permits, [true; 3], "also of the backup");
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
            assert_eq!(session.forced_close(|| None), expected);
        }
        assert!(!table.apply(&states([true, true, true])), "coming up ends nobody");
        let later = pick(&table);
        assert_eq!((later.backend(), later.forced_close(|| None)), (BackendId(0), None));
        let mut ejected = states([true, true, true]);
        ejected[0].ejected = true;
        assert!(table.apply(&ejected));
        assert_eq!(later.forced_close(|| None), Some(CloseReason::BackendDown));
    }

    #[test]
    fn panic_ends_no_sessions() {
        let table = table("on_down: close\npanic_threshold: 50%");
        table.apply(&states([true, true, false]));
        let sessions = [pick(&table), pick(&table)];
        assert!(!table.apply(&states([false, false, false])));
        assert!(sessions.iter().all(|session| session.forced_close(|| None).is_none()));
        let later = pick(&table);
        assert!(!table.apply(&states([false, true, false])), "it was down before");
        assert_eq!(later.forced_close(|| None), None);
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
        assert_eq!(
            (early.forced_close(|| None), waiting.forced_close(|| None)),
            (None, Some(CloseReason::PrimaryUp))
        );
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
        assert_eq!(session.forced_close(|| None), None);
    }
}
