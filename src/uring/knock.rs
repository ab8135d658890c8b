//! Connecting to a Unix socket without a wait in the ring.
//!
//! Such a connect is done at once, unless the backlog is full. A connect by the ring waits for room on a
//! kernel thread, one for each connect: 2,000 sessions in front of a backend that does not accept meant 2,000
//! threads. The kernel does not report when there is room, so this module tries again after a pause, until
//! its owner gives up.

use std::io;
use std::time::Duration;

use socket2::{SockAddr, SockRef};

use super::errno::{Errno, errno_of};
use crate::base::{Backoff, Tick};

/// Pause after a first attempt; each further attempt doubles it, up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// Longest pause: a thousand waiting connects cost three percent of a core.
const LAST_PAUSE: Duration = Duration::from_millis(100);

/// A connect to a Unix socket that has not ended.
pub(super) struct Knock {
    address: SockAddr,
    backoff: Backoff,
}

/// The state of such a connect.
pub(super) enum Knocked {
    /// It continues at a moment for which a wake-up is armed.
    Waiting,
    /// It continues at that moment; a wake-up for it has to be armed.
    Again(Tick),
    /// It has ended, with this error if it failed.
    Ended(Option<Errno>),
}

impl Knock {
    /// Starts a connect; [`Self::attempt`] makes the first attempt.
    pub(super) fn new(address: SockAddr) -> Self {
        Self { address, backoff: Backoff::new(FIRST_PAUSE, LAST_PAUSE, Duration::MAX) }
    }

    /// Makes an attempt if it is time for one.
    pub(super) fn attempt(&mut self, socket: SockRef<'_>, now: Tick) -> Knocked {
        if now < self.backoff.until() {
            return Knocked::Waiting;
        }
        let error = match socket.connect(&self.address) {
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
