//! A client: a plain socket whose calls never wait for ever.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::{PATIENCE, Stream};

/// A connection to the balancer.
pub struct Client {
    socket: Socket,
}

impl Client {
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::connect_to(Domain::for_address(address), &SockAddr::from(address), |_| Ok(()))
    }

    /// From this address of this machine.
    pub fn connect_from(ip: IpAddr, address: SocketAddr) -> io::Result<Self> {
        let bind = |socket: &Socket| socket.bind(&SocketAddr::new(ip, 0).into());
        Self::connect_to(Domain::for_address(address), &SockAddr::from(address), bind)
    }

    pub fn connect_unix(path: &std::path::Path) -> io::Result<Self> {
        Self::connect_to(Domain::UNIX, &SockAddr::unix(path)?, |_| Ok(()))
    }

    /// With a receive buffer that few bytes fill.
    pub fn connect_small(address: SocketAddr) -> io::Result<Self> {
        Self::connect_to(Domain::for_address(address), &SockAddr::from(address), |socket| {
            socket.set_recv_buffer_size(4_096)
        })
    }

    fn connect_to(
        domain: Domain,
        address: &SockAddr,
        prepare: impl FnOnce(&Socket) -> io::Result<()>,
    ) -> io::Result<Self> {
        let socket = Socket::new(domain, Type::STREAM, None)?;
        prepare(&socket)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.connect_timeout(address, PATIENCE)?;
        if domain != Domain::UNIX {
            socket.set_tcp_nodelay(true)?;
        }
        Ok(Self { socket })
    }

    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.socket).write_all(bytes)
    }

    /// Sends one byte as urgent data, tcp(7).
    pub fn send_urgent(&self, byte: u8) -> io::Result<()> {
        self.socket.send_out_of_band(&[byte]).map(drop)
    }

    /// Sends as much as goes at once, until nothing goes for `silence`; returns how much.
    pub fn send_until_full(&self, silence: Duration) -> usize {
        self.socket.set_write_timeout(Some(silence)).unwrap();
        let piece = vec![b'x'; 64 << 10];
        let mut sent = 0;
        while let Ok(count) = (&self.socket).write(&piece) {
            sent += count;
        }
        sent
    }

    /// Some bytes, 0 at the end.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            // The rings that the start of a server tries on this thread end a little later, and end a receive
            // that has a timeout with EINTR then (signal(7)).
            match (&self.socket).read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    pub fn receive_exact(&self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        (&self.socket).read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Everything that comes, and how it ended: a clean end, or the error.
    pub fn receive_all(&self) -> (Vec<u8>, io::Result<()>) {
        let mut bytes = Vec::new();
        let end = (&self.socket).read_to_end(&mut bytes).map(drop);
        (bytes, end)
    }

    /// Where it comes from.
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap().as_socket().unwrap()
    }

    /// Sends bytes and gets the same ones back.
    pub fn echo(&self, bytes: &[u8]) -> io::Result<()> {
        self.send(bytes)?;
        if self.receive_exact(bytes.len())? == bytes { Ok(()) } else { Err(io::Error::other("other bytes")) }
    }

    /// Sends FIN.
    pub fn end(&self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)
    }

    /// Closes with a reset.
    pub fn reset(self) {
        self.socket.set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Ends the stream, and sees the clean end of the other one.
    pub fn finish(self) -> io::Result<()> {
        self.end()?;
        match self.receive_all() {
            (rest, Ok(())) if rest.is_empty() => Ok(()),
            (rest, Ok(())) => Err(io::Error::other(format!("{} more bytes", rest.len()))),
            (_, Err(error)) => Err(error),
        }
    }

    /// Waits no longer than this for bytes.
    pub fn set_patience(&self, patience: Duration) {
        self.socket.set_read_timeout(Some(patience)).unwrap();
    }
}

/// Each client receives the head of the stream and its end, all at the same time.
#[track_caller]
pub fn receive_at_once(clients: Vec<Client>, stream: &Stream, length: usize) {
    std::thread::scope(|scope| {
        for client in clients {
            scope.spawn(move || {
                let (received, end) = client.receive_all();
                end.unwrap();
                assert!(received.len() == length && stream.matches(0, &received));
                client.finish().unwrap();
            });
        }
    });
}

/// Connects to a balancer that has no backend for this client: whenever the reset comes, it is one, and no
/// byte before it.
#[track_caller]
pub fn expect_reset(address: SocketAddr) {
    let (received, end) = match Client::connect(address) {
        Ok(client) => client.receive_all(),
        Err(error) => (Vec::new(), Err(error)),
    };
    assert!(received.is_empty() && end.as_ref().is_err_and(is_reset), "{received:?}, {end:?}");
}

/// Whether the other side reset the connection.
pub fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}
