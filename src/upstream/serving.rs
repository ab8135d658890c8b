//! The order of resort of an upstream: which backends a session goes to first, and which come next if those
//! fail or are full.
//!
//! | tier | backends |
//! |---|---|
//! | 0 | eligible primaries; in panic all primaries with an address |
//! | 1 | primaries whose first verdict is still awaited |
//! | 2 | eligible backups; in panic all backups with an address |
//! | 3 | backups whose first verdict is still awaited |
//! | 4 | primaries that are ejected but up by their checks, or that no check could judge |
//! | 5 | backups that are ejected but up by their checks, or that no check could judge |
//!
//! A session takes the first tier with a backend that the session has not tried. Unknown is not down: a
//! primary that has just been added comes before every backup. Panic is the last resort. It requires that no
//! backup is eligible, that no first verdict is awaited, and that a smaller share of the primaries is
//! eligible than `panic_threshold`. In that case it is more likely that checks and ejections are wrong, or
//! that the few remaining backends would break down under the whole load, than that so many backends are
//! really down.

use serde::{Deserialize, Serialize};

use super::state::{BackendState, Health};
use crate::balance::{self, Candidate};
use crate::base::{BackendId, limits};
use crate::config::{AdminState, Backend};

/// The number of tiers.
pub const TIERS: usize = 6;

/// What the configuration says of a backend's part in balancing.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Relative share of new sessions; 0 for none, which `drain` and `maint` have too.
    pub weight: u32,
    /// Serves only while no primary can.
    pub backup: bool,
    /// [`hash`](crate::balance::hash) of its name.
    pub name_hash: u64,
    /// Its position in the configuration.
    pub position: u32,
}

impl Share {
    /// The share of a number without a backend in this generation.
    pub const NONE: Self = Self { weight: 0, backup: false, name_hash: 0, position: 0 };

    /// Returns the share of the backend at this position of the configuration.
    #[must_use]
    pub fn of(position: usize, backend: &Backend) -> Self {
        let name_hash = balance::hash(backend.name.as_bytes());
        let weight = if backend.admin_state == AdminState::Ready { backend.weight } else { 0 };
        let position = u32::try_from(position).unwrap_or(u32::MAX);
        Self { weight, backup: backend.backup, name_hash, position }
    }
}

/// Which backends the first pick of a session goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Serving {
    /// No backend can be tried.
    Nobody,
    /// The eligible primaries.
    Primaries,
    /// The backends without a verdict yet.
    Unjudged,
    /// The eligible backups.
    Backups,
    /// The backends that are ejected or could not be judged.
    LastResort,
    /// All backends with an address, whatever is known of them.
    Panic,
}

impl Serving {
    /// Every value.
    pub const ALL: [Self; 6] =
        [Self::Nobody, Self::Primaries, Self::Unjudged, Self::Backups, Self::LastResort, Self::Panic];

    /// Returns the name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Primaries => "primaries",
            Self::Unjudged => "unjudged",
            Self::Backups => "backups",
            Self::LastResort => "last_resort",
            Self::Panic => "panic",
        }
    }

    /// Returns who serves, in words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Nobody => "no backend",
            Self::Primaries => "primaries",
            Self::Unjudged => "backends without a first verdict",
            Self::Backups => "backups",
            Self::LastResort => "ejected backends, as the last resort",
            Self::Panic => "all backends (panic)",
        }
    }
}

/// See the module documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Which backends the first pick goes to.
    pub serving: Serving,
    /// The tiers, each in the order of the numbers; no backend is in two of them.
    pub tiers: [Vec<Candidate>; TIERS],
}

impl Order {
    /// Returns the order for these states; `panic_threshold` in per cent.
    #[must_use]
    pub fn of(states: &[BackendState], shares: &[Share], panic_threshold: Option<u32>) -> Self {
        let part = |backup: bool, wanted: fn(&BackendState) -> bool| -> Vec<usize> {
            let fits = |index: &usize| {
                let share = shares[*index];
                share.weight > 0 && share.backup == backup && wanted(&states[*index])
            };
            (0..states.len()).filter(fits).collect()
        };
        let (primaries, backups) =
            (part(false, BackendState::is_eligible), part(true, BackendState::is_eligible));
        let awaits = [false, true].map(|backup| !part(backup, BackendState::is_awaited).is_empty());
        let all = part(false, |_| true).len();
        let is_below = |percent: u32| primaries.len() * 100 < all.max(1) * percent as usize;
        let has_address = [false, true].map(|backup| part(backup, BackendState::has_address));
        let is_reachable = has_address.iter().any(|part| !part.is_empty());
        if panic_threshold.is_some_and(is_below) && backups.is_empty() && is_reachable && awaits == [false; 2]
        {
            // Panic ignores all verdicts, and so it ignores which backends came back lately.
            let [primaries, backups] = has_address.map(|part| candidates(&part, states, shares, false));
            let tiers = [primaries, Vec::new(), backups, Vec::new(), Vec::new(), Vec::new()];
            return Self { serving: Serving::Panic, tiers };
        }
        let tiers = [
            primaries,
            part(false, |state| state.is_awaited() && state.has_address()),
            backups,
            part(true, |state| state.is_awaited() && state.has_address()),
            part(false, is_last_resort),
            part(true, is_last_resort),
        ];
        let first = tiers.iter().position(|tier| !tier.is_empty());
        let serving = first.map_or(Serving::Nobody, |first| {
            use Serving::{Backups, LastResort, Primaries, Unjudged};
            [Primaries, Unjudged, Backups, Unjudged, LastResort, LastResort][first]
        });
        Self { serving, tiers: tiers.map(|tier| candidates(&tier, states, shares, true)) }
    }

