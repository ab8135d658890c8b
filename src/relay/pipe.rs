//! Pipes through which bulk moves from one socket to the other inside the kernel, by splice(2).
//!
//! A pipe is held only while it holds bytes: a direction takes one at the start of a turn and gives it back
//! at the end, unless the destination did not take everything. So a few pipes serve a core. A pipe that holds
//! bytes when its session ends is closed, never given to another session.
//!
//! `IORING_OP_SPLICE` always goes to a kernel thread; the plain call does not, and moves what is there
//! without waiting, because the sockets are in non-blocking mode: splice(2) has no flag like `MSG_DONTWAIT`.

#![expect(unsafe_code, reason = "splice(2), pipe2(2) and fcntl(2) have no safe wrapper in the crates we use")]

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use super::side::Side;
use crate::base::{Plain, Tick};
use crate::net::Peer;
use crate::uring::{Errno, errno_of};

/// How long no pipe is made after one could not be made.
const PAUSE: Duration = Duration::from_secs(1);

/// Bytes after which no other direction of the shard begins to splice in the same turn of the ring: a
/// millisecond's work.
const TURN_BYTES: u32 = 4 << 20;

/// The pipes of one shard.
pub struct Pipes {
    /// Size of a pipe, bytes.
    size: u32,
    /// Maximum number of pipes at a time.
    limit: u32,
    made: Cell<u32>,
    free: RefCell<Vec<Ends>>,
    /// No pipe is made before this moment.
    paused_until: Cell<Tick>,
    warned: Cell<bool>,
    moved: Cell<Moved>,
    /// The turn of the ring in which bytes were last moved, and how many bytes.
    spent: Cell<(u64, u32)>,
    /// [`TURN_BYTES`]; less in tests.
    pub(super) turn_bytes: u32,
}

/// Bytes that went through the pipes of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Bytes to backends.
    pub to_backend: u64,
    /// Bytes to clients.
    pub to_client: u64,
}

/// Both ends of a pipe.
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

/// A pipe in use by one direction.
pub(super) struct Pipe {
    pipes: Rc<Pipes>,
    /// Taken only by `drop`.
    ends: Option<Ends>,
    /// Bytes in the pipe.
    held: u32,
}

/// The result of filling a pipe.
pub(super) struct Filled {
    pub(super) bytes: u32,
    /// Whether splice(2) can bring nothing more: an end, an urgent mark, a failure, or a kernel without
    /// memory.
    pub(super) ended: bool,
    /// The connection failed with this error.
    pub(super) failed: Option<Errno>,
}

/// Why bytes are left in a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// The destination takes no more for now.
    Full,
    /// The kernel has no memory for them for now.
    Shortage,
    /// The connection failed with this error.
    Failed(Errno),
}

impl Pipes {
    /// Creates at most `limit` pipes of `size` bytes; each is made when it is first needed.
    #[must_use]
    pub fn new(size: u32, limit: u32) -> Self {
        Self {
            size,
            limit,
            made: Cell::new(0),
            free: RefCell::default(),
            paused_until: Cell::new(Tick(0)),
            warned: Cell::new(false),
            moved: Cell::default(),
            spent: Cell::default(),
            turn_bytes: TURN_BYTES,
        }
    }

    /// Returns how many bytes went out of the pipes since the last call, if any did.
    #[must_use]
    pub fn take_moved(&self) -> Option<Moved> {
        let moved = self.moved.take();
        (moved != Moved::default()).then_some(moved)
    }

    /// Counts bytes that went out of a pipe to `side`.
    pub(super) fn note_moved(&self, side: Side, bytes: u32) {
        let mut moved = self.moved.get();
        match side {
            Side::Client => moved.to_client += u64::from(bytes),
            Side::Backend => moved.to_backend += u64::from(bytes),
        }
        self.moved.set(moved);
    }

    /// Returns whether more bytes may be moved in this turn of the ring; otherwise other directions have
    /// their turn first.
    pub(super) fn has_budget(&self, turn: u64) -> bool {
        let (last, bytes) = self.spent.get();
        last != turn || bytes < self.turn_bytes
    }

    pub(super) fn spend(&self, turn: u64, bytes: u32) {
        let (last, before) = self.spent.get();
        self.spent.set((turn, bytes.saturating_add(if last == turn { before } else { 0 })));
    }

    /// Returns an empty pipe, the one used last if possible; `None` if no more can be made.
    pub(super) fn take(self: &Rc<Self>, now: Tick) -> Option<Pipe> {
        let free = self.free.borrow_mut().pop();
        let ends = free.or_else(|| self.make(now))?;
        Some(Pipe { pipes: Rc::clone(self), ends: Some(ends), held: 0 })
    }

