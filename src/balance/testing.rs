//! What the tests of the algorithms share: sets of candidates, and what holds for every algorithm.

use proptest::prelude::*;

use super::{Algorithm, Candidate, Demand, Start, Tried, hash};
use crate::base::{BackendId, Tick};

/// The only shard.
pub(super) const FIRST: Start = Start { shard: 0, shards: 1, seed: 0 };

/// Candidates with these weights, numbered from 0.
pub(super) fn weights(weights: &[u32]) -> Vec<Candidate> {
    (0..).map(BackendId).zip(weights).map(|(id, &weight)| candidate(id, weight)).collect()
}

/// A candidate that is called by its number.
pub(super) fn candidate(id: BackendId, weight: u32) -> Candidate {
    Candidate { id, weight, position: id.0.into(), name_hash: hash(format!("backend-{}", id.0).as_bytes()) }
}

/// A session like any other.
pub(super) fn demand<'a>(loads: &'a [u32], tried: &'a Tried) -> Demand<'a> {
    Demand { loads, tried, key: 0, now: Tick(0) }
}

/// So many picks without loads or tried backends.
pub(super) fn picks(algorithm: &mut dyn Algorithm, count: usize) -> Vec<usize> {
    let tried = Tried::default();
    (0..count).filter_map(|_| algorithm.pick(&demand(&[], &tried))).map(BackendId::index).collect()
}

/// Up to 16 candidates, equal or different in weight.
pub(super) fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let one = prop_oneof![Just(None), (1u32..4).prop_map(Some)];
    prop::collection::vec(one, 0..16).prop_map(|set| {
        let numbered = (0..).map(BackendId).zip(set);
        numbered.filter_map(|(id, weight)| Some(candidate(id, weight?))).collect()
    })
}

/// Some backends that were tried.
pub(super) fn any_tried() -> impl Strategy<Value = Tried> {
    prop::collection::vec(0u16..16, 0..16).prop_map(|ids| {
        let mut tried = Tried::default();
        ids.into_iter().for_each(|id| tried.insert(BackendId(id)));
        tried
    })
}

/// Updates, each followed by picks with some loads and tried backends.
pub(super) fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    let picks = prop::collection::vec((prop::collection::vec(0u32..4, 16), any_tried()), 0..12);
    prop::collection::vec((any_candidates(), picks), 1..8)
}

/// See [`any_steps`].
pub(super) type Step = (Vec<Candidate>, Vec<(Vec<u32>, Tried)>);

/// A pick is an untried candidate, and none if and only if there is none.
pub(super) fn picks_are_untried_candidates(
    algorithm: &mut dyn Algorithm,
    steps: &[Step],
) -> Result<(), TestCaseError> {
    prop_assert_eq!(algorithm.pick(&demand(&[], &Tried::default())), None);
    for (candidates, picks) in steps {
        algorithm.update(candidates);
        for (loads, tried) in picks {
            let untried = |id| candidates.iter().any(|candidate| candidate.id == id) && !tried.contains(id);
            match algorithm.pick(&Demand { key: u64::from(loads[0]) << 7, ..demand(loads, tried) }) {
                Some(id) => prop_assert!(untried(id), "{id:?} is no untried candidate"),
                None => prop_assert!(!candidates.iter().any(|candidate| untried(candidate.id))),
            }
        }
    }
    Ok(())
}
