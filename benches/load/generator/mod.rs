//! The client side of each workload. Prints one line of JSON: a [`Measurement`].
//!
//! Each is one thread that sleeps in epoll. At the edges of the measured time it reads the CPU clocks, its own
//! too, so that the figures of a run belong to the same stretch of time, and a run that was limited
//! by its generator can be told from one that was limited by its balancer.

mod bulk;
mod connect;
mod echo;
mod idle;
mod pattern;
mod storm;

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use crate::Options;
use crate::backend::ADDRESSES;
use crate::clock::{Snapshot, Usage, Watched};
use crate::epoll::choose_port_at_connect;
use crate::histogram::Histogram;

pub(crate) use pattern::Pattern;

/// This part of a run comes first and counts for neither rate, latency nor CPU.
const WARM_UP: f64 = 0.2;

/// A client waits no longer than this for the last answers.
const GRACE: Duration = Duration::from_secs(5);

/// The loops look at the clock at least this often.
const TURN: Duration = Duration::from_millis(100);

/// What the rate and the CPU of a workload are counted by.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Message,
    /// Connect, echo, close.
    Session,
    /// A client that was served while others had open sessions.
    Client,
    Gigabyte,
    /// Bytes of memory instead of a rate.
    IdleSession,
}

/// What a run of a generator found.
#[derive(Serialize, Deserialize)]
pub(crate) struct Measurement {
    pub(crate) unit: Unit,
    /// Units done in the measured time.
    pub(crate) count: f64,
    /// Units a second; Gbit/s for bulk.
    pub(crate) rate: f64,
    pub(crate) errors: u64,
    pub(crate) latencies: Option<Histogram>,
    pub(crate) usage: Option<Usage>,
}

/// Runs the generator of this name; `None` if there is none.
pub(crate) fn run(name: &str, options: Options) -> Option<Result<(), String>> {
    let measured = match name {
        "echo" => echo::run(options),
        "connect" => connect::run(options),
        "bulk" => bulk::run(options),
        "idle" => return Some(idle::run(options)),
        "storm" => storm::run(options),
        _ => return None,
    };
    Some(measured.and_then(|measurement| print(&measurement)))
}

fn print(measurement: &Measurement) -> Result<(), String> {
    println!("{}", serde_json::to_string(measurement).map_err(|error| error.to_string())?);
    Ok(())
}

struct Work {
    address: SocketAddr,
    /// How many connections were begun.
    connects: Cell<u8>,
    sessions: usize,
    bytes: usize,
    seconds: f64,
    watched: Watched,
}

impl Work {
    /// All but the address; `bytes` and `seconds` are what a workload puts there that has no such option.
    fn take(options: &mut Options, bytes: Option<usize>, seconds: Option<f64>) -> Result<Work, String> {
        let work = Work {
            sessions: options.take("--sessions", None)?,
            bytes: options.take("--bytes", bytes)?,
            seconds: options.take("--seconds", seconds)?,
            watched: Watched {
                balancer: options.take("--balancer", Some(0))?,
                backend: options.take("--backend", Some(0))?,
                beside: options.take("--beside", Some(0))?,
            },
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            connects: Cell::new(0),
        };
        if work.bytes == 0 || work.bytes > Pattern::WINDOW {
            return Err(format!("--bytes must be 1 to {}", Pattern::WINDOW));
        }
        Ok(work)
    }

    fn with_address(mut self, options: Options) -> Result<Work, String> {
        let words = options.rest(1)?;
        self.address = words[0].parse().map_err(|_| format!("no address: {}", words[0]))?;
        Ok(self)
    }

    /// Loopback completes a handshake within the call, so connecting may block. There, connections come from several
    /// addresses in turn: see [`ADDRESSES`].
    fn connect(&self) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, None)?;
        if self.address.ip() == IpAddr::from(Ipv4Addr::LOCALHOST) {
            choose_port_at_connect(&socket)?;
            let turn = self.connects.get();
            self.connects.set(turn.wrapping_add(1));
            socket.bind(&SocketAddr::from(([127, 0, 0, 1 + turn % ADDRESSES], 0)).into())?;
        }
        socket.connect(&self.address.into())?;
        let stream = TcpStream::from(socket);
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// What was done in the measured time.
///
/// A latency belongs to it if its message was due in it, even if the answer came after its end: answers that are late
/// are those that must not be left out. A rate counts the answers that came in it.
struct Tally {
    watched: Watched,
    from: Option<Snapshot>,
    until: Option<Snapshot>,
    began: Option<Instant>,
    ended: Option<Instant>,
    measured: u64,
    errors: u64,
    latencies: Histogram,
}

impl Tally {
    fn new(watched: Watched) -> Tally {
        Tally {
            watched,
            from: None,
            until: None,
            began: None,
            ended: None,
            measured: 0,
            errors: 0,
            latencies: Histogram::new(),
        }
    }

    /// The measured time begins.
    fn begin(&mut self) {
        self.from = Some(Snapshot::take(self.watched));
        self.began = Some(Instant::now());
    }

    /// The measured time ends.
    fn end(&mut self) {
        self.ended = Some(Instant::now());
        self.until = Some(Snapshot::take(self.watched));
    }

    fn is_measuring(&self) -> bool {
        self.began.is_some() && self.ended.is_none()
    }

    /// An answer came to a message that was due at `due`.
    fn answered(&mut self, due: Instant, now: Instant) {
        self.measured += u64::from(self.is_measuring());
        let inside =
            self.began.is_some_and(|began| due >= began) && self.ended.is_none_or(|ended| due < ended);
        if inside {
            self.latencies.record(now - due);
        }
    }

    fn seconds(&self) -> f64 {
        self.began.zip(self.ended).map_or(f64::NAN, |(began, ended)| (ended - began).as_secs_f64())
    }

    fn usage(&self) -> Option<Usage> {
        self.from.zip(self.until).map(|(from, until)| from.until(&until))
    }

    fn into_measurement(self, unit: Unit) -> Measurement {
        Measurement {
            unit,
            count: self.measured as f64,
            rate: self.measured as f64 / self.seconds(),
            errors: self.errors,
            usage: self.usage(),
            latencies: Some(self.latencies),
        }
    }
}

/// The measured time of a run of fixed length.
struct Schedule {
    from: Instant,
    until: Instant,
}

impl Schedule {
    fn new(seconds: f64) -> Schedule {
        let now = Instant::now();
        let after = |seconds: f64| now + Duration::from_secs_f64(seconds);
        Schedule { from: after(seconds * WARM_UP), until: after(seconds) }
    }

    /// Begins and ends the measured time when it is due; whether more work may be begun.
    fn turn(&self, now: Instant, tally: &mut Tally) -> bool {
        if tally.began.is_none() && now >= self.from {
            tally.begin();
        }
        if tally.is_measuring() && now >= self.until {
            tally.end();
        }
        tally.ended.is_none()
    }
}
