//! Open sessions while many clients connect at once.
//!
//! The open sessions play ping-pong at a fixed, modest pace, each latency counted from when its message was
//! due. Then the clients come, as fast as one thread can open sockets; each sends a message when it is
//! connected, and is served when the echo is back. All of them stay until the last is served. Measured are
//! the messages that fell due between the first client's coming and the last one's being served.
//!
//! Clients are opened a few at a time between looks at the open sessions, in the same thread: what these wait
//! for is then the balancer and the backend, not a generator that is busy elsewhere.

use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::echo::{Game, PingPong};
use super::exchange::Exchange;
use super::measurement::{Measurement, Unit};
use super::tally::{GRACE, Schedule, TURN, Tally};
use super::work::Work;
use crate::epoll::{Epoll, Interest, READ, WRITE, without_timer_slack};
use crate::options::Options;
use crate::pattern::Pattern;
use crate::wire::Wire;

/// Messages a second over all open sessions: far below what any subject can do.
const PINGS_PER_SECOND: f64 = 10_000.0;

/// Clients that are opened between two looks at the open sessions.
const CLIENTS_A_TURN: usize = 8;

/// The clients that are not served by then never will be.
const STORM_MAX: Duration = Duration::from_secs(20);

pub(super) fn run(mut options: Options) -> Result<Measurement, String> {
    let work = Work::take(&mut options, None, None)?;
    let clients: usize = options.take("--clients", None)?;
    let work = work.with_address(options)?;
    storm(&work, clients).map_err(|error| error.to_string())
}

/// The clients that connect at once.
struct Clients {
    wanted: usize,
    /// Tokens of the clients follow those of the open sessions.
    first_token: usize,
    opened: Vec<Option<Exchange>>,
    served: usize,
    failed: usize,
    message: Vec<u8>,
}

impl Clients {
    /// Opens the next few; whether there are more.
    fn open_some(&mut self, work: &Work, epoll: &Epoll) -> io::Result<bool> {
        let next = self.opened.len();
        for index in next..self.wanted.min(next + CLIENTS_A_TURN) {
            let socket = Socket::new(Domain::for_address(work.address), Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            socket.set_tcp_nodelay(true)?;
            match socket.connect(&SockAddr::from(work.address)) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
                Err(_) => {
                    self.failed += 1;
                    self.opened.push(None);
                    continue;
                }
            }
            let stream = TcpStream::from(socket);
            // Writable when it is connected, or when it cannot be.
            epoll.add(&stream, self.first_token + index, WRITE)?;
            self.opened.push(Some(Exchange::echo(Wire::plain(stream), self.message.clone())));
        }
        Ok(self.opened.len() < self.wanted)
    }

    fn turn(&mut self, epoll: &Epoll, (token, ready): (usize, Interest), buffer: &mut [u8]) {
        let slot = &mut self.opened[token - self.first_token];
        let Some(client) = slot else { return };
        let turned = if client.has_begun() {
            client.turn(epoll, token, ready, buffer).map(|answered| answered.is_some())
        } else {
            epoll
                .change(&client.stream, token, READ)
                .and_then(|()| client.begin(epoll, token, Instant::now()))
                .map(|()| false)
        };
        match turned {
            Ok(served) => self.served += usize::from(served),
            Err(_) => {
                self.failed += 1;
                *slot = None;
            }
        }
    }

    fn all_done(&self) -> bool {
        self.served + self.failed >= self.wanted
    }
}

fn storm(work: &Work, wanted: usize) -> io::Result<Measurement> {
    without_timer_slack();
    let mut epoll = Epoll::new()?;
    let mut sessions = PingPong::open(work, &epoll, Game::Echo, PINGS_PER_SECOND)?;
    let mut tally = Tally::new(&work.watched);
    let mut clients = Clients {
        wanted,
        first_token: work.sessions,
        opened: Vec::with_capacity(wanted),
        served: 0,
        failed: 0,
        message: Pattern::new().at(0)[..work.bytes].to_vec(),
    };
    let mut buffer = vec![0; 64 << 10];
    // The warm-up is the open sessions' alone.
    let calm = Schedule::new(work.seconds).from;
    loop {
        let now = Instant::now();
        if tally.began.is_none() && now >= calm {
            tally.begin();
        }
        let late = tally.began.is_some_and(|began| now >= began + STORM_MAX);
        if tally.is_measuring() && (clients.all_done() || late) {
            tally.end();
        }
        if tally.ended.is_some_and(|ended| sessions.under_way() == 0 || now >= ended + GRACE) {
            break;
        }
        let more = tally.is_measuring() && clients.open_some(work, &epoll)?;
        let idle = if tally.ended.is_none() { sessions.issue(&epoll, &mut tally) } else { TURN };
        for index in 0..epoll.wait(if more { Duration::ZERO } else { idle })? {
            let event = epoll.event(index);
            if event.0 < work.sessions {
                sessions.turn(&epoll, event, &mut tally, &mut buffer);
            } else {
                clients.turn(&epoll, event, &mut buffer);
            }
        }
    }
    let unserved = wanted - clients.served;
    tally.errors += (sessions.under_way() + unserved) as u64;
    Ok(Measurement {
        count: clients.served as f64,
        rate: clients.served as f64 / tally.seconds(),
        ..tally.into_measurement(Unit::Client)
    })
}