    fn make(&self, now: Tick) -> Option<Ends> {
        if self.made.get() == self.limit || now < self.paused_until.get() {
            return None;
        }
        match Ends::new(self.size) {
            Ok(ends) => {
                self.made.set(self.made.get() + 1);
                Some(ends)
            }
            Err(error) => {
                self.paused_until.set(now.after(PAUSE));
                if !self.warned.replace(true) {
                    log::warn!(
                        "no pipe of {} bytes for splicing, copying instead: {}; see fs.pipe-max-size and \
                         fs.pipe-user-pages-soft, or set runtime.relay.splice to off",
                        self.size,
                        Plain(&error)
                    );
                }
                None
            }
        }
    }
}

impl Ends {
    fn new(size: u32) -> io::Result<Self> {
        let mut ends: [RawFd; 2] = [-1; 2];
        // SAFETY: the kernel writes two descriptors into the array, which outlives the call.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptors are new and no other code knows them.
        let (read, write) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
        // SAFETY: the call takes numbers only, and the descriptor is open.
        if unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, size) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { read, write })
    }
}

impl Pipe {
    /// Moves what `from` has received into the empty pipe, at most `most` bytes, as much as fits, and at most twice the size
    /// of the pipe. One call takes all that is there.
    pub(super) fn fill(&mut self, from: &Peer, most: u32) -> Filled {
        debug_assert_eq!(self.held, 0, "a pipe is filled once");
        // One buffer of the pipe may hold more than a page, so more than the nominal size may fit.
        let most = self.pipes.size.saturating_mul(2).min(most);
        let spliced = from.with(|socket| splice(socket.as_raw_fd(), self.ends().write.as_raw_fd(), most));
        match spliced {
            Ok(bytes) => self.held = bytes,
            Err(error) if is_again(error) => return Filled { bytes: 0, ended: false, failed: None },
            Err(error) => {
                return Filled {
                    bytes: 0,
                    ended: true,
                    failed: Some(error).filter(|&error| !is_shortage(error)),
                };
            }
        }
        self.pipes.spend(from.ring().turn(), self.held);
        Filled { bytes: self.held, ended: self.held == 0, failed: None }
    }

    /// Moves what is in the pipe to `to`, as much as it takes. Returns the number of bytes, and why some are
    /// left.
    pub(super) fn drain(&mut self, to: &Peer) -> (u32, Option<Left>) {
        let before = self.held;
        if before == 0 {
            return (0, None);
        }
        let left = to.with(|socket| {
            let destination = socket.as_raw_fd();
            while self.held > 0 {
                match splice(self.ends().read.as_raw_fd(), destination, self.held) {
                    // Nothing moved although there are bytes: the socket takes no more.
                    Ok(0) => return Some(Left::Full),
                    Ok(bytes) => self.held -= bytes,
                    Err(error) if is_again(error) => return Some(Left::Full),
                    Err(error) if is_shortage(error) => return Some(Left::Shortage),
                    Err(error) => return Some(Left::Failed(error)),
                }
            }
            None
        });
        (before - self.held, left)
    }

    fn ends(&self) -> &Ends {
        self.ends.as_ref().expect("taken by drop alone")
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let Some(ends) = self.ends.take() else { return };
        if self.held == 0 {
            self.pipes.free.borrow_mut().push(ends);
        } else {
            self.pipes.made.set(self.pipes.made.get() - 1);
        }
    }
}

fn is_again(error: Errno) -> bool {
    i32::from(error.get()) == libc::EAGAIN
}

/// Returns whether the kernel had no memory, which says nothing about the connection.
fn is_shortage(error: Errno) -> bool {
    matches!(i32::from(error.get()), libc::ENOMEM | libc::ENOBUFS)
}

/// Moves bytes without waiting for them. Returns how many, or the error number.
fn splice(from: RawFd, to: RawFd, bytes: u32) -> Result<u32, Errno> {
    loop {
        // SAFETY: no memory is passed, and the callers keep both descriptors open. On a dead socket the call
        // would raise SIGPIPE, which the Rust runtime ignores from the start of the process.
        let moved = unsafe {
            let flags = libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE;
            libc::splice(from, std::ptr::null_mut(), to, std::ptr::null_mut(), bytes as usize, flags)
        };
        if let Ok(moved) = u32::try_from(moved) {
            return Ok(moved);
        }
        let error = errno_of(&io::Error::last_os_error());
        if i32::from(error.get()) != libc::EINTR {
            return Err(error);
        }
    }
}

/// Sets how many bytes make `socket` readable, `SO_RCVLOWAT`, tcp(7); its end and a nearly full window make
/// it readable in any case.
pub(super) fn set_least(socket: &Peer, bytes: u32) {
    // The kernel takes a value that it cannot grant as a smaller one, and a socket whose value stays
    // unchanged is only woken earlier.
    let _ = socket.with(|socket| {
        // SAFETY: the kernel reads four bytes of the number, which outlives the call.
        unsafe {
            let (value, length) = ((&raw const bytes).cast(), size_of::<u32>() as libc::socklen_t);
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, value, length)
        }
    });
}
