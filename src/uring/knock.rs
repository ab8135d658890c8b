//! Connecting to a Unix socket, which is no wait for the ring.
//!
//! Such a connect is done at once, or there is no room in the backlog. A connect of the ring waits for room
//! on a thread of the kernel's, one for each: 2,000 sessions in front of a backend that does not accept were
//! 2,000 threads. Nothing tells when there is room, so this asks again after a pause, until its owner gives
//! up.

use std::io;
use std::time::Duration;

use socket2::{SockAddr, SockRef};

use super::errno::{Errno, errno_of};
use crate::base::{Backoff, Tick};

/// Pause after a first attempt; it doubles with each further one, up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// Longest pause: a thousand connects that wait cost three percent of a core.
const LAST_PAUSE: Duration = Duration::from_millis(100);

/// A connect to a Unix socket that has not come to an end.
pub(super) struct Knock {
    address: SockAddr,
    backoff: Backoff,
}

/// Where such a connect stands.
pub(super) enum Knocked {
    /// It goes on at a moment for which a wake-up is armed.
    Waiting,
    /// It goes on at that moment; a wake-up for it is to be armed.
    Again(Tick),
    /// It has come to an end, with this error if it failed.
    Ended(Option<Errno>),
}

impl Knock {
    /// Begins with the first attempt.
    pub(super) fn new(address: SockAddr) -> Self {
        Self { address, backoff: Backoff::new(FIRST_PAUSE, LAST_PAUSE, Duration::MAX) }
    }

    /// Attempts once where it is time to.
    pub(super) fn attempt(&mut self, socket: SockRef<'_>, now: Tick) -> Knocked {
        if now < self.backoff.until() {
            return Knocked::Waiting;
        }
        let error = match connect(socket, &self.address) {
            Ok(()) => return Knocked::Ended(None),
            Err(error) => error,
        };
        if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
            return Knocked::Ended(Some(errno_of(&error)));
        }
        self.backoff.failed(now, now, 1.0);
        Knocked::Again(self.backoff.until())
    }
}

/// Without waiting; afterwards the socket is in blocking mode, as the ring needs it.
fn connect(socket: SockRef<'_>, address: &SockAddr) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let connected = socket.connect(address);
    socket.set_nonblocking(false)?;
    connected
}
