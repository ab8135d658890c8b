//! One generation: a configuration with the numbers of its objects, and what all threads share of them.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use super::failures::OnReport;
use super::names::{Names, NumbersSpent};
use super::shared::SharedUpstream;
use crate::admission::{ListenerState, SharedListener};
use crate::base::{BackendId, BackendKey, ListenerId, UpstreamId};
use crate::config::{self, Config};
use crate::tls::{ClientSettings, ServerSettings, Tickets, Unusable};

/// See the module documentation. A snapshot never changes: the next generation is another snapshot, and a
/// session keeps the one it began with.
pub struct Snapshot {
    generation: u64,
    config: Arc<Config>,
    /// The number of each listener, in the order of the configuration.
    listeners: Vec<ListenerId>,
    /// In the order of the configuration.
    shared_listeners: Vec<Arc<SharedListener>>,
    /// What goes on of all listeners, of removed ones as long as sessions hold it.
    listener_states: BTreeMap<ListenerId, Weak<ListenerState>>,
    /// In the order of the configuration.
    upstreams: Vec<Arc<SharedUpstream>>,
    /// Those of earlier generations that sessions still hold; one that comes back goes on with them.
    removed: Vec<Weak<SharedUpstream>>,
    names: Names,
    reused: Vec<BackendKey>,
    /// With which clients of TLS resume sessions.
    tickets: Arc<Tickets>,
}

