//! First: the first candidate in the order of the configuration that can take the session. For active and
//! standby, and to keep as few backends busy as their limits allow.

use super::{Algorithm, Candidate, Demand, Registered, Wants};
use crate::base::BackendId;

pub(super) const REGISTERED: Registered = Registered {
    name: "first",
    aliases: &[],
    wants: Wants { loads: false, key: false, latency: false },
    weighted: false,
    slow_start: false,
    goes_by_order: true,
    build: |_| Box::new(First { candidates: Vec::new() }),
};

#[derive(Clone)]
struct First {
    candidates: Vec<BackendId>,
}

impl Algorithm for First {
    fn copy(&self) -> Box<dyn Algorithm> {
        Box::new(self.clone())
    }

    fn update(&mut self, candidates: &[Candidate]) {
        let mut ordered: Vec<_> =
            candidates.iter().map(|candidate| (candidate.position, candidate.id)).collect();
        ordered.sort_unstable();
        self.candidates = ordered.into_iter().map(|(_, id)| id).collect();
    }

    fn pick(&mut self, demand: &Demand<'_>) -> Option<BackendId> {
        self.candidates.iter().copied().find(|id| !demand.tried.contains(*id))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::*;
    use super::*;

    #[test]
    fn the_next_one_serves_only_while_the_first_is_away() {
        let mut first = First { candidates: Vec::new() };
        let all = weights(&[1, 1000, 1]);
        first.update(&all);
        assert_eq!(picks(&mut first, 3), [0, 0, 0]);
        first.update(&all[1..]);
        assert_eq!(picks(&mut first, 2), [1, 1]);
        first.update(&all);
        assert_eq!(picks(&mut first, 1), [0]);
    }

    #[test]
    fn the_order_is_that_of_the_configuration_whatever_the_numbers() {
        let mut first = First { candidates: Vec::new() };
        let mut all = weights(&[1, 1, 1]);
        (all[0].position, all[1].position, all[2].position) = (2, 1, 0);
        first.update(&all);
        assert_eq!(picks(&mut first, 2), [2, 2]);
        first.update(&all[..2]);
        assert_eq!(picks(&mut first, 1), [1]);
    }

    proptest! {
        #[test]
        fn a_pick_is_an_untried_candidate_or_none_without_one(steps in any_steps()) {
            picks_are_untried_candidates(&mut First { candidates: Vec::new() }, &steps)?;
        }
    }
}
