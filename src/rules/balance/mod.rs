//! Which backend next: one file an algorithm, one registry.
//!
//! An algorithm is pure: the same calls with the same arguments give the same picks. Each shard has its own
//! instance for each upstream.

use crate::words::BackendId;

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

    /// Takes the new whole set of candidates, in the order of the configuration, each at most once.
    fn update(&mut self, candidates: &[Candidate]);

    /// The next backend: a candidate that was not tried, or `None` if and only if there is none.
    ///
    /// `loads` holds the sessions in flight of the whole process, indexed by `BackendId`.
    fn pick(&mut self, loads: &[u32], tried: &Tried) -> Option<BackendId>;
}