/// Why a generation cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// No number is left for a new object.
    #[error(transparent)]
    Numbers(#[from] NumbersSpent),
    /// What handshakes of TLS need cannot be made.
    #[error(transparent)]
    Tls(#[from] Unusable),
}

impl Snapshot {
    /// Builds the generation after `previous`, or the first one. Listeners, upstreams and backends that keep
    /// their names also keep their numbers, and with them their counters, sessions and permits; the order in
    /// the file does not matter. An upstream in which nothing has changed is the same object. `on_report` is told of
    /// failures of sessions.
    ///
    /// # Errors
    ///
    /// See [`BuildError`]. Nothing has changed in that case.
    pub fn build(
        config: Arc<Config>,
        shards: usize,
        on_report: Option<&OnReport>,
        previous: Option<&Self>,
    ) -> Result<Self, BuildError> {
        let tickets = previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.tickets));
        Self::build_with(config, shards, on_report, previous, tickets)
    }

    /// As [`Snapshot::build`], with these tickets.
    ///
    /// # Errors
    ///
    /// As [`Snapshot::build`].
    pub fn build_with(
        config: Arc<Config>,
        shards: usize,
        on_report: Option<&OnReport>,
        previous: Option<&Self>,
        tickets: Arc<Tickets>,
    ) -> Result<Self, BuildError> {
        let mut names = previous.map_or_else(Names::default, |previous| previous.names.clone());
        let listeners = config.listeners.iter().map(|listener| names.listener(&listener.name));
        let listeners = listeners.collect::<Result<Vec<_>, _>>()?;
        let ids = config.upstreams.iter().map(|upstream| names.upstream(&upstream.name));
        let ids = ids.collect::<Result<Vec<_>, _>>()?;
        // First of all, because it may fail, and from then on there are effects on what runs.
        let server_tls = listeners.iter().zip(&config.listeners);
        let server_tls = server_tls.map(|(id, listener)| server_tls_of(*id, listener, previous, &tickets));
        let server_tls = server_tls.collect::<Result<Vec<_>, _>>()?;
        let client_tls = ids.iter().zip(&config.upstreams);
        let client_tls = client_tls.map(|(id, upstream)| client_tls_of(*id, upstream, previous));
        let client_tls = client_tls.collect::<Result<Vec<_>, _>>()?;
        let (mut upstreams, mut reused) = (Vec::new(), Vec::new());
        for ((position, upstream), (id, tls)) in
            config.upstreams.iter().enumerate().zip(ids.into_iter().zip(client_tls))
        {
            let kept = previous.and_then(|previous| previous.upstream(id));
            if let Some(kept) = kept.filter(|kept| kept.config() == upstream) {
                upstreams.push(Arc::clone(kept));
                continue;
            }
            let goes_on = kept.is_some();
            let kept = kept.cloned().or_else(|| previous?.removed(id));
            let entries = upstream.backends.iter().map(|backend| &*backend.name);
            let in_use = kept.as_ref().map(|kept| kept.in_use()).unwrap_or_default();
            let is_in_use = |number: BackendId| in_use.get(number.index()).copied().unwrap_or(false);
            let (numbers, own) = names.backends(id, entries, is_in_use)?;
            reused.extend(own.into_iter().map(|backend| BackendKey { upstream: id, backend }));
            let numbers = (numbers, names.given(id));
            let kept = (kept.as_deref(), goes_on);
            let built = SharedUpstream::build(id, numbers, (&config, position), shards, on_report, kept);
            upstreams.push(Arc::new(built.with_tls(tls)));
        }
        let shared_listeners = listeners.iter().zip(&config.listeners);
        let shared_listeners: Vec<_> = shared_listeners
            .zip(server_tls)
            .map(|((id, listener), tls)| {
                Arc::new(shared_listener(*id, listener, previous, shards).with_tls(tls))
            })
            .collect();
        let mut listener_states =
            previous.map_or_else(BTreeMap::new, |previous| previous.listener_states.clone());
        listener_states.retain(|_, state| state.strong_count() > 0);
        listener_states
            .extend(shared_listeners.iter().map(|shared| (shared.id(), Arc::downgrade(shared.state()))));
        let removed = previous.map_or_else(Vec::new, |previous| previous.without(&upstreams));
        let generation = previous.map_or(1, |previous| previous.generation + 1);
        Ok(Self {
            generation,
            config,
            listeners,
            shared_listeners,
            listener_states,
            upstreams,
            removed,
            names,
            reused,
            tickets,
        })
    }

    fn removed(&self, id: UpstreamId) -> Option<Arc<SharedUpstream>> {
        self.removed.iter().filter_map(Weak::upgrade).find(|upstream| upstream.id() == id)
    }

    /// Returns the upstreams of this and of earlier generations that are still held, but for these.
    fn without(&self, upstreams: &[Arc<SharedUpstream>]) -> Vec<Weak<SharedUpstream>> {
        let earlier = self.removed.iter().filter_map(Weak::upgrade);
        let all = self.upstreams.iter().cloned().chain(earlier);
        let is_there = |one: &Arc<SharedUpstream>| upstreams.iter().any(|other| other.id() == one.id());
        all.filter(|one| !is_there(one)).map(|one| Arc::downgrade(&one)).collect()
    }

    /// Returns the tickets with which clients of TLS resume sessions.
    #[must_use]
    pub fn tickets(&self) -> &Arc<Tickets> {
        &self.tickets
    }

    /// Returns the number of the generation, which counts from 1.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns the configuration.
    #[must_use]
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Returns the numbers of the listeners, in the order of the configuration.
    #[must_use]
    pub fn listeners(&self) -> &[ListenerId] {
        &self.listeners
    }

    /// Returns what is shared of the listeners, in the order of the configuration.
    #[must_use]
    pub fn shared_listeners(&self) -> &[Arc<SharedListener>] {
        &self.shared_listeners
    }

    /// Returns what is shared of the listener with this number, if this generation has it.
    #[must_use]
    pub fn shared_listener(&self, id: ListenerId) -> Option<&Arc<SharedListener>> {
        self.shared_listeners.iter().find(|shared| shared.id() == id)
    }

    /// Returns the upstreams, in the order of the configuration.
    #[must_use]
    pub fn upstreams(&self) -> &[Arc<SharedUpstream>] {
        &self.upstreams
    }

    /// Returns the upstream that serves a listener of this configuration, but for clients whom a route takes.
    #[must_use]
    pub fn upstream_of(&self, listener: &config::Listener) -> &Arc<SharedUpstream> {
        &self.upstreams[listener.upstream.index()]
    }

    /// Returns all upstreams to which clients of a listener of this configuration may go.
    pub fn upstreams_of(&self, listener: &config::Listener) -> impl Iterator<Item = &Arc<SharedUpstream>> {
        listener.upstreams().into_iter().map(|id| &self.upstreams[id.index()])
    }

    /// Returns the upstream with this number, if this generation has it.
    #[must_use]
    pub fn upstream(&self, id: UpstreamId) -> Option<&Arc<SharedUpstream>> {
        self.upstreams.iter().find(|upstream| upstream.id() == id)
    }

    /// Returns the keys of all backends.
    pub fn keys(&self) -> impl Iterator<Item = BackendKey> {
        self.upstreams.iter().flat_map(|shared| {
            let key = |backend: &BackendId| BackendKey { upstream: shared.id(), backend: *backend };
            shared.numbers().iter().map(key)
        })
    }

    /// Returns the backends whose numbers were those of others before: what was counted for these has to be forgotten.
    #[must_use]
    pub fn reused(&self) -> &[BackendKey] {
        &self.reused
    }

    /// Returns the names of everything that has a number, of earlier generations too.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }
}

