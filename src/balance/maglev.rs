//! Maglev: a table in which each candidate has as many places as its weight says, and a client's hash names
//! the place.
//!
//! The table is that of Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI
//! 2016, section 3.4: each candidate prefers the places in an order of its own, made from its name, and they
//! take turns in taking the best that is left. So the same candidates give the same table on every core and
//! in every process, a pick costs the same with any number of them, and a backend that leaves moves few
//! clients beside its own. Weights as in Envoy: a candidate sits out a turn while it is ahead of its weight.

use super::hash::{mix, pair};
use super::{Algorithm, Candidate, Demand, Registered, Tried, Wants};
use crate::base::{BackendId, limits};

pub(super) const REGISTERED: Registered = Registered {
    name: "maglev",
    aliases: &[],
    wants: Wants { loads: false, key: true, latency: false },
    weighted: true,
    slow_start: false,
    goes_by_order: false,
    build: |_| Box::new(Maglev { table: Vec::new(), candidates: Vec::new() }),
};

/// Places of the table: a prime, and much more than a hundred for each of hundreds of backends (the paper's
/// small size).
const PLACES: u64 = 65_537;
/// Places that are looked at for an untried backend before all candidates are.
const PROBES: u64 = 4;

const _: () = assert!(limits::BACKENDS_PER_UPSTREAM_MAX < PLACES as usize);

#[derive(Clone)]
struct Maglev {
    /// Empty without candidates.
    table: Vec<BackendId>,
    candidates: Vec<BackendId>,
}

/// A candidate's order of places, and where in it it is.
#[derive(Clone)]
struct Preference {
    id: BackendId,
    weight: u64,
    next: u64,
    skip: u64,
    taken: u64,
}

impl Preference {
    fn new(candidate: &Candidate) -> Self {
        Self {
            id: candidate.id,
            weight: candidate.weight.into(),
            next: mix(candidate.name_hash) % PLACES,
            skip: pair(candidate.name_hash, 1) % (PLACES - 1) + 1,
            taken: 0,
        }
    }

    /// The place it likes best of those it did not look at yet.
    fn advance(&mut self) -> usize {
        let place = self.next;
        self.next = (self.next + self.skip) % PLACES;
        place as usize
    }
}

fn table(candidates: &[Candidate]) -> Vec<BackendId> {
    const NOBODY: BackendId = BackendId(u16::MAX);
    let mut preferences: Vec<_> = candidates.iter().map(Preference::new).collect();
    // Turns are taken in an order of the names too, not of the file.
    preferences.sort_by_key(|preference| (preference.next, preference.skip));
    let heaviest = preferences.iter().map(|preference| preference.weight).max().unwrap_or(0);
    let mut table = vec![NOBODY; if candidates.is_empty() { 0 } else { PLACES as usize }];
    let mut left = table.len();
    let mut turn = 0;
    while left > 0 {
        turn += 1;
        for preference in &mut preferences {
            if preference.taken * heaviest >= turn * preference.weight {
                continue;
            }
            // Every place comes once in its order, so one that is free comes.
            let place = loop {
                let place = preference.advance();
                if table[place] == NOBODY {
                    break place;
                }
            };
            table[place] = preference.id;
            preference.taken += 1;
            left -= 1;
            if left == 0 {
                break;
            }
        }
    }
    table
}

impl Maglev {
    fn at(&self, key: u64) -> Option<BackendId> {
        self.table.get((key % PLACES) as usize).copied()
    }

    /// For one whose backend was tried: another place of the table, so that the clients of a backend that
    /// fails are spread over the others.
    fn another(&self, key: u64, tried: &Tried) -> Option<BackendId> {
        let untried = |id: &BackendId| !tried.contains(*id);
        let places = (1..=PROBES).filter_map(|probe| self.at(pair(key, probe)));
        places.chain(self.candidates.iter().copied()).find(untried)
    }
}

impl Algorithm for Maglev {
    fn copy(&self) -> Box<dyn Algorithm> {
        Box::new(self.clone())
    }

    fn update(&mut self, candidates: &[Candidate]) {
        self.table = table(candidates);
        self.candidates.clear();
        self.candidates.extend(candidates.iter().map(|candidate| candidate.id));
    }

    fn pick(&mut self, demand: &Demand<'_>) -> Option<BackendId> {
        let id = self.at(demand.key)?;
        if demand.tried.is_empty() || !demand.tried.contains(id) {
            return Some(id);
        }
        self.another(demand.key, demand.tried)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::*;
    use super::*;

    fn shares(table: &[BackendId], count: usize) -> Vec<usize> {
        let mut shares = vec![0; count];
        table.iter().for_each(|id| shares[id.index()] += 1);
        shares
    }

    #[test]
    fn balance_is_within_the_papers_bound() {
        // Figure 12 of the paper: with 65,537 places hardly any imbalance; taking turns bounds it by one
        // place.
        for count in [1, 2, 3, 10, 100, 1_000] {
            let shares = shares(&table(&weights(&vec![1; count])), count);
            let (least, most) = (shares.iter().min(), shares.iter().max());
            assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{count}: {shares:?}");
        }
    }

    #[test]
    fn places_follow_the_weights() {
        let set = [1, 2, 3, 10, 1];
        let shares = shares(&table(&weights(&set)), 5);
        for (share, weight) in shares.iter().zip(set) {
            let fair = PLACES as f64 * f64::from(weight) / 17.0;
            assert!((*share as f64 - fair).abs() / fair < 0.01, "{shares:?}");
        }
    }

    #[test]
    fn a_backend_that_leaves_moves_few_clients_of_others() {
        // Figure 13 of the paper: with 1,000 backends and 65,537 places, a few per cent of the entries change
        // in all.
        for count in [10, 100, 1_000] {
            let all = weights(&vec![1; count]);
            let before = table(&all);
            let mut rest = all.clone();
            let gone = rest.remove(count / 2).id;
            let after = table(&rest);
            let moved = before.iter().zip(&after).filter(|(b, a)| b != a && **b != gone).count();
            let share = moved as f64 / PLACES as f64;
            assert!(share < 0.06, "{count} backends: {:.1} % of the places changed hands", share * 100.0);
        }
    }

    #[test]
    fn the_order_of_the_file_does_not_matter() {
        let set = weights(&[1; 7]);
        let mut turned: Vec<_> = set.iter().rev().copied().collect();
        let before = table(&set);
        // Another file with the same names: only the numbers differ.
        turned.iter_mut().zip(0..).for_each(|(candidate, id)| candidate.id = BackendId(id));
        let after = table(&turned);
        assert!(before.iter().zip(&after).all(|(before, after)| before.0 == 6 - after.0));
    }

    #[test]
    fn clients_of_a_failing_backend_are_spread_over_the_others() {
        let mut maglev = (REGISTERED.build)(FIRST);
        maglev.update(&weights(&[1; 5]));
        let mut shares = [0u32; 5];
        for key in 0..100_000u64 {
            let mut tried = Tried::default();
            let key = mix(key);
            let id = maglev.pick(&Demand { key, ..demand(&[], &tried) }).expect("a backend");
            if id.index() == 0 {
                tried.insert(id);
                let other = maglev.pick(&Demand { key, ..demand(&[], &tried) }).expect("another backend");
                shares[other.index()] += 1;
            }
        }
        let sum: u32 = shares.iter().sum();
        assert!(shares[1..].iter().all(|share| share.abs_diff(sum / 4) < sum / 20), "{shares:?}");
    }

    proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]    }
}
