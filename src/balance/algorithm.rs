//! What an algorithm is: the trait, and what goes into it and comes out of it.

use std::time::Duration;

use crate::base::{BackendId, Tick};

/// An algorithm as the registry knows it. The registry has each name once, so equal names are the same algorithm.
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
    /// Whether it can follow a weight that changes for a while: it goes by weights, and moves no client for
    /// it.
    pub slow_start: bool,
    /// Whether it goes by the order of the backends in the configuration.
    pub goes_by_order: bool,
    /// Makes the instance of one shard.
    pub build: fn(Start) -> Box<dyn Algorithm>,
}

impl PartialEq for Registered {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Registered {}

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
    /// [`hash`](super::hash()) of its name: the same in every process that has a backend of this name.
    pub name_hash: u64,
    /// Its position in the configuration.
    pub position: u32,
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
    /// [`hash`](super::hash()) of the part of the client that decides where it goes; any number where it is
    /// not wanted.
    pub key: u64,
    /// The moment of the pick.
    pub now: Tick,
}

/// A rule for choosing a backend.
pub trait Algorithm {
    /// Takes the new whole set of candidates, in the order of their numbers, each at most once: their identifiers
    /// strictly increase. What is known of the backends from before is kept, so that one that comes and goes does not
    /// skew the shares of the others.
    fn update(&mut self, candidates: &[Candidate]);

    /// Returns a copy in the same state: its picks are those that this one would make next.
    fn copy(&self) -> Box<dyn Algorithm>;

    /// The next backend: a candidate that was not tried, or `None` if and only if there is none.
    fn pick(&mut self, demand: &Demand<'_>) -> Option<BackendId>;

    /// Learns how long a backend took.
    fn observe(&mut self, backend: BackendId, sample: Sample, now: Tick) {
        let _ = (backend, sample, now);
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
