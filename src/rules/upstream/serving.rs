//! Who takes the new sessions of an upstream: primaries, backups, or in panic all there are.
//!
//! Backups serve when no primary is eligible. Panic comes last: it needs that no backup is eligible and that a smaller
//! part of the primaries is than `panic_threshold`. It is then taken for more likely that checks and ejections are wrong,
//! or that the few that are left would break down under the whole load, than that so many backends are down.

use super::state::{BackendState, Health};
use crate::rules::balance::{self, Candidate};
use crate::rules::config::Backend;
use crate::words::{BackendId, limits};

/// What the configuration says of a backend's part in balancing.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// 0 for no sessions.
    pub weight: u32,
    /// Serves only while no other backend can.
    pub backup: bool,
    /// [`hash`](crate::rules::balance::hash) of its name.
    pub name_hash: u64,
}

impl Share {
    /// The part of an entry of the configuration.
    #[must_use]
    pub fn of(backend: &Backend) -> Self {
        let name_hash = balance::hash(backend.name.as_bytes());
        Self { weight: backend.weight, backup: backend.backup, name_hash }
    }
}

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    /// Nobody is eligible.
    Nobody,
    /// The eligible primaries.
    Primaries,
    /// The eligible backups.
    Backups,
    /// All primaries with an address, whatever is known of them; without such, all backups.
    Panic,
}

impl Serving {
    /// Who serves in this state; `panic_threshold` in per cent.
    #[must_use]
    pub fn of(states: &[BackendState], shares: &[Share], panic_threshold: Option<u32>) -> Self {
        let (mut primaries, mut eligible, mut backups) = (0, 0, 0);
        let (mut is_reachable, mut is_undecided) = (false, false);
        for (state, share) in states.iter().zip(shares).filter(|(_, share)| share.weight > 0) {
            let counts = usize::from(state.is_eligible());
            if share.backup {
                backups += counts;
            } else {
                primaries += 1;
                eligible += counts;
            }
            is_reachable |= !state.addresses.is_empty();
            is_undecided |= !state.addresses.is_empty() && state.health == Health::Checking;
        }
        // Before the first verdicts nothing is known to be wrong.
        let may_panic = backups == 0 && is_reachable && !is_undecided;
        let is_below = |percent: u32| eligible * 100 < primaries.max(1) * percent as usize;
        match (eligible, backups) {
            _ if may_panic && panic_threshold.is_some_and(is_below) => Self::Panic,
            (1.., _) => Self::Primaries,
            (0, 1..) => Self::Backups,
            (0, 0) => Self::Nobody,
        }
    }

