//! What the kernel still holds of a stream.

#![expect(unsafe_code, reason = "ioctl(2) has no safe wrapper in the crates we use")]

use std::os::fd::AsRawFd;

use socket2::{Domain, SockRef};

/// Bytes that were sent on a TCP socket and that its peer has not acknowledged yet (SIOCOUTQ, tcp(7)). A
/// close with a reset would throw them away.
///
/// None of a Unix socket: what was sent on it lies with the peer already.
#[must_use]
pub fn unacknowledged(socket: SockRef<'_>) -> u32 {
    let is_tcp = socket.domain().is_ok_and(|domain| domain == Domain::IPV4 || domain == Domain::IPV6);
    if is_tcp { queued(socket) } else { 0 }
}

/// What the kernel holds of what was sent on a socket, because its peer has not taken it: bytes of a TCP
/// connection, the memory of whole pieces on a Unix socket (SIOCOUTQ, tcp(7)). While it changes, the peer
/// takes something.
#[must_use]
pub fn queued(socket: SockRef<'_>) -> u32 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one `int`, which outlives the call; the socket is borrowed and so open.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result < 0 { 0 } else { u32::try_from(bytes).unwrap_or(0) }
}
