//! The client side of each workload. Prints one line of JSON with rate, latencies and errors.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::Options;
use crate::backend::write_some;
use crate::epoll::{BOTH, Epoll, Interest, READ, WRITE, without_timer_slack};
use crate::histogram::Histogram;

/// This part of a run comes first and counts for neither rate nor latency.
const WARM_UP: f64 = 0.2;

/// A client waits no longer than this for the last answers.
const GRACE: Duration = Duration::from_secs(5);

/// Bytes that say where in a stream they belong; the period is no power of two, so that a lost,
/// doubled or moved buffer shows.
pub(crate) struct Pattern {
    bytes: Vec<u8>,
}

impl Pattern {
    const PERIOD: usize = 65_521;
    const WINDOW: usize = 256 << 10;

    pub(crate) fn new() -> Pattern {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut bytes: Vec<u8> = (0..Pattern::PERIOD)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        for index in 0..Pattern::WINDOW {
            bytes.push(bytes[index]);
        }
        Pattern { bytes }
    }

    /// The window of the stream that begins at `offset`.
    pub(crate) fn at(&self, offset: u64) -> &[u8] {
        let start = (offset % Pattern::PERIOD as u64) as usize;
        &self.bytes[start..start + Pattern::WINDOW]
    }

    /// Whether `read` can be the stream at `offset`; both ends of it are compared, which finds a
    /// displacement and costs nothing.
    pub(crate) fn agrees(&self, offset: u64, read: &[u8]) -> bool {
        let expected = &self.at(offset)[..read.len()];
        let edge = read.len().min(64);
        read[..edge] == expected[..edge] && read[read.len() - edge..] == expected[read.len() - edge..]
    }
}

struct Work {
    address: SocketAddr,
    sessions: usize,
    bytes: usize,
    seconds: f64,
}

