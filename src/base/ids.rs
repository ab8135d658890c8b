//! Indices into the tables of one configuration snapshot. Each is a newtype, so that they cannot be confused.

macro_rules! index {
    ($(#[$doc:meta] $name:ident)+) => {$(
        #[$doc]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u16);

        impl $name {
            /// Returns the position in the table that this identifier points into.
            #[must_use]
            pub fn index(self) -> usize {
                usize::from(self.0)
            }
        }
    )+};
}

index! {
    /// Position of a listener in the configuration.
    ListenerId
    /// Position of an upstream in the configuration.
    UpstreamId
    /// Position of a backend in its upstream.
    BackendId
    /// Position of a shard among the chosen cores (not the CPU number).
    ShardId
}

/// A backend of the process: its upstream and its position in that upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    /// The upstream that the backend belongs to.
    pub upstream: UpstreamId,
    /// The position of the backend in the upstream.
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
