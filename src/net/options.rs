//! Options of TCP sockets.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::rules::config::TcpOptions;

/// Sets the options of one side. Sockets accepted from a listener inherit those of the listener, tcp(7), which
/// saves the calls for each connection. Keepalive is another matter, see [`keep_alive`].
pub(super) fn apply(socket: SockRef<'_>, options: &TcpOptions) -> io::Result<()> {
    if options.nodelay {
        socket.set_tcp_nodelay(true)?;
    }
    if let Some(timeout) = options.user_timeout {
        socket.set_tcp_user_timeout(Some(timeout))?;
    }
    Ok(())
}

/// Has the kernel probe a silent peer after `idle` (`SO_KEEPALIVE`, `TCP_KEEPIDLE`, tcp(7)).
///
/// Not an option to be inherited: each socket that has it arms a timer of the kernel's, at a cost that sessions of a
/// moment need not bear.
pub fn keep_alive(socket: SockRef<'_>, idle: Duration) {
    // TCP_KEEPIDLE counts whole seconds.
    let idle = Duration::from_secs(idle.as_secs().max(1));
    // A unix socket has no such option, and needs none: its peer cannot vanish unseen.
    let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle));
}
