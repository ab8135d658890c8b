//! Connections to backends, as the exchanges see them and as they are made.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::base::Address;
use crate::protocol::proxy::{self, Endpoints, Version};

use super::ending::Ending;

/// A connection to a backend, whatever it is made of.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// A connection to a backend; its drop closes it.
pub(crate) type Connection = Box<dyn Stream>;

/// Makes connections; the test seam of the checks.
pub(crate) trait Connect: 'static {
    /// Returns once the connection stands, and with `announces` once a PROXY header of this version is on its way.
    fn connect(
        &self,
        address: &Address,
        announces: Option<Version>,
    ) -> impl Future<Output = io::Result<Connection>>;
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
    async fn connect(&self, address: &Address, announces: Option<Version>) -> io::Result<Connection> {
        match address {
            Address::Tcp(address) => {
                let mut stream = TcpStream::connect(*address).await?;
                // With nobody listening on a port of the ephemeral range, the kernel may choose that very
                // port as the local one, and the socket connects to itself (RFC 9293, 3.5, simultaneous
                // open).
                let own = stream.local_addr()?;
                if own == *address {
                    return Err(io::Error::from_raw_os_error(libc::ECONNREFUSED));
                }
                announce(&mut stream, announces, Some(Endpoints::new(own, *address))).await;
                Ok(Box::new(Ending::new(stream)))
            }
            Address::Unix(path) => {
                let mut stream = UnixStream::connect(path).await?;
                announce(&mut stream, announces, None).await;
                Ok(Box::new(Ending::new(stream)))
            }
        }
    }
}

/// Sends the PROXY header of a connection that is ours and nobody else's, if there is to be one. Version 1 has no word for
/// that: the addresses of the connection itself say the same. UNKNOWN, which some servers refuse, is for connections
/// without addresses.
async fn announce(stream: &mut impl Stream, announces: Option<Version>, own: Option<Endpoints>) {
    let Some(version) = announces else { return };
    let own = own.filter(|_| version == Version::V1);
    // What a backend makes of it shows in what follows. A new connection has room for a header.
    let _ = stream.write_all(&proxy::write(version, own, &[])).await;
}
