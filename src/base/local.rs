//! Where connections that this machine makes come from.

use std::fmt;
use std::net::IpAddr;

use super::ShardPlace;

/// The ports from a first to a last one, both among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The first port.
    pub first: u16,
    /// The last port, at least the first one.
    pub last: u16,
}

impl PortRange {
    /// Returns the number of ports.
    #[must_use]
    pub fn count(self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    /// Returns whether a port is one of these.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// Returns the part of a shard. The range is split into as many parts as there are shards, one behind the other;
    /// they differ by one port at most. Returns `None` for a shard without a port, where shards outnumber ports.
    #[must_use]
    pub fn part_of(self, place: ShardPlace) -> Option<Self> {
        let begin = |position: usize| position * self.count() / place.shards;
        let (begin, end) = (begin(place.shard.index()), begin(place.shard.index() + 1));
        // An offset is at most the number of ports.
        let port = |offset: usize| self.first + offset as u16;
        (begin < end).then(|| Self { first: port(begin), last: port(end - 1) })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.first, self.last)
    }
}

/// Our end of a connection that is to be made; what is `None` is the kernel's choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalEnd {
    /// The local address.
    pub ip: Option<IpAddr>,
    /// The ports of which one is taken.
    pub ports: Option<PortRange>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ShardId;

    fn parts(range: PortRange, shards: u16) -> Vec<Option<PortRange>> {
        let place = |shard| ShardPlace { shard: ShardId(shard), shards: shards.into(), seed: 0 };
        (0..shards).map(|shard| range.part_of(place(shard))).collect()
    }

    #[test]
    fn parts_of_all_shards_are_equal_disjoint_and_together_the_range() {
        for range in [(32_768, 60_999), (32_768, 65_535), (1, 65_535), (1_024, 2_047)] {
            let range = PortRange { first: range.0, last: range.1 };
            for shards in [1, 2, 3, 64, 1_024] {
                let parts: Vec<_> = parts(range, shards).into_iter().flatten().collect();
                assert_eq!(parts.len(), usize::from(shards), "{range}, {shards}");
                assert_eq!((parts[0].first, parts[parts.len() - 1].last), (range.first, range.last));
                assert!(parts.windows(2).all(|two| two[0].last + 1 == two[1].first), "{range}, {shards}");
                let counts = || parts.iter().map(|part| part.count());
                assert_eq!(counts().sum::<usize>(), range.count());
                assert!(counts().max() <= counts().min().map(|least| least + 1), "{range}, {shards}");
            }
        }
    }

    /// A network card steers by a mask, which needs such parts.
    #[test]
    fn parts_of_an_aligned_range_are_aligned() {
        for (last, shards, ports) in [(65_535, 16, 2_048), (65_535, 64, 512), (57_343, 12, 2_048)] {
            let range = PortRange { first: 32_768, last };
            for (position, part) in parts(range, shards).into_iter().enumerate() {
                let first = 32_768 + ports * position as u16;
                assert_eq!(part, Some(PortRange { first, last: first | (ports - 1) }));
            }
        }
    }

    #[test]
    fn fewer_ports_than_shards_leave_some_without() {
        let range = PortRange { first: 61_000, last: 61_007 };
        assert!(parts(range, 8).iter().all(Option::is_some));
        let nine = parts(range, 9);
        assert_eq!(nine.iter().flatten().count(), 8);
        assert_eq!(nine.iter().flatten().map(|part| part.count()).sum::<usize>(), 8);
    }
}
