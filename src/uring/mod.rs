//! The ring of a shard: one io_uring for all network I/O, timers and wake-ups of one core.
//!
//! The shard is a glommio executor, and it sleeps in exactly one place: the `io_uring_enter` of
//! [`Ring::drive`]. glommio's own reactor is blind while it sleeps there, so glommio's timers, channels and
//! sockets are not used on a shard; tasks are spawned with [`Ring::spawn`], time comes from [`Ring::now`] and
//! [`Ring::timer`], and other threads ring the [`Doorbell`].
//!
//! Invariants:
//! - a descriptor is closed only after the last completion of every operation that names it;
//! - memory that the kernel may touch belongs to the ring, never to a future;
//! - the driver sleeps only after a whole pass of the run queue in which no other task was polled;
//! - no operation of the ring ends on a kernel thread;
//! - a turn costs one system call, or one for each 20 completions; a timer costs none, and a message no
//!   clock call.
//!
//! Deliberately absent: zero-copy send, bundles, registered files, `SQPOLL`;
//! `docs/maintainers/PERFORMANCE.md` says what was measured.

mod accept;
mod buffers;
mod complete;
mod core;
mod doorbell;
mod driver;
mod errno;
mod heap;
mod heartbeat;
mod knock;
mod limit;
mod line;
mod locked;
mod missing;
mod parking;
mod queues;
mod quiet;
mod ring;
mod setup;
mod slot;
mod socket;
mod submit;
mod task;
mod timer;
mod wheel;

#[cfg(test)]
pub(crate) mod testing;

pub use accept::{Accepted, Acceptor};
pub use doorbell::{Doorbell, DoorbellListener};
pub use errno::Errno;
pub(crate) use errno::errno_of;
pub use heartbeat::{Beat, Heartbeat, Turns};
pub use limit::LockedMemory;
pub use line::Place;
pub use locked::{locked_memory, make_executor};
pub use missing::Missing;
pub use ring::{BufferSettings, Ring};
pub use setup::{Features, probe};
pub use slot::{End, Receive};
pub use socket::{Peeked, Sent, Socket};
pub use timer::Timer;
