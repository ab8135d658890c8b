//! Hashes and pseudo-random numbers that are the same on every machine and in every release.

/// Golden ratio in 64 bits, the step of SplitMix64.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A 64-bit hash of some bytes: FNV-1a, finished by the mixer of SplitMix64 (Steele, Lea and Flood, "Fast
/// Splittable Pseudorandom Number Generators", 2014). Not for secrets, and not against an attacker who
/// chooses the bytes freely.
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    let folded = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum: u64, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(folded)
}

/// Spreads every bit of a number over all of it; one to one.
pub(super) fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A hash of two numbers, in which their order counts.
pub(crate) fn pair(first: u64, second: u64) -> u64 {
    mix(first.wrapping_add(STEP) ^ mix(second))
}

/// SplitMix64: the same numbers for the same seed.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`, which is at least 1; uneven by less than `bound / 2^32`.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(STEP);
        // The upper half of a product: Lemire, "Fast Random Integer Generation in an Interval", 2019.
        (((mix(self.0) >> 32) * u64::from(bound)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_never_change() {
        // Another value would send the clients of every hashing upstream elsewhere after an update.
        assert_eq!(hash(b""), 0xf52a_15e9_a9b5_e89b);
        assert_eq!(hash(b"127.0.0.1:8080"), hash(b"127.0.0.1:8080"));
        assert_ne!(hash(b"127.0.0.1:8080"), hash(b"127.0.0.1:8081"));
        assert_ne!(pair(1, 2), pair(2, 1));
    }

    #[test]
    fn numbers_are_spread_evenly() {
        let mut random = Random::new(7);
        let mut counts = [0_u32; 10];
        (0..100_000).for_each(|_| counts[random.below(10) as usize] += 1);
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 500), "{counts:?}");
    }
}
