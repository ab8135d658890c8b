//! Options of TCP sockets.

#![expect(
    unsafe_code,
    reason = "the crates we use have no setter for IP_BIND_ADDRESS_NO_PORT, IP_MINTTL and IPV6_MINHOPCOUNT"
)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use socket2::{Domain, SockRef, TcpKeepalive};

use crate::config::{Keepalive, TcpOptions};

/// Sets the options of one side. Sockets accepted from a listener inherit those of the listener, tcp(7),
/// which saves the calls for each connection. Keepalive is another matter, see [`keep_alive`].
pub(super) fn apply(socket: SockRef<'_>, options: &TcpOptions) -> io::Result<()> {
    if options.nodelay {
        socket.set_tcp_nodelay(true)?;
    }
    if let Some(timeout) = options.user_timeout {
        socket.set_tcp_user_timeout(Some(timeout))?;
    }
    Ok(())
}

/// Like [`apply`], on a socket whose options somebody else has set.
pub(super) fn replace(socket: SockRef<'_>, options: &TcpOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(options.nodelay)?;
    socket.set_tcp_user_timeout(options.user_timeout)
}

/// Has bind(2) to port 0 leave the port to connect(2), ip(7). IPv6 sockets take the option of IPv4 too.
pub(super) fn bind_without_port(socket: SockRef<'_>) -> io::Result<()> {
    set(&socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// Has the kernel drop segments with a smaller TTL or hop limit. An IPv6 socket may get segments of both families.
pub(super) fn set_least_hops(socket: SockRef<'_>, least: u8) -> io::Result<()> {
    set(&socket, libc::IPPROTO_IP, libc::IP_MINTTL, least.into())?;
    if socket.domain()? == Domain::IPV6 {
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, least.into())?;
    }
    Ok(())
}

fn set(socket: &SockRef<'_>, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the kernel reads an int, which outlives the call, and the descriptor is open.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the kernel probe a silent peer, and end the connection with ETIMEDOUT where it does not answer
/// (`SO_KEEPALIVE`, `TCP_KEEPIDLE`, `TCP_KEEPINTVL`, `TCP_KEEPCNT`, tcp(7)).
///
/// Not an option to be inherited: each socket that has it arms a kernel timer, a cost that very short
/// sessions need not bear.
pub fn keep_alive(socket: SockRef<'_>, keepalive: Keepalive) {
    let Keepalive { idle, interval, count, .. } = keepalive;
    let options = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(count);
    // A Unix socket has no such option and needs none: its peer cannot vanish unnoticed.
    let _ = socket.set_tcp_keepalive(&options);
}

/// Closes a connection at once with RST instead of FIN. A client of a Unix socket sees an end.
pub fn reset(connection: OwnedFd) {
    // It fails for no open socket (socket(7)).
    let _ = SockRef::from(&connection).set_linger(Some(Duration::ZERO));
}