/// Builds what is shared of a listener, which goes on with what it has of the generation before.
fn shared_listener(
    id: ListenerId,
    listener: &config::Listener,
    previous: Option<&Snapshot>,
    shards: usize,
) -> SharedListener {
    let before = previous.and_then(|previous| previous.shared_listener(id)).map(|before| &**before);
    let state = previous.and_then(|previous| previous.listener_states.get(&id)?.upgrade());
    SharedListener::new(id, listener, before, state, shards)
}

/// Returns what handshakes with the clients of a listener need: what they needed before, if nothing has changed.
fn server_tls_of(
    id: ListenerId,
    listener: &config::Listener,
    previous: Option<&Snapshot>,
    tickets: &Arc<Tickets>,
) -> Result<Option<Arc<ServerSettings>>, Unusable> {
    let Some(tls) = &listener.tls else { return Ok(None) };
    let before = previous.and_then(|previous| previous.shared_listener(id)?.tls());
    match before.filter(|before| before.of() == tls) {
        Some(before) => Ok(Some(Arc::clone(before))),
        None => ServerSettings::new(&listener.name, tls, tickets).map(Arc::new).map(Some),
    }
}

/// Returns what handshakes with the backends of an upstream need; what they needed before may go on.
fn client_tls_of(
    id: UpstreamId,
    upstream: &config::Upstream,
    previous: Option<&Snapshot>,
) -> Result<Option<Arc<ClientSettings>>, Unusable> {
    let Some(tls) = &upstream.tls else { return Ok(None) };
    let before = previous.and_then(|previous| previous.upstream(id)?.tls()).map(|before| &**before);
    ClientSettings::new(&upstream.name, tls, &upstream.backends, before).map(Arc::new).map(Some)
}

/// The snapshot of the generation that runs, for threads that only look now and then.
pub struct Current(RwLock<Arc<Snapshot>>);

