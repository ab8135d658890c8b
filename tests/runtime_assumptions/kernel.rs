//! What the kernel says of itself, and that we hear it right.

use ringway::uring::{Ring, probe};

use crate::support::{SMALL, on_ring};

/// The running kernel as (major, minor, patch).
pub(crate) fn kernel() -> (u32, u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("procfs");
    let numbers = &mut release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next(), next())
}

#[test]
fn kernel_is_one_that_is_supported() {
    assert!(kernel() >= (6, 1, 0), "{:?}", kernel());
    probe(1, 4096).expect("everything a shard needs");
}

#[test]
fn bounded_multishot_receive_is_found_only_where_it_is() {
    let features = probe(1, 4096).expect("everything a shard needs");
    println!("kernel {:?}: {features:?}", kernel());
    if kernel() < (6, 13, 0) {
        assert!(!features.bounded_multishot, "not before Linux 6.17 or so");
    }
    // The first ones of 6.18 lose the end of a stream; which was the last of them was not tried.
    if kernel() >= (6, 18, 44) {
        assert!(features.bounded_multishot);
    }
}

#[test]
fn ring_of_a_shard_has_the_features_the_probe_found() {
    let features = on_ring(SMALL, |ring: Ring| async move { ring.features() });
    assert_eq!(features, probe(1, 4096).expect("everything a shard needs"));
}
