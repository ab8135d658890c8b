//! Which backend next: one file an algorithm, one registry.
//!
//! An algorithm is pure: the same calls with the same arguments give the same picks. Each shard has its own
//! instance for each upstream.

mod first;
mod hash;
mod least_connections;
mod maglev;
mod peak_ewma;
mod random;
mod rotation;
mod round_robin;
mod source_hash;
#[cfg(test)]
mod testing;

use std::time::Duration;

use crate::base::BackendId;

/// Every algorithm. A new one is a file in this folder and a line here.
static REGISTRY: &[Registered] = &[
    round_robin::REGISTERED,
    least_connections::REGISTERED,
    random::REGISTERED,
    source_hash::REGISTERED,
    maglev::REGISTERED,
    peak_ewma::REGISTERED,
    first::REGISTERED,
];

pub use hash::hash;
pub(crate) use hash::{Random, pair};

/// The algorithm that goes by this name or alias in the configuration.
#[must_use]
pub fn find(name: &str) -> Option<&'static Registered> {
    REGISTRY.iter().find(|algorithm| algorithm.name == name || algorithm.aliases.contains(&name))
}

/// Every name and alias that [`find`] knows, for messages to the operator.
pub fn names() -> impl Iterator<Item = &'static str> {
    REGISTRY
        .iter()
        .flat_map(|algorithm| std::iter::once(algorithm.name).chain(algorithm.aliases.iter().copied()))
}

/// What other balancers, and people, call algorithms that do the same or the nearest to it. In lower case, with `_`.
const FOREIGN: &[(&str, &[&str])] = &[
    ("round_robin", &["rr", "wrr", "swrr", "roundrobin", "static_rr", "weighted", "rotate"]),
    (
        "least_connections",
        &["lc", "wlc", "leastconn", "least_conn", "least_connection", "leastconnections", "least_request"],
    ),
    ("random", &["p2c", "power_of_two", "power_of_two_choices", "random_two", "two_choices"]),
    (
        "source_hash",
        &[
            "source",
            "src",
            "sh",
            "hash",
            "ip_hash",
            "iphash",
            "source_ip",
            "source_ip_hash",
            "client_ip",
            "sticky",
        ],
    ),
    ("maglev", &["mh", "consistent", "consistent_hash", "ring_hash", "ketama", "chash"]),
    ("peak_ewma", &["ewma", "least_time", "fastest", "response_time", "latency"]),
    ("first", &["failover", "pick_first", "priority", "active_passive", "primary_backup"]),
];

/// The algorithm that whoever comes from another program means by this word.
#[must_use]
pub fn meant_by(word: &str) -> Option<&'static str> {
    let word = word.to_lowercase().replace(['-', ' '], "_");
    FOREIGN.iter().find(|(_, theirs)| theirs.contains(&&*word)).map(|(ours, _)| *ours)
}

/// An algorithm as the registry knows it.
#[derive(Debug)]
pub struct Registered {
    /// The name in the configuration.
    pub name: &'static str,
    /// Other names it goes by in the configuration.
    pub aliases: &'static [&'static str],
    /// What it wants to know of a session.
    pub wants: Wants,
    /// Whether it goes by weights.
    pub weighted: bool,
    /// Whether it can follow a weight that changes for a while: it goes by weights, and moves no client for it.
    pub slow_start: bool,
    /// Makes the instance of one shard.
    pub build: fn(Start) -> Box<dyn Algorithm>,
}

/// What an algorithm looks at; what it does not look at need not be found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// [`Demand::loads`]; where it is not wanted, the caller may pass zeros.
    pub loads: bool,
    /// [`Demand::key`].
    pub key: bool,
    /// [`Algorithm::observe`].
    pub latency: bool,
}

/// Where the instance of one shard begins, so that the shards do not all send their first session to the
/// same backend.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// This shard, counted from 0.
    pub shard: usize,
    /// All shards, at least 1.
    pub shards: usize,
    /// Seed of what is left to chance; another one for each process, so that two of them do not choose alike.
    pub seed: u64,
}

/// An eligible backend with a positive weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which backend.
    pub id: BackendId,
    /// Its weight, 1 to `limits::WEIGHT_MAX`; `limits::RAMP_STEPS` times as much while someone ramps.
    pub weight: u32,
    /// [`hash`] of its name: the same in every process that has a backend of this name.
    pub name_hash: u64,
}

/// The backends one session has tried already; they are not picked again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tried(Vec<BackendId>);

impl Tried {
    /// Remembers a backend.
    pub fn insert(&mut self, id: BackendId) {
        self.0.push(id);
    }

    /// Whether this backend was tried.
    #[must_use]
    pub fn contains(&self, id: BackendId) -> bool {
        self.0.contains(&id)
    }

    /// How many were tried.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none was tried.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A session that wants a backend.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'a> {
    /// Sessions in flight of the whole process, indexed by `BackendId`.
    pub loads: &'a [u32],
    /// Backends that are not picked again.
    pub tried: &'a Tried,
    /// [`hash`] of the part of the client that decides where it goes; any number where it is not wanted.
    pub key: u64,
    /// Now, milliseconds since a moment that stays the same.
    pub now_millis: u64,
}

/// A rule for choosing a backend.
pub trait Algorithm {
    /// Takes the new whole set of candidates, in the order of the configuration, each at most once: their
    /// identifiers strictly increase. What is known of the backends from before is kept, so that one that
    /// comes and goes does not skew the shares of the others.
    fn update(&mut self, candidates: &[Candidate]);

    /// The next backend: a candidate that was not tried, or `None` if and only if there is none.
    fn pick(&mut self, demand: &Demand<'_>) -> Option<BackendId>;

    /// Learns how long a backend took.
    fn observe(&mut self, backend: BackendId, sample: Sample, now_millis: u64) {
        let _ = (backend, sample, now_millis);
    }
}

/// How a backend did, and how long it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sample {
    /// For a connection, or from it to the first byte.
    Took(Duration),
    /// For nothing: it failed, or ended the session without a byte.
    InVain(Duration),
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_name_is_unique_and_found() {
        let mut seen = HashSet::new();
        for name in names() {
            assert!(seen.insert(name), "{name} is registered twice");
            let found = find(name).expect("a listed name is found");
            assert!(found.name == name || found.aliases.contains(&name));
        }
        assert!(find("round-robin").is_none());
    }

    #[test]
    fn words_of_others_mean_one_of_ours_and_are_none() {
        let mut seen = HashSet::new();
        for (ours, theirs) in FOREIGN {
            assert_eq!(find(ours).map(|found| found.name), Some(*ours));
            for word in *theirs {
                assert!(find(word).is_none() && seen.insert(word), "{word}");
                assert_eq!(meant_by(&word.to_uppercase().replace('_', "-")), Some(*ours));
            }
        }
    }

    #[test]
    fn weighted_round_robin_is_round_robin() {
        assert_eq!(find("weighted_round_robin").map(|found| found.name), Some("round_robin"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_pick_is_an_untried_candidate_or_none_without_one(steps in testing::any_steps(), seed: u64) {
            for registered in REGISTRY {
                let mut algorithm = (registered.build)(Start { shard: 1, shards: 3, seed });
                testing::picks_are_untried_candidates(&mut *algorithm, &steps)?;
            }
        }
    }
}
