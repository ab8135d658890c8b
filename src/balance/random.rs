//! Random with two choices: of two candidates drawn at random, the one with fewer sessions for its weight.
//!
//! Two choices instead of one bring the fullest of `n` backends from `log n / log log n` to `log log n` above
//! the mean (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001), and cost the same
//! with any number of candidates. Candidates are drawn as often as their weights say.

use super::hash::{Random, pair};
use super::least_connections::Fill;
use super::{Algorithm, Candidate, Demand, Registered, Start, Tried, Wants};
use crate::base::BackendId;

pub(super) const REGISTERED: Registered = Registered {
    name: "random",
    aliases: &[],
    wants: Wants { loads: true, key: false, latency: false },
    weighted: true,
    slow_start: true,
    goes_by_order: false,
    build: |start| Box::new(TwoChoices { draw: Draw::new(start) }),
};

#[derive(Clone)]
struct TwoChoices {
    draw: Draw,
}

/// Draws candidates, each as often as its weight says.
#[derive(Clone)]
pub(super) struct Draw {
    candidates: Vec<Candidate>,
    /// Sum of the weights up to and including each candidate.
    sums: Vec<u32>,
    random: Random,
}

impl Draw {
    pub(super) fn new(start: Start) -> Self {
        let random = Random::new(pair(start.seed, start.shard as u64));
        Self { candidates: Vec::new(), sums: Vec::new(), random }
    }

    pub(super) fn update(&mut self, candidates: &[Candidate]) {
        self.candidates.clear();
        self.candidates.extend_from_slice(candidates);
        self.sums.clear();
        // At most `limits::BACKENDS_PER_UPSTREAM_MAX * limits::WEIGHT_MAX * limits::RAMP_STEPS`, far below
        // 2^32.
        self.sums.extend(candidates.iter().scan(0, |sum, candidate| {
            *sum += candidate.weight;
            Some(*sum)
        }));
    }

    /// Two candidates that were not tried, different ones if there are two.
    pub(super) fn two(&mut self, tried: &Tried) -> Option<(Candidate, Candidate)> {
        let first = self.one(|candidate| !tried.contains(candidate.id))?;
        let second = self.one(|candidate| candidate.id != first.id && !tried.contains(candidate.id));
        Some((first, second.unwrap_or(first)))
    }

    /// A candidate that is `wanted`: drawn, or, where draws keep missing, the next one in order behind the
    /// last draw.
    fn one(&mut self, wanted: impl Fn(&Candidate) -> bool) -> Option<Candidate> {
        const DRAWS: usize = 4;
        let total = *self.sums.last()?;
        let mut at = 0;
        for _ in 0..DRAWS {
            let point = self.random.below(total);
            at = self.sums.partition_point(|sum| *sum <= point);
            if wanted(&self.candidates[at]) {
                return Some(self.candidates[at]);
            }
        }
        let (before, after) = self.candidates.split_at(at);
        after.iter().chain(before).find(|candidate| wanted(candidate)).copied()
    }
}

impl Algorithm for TwoChoices {
    fn copy(&self) -> Box<dyn Algorithm> {
        Box::new(self.clone())
    }

    fn update(&mut self, candidates: &[Candidate]) {
        self.draw.update(candidates);
    }

    fn pick(&mut self, demand: &Demand<'_>) -> Option<BackendId> {
        let (first, second) = self.draw.two(demand.tried)?;
        let second_is_better = Fill::of(&second, demand.loads).is_below(Fill::of(&first, demand.loads));
        Some(if second_is_better { second.id } else { first.id })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    fn random(seed: u64, candidates: &[Candidate]) -> TwoChoices {
        let mut algorithm = TwoChoices { draw: Draw::new(Start { seed, ..FIRST }) };
        algorithm.update(candidates);
        algorithm
    }

    /// Throws so many balls, none of which ever leaves its bin.
    fn balls(algorithm: &mut TwoChoices, bins: usize, count: usize) -> Vec<u32> {
        let (mut loads, tried) = (vec![0; bins], Tried::default());
        for _ in 0..count {
            let id = algorithm.pick(&demand(&loads, &tried)).expect("there are candidates");
            loads[id.index()] += 1;
        }
        loads
    }

    #[test]
    fn fullest_bin_is_hardly_above_the_mean() {
        // ln ln 100 / ln 2 is 2.2; one choice would be about 20 above a mean of 100.
        for seed in 0..20 {
            let loads = balls(&mut random(seed, &weights(&[1; 100])), 100, 10_000);
            let fullest = *loads.iter().max().expect("bins");
            assert!(fullest <= 106, "{fullest} of a mean of 100 with seed {seed}");
        }
    }

    #[test]
    fn shares_follow_the_weights() {
        let loads = balls(&mut random(1, &weights(&[1, 2, 3, 4])), 4, 10_000);
        for (load, fair) in loads.iter().zip([1_000, 2_000, 3_000, 4_000]) {
            assert!(load.abs_diff(fair) < 50, "{loads:?}");
        }
    }

    #[test]
    fn shards_and_processes_choose_apart() {
        let tried = Tried::default();
        let sequence = |start: Start| {
            let mut algorithm = TwoChoices { draw: Draw::new(start) };
            algorithm.update(&weights(&[1; 50]));
            (0..20).map(|_| algorithm.pick(&demand(&[], &tried))).collect::<Vec<_>>()
        };
        let first = sequence(Start { shard: 0, shards: 2, seed: 1 });
        assert_ne!(first, sequence(Start { shard: 1, shards: 2, seed: 1 }));
        assert_ne!(first, sequence(Start { shard: 0, shards: 2, seed: 2 }));
        assert_eq!(first, sequence(Start { shard: 0, shards: 2, seed: 1 }));
    }
}
