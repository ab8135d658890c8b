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

// Stand-ins until the algorithms are merged.
static REGISTRY: [Registered; 2] = [
    Registered { name: "round_robin", aliases: &["weighted_round_robin"], build: stand_in },
    Registered { name: "least_connections", aliases: &[], build: stand_in },
];

fn stand_in(_: Start) -> Box<dyn Algorithm> {
    struct First(Vec<Candidate>);
    impl Algorithm for First {
        fn uses_loads(&self) -> bool {
            false
        }
        fn update(&mut self, candidates: &[Candidate]) {
            self.0 = candidates.to_vec();
        }
        fn pick(&mut self, _: &[u32], tried: &Tried) -> Option<BackendId> {
            self.0.iter().map(|candidate| candidate.id).find(|id| !tried.contains(*id))
        }
    }
    Box::new(First(Vec::new()))
}

/// The algorithm with this name or alias.
#[must_use]
pub fn find(name: &str) -> Option<&'static Registered> {
    REGISTRY.iter().find(|known| known.name == name || known.aliases.contains(&name))
}

/// Every name and alias.
pub fn names() -> impl Iterator<Item = &'static str> {
    REGISTRY.iter().flat_map(|known| std::iter::once(known.name).chain(known.aliases.iter().copied()))
}
