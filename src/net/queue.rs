//! What the kernel still holds of a sent stream.

#![expect(unsafe_code, reason = "ioctl(2) has no safe wrapper in the crates we use")]

use std::os::fd::AsRawFd;

use socket2::{Domain, SockRef};

/// Returns how many bytes were sent on a TCP socket and not acknowledged by its peer yet (SIOCOUTQ, tcp(7)).
/// A close with a reset would discard them.
///
/// Returns 0 for a Unix socket: bytes sent on it have already reached the peer.
#[must_use]
pub fn unacknowledged(socket: SockRef<'_>) -> u32 {
    let is_tcp = socket.domain().is_ok_and(|domain| domain == Domain::IPV4 || domain == Domain::IPV6);
    if is_tcp { queued(socket) } else { 0 }
}

/// Returns how much the kernel holds of what was sent on a socket, because its peer has not taken it: bytes
/// of a TCP connection, or the memory of whole pieces on a Unix socket (SIOCOUTQ, tcp(7)). While the value
/// changes, the peer takes something.
#[must_use]
pub fn queued(socket: SockRef<'_>) -> u32 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one `int`, which outlives the call; the socket is borrowed and therefore
    // open.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result < 0 { 0 } else { u32::try_from(bytes).unwrap_or(0) }
}