impl Work {
    /// All but the address; `bytes` is what a workload without messages puts there.
    fn take(options: &mut Options, bytes: Option<usize>) -> Result<Work, String> {
        let work = Work {
            sessions: options.take("--sessions", None)?,
            bytes: options.take("--bytes", bytes)?,
            seconds: options.take("--seconds", None)?,
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
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

    /// Loopback completes a handshake within the call, so connecting may block.
    fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// What was done, all of it and within the measured time.
struct Tally {
    from: Instant,
    until: Instant,
    all: u64,
    measured: u64,
    errors: u64,
    latencies: Histogram,
}

impl Tally {
    fn new(seconds: f64) -> Tally {
        let now = Instant::now();
        Tally {
            from: now + Duration::from_secs_f64(seconds * WARM_UP),
            until: now + Duration::from_secs_f64(seconds),
            all: 0,
            measured: 0,
            errors: 0,
            latencies: Histogram::new(),
        }
    }

    fn done(&mut self, began: Instant, now: Instant) {
        self.all += 1;
        if now >= self.from && now < self.until {
            self.measured += 1;
            self.latencies.record(now - began);
        }
    }

    fn print(&self, unit: &str) {
        let seconds = (self.until - self.from).as_secs_f64();
        println!(
            "{}",
            json!({
                "unit": unit, "count": self.all, "per_second": self.measured as f64 / seconds, "errors": self.errors,
                "p50_us": self.latencies.quantile_micros(0.5), "p99_us": self.latencies.quantile_micros(0.99),
                "p999_us": self.latencies.quantile_micros(0.999),
            })
        );
    }
}

/// One echo session: the message under way, and those that wait for their turn (open loop only).
struct Echo {
    stream: TcpStream,
    message: Vec<u8>,
    number: u64,
    sent: usize,
    received: usize,
    began: Option<Instant>,
    waiting: VecDeque<Instant>,
}

impl Echo {
    fn new(stream: TcpStream, message: Vec<u8>) -> Echo {
        Echo { stream, message, number: 0, sent: 0, received: 0, began: None, waiting: VecDeque::new() }
    }

    /// Starts a message that was due at `began`.
    fn begin(&mut self, epoll: &Epoll, token: usize, began: Instant) -> io::Result<()> {
        self.number += 1;
        let head = self.message.len().min(8);
        self.message[..head].copy_from_slice(&self.number.to_le_bytes()[..head]);
        self.began = Some(began);
        self.received = 0;
        self.sent = write_some(&self.stream, &self.message)?;
        if self.sent < self.message.len() { epoll.change(&self.stream, token, BOTH) } else { Ok(()) }
    }

    /// Goes on as far as the socket allows; the due time of the message when its echo is complete.
    fn turn(
        &mut self,
        epoll: &Epoll,
        token: usize,
        ready: Interest,
        buffer: &mut [u8],
    ) -> io::Result<Option<Instant>> {
        if ready.write && self.sent < self.message.len() {
            self.sent += write_some(&self.stream, &self.message[self.sent..])?;
            if self.sent == self.message.len() {
                epoll.change(&self.stream, token, READ)?;
            }
        }
        if !ready.read {
            return Ok(None);
        }
        let count = match (&self.stream).read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        if self.message.get(self.received..self.received + count) != Some(&buffer[..count]) {
            return Err(io::Error::other("the echo differs"));
        }
        self.received += count;
        Ok(if self.received == self.message.len() { self.began.take() } else { None })
    }
}

/// Messages of a size over open sessions: closed loop, or at a fixed rate with latencies from the time a message
/// was due, which corrects for coordinated omission.
pub(crate) fn echo(mut options: Options) -> Result<(), String> {
    let work = Work::take(&mut options, None)?;
    let rate: f64 = options.take("--rate", Some(0.0))?;
    let work = work.with_address(options)?;
    run_echo(&work, rate).map_err(|error| error.to_string())
}

fn run_echo(work: &Work, rate: f64) -> io::Result<()> {
    without_timer_slack();
    let mut epoll = Epoll::new()?;
    let mut sessions = Vec::new();
    let pattern = Pattern::new();
    for token in 0..work.sessions {
        let echo = Echo::new(work.connect()?, pattern.at(token as u64 * 97)[..work.bytes].to_vec());
        epoll.add(&echo.stream, token, READ)?;
        sessions.push(Some(echo));
    }
    let mut tally = Tally::new(work.seconds);
    let start = Instant::now();
    let open_loop = rate > 0.0;
    let mut due_count = 0_u64;
    if !open_loop {
        for (token, session) in sessions.iter_mut().flatten().enumerate() {
            session.begin(&epoll, token, start)?;
        }
    }
    let mut under_way = if open_loop { 0 } else { work.sessions };
    let mut buffer = vec![0; 64 << 10];
    let due = |count: u64| start + Duration::from_secs_f64(count as f64 / rate);
    loop {
        let now = Instant::now();
        if now >= tally.until && (under_way == 0 || now >= tally.until + GRACE) {
            break;
        }
        let mut timeout = Duration::from_millis(100);
        if open_loop && now < tally.until {
            while due(due_count) <= now {
                let token = (due_count % work.sessions as u64) as usize;
                if let Some(session) = &mut sessions[token] {
                    under_way += 1;
                    if session.began.is_some() {
                        session.waiting.push_back(due(due_count));
                    } else {
                        session.begin(&epoll, token, due(due_count))?;
                    }
                }
                due_count += 1;
            }
            timeout = due(due_count).saturating_duration_since(Instant::now());
        }
        for index in 0..epoll.wait(timeout)? {
            let (token, ready) = epoll.event(index);
            let Some(session) = &mut sessions[token] else { continue };
            let turned = session.turn(&epoll, token, ready, &mut buffer).and_then(|began| {
                let Some(began) = began else { return Ok(()) };
                let now = Instant::now();
                tally.done(began, now);
                under_way -= 1;
                let next =
                    if open_loop { session.waiting.pop_front() } else { (now < tally.until).then_some(now) };
                let Some(next) = next else { return Ok(()) };
                // In the open loop a waiting message was counted when it fell due.
                under_way += usize::from(!open_loop);
                session.begin(&epoll, token, next)
            });
            if turned.is_err() {
                tally.errors += 1;
                under_way -= usize::from(session.began.is_some()) + session.waiting.len();
                sessions[token] = None;
            }
        }
    }
    // An answer that never came is an error too.
    tally.errors += under_way as u64;
    tally.print("message");
    Ok(())
}

/// Connect, one echo, close; so many at a time.
pub(crate) fn connect(mut options: Options) -> Result<(), String> {
    let work = Work::take(&mut options, None)?.with_address(options)?;
    run_connect(&work).map_err(|error| error.to_string())
}

fn run_connect(work: &Work) -> io::Result<()> {
    let mut epoll = Epoll::new()?;
    let mut tally = Tally::new(work.seconds);
    let mut buffer = vec![0; 64 << 10];
    let template = Pattern::new().at(0)[..work.bytes].to_vec();
    let open = |epoll: &Epoll, token: usize| -> io::Result<Echo> {
        let began = Instant::now();
        let mut echo = Echo::new(work.connect()?, template.clone());
        epoll.add(&echo.stream, token, READ)?;
        echo.begin(epoll, token, began)?;
        Ok(echo)
    };
    let mut sessions: Vec<Option<Echo>> = Vec::new();
    for token in 0..work.sessions {
        sessions.push(Some(open(&epoll, token)?));
    }
    let mut under_way = work.sessions;
    while under_way > 0 && Instant::now() < tally.until + GRACE {
        for index in 0..epoll.wait(Duration::from_millis(100))? {
            let (token, ready) = epoll.event(index);
            let Some(session) = &mut sessions[token] else { continue };
            match session.turn(&epoll, token, ready, &mut buffer) {
                Ok(None) => continue,
                Ok(Some(began)) => tally.done(began, Instant::now()),
                Err(_) => tally.errors += 1,
            }
            // Closed before the next one opens.
            sessions[token] = None;
            under_way -= 1;
            // A balancer that refuses everything must not keep this loop for ever.
            while Instant::now() < tally.until && sessions[token].is_none() && tally.errors < 10_000 {
                match open(&epoll, token) {
                    Ok(next) => {
                        sessions[token] = Some(next);
                        under_way += 1;
                    }
                    Err(_) => tally.errors += 1,
                }
            }
        }
    }
    tally.errors += under_way as u64;
    tally.print("session");
    Ok(())
}

/// Opens sessions, sends one message over each, says so in a line, and keeps them until stdin ends.
pub(crate) fn idle(mut options: Options) -> Result<(), String> {
    let sessions = options.take("--sessions", None)?;
    let work = Work { sessions, bytes: 64, seconds: 0.0, address: SocketAddr::from(([0, 0, 0, 0], 0)) };
    run_idle(&work.with_address(options)?).map_err(|error| error.to_string())
}

fn run_idle(work: &Work) -> io::Result<()> {
    let message = vec![7; work.bytes];
    let mut answer = vec![0; work.bytes];
    let mut sessions = Vec::new();
    for _ in 0..work.sessions {
        let mut stream = TcpStream::connect(work.address)?;
        stream.set_read_timeout(Some(GRACE))?;
        stream.write_all(&message)?;
        stream.read_exact(&mut answer)?;
        sessions.push(stream);
    }
    println!("{}", json!({"unit": "idle session", "count": sessions.len()}));
    io::stdin().read_to_end(&mut answer)?;
    Ok(())
}

struct Bulk {
    stream: TcpStream,
    sent: u64,
    received: u64,
}

/// Bytes as fast as they go, in one direction or both.
pub(crate) fn bulk(mut options: Options) -> Result<(), String> {
    let work = Work::take(&mut options, Some(1))?;
    let direction: String = options.take("--direction", None)?;
    let interest = match direction.as_str() {
        "to-backend" => WRITE,
        "to-client" => READ,
        "both" => BOTH,
        other => return Err(format!("no direction '{other}'")),
    };
    let work = work.with_address(options)?;
    run_bulk(&work, interest).map_err(|error| error.to_string())
}

fn run_bulk(work: &Work, interest: Interest) -> io::Result<()> {
    let mut epoll = Epoll::new()?;
    let mut sessions = Vec::new();
    let pattern = Pattern::new();
    let mut buffer = vec![0; 256 << 10];
    for token in 0..work.sessions {
        let stream = work.connect()?;
        epoll.add(&stream, token, interest)?;
        sessions.push(Bulk { stream, sent: 0, received: 0 });
    }
    let mut errors = 0;
    let start = Instant::now();
    let until = start + Duration::from_secs_f64(work.seconds);
    while Instant::now() < until {
        for index in 0..epoll.wait(Duration::from_millis(100))? {
            let (token, ready) = epoll.event(index);
            if sessions[token].turn(ready, interest, &pattern, &mut buffer).is_err() {
                errors += 1;
                // Not heard of again; its bytes still count.
                epoll.change(&sessions[token].stream, token, Interest { read: false, write: false })?;
                sessions[token].stream.shutdown(Shutdown::Both).ok();
                if errors > work.sessions as u64 {
                    return Err(io::Error::other("every session failed"));
                }
            }
        }
    }
    // The bytes still on their way belong to the work, and so does their time.
    if interest == WRITE {
        errors += sessions.iter().filter(|session| session.confirmed().is_err()).count() as u64;
    }
    let seconds = start.elapsed().as_secs_f64();
    let bytes: u64 = sessions.iter().map(|session| session.sent + session.received).sum();
    println!(
        "{}",
        json!({"unit": "GB", "count": bytes as f64 / 1e9, "per_second": bytes as f64 / 1e9 / seconds,
            "gbit_per_second": bytes as f64 * 8.0 / 1e9 / seconds, "errors": errors})
    );
    Ok(())
}

impl Bulk {
    fn turn(
        &mut self,
        ready: Interest,
        interest: Interest,
        pattern: &Pattern,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        if ready.write && interest.write {
            self.sent += write_some(&self.stream, pattern.at(self.sent))? as u64;
        }
        if ready.read && interest.read {
            match (&self.stream).read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) if !pattern.agrees(self.received, &buffer[..count]) => {
                    return Err(io::Error::other("not the pattern"));
                }
                Ok(count) => self.received += count as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends the stream and compares the backend's count with what was sent.
    fn confirmed(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        self.stream.set_nonblocking(false)?;
        self.stream.set_read_timeout(Some(GRACE))?;
        let mut count = [0; 8];
        (&self.stream).read_exact(&mut count)?;
        if u64::from_le_bytes(count) == self.sent { Ok(()) } else { Err(io::Error::other("bytes were lost")) }
    }
}
