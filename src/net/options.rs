//! Options of TCP sockets.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::rules::config::TcpOptions;

/// Sets the options of one side. Sockets accepted from a listener inherit those of the listener, tcp(7), which
/// saves the calls for each connection.
pub(super) fn apply(socket: SockRef<'_>, options: &TcpOptions) -> io::Result<()> {
    if options.nodelay {
        socket.set_tcp_nodelay(true)?;
    }
    if let Some(idle) = options.keepalive {
        // TCP_KEEPIDLE counts whole seconds.
        let idle = Duration::from_secs(idle.as_secs().max(1));
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle))?;
    }
    if let Some(timeout) = options.user_timeout {
        socket.set_tcp_user_timeout(Some(timeout))?;
    }
    Ok(())
}
