//! Indices into the tables of one configuration snapshot; a newtype each, so that none is taken for another.

macro_rules! index {
    ($(#[$doc:meta] $name:ident)+) => {$(
        #[$doc]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u16);

        impl $name {
            /// The position in the table this identifier points into.
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

/// A backend of the process: its upstream, and its position in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    /// The upstream it belongs to.
    pub upstream: UpstreamId,
    /// Its position there.
    pub backend: BackendId,
}

/// Which shard of how many.
#[derive(Clone, Copy, Debug)]
pub struct ShardPlace {
    /// This shard.
    pub shard: ShardId,
    /// How many there are.
    pub shards: usize,
    /// Seed of the process for what is left to chance.
    pub seed: u64,
}

impl ShardPlace {
    /// The part of this shard of a number for the process.
    #[must_use]
    pub fn share_of(&self, number: u32) -> usize {
        let (number, shard) = (number as usize, self.shard.index());
        number / self.shards + usize::from(shard < number % self.shards)
    }
}
