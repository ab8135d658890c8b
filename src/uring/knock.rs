//! Connecting to a socket file, which is no wait for the ring.
//!
//! Such a connect is done at once, or there is no room in the backlog. A connect of the ring waits for room on a thread of
//! the kernel's, one for each: 2,000 sessions in front of a backend that does not accept were 2,000 threads. Nothing tells
//! when there is room, so this asks again after a pause, until its owner gives up.

#![expect(unsafe_code, reason = "the descriptor is borrowed from its slot")]

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use socket2::{SockAddr, SockRef};

use super::core::Core;
use super::slot::{Extra, Key, errno_of};
use crate::base::Tick;

/// Pause after a first try, doubled with each further one...
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// ...up to this: a thousand who wait cost three percent of a core.
const LAST_PAUSE: Duration = Duration::from_millis(100);

/// A connect to a socket file that has not come to an end.
pub(super) struct Knock {
    address: SockAddr,
    next: Tick,
    pause: Duration,
}

/// Where such a connect stands.
pub(super) enum Knocked {
    /// There is none, or it has come to an end.
    Done,
    /// It goes on at that moment; a wake-up for it is to be armed.
    Again(Tick),
    /// It goes on at a moment for which a wake-up is armed.
    Waiting,
}

impl Knock {
    /// Begins with the first poll.
    pub(super) fn new(address: SockAddr) -> Self {
        Self { address, next: Tick(0), pause: FIRST_PAUSE }
    }
}

impl Core {
    /// Attempts once where it is time to; a failure is noted in the slot.
    pub(super) fn knock(&mut self, key: Key, now: Tick) -> Knocked {
        let slot = self.slots.of(key);
        let fd = slot.fd;
        let Some(Extra::Knock(knock)) = slot.extra() else { return Knocked::Done };
        if now < knock.next {
            return Knocked::Waiting;
        }
        // SAFETY: the slot owns the descriptor, which is open for as long as it is there.
        let connected = connect(SockRef::from(&unsafe { BorrowedFd::borrow_raw(fd) }), &knock.address);
        let is_later = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
        };
        if connected.as_ref().is_err_and(is_later) {
            knock.next = now.after(knock.pause);
            knock.pause = (knock.pause * 2).min(LAST_PAUSE);
            return Knocked::Again(knock.next);
        }
        slot.take_extra();
        slot.error = connected.err().map(|error| errno_of(&error));
        Knocked::Done
    }
}

/// Without waiting; afterwards the socket is in blocking mode, as the ring needs it.
fn connect(socket: SockRef<'_>, address: &SockAddr) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let connected = socket.connect(address);
    socket.set_nonblocking(false)?;
    connected
}
