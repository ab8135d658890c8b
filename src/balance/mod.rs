//! Which backend next: one file an algorithm, one registry.
//!
//! An algorithm is pure: the same calls with the same arguments give the same picks. Each shard has its own
//! instance for each upstream.

mod algorithm;
mod first;
mod hash;
mod least_connections;
mod maglev;
mod peak_ewma;
mod random;
mod rotation;
mod round_robin;
mod source_hash;
#[cfg(test)]
mod testing;

/// Every algorithm. A new one is a file in this folder and two lines here.
static REGISTRY: &[Registered] = &[
    round_robin::REGISTERED,
    least_connections::REGISTERED,
    random::REGISTERED,
    source_hash::REGISTERED,
    maglev::REGISTERED,
    peak_ewma::REGISTERED,
    first::REGISTERED,
];

pub use algorithm::{Algorithm, Candidate, Demand, Registered, Sample, Start, Tried, Wants};
pub use hash::hash;
pub(crate) use hash::{Random, pair};

/// The algorithm that goes by this name or alias in the configuration.
#[must_use]
pub fn find(name: &str) -> Option<&'static Registered> {
    REGISTRY.iter().find(|algorithm| algorithm.name == name || algorithm.aliases.contains(&name))
}

/// Every name and alias that [`find`] knows, for messages to the operator.
pub fn names() -> impl Iterator<Item = &'static str> {
    REGISTRY
        .iter()
        .flat_map(|algorithm| std::iter::once(algorithm.name).chain(algorithm.aliases.iter().copied()))
}

/// What other balancers, and people, call algorithms that do the same or the nearest to it. In lower case,
/// with `_`.
const FOREIGN: &[(&str, &[&str])] = &[
    ("round_robin", &["rr", "wrr", "swrr", "roundrobin", "static_rr", "weighted", "rotate"]),
    (
        "least_connections",
        &["lc", "wlc", "leastconn", "least_conn", "least_connection", "leastconnections", "least_request"],
    ),
    ("random", &["p2c", "power_of_two", "power_of_two_choices", "random_two", "two_choices"]),
    (
        "source_hash",
        &[
            "source",
            "src",
            "sh",
            "hash",
            "ip_hash",
            "iphash",
            "source_ip",
            "source_ip_hash",
            "client_ip",
            "sticky",
        ],
    ),
    ("maglev", &["mh", "consistent", "consistent_hash", "ring_hash", "ketama", "chash"]),
    ("peak_ewma", &["ewma", "least_time", "fastest", "response_time", "latency"]),
    ("first", &["failover", "pick_first", "priority", "active_passive", "primary_backup"]),
];

/// The algorithm that whoever comes from another program means by this word.
#[must_use]
pub fn meant_by(word: &str) -> Option<&'static str> {
    let word = word.to_lowercase().replace(['-', ' '], "_");
    FOREIGN.iter().find(|(_, theirs)| theirs.contains(&&*word)).map(|(ours, _)| *ours)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_name_is_unique_and_found() {
        let mut seen = HashSet::new();
        for name in names() {
            assert!(seen.insert(name), "{name} is registered twice");
            let found = find(name).expect("a listed name is found");
            assert!(found.name == name || found.aliases.contains(&name));
        }
        assert!(find("round-robin").is_none());
    }

    #[test]
    fn words_of_others_mean_one_of_ours_and_are_none() {
        let mut seen = HashSet::new();
        for (ours, theirs) in FOREIGN {
            assert_eq!(find(ours).map(|found| found.name), Some(*ours));
            for word in *theirs {
                assert!(find(word).is_none() && seen.insert(word), "{word}");
                assert_eq!(meant_by(&word.to_uppercase().replace('_', "-")), Some(*ours));
            }
        }
    }

    #[test]
    fn weighted_round_robin_is_round_robin() {
        assert_eq!(find("weighted_round_robin").map(|found| found.name), Some("round_robin"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_pick_is_an_untried_candidate_or_none_without_one(steps in testing::any_steps(), seed: u64) {
            for registered in REGISTRY {
                let mut algorithm = (registered.build)(Start { shard: 1, shards: 3, seed });
                testing::picks_are_untried_candidates(&mut *algorithm, &steps)?;
            }
        }
    }
}
