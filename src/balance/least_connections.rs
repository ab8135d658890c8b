//! Least connections: the candidate with the fewest sessions for its weight, the new session included.
//!
//! Invariant: no untried candidate has a smaller `(load + 1) / weight` than the one picked. Equal ones take
//! turns, so that an idle upstream is not all first backend, and shards that see the same loads do not all
//! choose the same.

use super::rotation::Rotation;
use super::{Algorithm, Candidate, Demand, Registered, Start, Wants};
use crate::base::BackendId;

pub(super) const REGISTERED: Registered = Registered {
    name: "least_connections",
    aliases: &[],
    wants: Wants { loads: true, key: false, latency: false },
    weighted: true,
    slow_start: true,
    goes_by_order: false,
    build: |start| Box::new(LeastConnections::new(start)),
};

#[derive(Clone)]
struct LeastConnections {
    candidates: Vec<Candidate>,
    rotation: Rotation,
}

impl LeastConnections {
    fn new(start: Start) -> Self {
        Self { candidates: Vec::new(), rotation: Rotation::new(start) }
    }
}

/// How full a backend would be with one more session.
#[derive(Clone, Copy)]
pub(super) struct Fill {
    sessions: u64,
    weight: u64,
}

impl Fill {
    pub(super) fn of(candidate: &Candidate, loads: &[u32]) -> Self {
        // A backend the caller has no load of yet has none.
        let load = loads.get(candidate.id.index()).copied().unwrap_or(0);
        Self { sessions: u64::from(load) + 1, weight: u64::from(candidate.weight) }
    }

    /// `self.sessions / self.weight < other.sessions / other.weight`, exact: at most 2^32 times 2^32.
    pub(super) fn is_below(self, other: Self) -> bool {
        self.sessions * other.weight < other.sessions * self.weight
    }
}

impl Algorithm for LeastConnections {
    fn copy(&self) -> Box<dyn Algorithm> {
        Box::new(self.clone())
    }

    fn update(&mut self, candidates: &[Candidate]) {
        self.candidates.clear();
        self.candidates.extend_from_slice(candidates);
        self.rotation.update(candidates);
    }

    fn pick(&mut self, demand: &Demand<'_>) -> Option<BackendId> {
        let mut least: Option<(usize, Fill)> = None;
        // From the one whose turn it is, so that it comes before its equals.
        let (before, after) = self.candidates.split_at(self.rotation.next());
        let in_turn = (before.len()..).zip(after).chain(before.iter().enumerate());
        for (index, candidate) in in_turn {
            let fill = Fill::of(candidate, demand.loads);
            if least.is_some_and(|(_, lowest)| !fill.is_below(lowest)) {
                continue;
            }
            if !demand.tried.contains(candidate.id) {
                least = Some((index, fill));
            }
        }
        let (index, _) = least?;
        self.rotation.picked(index, &self.candidates);
        Some(self.candidates[index].id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Tried;
    use super::super::testing::*;
    use super::*;

    #[test]
    fn equal_loads_take_turns() {
        let mut algorithm = LeastConnections::new(FIRST);
        algorithm.update(&weights(&[1, 1, 1]));
        assert_eq!(picks(&mut algorithm, 4), [0, 1, 2, 0]);
    }

    #[test]
    fn shards_with_the_same_loads_choose_apart() {
        let first = |shard| {
            let mut algorithm = LeastConnections::new(Start { shard, shards: 3, seed: 0 });
            algorithm.update(&weights(&[1, 1, 1]));
            picks(&mut algorithm, 1)[0]
        };
        assert_eq!([first(0), first(1), first(2)], [0, 1, 2]);
    }

    #[test]
    fn the_largest_numbers_are_compared_exactly() {
        let mut algorithm = LeastConnections::new(FIRST);
        algorithm.update(&weights(&[1000, 999]));
        // (u32::MAX + 1) / 1000 against (u32::MAX - 4294966) / 999: the second is lower by less than 1e-5 of
        // it.
        let loads = [u32::MAX, u32::MAX - 4_294_968];
        assert_eq!(algorithm.pick(&demand(&loads, &Tried::default())), Some(BackendId(1)));
    }

    proptest! {
        #[test]
        fn sessions_that_stay_fill_the_backends_by_weight(
            set in prop::collection::vec(1u32..20, 1..10), turns in 1u32..5,
        ) {
            let mut algorithm = LeastConnections::new(FIRST);
            algorithm.update(&weights(&set));
            let mut loads = vec![0u32; set.len()];
            for _ in 0..turns * set.iter().sum::<u32>() {
                let id = algorithm.pick(&demand(&loads, &Tried::default())).expect("untried");
                loads[id.index()] += 1;
            }
            let full: Vec<u32> = set.iter().map(|weight| turns * weight).collect();
            prop_assert_eq!(loads, full);
        }

        #[test]
        fn nobody_untried_is_emptier_than_the_pick(
            candidates in any_candidates(),
            loads in prop::collection::vec(prop_oneof![0u32..5, any::<u32>()], 16),
            tried in any_tried(),
        ) {
            let mut algorithm = LeastConnections::new(FIRST);
            algorithm.update(&candidates);
            let Some(id) = algorithm.pick(&demand(&loads, &tried)) else { return Ok(()) };
            let fill = |id: BackendId| u128::from(loads[id.index()]) + 1;
            let picked = candidates.iter().find(|candidate| candidate.id == id).expect("a candidate");
            for other in candidates.iter().filter(|other| !tried.contains(other.id)) {
                prop_assert!(
                    fill(id) * u128::from(other.weight) <= fill(other.id) * u128::from(picked.weight)
                );
            }
        }
    }
}