    /// Returns whether the listeners of the upstream may accept: no primary's first verdict is still awaited,
    /// and either some backend is eligible or no backup's first verdict is awaited.
    #[must_use]
    pub fn is_decided(states: &[BackendState], shares: &[Share]) -> bool {
        let any = |backup: Option<bool>, wanted: fn(&BackendState) -> bool| {
            let counts =
                |share: &Share| share.weight > 0 && backup.is_none_or(|backup| share.backup == backup);
            states.iter().zip(shares).any(|(state, share)| counts(share) && wanted(state))
        };
        let serves = || any(None, BackendState::is_eligible) || !any(Some(true), BackendState::is_awaited);
        !any(Some(false), BackendState::is_awaited) && serves()
    }
}

/// Returns whether a backend is tried only if there is no better one: it is ejected, which a check may
/// contradict, or the checks could not judge it. An awaited primary is in a tier of its own.
fn is_last_resort(state: &BackendState) -> bool {
    let is_unjudged = state.health == Health::Checking && !state.awaited;
    state.has_address() && (state.ejected && state.health == Health::Up || is_unjudged)
}

fn candidates(chosen: &[usize], states: &[BackendState], shares: &[Share], may_ramp: bool) -> Vec<Candidate> {
    // All weights are scaled by the same factor while a backend ramps up, so that a weight of 1 can ramp,
    // too.
    let is_ramping = may_ramp && chosen.iter().any(|index| states[*index].ramp < limits::RAMP_STEPS);
    let candidate = |&index: &usize| Candidate {
        id: BackendId(u16::try_from(index).expect("limits::BACKENDS_PER_UPSTREAM_MAX fits")),
        weight: shares[index].weight * if is_ramping { states[index].ramp } else { 1 },
        name_hash: shares[index].name_hash,
        position: shares[index].position,
    };
    chosen.iter().map(candidate).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::base::Address;

    fn state(health: Health) -> BackendState {
        let addresses = Arc::from([Address::Tcp(([127, 0, 0, 1], 1).into())]);
        BackendState { health, awaited: health == Health::Checking, addresses, ..BackendState::unknown() }
    }

    /// One character for each backend: `u` up, `d` down, `e` ejected, `c` awaited, `o` without a verdict in
    /// time, `n` awaited without an address, `m` without an address in time; a capital letter for a backup.
    fn scene(text: &str) -> (Vec<BackendState>, Vec<Share>) {
        let backend = |letter: char| {
            let state = match letter.to_ascii_lowercase() {
                'u' => state(Health::Up),
                'd' => state(Health::Down),
                'e' => BackendState { ejected: true, ..state(Health::Up) },
                'c' => state(Health::Checking),
                'o' => BackendState { awaited: false, ..state(Health::Checking) },
                'n' => BackendState::unknown(),
                _ => BackendState { awaited: false, ..BackendState::unknown() },
            };
            (state, Share { weight: 1, backup: letter.is_ascii_uppercase(), name_hash: 0, position: 0 })
        };
        text.chars().map(backend).unzip()
    }

    fn order(text: &str, panic_threshold: Option<u32>) -> Order {
        let (states, shares) = scene(text);
        Order::of(&states, &shares, panic_threshold)
    }

    /// Returns what serves, and the tiers that are not empty as `01/2`.
    fn ordered(text: &str, panic_threshold: Option<u32>) -> (Serving, String) {
        let order = order(text, panic_threshold);
        let tier = |tier: &Vec<Candidate>| tier.iter().map(|one| one.id.0.to_string()).collect::<String>();
        let tiers = order.tiers.iter().filter(|tier| !tier.is_empty()).map(tier);
        (order.serving, tiers.collect::<Vec<_>>().join("/"))
    }

    use Serving::{Backups, LastResort, Nobody, Panic, Primaries, Unjudged};

    /// The table of docs/CONFIGURATION.md.
    #[test]
    fn cases_of_the_panic_threshold() {
        for (text, expected, tiers) in [
            ("uudd", Primaries, "01"),
            ("uddd", Panic, "0123"),
            ("uedm", Panic, "012"),
            ("uedn", Primaries, "0/1"),
            ("udddU", Primaries, "0/4"),
            ("ddddU", Backups, "4"),
            ("ddddD", Panic, "0123/4"),
            ("ddddC", Unjudged, "4"),
            ("dddc", Unjudged, "3"),
            ("dddo", Panic, "0123"),
            ("dddcU", Unjudged, "3/4"),
            ("dddnU", Backups, "4"),
            ("dddcC", Unjudged, "3/4"),
            ("uccc", Primaries, "0/123"),
            ("mD", Panic, "1"),
            ("D", Panic, "0"),
            ("n", Nobody, ""),
        ] {
            assert_eq!(ordered(text, Some(50)), (expected, tiers.to_owned()), "{text}");
        }
    }

    #[test]
    fn order_without_a_panic_threshold() {
        for (text, expected, tiers) in [
            ("dd", Nobody, ""),
            ("ddD", Nobody, ""),
            ("ddeD", LastResort, "2"),
            ("uddd", Primaries, "0"),
            ("ddddUD", Backups, "4"),
            ("ueUE", Primaries, "0/2/1/3"),
            ("ucUoOE", Primaries, "0/1/2/3/45"),
            ("ucUCoOE", Primaries, "0/1/2/3/4/56"),
            ("eE", LastResort, "0/1"),
            ("oU", Backups, "1/0"),
            ("C", Unjudged, "0"),
            ("N", Nobody, ""),
            ("dC", Unjudged, "1"),
            ("O", LastResort, "0"),
        ] {
            assert_eq!(ordered(text, None), (expected, tiers.to_owned()), "{text}");
        }
    }

    #[test]
    fn weight_0_takes_nothing_even_in_panic_and_does_not_count() {
        let (states, mut shares) = scene("uddd");
        shares[2].weight = 0;
        shares[3].weight = 0;
        assert_eq!(Order::of(&states, &shares, Some(50)).serving, Primaries);
        let panic = Order::of(&states, &shares, Some(51));
        assert_eq!((panic.serving, panic.tiers[0].len()), (Panic, 2));
    }

    #[test]
    fn a_backend_that_ramps_gets_its_part_of_its_weight() {
        let (mut states, mut shares) = scene("uuu");
        shares[2].weight = 3;
        let weights = |states: &[BackendState], panic: Option<u32>| -> Vec<u32> {
            Order::of(states, &shares, panic).tiers[0].iter().map(|candidate| candidate.weight).collect()
        };
        assert_eq!(weights(&states, None), [1, 1, 3]);
        states[0].ramp = 1;
        states[2].ramp = 10;
        assert_eq!(weights(&states, None), [1, 20, 30]);
        states[1].health = Health::Down;
        assert_eq!(weights(&states, Some(100)), [1, 1, 3], "in panic");
    }

    #[test]
    fn listeners_wait_for_the_first_verdicts_of_those_who_would_serve() {
        for (text, expected) in [
            ("ud", true),
            ("uc", false),
            ("un", false),
            ("uC", true),
            ("uN", true),
            ("om", true),
            ("dC", false),
            ("dN", false),
            ("dD", true),
            ("dCU", true),
            ("dCD", false),
            ("C", false),
            ("O", true),
        ] {
            let (states, shares) = scene(text);
            assert_eq!(Order::is_decided(&states, &shares), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn everybody_who_may_serve_is_in_one_tier_and_better_ones_come_first(
            text in "[udeconmUDECONM]{0,8}", threshold in prop::option::of(1u32..=100),
        ) {
            let (states, shares) = scene(&text);
            let Order { serving, tiers } = Order::of(&states, &shares, threshold);
            let all: Vec<usize> = tiers.iter().flatten().map(|candidate| candidate.id.index()).collect();
            prop_assert_eq!(all.is_empty(), serving == Nobody, "{} {:?}", text, serving);
            prop_assert!(serving != Panic || threshold.is_some());
            for (index, state) in states.iter().enumerate() {
                let times = all.iter().filter(|one| **one == index).count();
                // A backend that is down is tried only in panic.
                let may = state.has_address() && (serving == Panic || state.health != Health::Down);
                prop_assert_eq!(times, usize::from(may), "{} of {} in {:?}", index, text, tiers);
            }
            // An eligible primary is never behind another backend, and an eligible backup is only behind
            // primaries.
            for (tier, candidate) in tiers.iter().enumerate().flat_map(|(tier, all)| all.iter().map(move |one| (tier, one))) {
                let (state, share) = (&states[candidate.id.index()], shares[candidate.id.index()]);
                if serving != Panic && state.is_eligible() {
                    prop_assert_eq!(tier, if share.backup { 2 } else { 0 });
                }
                prop_assert!(tier < 4 || !state.is_eligible() || serving == Panic);
            }
        }
    }
}
