//! Source hash: the same client goes to the same backend while that is a candidate.
//!
//! Weighted rendezvous hashing (Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates",
//! 1998; weights by the logarithm, Schindelhauer and Schomaker, 2005): each candidate draws a number from the
//! client and its own name, and the best number wins. A backend that leaves gives only its own clients away,
//! one that comes takes only those it will keep. A pick looks at every candidate; `maglev` does not, and
//! moves a few more clients at a change.

use super::hash::pair;
use super::{Algorithm, Candidate, Demand, Registered, Wants};
use crate::base::BackendId;

pub(super) const REGISTERED: Registered = Registered {
    name: "source_hash",
    aliases: &[],
    wants: Wants { loads: false, key: true, latency: false },
    weighted: true,
    slow_start: false,
    goes_by_order: false,
    build: |_| Box::new(SourceHash { candidates: Vec::new(), equal: true }),
};

#[derive(Clone)]
struct SourceHash {
    candidates: Vec<Candidate>,
    /// All weights are the same: the largest hash wins, which the logarithm would not change.
    equal: bool,
}

/// What a candidate draws for a key; the largest wins.
fn draw(candidate: &Candidate, key: u64) -> u64 {
    pair(key, candidate.name_hash)
}

/// The same with its weight: `-weight / ln(u)` with `u` evenly from 0 to 1, both excluded.
fn weighted_draw(candidate: &Candidate, key: u64) -> f64 {
    const UNIT: f64 = 1.0 / (1u64 << 53) as f64;
    let uniform = ((draw(candidate, key) >> 11) as f64 + 0.5) * UNIT;
    f64::from(candidate.weight) / -uniform.ln()
}

impl Algorithm for SourceHash {
    fn copy(&self) -> Box<dyn Algorithm> {
        Box::new(self.clone())
    }

    fn update(&mut self, candidates: &[Candidate]) {
        self.candidates.clear();
        self.candidates.extend_from_slice(candidates);
        self.equal = candidates.windows(2).all(|pair| pair[0].weight == pair[1].weight);
    }

    fn pick(&mut self, demand: &Demand<'_>) -> Option<BackendId> {
        let untried = self.candidates.iter().filter(|candidate| !demand.tried.contains(candidate.id));
        let best = if self.equal {
            untried.max_by_key(|candidate| draw(candidate, demand.key))
        } else {
            untried.max_by(|a, b| weighted_draw(a, demand.key).total_cmp(&weighted_draw(b, demand.key)))
        };
        best.map(|candidate| candidate.id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::hash::hash;
    use super::super::testing::*;
    use super::super::{Start, Tried};
    use super::*;

    fn homes(candidates: &[Candidate], clients: u32) -> Vec<BackendId> {
        let mut algorithm = (REGISTERED.build)(Start { seed: 9, ..FIRST });
        algorithm.update(candidates);
        let tried = Tried::default();
        let home = |client: u32| {
            let key = hash(&client.to_be_bytes());
            algorithm.pick(&Demand { key, ..demand(&[], &tried) }).expect("there are candidates")
        };
        (0..clients).map(home).collect()
    }

    #[test]
    fn shares_follow_the_weights() {
        for set in [[1, 1, 1, 1], [1, 2, 3, 4]] {
            let mut shares = [0u32; 4];
            homes(&weights(&set), 40_000).into_iter().for_each(|id| shares[id.index()] += 1);
            let sum: u32 = set.iter().sum();
            for (share, weight) in shares.iter().zip(set) {
                let fair = 40_000 * weight / sum;
                assert!(share.abs_diff(fair) < 400, "{shares:?} of {set:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn only_the_clients_of_a_backend_that_leaves_move(
            set in prop::collection::vec(1u32..5, 2..12), leaves: prop::sample::Index,
        ) {
            let all = weights(&set);
            let mut rest = all.clone();
            let gone = rest.remove(leaves.index(all.len())).id;
            for (before, after) in homes(&all, 500).into_iter().zip(homes(&rest, 500)) {
                prop_assert!(before == after || before == gone);
            }
        }
    }
}
