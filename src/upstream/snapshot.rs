//! One generation: a configuration with the numbers of its objects, and what all threads share of them.

use std::sync::Arc;

use super::failures::Failures;
use super::shared::{NumbersSpent, SharedUpstream};
use crate::base::{ListenerId, UpstreamId};
use crate::config::Config;

/// See the module documentation. A snapshot never changes: the next generation is another snapshot, and a
/// session keeps the one it began with.
pub struct Snapshot {
    generation: u64,
    config: Arc<Config>,
    /// The number of each listener, in the order of the configuration.
    listeners: Vec<ListenerId>,
    /// In the order of the configuration.
    upstreams: Vec<Arc<SharedUpstream>>,
    /// The number of listener numbers ever given.
    given_listeners: usize,
    given_upstreams: usize,
}

impl Snapshot {
    /// Builds the generation after `previous`, or the first one. Listeners, upstreams and backends that keep
    /// their names also keep their numbers, and with them their counters, sessions and permits; the order in
    /// the file does not matter. `failures` returns the failure counts of an upstream.
    ///
    /// # Errors
    ///
    /// No number is left for a new object. Nothing has changed in that case.
    pub fn build(
        config: Arc<Config>,
        shards: usize,
        failures: Vec<Option<Arc<Failures>>>,
        previous: Option<&Self>,
    ) -> Result<Self, NumbersSpent> {
        assert_eq!(failures.len(), config.upstreams.len(), "failures of another configuration");
        let (mut given_listeners, mut given_upstreams) =
            previous.map_or((0, 0), |previous| (previous.given_listeners, previous.given_upstreams));
        let mut listeners = Vec::new();
        for listener in &config.listeners {
            let kept = previous.and_then(|previous| previous.listener(&listener.name));
            listeners.push(ListenerId(match kept {
                Some(id) => id.0,
                None => next(&mut given_listeners, &listener.name)?,
            }));
        }
        let mut upstreams = Vec::new();
        for ((position, upstream), failures) in config.upstreams.iter().enumerate().zip(failures) {
            let kept = previous.and_then(|previous| previous.upstream(&upstream.name));
            let id = UpstreamId(match kept {
                Some(kept) => kept.id().0,
                None => next(&mut given_upstreams, &upstream.name)?,
            });
            let kept = kept.map(|kept| &**kept);
            upstreams.push(SharedUpstream::build(id, (&config, position), shards, failures, kept)?);
        }
        let generation = previous.map_or(1, |previous| previous.generation + 1);
        Ok(Self { generation, config, listeners, upstreams, given_listeners, given_upstreams })
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

    /// Returns the upstreams, in the order of the configuration.
    #[must_use]
    pub fn upstreams(&self) -> &[Arc<SharedUpstream>] {
        &self.upstreams
    }

    fn listener(&self, name: &str) -> Option<ListenerId> {
        let position = self.config.listeners.iter().position(|listener| listener.name == name)?;
        Some(self.listeners[position])
    }

    /// Returns the upstream with this name.
    #[must_use]
    pub fn upstream(&self, name: &str) -> Option<&Arc<SharedUpstream>> {
        self.upstreams.iter().find(|upstream| upstream.config().name == name)
    }
}

fn next(given: &mut usize, name: &str) -> Result<u16, NumbersSpent> {
    let number = u16::try_from(*given).map_err(|_| NumbersSpent(name.to_owned()))?;
    *given += 1;
    Ok(number)
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
        let failures = config.upstreams.iter().map(|_| None).collect();
        Snapshot::build(config, 1, failures, previous).expect("numbers")
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
        let shared = first.upstream("a").expect("it is there");
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
        let next = second.upstream("a").expect("it is there");
        assert_eq!((next.id(), next.numbers()), (shared.id(), &[3, 1, 0].map(BackendId)[..]));
        assert_eq!((second.generation(), second.listeners()), (2, first.listeners()));
        let c = second.upstream("c").expect("it is there").id();
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
