//! Connections to backends, as the exchanges see them and as they are made.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::base::Address;

use super::ending::Ending;

/// A connection to a backend, whatever it is made of.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// A connection to a backend; its drop closes it.
pub(crate) type Connection = Box<dyn Stream>;

/// Makes connections; the test seam of the checks.
pub(crate) trait Connect: 'static {
    /// Returns once the connection stands.
    fn connect(&self, address: &Address) -> impl Future<Output = io::Result<Connection>>;
}

/// Real sockets.
///
/// A connection ends with a FIN, and what the backend still says is read until its own (see [`Ending`]): a
/// reset would free the local port at once, but the backend's application would see "connection reset by
/// peer" at every check, which its operators take for trouble (haproxy/haproxy#560 asks for just this), and
/// some servers block an address that has reset often enough. The price is one port in TIME_WAIT, for this
/// backend's address only, for 60 s: 60 of some 28,000 at a check a second.
pub(crate) struct Sockets;

impl Connect for Sockets {
    async fn connect(&self, address: &Address) -> io::Result<Connection> {
        match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(*address).await?;
                // With nobody listening on a port of the ephemeral range, the kernel may choose that very
                // port as the local one, and the socket connects to itself (RFC 9293, 3.5, simultaneous
                // open).
                if stream.local_addr()? == *address {
                    return Err(io::Error::from_raw_os_error(libc::ECONNREFUSED));
                }
                Ok(Box::new(Ending::new(stream)))
            }
            Address::Unix(path) => Ok(Box::new(Ending::new(UnixStream::connect(path).await?))),
        }
    }
}
