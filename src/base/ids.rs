//! Numbers of the objects of a configuration. Each is a newtype, so that they cannot be confused.
//!
//! A name gets a number when it first appears, and keeps it over the generations of the configuration
//! (`upstream::Names`): everything that threads tell each other goes by numbers. In the first generation a number is the
//! position in the file; later the order of the numbers means nothing.

macro_rules! index {
    ($(#[$doc:meta] $name:ident)+) => {$(
        #[$doc]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u16);

        impl $name {
            /// Returns the position in a table by number.
            #[must_use]
            pub fn index(self) -> usize {
                usize::from(self.0)
            }
        }
    )+};
}

index! {
    /// Number of a listener.
    ListenerId
    /// Number of an upstream.
    UpstreamId
    /// Number of a backend in its upstream.
    BackendId
    /// Position of a shard among the chosen cores (not the CPU number).
    ShardId
}

/// A backend of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    /// The upstream that the backend belongs to.
    pub upstream: UpstreamId,
    /// The number of the backend in the upstream.
    pub backend: BackendId,
}

/// A shard, and the number of all shards.
#[derive(Clone, Copy, Debug)]
pub struct ShardPlace {
    /// This shard.
    pub shard: ShardId,
    /// The number of all shards.
    pub shards: usize,
    /// Seed of the process for everything random.
    pub seed: u64,
}

impl ShardPlace {
    /// Returns this shard's share of a number that is meant for the whole process.
    #[must_use]
    pub fn share_of(&self, number: u32) -> usize {
        let (number, shard) = (number as usize, self.shard.index());
        number / self.shards + usize::from(shard < number % self.shards)
    }
}
