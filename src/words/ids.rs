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
