//! The generator's end of a connection: a socket, or TLS over one.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustls::{ClientConnection, HandshakeKind};

use crate::epoll::write_some;
use crate::tls::Client;

/// Read from a socket at once, for TLS. The callers' buffers are as large, so that what is decrypted of it always fits.
pub(crate) const READ_MAX: usize = 64 << 10;

pub(crate) struct Wire {
    socket: TcpStream,
    /// Boxed: most connections have none.
    tls: Option<Box<ClientConnection>>,
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Wire {
    pub(crate) fn plain(socket: TcpStream) -> Wire {
        Wire { socket, tls: None }
    }

    /// The handshake goes along with the first reads and writes.
    pub(crate) fn tls(socket: TcpStream, client: &Client) -> io::Result<Wire> {
        let connection = ClientConnection::new(client.config.clone(), client.name.clone())
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Wire { socket, tls: Some(Box::new(connection)) })
    }

    /// Completes the handshake, within `timeout` without a byte.
    pub(crate) fn handshake(&mut self, timeout: Duration) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        self.socket.set_nonblocking(false)?;
        self.socket.set_read_timeout(Some(timeout))?;
        while tls.is_handshaking() || tls.wants_write() {
            tls.complete_io(&mut self.socket)?;
        }
        self.socket.set_read_timeout(None)?;
        self.socket.set_nonblocking(true)
    }

    /// Whether the handshake was completed with a ticket; `None` without TLS.
    pub(crate) fn resumed(&self) -> Option<bool> {
        self.tls.as_ref().map(|tls| tls.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    /// Whether bytes that were accepted have not been sent.
    pub(crate) fn is_behind(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Writes as much as fits now.
    pub(crate) fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return write_some(&self.socket, bytes) };
        flush(tls, &mut self.socket)?;
        if tls.wants_write() {
            return Ok(0);
        }
        let count = tls.writer().write(bytes)?;
        flush(tls, &mut self.socket)?;
        Ok(count)
    }

    /// Reads once from the socket. `buffer` is at least as large as [`READ_MAX`] where there is TLS: nothing that could be
    /// read stays behind.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.read(buffer) };
        // Its end is not that of the stream: TLS has an end of its own.
        let (mut got, mut over) = (0, false);
        let mut drain = |tls: &mut ClientConnection| loop {
            match tls.reader().read(&mut buffer[got..]) {
                Ok(0) => {
                    over = got < buffer.len();
                    return Ok(over);
                }
                Ok(more) => got += more,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        };
        with_scratch(|scratch| {
            let count = self.socket.read(scratch)?;
            if count == 0 {
                return Err(io::Error::from(ErrorKind::UnexpectedEof));
            }
            let mut rest = &scratch[..count];
            // What came with the handshake is there already, and TLS takes no more than it has room for.
            while !drain(tls)? && !rest.is_empty() {
                tls.read_tls(&mut rest)?;
                tls.process_new_packets().map_err(|error| io::Error::other(error.to_string()))?;
            }
            Ok(())
        })?;
        flush(tls, &mut self.socket)?;
        if got == 0 && !over { Err(ErrorKind::WouldBlock.into()) } else { Ok(got) }
    }

    /// Says that no more bytes will come.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            while tls.wants_write() {
                tls.write_tls(&mut self.socket)?;
            }
        }
        self.socket.shutdown(Shutdown::Write)
    }

    /// Reads exactly so many bytes, within `timeout`, in a blocking way.
    pub(crate) fn read_exact(&mut self, bytes: &mut [u8], timeout: Duration) -> io::Result<()> {
        self.block(timeout)?;
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(tls.as_mut(), &mut self.socket).read_exact(bytes),
            None => self.socket.read_exact(bytes),
        }
    }

    /// From here on calls wait, a read no longer than `timeout`.
    pub(crate) fn block(&mut self, timeout: Duration) -> io::Result<()> {
        self.socket.set_nonblocking(false)?;
        self.socket.set_read_timeout(Some(timeout))
    }

    /// Nothing comes or goes any more.
    pub(crate) fn abandon(&self) {
        // It may be over already.
        self.socket.shutdown(Shutdown::Both).ok();
    }
}

impl Drop for Wire {
    /// A TLS session that ends properly says so; nobody waits for it.
    fn drop(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            flush(tls, &mut self.socket).ok();
        }
    }
}

/// Sends what fits now.
fn flush(tls: &mut ClientConnection, socket: &mut TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(socket) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// One buffer for all reads of the one thread there is.
fn with_scratch<T>(action: impl FnOnce(&mut [u8]) -> T) -> T {
    use std::cell::RefCell;
    thread_local! {
        static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_MAX]);
    }
    SCRATCH.with_borrow_mut(|scratch| action(scratch))
}
