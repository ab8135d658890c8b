//! The backend: five services on five ports, each at several addresses, one thread.
//!
//! * echo returns every byte;
//! * sink takes bytes of the pattern, and at their end answers with their number (8 bytes, little endian);
//! * source sends the pattern without end;
//! * both is sink and source at once, without the number;
//! * answer sends the pattern, as many bytes of it as each request asks for.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::epoll::{BOTH, Epoll, Interest, READ, WRITE, accept_with_first_bytes, write_some};
use crate::options::Options;
use crate::pattern::Pattern;
use crate::request;
use crate::topology::{ADDRESSES, SERVICES};

/// New connections that are taken before the open ones are looked at again, so that a crowd of clients does
/// not hold up the sessions that are measured.
const ACCEPTS_A_TURN: usize = 16;

#[derive(Clone, Copy, PartialEq)]
enum Service {
    Echo,
    Sink,
    Source,
    Both,
    Answer,
}

/// In the order of [`SERVICES`].
const ALL: [Service; SERVICES.len()] =
    [Service::Echo, Service::Sink, Service::Source, Service::Both, Service::Answer];

struct Session {
    stream: TcpStream,
    service: Service,
    interest: Interest,
    /// Echo: what could not be sent yet. Answer: what there is of a request.
    pending: Vec<u8>,
    /// Answer: bytes that were asked for and not sent yet.
    owed: u64,
    received: u64,
    sent: u64,
}

/// Serves until it is killed.
pub(crate) fn run(mut options: Options) -> Result<(), String> {
    let mut ports = Vec::new();
    for (name, service) in SERVICES.iter().zip(ALL) {
        ports.push((service, options.take::<u16>(&format!("--{name}"), None)?));
    }
    options.rest(0)?;
    serve(&ports).map_err(|error| error.to_string())
}

fn serve(ports: &[(Service, u16)]) -> io::Result<()> {
    let mut epoll = Epoll::new()?;
    let mut listeners = Vec::new();
    for (service, port) in ports {
        for last in 1..=ADDRESSES {
            let listener = listen(SocketAddr::from(([127, 0, 0, last], *port)))?;
            epoll.add(&listener, listeners.len(), READ)?;
            listeners.push((*service, listener));
        }
    }
    let mut sessions: HashMap<usize, Session> = HashMap::new();
    let mut next_token = listeners.len();
    let mut buffer = vec![0; 256 << 10];
    let pattern = Pattern::new();
    loop {
        let count = epoll.wait(Duration::from_secs(60))?;
        for index in 0..count {
            let (token, ready) = epoll.event(index);
            if let Some((service, listener)) = listeners.get(token) {
                for _ in 0..ACCEPTS_A_TURN {
                    let Ok((stream, _)) = listener.accept() else { break };
                    sessions.insert(next_token, open(&epoll, next_token, stream, *service)?);
                    next_token += 1;
                }
            } else if let Some(session) = sessions.get_mut(&token) {
                // A peer that resets ends its own session, nothing else.
                if !session.turn(&epoll, token, ready, &mut buffer, &pattern).unwrap_or(false) {
                    sessions.remove(&token);
                }
            }
        }
    }
}

/// A listener whose queue takes thousands at once: the one of std holds 128, and a client that finds it full
/// comes again a second later.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    const QUEUE: i32 = 4096;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    accept_with_first_bytes(&socket, QUEUE)?;
    socket.listen(QUEUE)?;
    Ok(socket.into())
}

fn open(epoll: &Epoll, token: usize, stream: TcpStream, service: Service) -> io::Result<Session> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let interest = match service {
        Service::Echo | Service::Sink | Service::Answer => READ,
        // Source reads too: it must see that its client has gone.
        Service::Source | Service::Both => BOTH,
    };
    epoll.add(&stream, token, interest)?;
    Ok(Session { stream, service, interest, pending: Vec::new(), owed: 0, received: 0, sent: 0 })
}

impl Session {
    /// One readiness: false when the session is over.
    fn turn(
        &mut self,
        epoll: &Epoll,
        token: usize,
        ready: Interest,
        buffer: &mut [u8],
        pattern: &Pattern,
    ) -> io::Result<bool> {
        if ready.write && self.interest.write {
            match self.service {
                Service::Echo => self.flush(epoll, token)?,
                Service::Answer => self.pay(epoll, token, pattern)?,
                _ => self.sent += write_some(&self.stream, pattern.at(self.sent))? as u64,
            }
        }
        if !ready.read || !self.interest.read {
            return Ok(true);
        }
        // Of requests only one at a time.
        let room =
            if self.service == Service::Answer { request::BYTES - self.pending.len() } else { buffer.len() };
        let count = match (&self.stream).read(&mut buffer[..room]) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        };
        if count == 0 {
            if self.service == Service::Sink {
                (&self.stream).write_all(&self.received.to_le_bytes())?;
            }
            return Ok(false);
        }
        self.take(epoll, token, &buffer[..count], pattern)?;
        self.received += count as u64;
        Ok(true)
    }

    /// What was read.
    fn take(&mut self, epoll: &Epoll, token: usize, read: &[u8], pattern: &Pattern) -> io::Result<()> {
        match self.service {
            Service::Echo => {
                let sent = write_some(&self.stream, read)?;
                if sent < read.len() {
                    self.pending.extend_from_slice(&read[sent..]);
                    self.set_interest(epoll, token, WRITE)?;
                }
                Ok(())
            }
            Service::Answer => self.take_request(epoll, token, read, pattern),
            _ if pattern.agrees(self.received, read) => Ok(()),
            _ => Err(io::Error::other("not the pattern")),
        }
    }

    fn take_request(
        &mut self,
        epoll: &Epoll,
        token: usize,
        read: &[u8],
        pattern: &Pattern,
    ) -> io::Result<()> {
        let offset = self.received - self.pending.len() as u64;
        self.pending.extend_from_slice(read);
        if self.pending.len() < request::BYTES {
            return Ok(());
        }
        self.owed = request::parse(&self.pending, offset, pattern)
            .ok_or_else(|| io::Error::other("not the pattern"))?;
        self.pending.clear();
        self.pay(epoll, token, pattern)
    }

    /// Sends what is owed; reads again once it is gone.
    fn pay(&mut self, epoll: &Epoll, token: usize, pattern: &Pattern) -> io::Result<()> {
        let piece = self.owed.min(Pattern::WINDOW as u64) as usize;
        let sent = write_some(&self.stream, &pattern.at(self.sent)[..piece])? as u64;
        self.sent += sent;
        self.owed -= sent;
        let interest = if self.owed == 0 { READ } else { WRITE };
        if interest == self.interest { Ok(()) } else { self.set_interest(epoll, token, interest) }
    }

    /// Sends what is pending; reads again once it is gone.
    fn flush(&mut self, epoll: &Epoll, token: usize) -> io::Result<()> {
        let sent = write_some(&self.stream, &self.pending)?;
        self.pending.drain(..sent);
        if self.pending.is_empty() { self.set_interest(epoll, token, READ) } else { Ok(()) }
    }

    fn set_interest(&mut self, epoll: &Epoll, token: usize, interest: Interest) -> io::Result<()> {
        self.interest = interest;
        epoll.change(&self.stream, token, interest)
    }
}