impl Current {
    /// The first generation runs.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>) -> Arc<Self> {
        Arc::new(Self(RwLock::new(snapshot)))
    }

    /// Returns the snapshot.
    #[must_use]
    pub fn get(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the next one.
    pub fn set(&self, snapshot: Arc<Snapshot>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Tried;
    use crate::base::{Address, BackendId, ShardId, ShardPlace, Tick};
    use crate::config;
    use crate::upstream::{BackendState, Health, InFlight, Pick, Request, UpstreamTable};

    const PLACE: ShardPlace = ShardPlace { shard: ShardId(0), shards: 1, seed: 0 };

    fn built(upstreams: &str, previous: Option<&Snapshot>) -> Snapshot {
        let text =
            format!("listeners: [{{name: web, address: ':1', upstream: a}}]\nupstreams: [{upstreams}]\n");
        let parsed = config::parse("test.yaml", text.as_bytes()).unwrap_or_else(|report| panic!("{report}"));
        let config = Arc::new(parsed.config);
        Snapshot::build(config, 1, None, previous).expect("numbers")
    }

    /// An upstream with these backends, in this order; each may have one connection.
    fn upstream(name: &str, backends: &[&str]) -> String {
        let backend = |backend: &&str| {
            let port = 1_000 + u16::from(backend.as_bytes()[0]);
            format!("{{name: {backend}, address: 127.0.0.1, port: {port}, max_connections: 1}}")
        };
        let backends: Vec<_> = backends.iter().map(backend).collect();
        format!("{{name: {name}, queue: {{max: 1}}, backends: [{}]}}", backends.join(", "))
    }

    fn named<'s>(snapshot: &'s Snapshot, name: &str) -> Option<&'s Arc<SharedUpstream>> {
        snapshot.upstreams().iter().find(|upstream| upstream.config().name == name)
    }

    #[test]
    fn what_has_not_changed_is_the_same_and_what_comes_back_goes_on() {
        let (a, b) = (upstream("a", &["p"]), upstream("b", &["x"]));
        let first = built(&format!("{a}, {b}"), None);
        let held = Arc::clone(named(&first, "b").expect("it is there"));
        assert!(held.take(BackendId(0), ShardId(0)), "a permit is free");
        let second = built(&a, Some(&first));
        assert!(Arc::ptr_eq(named(&first, "a").unwrap(), named(&second, "a").unwrap()));
        assert!(named(&second, "b").is_none());
        let third = built(&format!("{b}, {a}"), Some(&second));
        let back = named(&third, "b").expect("it is back");
        assert_eq!((back.id(), back.permits_taken(BackendId(0))), (held.id(), Some(1)));
        assert!(Arc::ptr_eq(named(&first, "a").unwrap(), named(&third, "a").unwrap()), "whatever the order");
    }

    fn pick(table: &UpstreamTable, tried: &[BackendId]) -> Option<InFlight> {
        let mut all = Tried::default();
        tried.iter().for_each(|one| all.insert(*one));
        match table.pick(Request { now: Tick(0), tried: &all, key: 0, spills: false }, |_| None) {
            Pick::Backend(in_flight) => Some(in_flight),
            Pick::Full | Pick::Nobody => None,
        }
    }

    #[test]
    fn kept_backends_keep_numbers_health_sessions_and_permits_in_the_next_generation() {
        let first = built(&format!("{}, {}", upstream("b", &["x"]), upstream("a", &["p", "q", "r"])), None);
        let shared = named(&first, "a").expect("it is there");
        assert_eq!(shared.numbers(), [0, 1, 2].map(BackendId));
        let table = UpstreamTable::new(Arc::clone(shared), PLACE, None);
        let up = BackendState {
            health: Health::Up,
            addresses: Arc::from([Address::Tcp(([127, 0, 0, 1], 2).into())]),
            ..BackendState::unknown()
        };
        table.apply(&vec![up.clone(); 3]);
        let [p, q, r] = [0, 1, 2].map(BackendId);
        let sessions = [pick(&table, &[q, r]), pick(&table, &[p, r])].map(|session| session.expect("free"));

        // The second generation has another order, one backend fewer, and one new backend.
        let second =
            built(&format!("{}, {}", upstream("a", &["s", "q", "p"]), upstream("c", &["x"])), Some(&first));
        let next = named(&second, "a").expect("it is there");
        assert_eq!((next.id(), next.numbers()), (shared.id(), &[3, 1, 0].map(BackendId)[..]));
        assert_eq!((second.generation(), second.listeners()), (2, first.listeners()));
        let c = named(&second, "c").expect("it is there").id();
        assert!(first.upstreams().iter().all(|upstream| upstream.id() != c), "a number is no one else's");
        let s = BackendId(3);
        assert_eq!([p, q, s].map(|id| next.permits_taken(id)), [Some(1), Some(1), Some(0)]);
        let new_table = UpstreamTable::new(Arc::clone(next), PLACE, Some(&table));
        assert_eq!([p, q, r, s].map(|id| new_table.is_candidate(id)), [true, true, false, false], "health");
        assert_eq!(new_table.own_sessions(p), 1);
        assert!(pick(&new_table, &[]).is_none(), "both are full");

        // The end of a session of the old generation serves a client that waits in the new one.
        let ticket = new_table.join(&Tried::default()).expect("room");
        drop(sessions);
        let served = new_table.serve();
        assert_eq!(served.len(), 1);
        assert_eq!(served[0].0, ticket);
        drop(new_table.granted(served[0].1));
        assert_eq!([p, q].map(|id| next.permits_taken(id)), [Some(0), Some(0)]);
        assert_eq!(next.in_flight(), [0; 4]);
    }
}
