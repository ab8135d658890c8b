//! What a generator is asked to do, and the connections that its work goes over.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;

use socket2::{Domain, Socket, Type};

use super::tally::GRACE;
use crate::clock::Watched;
use crate::epoll::{choose_port_at_connect, connect_with_first_bytes};
use crate::options::Options;
use crate::pattern::Pattern;
use crate::tls::Client;
use crate::topology::ADDRESSES;
use crate::wire::Wire;

pub(super) struct Work {
    pub(super) address: SocketAddr,
    /// How many connections were begun.
    connects: Cell<u8>,
    pub(super) sessions: usize,
    pub(super) bytes: usize,
    pub(super) seconds: f64,
    pub(super) watched: Watched,
    /// First bytes go with the SYN.
    fast_open: bool,
    tls: Option<Client>,
    /// Every TLS session is one that was resumed, or none is.
    pub(super) resume: bool,
}

impl Work {
    /// All but the address; `bytes` and `seconds` are what a workload puts there that has no such option.
    pub(super) fn take(
        options: &mut Options,
        bytes: Option<usize>,
        seconds: Option<f64>,
    ) -> Result<Work, String> {
        let resume = options.flag("--resume");
        let certificate: Option<PathBuf> = options.take_all("--tls")?.pop();
        let tls = certificate.map(|file| Client::new(&file, resume)).transpose()?;
        let work = Work {
            sessions: options.take("--sessions", None)?,
            bytes: options.take("--bytes", bytes)?,
            seconds: options.take("--seconds", seconds)?,
            watched: Watched {
                balancer: options.take_all("--balancer")?,
                backend: options.take("--backend", Some(0))?,
                beside: options.take("--beside", Some(0))?,
            },
            fast_open: options.flag("--fast-open"),
            tls,
            resume,
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            connects: Cell::new(0),
        };
        if work.bytes == 0 || work.bytes > Pattern::WINDOW {
            return Err(format!("--bytes must be 1 to {}", Pattern::WINDOW));
        }
        Ok(work)
    }

    pub(super) fn with_address(mut self, options: Options) -> Result<Work, String> {
        let words = options.rest(1)?;
        self.address = words[0].parse().map_err(|_| format!("no address: {}", words[0]))?;
        Ok(self)
    }

    /// Loopback completes a handshake within the call, so connecting may block. There, connections come from
    /// several addresses in turn: see [`ADDRESSES`].
    pub(super) fn connect(&self) -> io::Result<Wire> {
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, None)?;
        if self.address.ip() == IpAddr::from(Ipv4Addr::LOCALHOST) {
            choose_port_at_connect(&socket)?;
            let turn = self.connects.get();
            self.connects.set(turn.wrapping_add(1));
            socket.bind(&SocketAddr::from(([127, 0, 0, 1 + turn % ADDRESSES], 0)).into())?;
        }
        if self.fast_open {
            connect_with_first_bytes(&socket)?;
        }
        socket.connect(&self.address.into())?;
        let stream = TcpStream::from(socket);
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        match &self.tls {
            Some(client) => Wire::tls(stream, client),
            None => Ok(Wire::plain(stream)),
        }
    }

    /// As [`Work::connect`], with the handshake of TLS done.
    pub(super) fn open(&self) -> io::Result<Wire> {
        let mut wire = self.connect()?;
        wire.handshake(GRACE)?;
        Ok(wire)
    }
}
