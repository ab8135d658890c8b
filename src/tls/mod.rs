//! TLS: its settings, made of the configuration, and connections without I/O.

mod pace;
mod stream;

pub use pace::Pace;
pub use stream::Stream;

#[cfg(test)]
pub(crate) mod testing;
