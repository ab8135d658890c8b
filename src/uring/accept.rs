//! Accepting connections, woken by the ring.
//!
//! The ring's own accept is not used: a multishot one takes the whole backlog in one enter, 4,000 connections
//! at once in 130 ms, while open sessions wait (`docs/maintainers/PERFORMANCE.md`). A poll and accept4(2),
//! one call for each connection, take as many as the caller wants and leave the rest in the backlog.

#![expect(unsafe_code, reason = "socket2 has no accept4(2) with flags")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::task::{Context, Poll};

use socket2::{SockAddr, SockRef};

use super::{Ring, Socket};
use crate::base::ClientAddress;

/// A listening socket of this shard.
pub struct Acceptor(Socket);

/// A connection of a client.
#[derive(Debug)]
pub struct Accepted {
    /// The connection, in non-blocking mode.
    pub connection: OwnedFd,
    /// Who has connected.
    pub client: ClientAddress,
}

impl Ring {
    /// Takes over a listening socket.
    ///
    /// # Errors
    ///
    /// fcntl(2): the descriptor cannot be put into non-blocking mode, which works for every open descriptor.
    pub fn accept_from(&self, fd: OwnedFd) -> io::Result<Acceptor> {
        let socket = self.socket(fd);
        socket.with(|listener| listener.set_nonblocking(true))?;
        Ok(Acceptor(socket))
    }
}

impl Acceptor {
    /// Polls for a sign that [`Self::poll_accept`] would look for a connection.
    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        self.0.register(context.waker());
        if self.0.is_waiting_readable() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Polls for the next connection.
    ///
    /// # Errors
    ///
    /// accept(2). Accepting goes on with the next call; if descriptors are short, the caller should wait a
    /// moment.
    pub fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        if self.poll_readable(context).is_pending() {
            return Poll::Pending;
        }
        let accepted = self.accept_now();
        if accepted.is_none() {
            self.0.wait_readable_alone();
        }
        accepted.map_or(Poll::Pending, Poll::Ready)
    }

    /// Calls `f` with the listening socket.
    pub fn with<T>(&self, f: impl FnOnce(SockRef<'_>) -> T) -> T {
        self.0.with(f)
    }

    /// Returns a connection that the kernel has already completed; `None` if there is none.
    ///
    /// # Errors
    ///
    /// accept(2).
    pub fn accept_now(&self) -> Option<io::Result<Accepted>> {
        match self.accept() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            accepted => Some(accepted),
        }
    }

    /// Stops waiting for connections. Nothing of the listener is in flight afterwards, so a drop closes it at
    /// once: a caller that drops it when [`Self::accept_now`] finds no connection resets no client.
    pub async fn disarm(&self) {
        self.0.cancel_wait();
        std::future::poll_fn(|context| self.poll_readable(context)).await;
    }

    /// Accepts a connection from the backlog.
    fn accept(&self) -> io::Result<Accepted> {
        self.0.with(|listener| {
            let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            // SAFETY: the kernel writes an address of at most `length` bytes, and its length. It returns a descriptor that is
            // nobody's yet, or a negative number.
            let (connection, client) = unsafe {
                SockAddr::try_init(|storage, length| {
                    match libc::accept4(listener.as_raw_fd(), storage.cast(), length, flags) {
                        fd if fd >= 0 => Ok(OwnedFd::from_raw_fd(fd)),
                        _ => Err(io::Error::last_os_error()),
                    }
                })?
            };
            Ok(Accepted { connection, client: client.as_socket().into() })
        })
    }
}
