//! Which backend next: one file an algorithm, one registry.
//!
//! An algorithm is pure: the same calls with the same arguments give the same picks. Each shard has its own
//! instance for each upstream.

mod least_connections;
mod rotation;
mod round_robin;
#[cfg(test)]
mod testing;

use crate::words::BackendId;

/// Every algorithm. A new one is a file in this folder and a line here.
static REGISTRY: &[Registered] = &[round_robin::REGISTERED, least_connections::REGISTERED];

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

/// An algorithm as the registry knows it.
#[derive(Debug)]
pub struct Registered {
    /// The name in the configuration.
    pub name: &'static str,
    /// Other names it goes by in the configuration.
    pub aliases: &'static [&'static str],
    /// Makes the instance of one shard.
    pub build: fn(Start) -> Box<dyn Algorithm>,
}

/// Where the instance of one shard begins, so that the shards do not all send their first session to the
/// same backend.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// This shard, counted from 0.
    pub shard: usize,
    /// All shards, at least 1.
    pub shards: usize,
}

/// An eligible backend with a positive weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which backend.
    pub id: BackendId,
    /// Its weight, 1 to `limits::WEIGHT`.
    pub weight: u32,
}

/// The backends one session has tried already; they are not picked again.
#[derive(Clone, Debug, Default)]
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

/// A rule for choosing a backend.
pub trait Algorithm {
    /// Whether a pick looks at `loads`; where it does not, the caller may pass zeros.
    fn uses_loads(&self) -> bool;

    /// Takes the new whole set of candidates, in the order of the configuration, each at most once: their
    /// identifiers strictly increase. What is known of the backends from before is kept, so that one that
    /// comes and goes does not skew the shares of the others.
    fn update(&mut self, candidates: &[Candidate]);

    /// The next backend: a candidate that was not tried, or `None` if and only if there is none.
    ///
    /// `loads` holds the sessions in flight of the whole process, indexed by `BackendId`.
    fn pick(&mut self, loads: &[u32], tried: &Tried) -> Option<BackendId>;
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

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
    fn weighted_round_robin_is_round_robin() {
        assert_eq!(find("weighted_round_robin").map(|found| found.name), Some("round_robin"));
    }
}
