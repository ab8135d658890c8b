//! One check of one backend: a connection that is made and closed again.

use std::fmt::Write;
use std::io;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::{self, Instant};

use crate::rules::upstream::Address;

/// A timer this much later than it was set for was not late by itself: the process was stopped, its machine
/// was paused, or it is starved of CPU time.
pub(super) const LATE: Duration = Duration::from_millis(250);

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// One of the addresses took a connection.
    Success,
    /// None did; for each, why.
    Failure(String),
    /// None did, and some took too long; for each, why.
    Timeout(String),
    /// This process could not even try; why.
    Local(String),
    /// The time ran out while this process was not running: it says nothing.
    Frozen,
}

/// Makes a connection and closes it; the test seam of the checks.
pub(super) trait Connect: 'static {
    /// Returns once the connection stood, and is closed.
    fn connect(&self, address: &Address) -> impl Future<Output = io::Result<()>>;
}

/// Real sockets.
///
/// A connection ends with a plain close (FIN). A reset would free the local port at once, but the backend's
/// application would see "connection reset by peer" at every check, which its operators take for trouble
/// (haproxy/haproxy#560 asks for just this). The price is one port in TIME_WAIT, for this backend's address only,
/// for 60 s: 60 of some 28,000 at a check a second. (Where the backend's first words came in before the close,
/// the kernel resets all the same; there is nothing to be gained by waiting for them.)
pub(super) struct Sockets;

impl Connect for Sockets {
    async fn connect(&self, address: &Address) -> io::Result<()> {
        match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(*address).await?;
                // With nobody listening on a port of the ephemeral range, the kernel may choose that very port
                // as the local one, and the socket connects to itself (RFC 9293, 3.5, simultaneous open).
                if stream.local_addr()? == *address {
                    return Err(io::Error::from_raw_os_error(libc::ECONNREFUSED));
                }
            }
            Address::Unix(path) => drop(UnixStream::connect(path).await?),
        }
        Ok(())
    }
}

/// Tries the addresses in order until one takes a connection. They share `timeout`: each gets an equal part of
/// what is left, so that a black hole in front does not hide a live one behind (as Go's `net.Dialer` does it).
pub(super) async fn probe(connect: &impl Connect, addresses: &[Address], timeout: Duration) -> Outcome {
    let deadline = Instant::now() + timeout;
    let mut causes = String::new();
    let (mut is_timeout, mut is_local) = (false, true);
    for (index, address) in addresses.iter().enumerate() {
        let now = Instant::now();
        let share = (deadline.saturating_duration_since(now)).div_f64((addresses.len() - index) as f64);
        let due = now + share;
        let cause = match time::timeout_at(due, connect.connect(address)).await {
            Ok(Ok(())) => return Outcome::Success,
            Ok(Err(error)) => {
                is_local &= is_own_fault(&error, address);
                error.to_string()
            }
            Err(_) if Instant::now() > due + LATE => return Outcome::Frozen,
            Err(_) => {
                is_timeout = true;
                is_local = false;
                format!("no answer in {share:.0?}")
            }
        };
        let separator = if causes.is_empty() { "" } else { "; " };
        // Writing to a string does not fail.
        let _ = write!(causes, "{separator}{address}: {cause}");
    }
    if is_timeout {
        Outcome::Timeout(causes)
    } else if is_local {
        Outcome::Local(causes)
    } else {
        Outcome::Failure(causes)
    }
}

/// Whether the attempt failed for want of something of this process or machine.
fn is_own_fault(error: &io::Error, address: &Address) -> bool {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL) => true,
        // No free local port (connect(2)); of a socket file it says that the backend's backlog is full.
        Some(libc::EAGAIN) => matches!(address, Address::Tcp(_)),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
