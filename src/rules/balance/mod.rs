//! Which backend next: one file an algorithm, one registry.

/// An algorithm as the registry knows it.
#[derive(Debug)]
pub struct Registered {
    /// The name in the configuration.
    pub name: &'static str,
}
