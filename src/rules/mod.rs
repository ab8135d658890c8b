//! Pure rules: they take `now` and a seed, and touch no clock, socket, file or thread.

pub mod admission;
pub mod balance;
pub mod config;
pub mod steering;
pub mod upstream;
