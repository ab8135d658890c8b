//! What the threads of several cores write.

/// A value that several cores write.
///
/// A write takes its cache line away from all other cores: 50 to 400 ns on a machine with many, and one core after
/// the other. So no message writes one, and a session only where a limit asks for it. Tests count the writes.
#[derive(Debug, Default)]
pub struct Shared<A>(A);

impl<A> Shared<A> {
    /// Creates the value.
    pub const fn new(value: A) -> Self {
        Self(value)
    }

    /// Returns the value, to be read.
    pub const fn get(&self) -> &A {
        &self.0
    }

    /// Returns the value, to be written, or to be locked.
    pub fn write(&self) -> &A {
        #[cfg(test)]
        writes::WRITES.with(|writes| writes.set(writes.get() + 1));
        &self.0
    }
}

/// The audit.
#[cfg(test)]
pub(crate) mod writes {
    use std::cell::Cell;

    thread_local! {
        pub(super) static WRITES: Cell<u64> = const { Cell::new(0) };
    }

    /// Returns how often this thread has written to what is [`Shared`](super::Shared) so far.
    pub(crate) fn count() -> u64 {
        WRITES.with(Cell::get)
    }
}