    /// Whom a new session may be sent to, in the order of the configuration.
    #[must_use]
    pub fn candidates(self, states: &[BackendState], shares: &[Share]) -> Vec<Candidate> {
        let of = |backup: bool, wanted: fn(&BackendState) -> bool| -> Vec<usize> {
            let fits = |index: &usize| {
                let share = shares[*index];
                share.weight > 0 && share.backup == backup && wanted(&states[*index])
            };
            (0..states.len()).filter(fits).collect()
        };
        let has_address = |state: &BackendState| !state.addresses.is_empty();
        let mut chosen = match self {
            Self::Nobody => Vec::new(),
            Self::Primaries => of(false, BackendState::is_eligible),
            Self::Backups => of(true, BackendState::is_eligible),
            Self::Panic => of(false, has_address),
        };
        if self == Self::Panic && chosen.is_empty() {
            chosen = of(true, has_address);
        }
        // All weights grow by the same factor while someone ramps, so that a weight of 1 can ramp too. Panic knows
        // nothing of the backends, so nothing of who came back lately.
        let is_ramping =
            self != Self::Panic && chosen.iter().any(|index| states[*index].ramp < limits::RAMP_STEPS);
        let candidate = |index: usize| Candidate {
            id: BackendId(u16::try_from(index).expect("limits::BACKENDS_PER_UPSTREAM fits")),
            weight: shares[index].weight * if is_ramping { states[index].ramp } else { 1 },
            name_hash: shares[index].name_hash,
        };
        chosen.into_iter().map(candidate).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::Address;
    use super::*;

    fn state(health: Health) -> BackendState {
        let addresses = Arc::from([Address::Tcp(([127, 0, 0, 1], 1).into())]);
        BackendState { health, addresses, ..BackendState::unknown() }
    }

    /// One character a backend: `u` up, `d` down, `e` ejected, `c` checking, `n` without an address; capital for a backup.
    fn scene(text: &str) -> (Vec<BackendState>, Vec<Share>) {
        let backend = |letter: char| {
            let state = match letter.to_ascii_lowercase() {
                'u' => state(Health::Up),
                'd' => state(Health::Down),
                'e' => BackendState { ejected: true, ..state(Health::Up) },
                'c' => state(Health::Checking),
                _ => BackendState::unknown(),
            };
            (state, Share { weight: 1, backup: letter.is_ascii_uppercase(), name_hash: 0 })
        };
        text.chars().map(backend).unzip()
    }

    fn served(text: &str, panic_threshold: Option<u32>) -> (Serving, Vec<u16>) {
        let (states, shares) = scene(text);
        let serving = Serving::of(&states, &shares, panic_threshold);
        (serving, serving.candidates(&states, &shares).iter().map(|candidate| candidate.id.0).collect())
    }

    use Serving::{Backups, Nobody, Panic, Primaries};

    /// The table of docs/CONFIGURATION.md.
    #[test]
    fn cases_of_the_panic_threshold() {
        for (text, expected, takers) in [
            ("uudd", Primaries, &[0, 1][..]),
            ("uddd", Panic, &[0, 1, 2, 3]),
            ("uedn", Panic, &[0, 1, 2]),
            ("udddU", Primaries, &[0]),
            ("ddddU", Backups, &[4]),
            ("ddddD", Panic, &[0, 1, 2, 3]),
            ("dddc", Nobody, &[]),
            ("dddcU", Backups, &[4]),
            ("uccc", Primaries, &[0]),
            ("nD", Panic, &[1]),
            ("D", Panic, &[0]),
            ("n", Nobody, &[]),
        ] {
            assert_eq!(served(text, Some(50)), (expected, takers.to_vec()), "{text}");
        }
    }

    #[test]
    fn without_a_threshold_nobody_serves_when_all_are_down() {
        assert_eq!(served("ddeD", None), (Nobody, vec![]));
        assert_eq!(served("uddd", None), (Primaries, vec![0]));
        assert_eq!(served("ddddUD", None), (Backups, vec![4]));
    }

    #[test]
    fn weight_0_takes_nothing_even_in_panic_and_does_not_count() {
        let (states, mut shares) = scene("uddd");
        shares[2].weight = 0;
        shares[3].weight = 0;
        assert_eq!(Serving::of(&states, &shares, Some(50)), Primaries);
        assert_eq!(Serving::of(&states, &shares, Some(51)), Panic);
        assert_eq!(Panic.candidates(&states, &shares).len(), 2);
    }

    #[test]
    fn a_backend_that_ramps_gets_its_part_of_its_weight() {
        let (mut states, mut shares) = scene("uuu");
        shares[2].weight = 3;
        let weights = |states: &[BackendState], serving: Serving| -> Vec<u32> {
            serving.candidates(states, &shares).iter().map(|candidate| candidate.weight).collect()
        };
        assert_eq!(weights(&states, Primaries), [1, 1, 3]);
        states[0].ramp = 1;
        states[2].ramp = 10;
        assert_eq!(weights(&states, Primaries), [1, 20, 30]);
        assert_eq!(weights(&states, Panic), [1, 1, 3]);
    }

    proptest! {
        #[test]
        fn someone_serves_if_and_only_if_someone_may(
            text in "[udecnUDECN]{0,8}", threshold in prop::option::of(1u32..=100),
        ) {
            let (states, shares) = scene(&text);
            let (serving, takers) = served(&text, threshold);
            let eligible = states.iter().filter(|state| state.is_eligible()).count();
            prop_assert_eq!(takers.is_empty(), serving == Nobody, "{} {:?}", text, serving);
            prop_assert!(serving != Nobody || eligible == 0, "{} {:?}", text, serving);
            prop_assert!(serving != Panic || threshold.is_some());
            for taker in takers {
                let (state, share) = (&states[usize::from(taker)], shares[usize::from(taker)]);
                prop_assert!(!state.addresses.is_empty());
                prop_assert!(state.is_eligible() || serving == Panic);
                prop_assert!(serving == Panic || share.backup == (serving == Backups));
            }
        }
    }
}
