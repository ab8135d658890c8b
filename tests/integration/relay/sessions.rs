//! Set-up: one shard with few buffers and few pipes, and many sessions at a time, each side of which sends,
//! reads, pauses, says something urgent, ends its stream, leaves or resets, all at random. Claim, for both
//! ways of relaying and all kinds of sockets: what arrives is the head of what was sent; a stream that looks
//! complete is complete; a reset never looks like an end; where neither side resets or leaves, everything
//! arrives; nothing hangs.
//!
//! A failure names its seed: `RINGWAY_SESSIONS_SEED=7` runs that one alone (the scripts are the same then,
//! their timing is not), and `RINGWAY_SESSIONS_SEEDS=2000` runs more than `cargo test` does.

#![expect(unsafe_code, reason = "poll(2) has no safe wrapper in the crates we use")]

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fastrand::Rng;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::support::{Balancer, Reserved, Stream, V4, balancer};

/// Seeds of a plain `cargo test`.
const SEEDS: u64 = 80;
/// Sessions of a seed, all at the same time.
const SESSIONS: u64 = 24;
/// A side that has not come to its end by then hangs. No pause is longer than milliseconds; but where other
/// tests have what the kernel has for all of TCP, it drops segments, and their retransmission backs off to
/// half a minute.
const TOO_LONG: Duration = Duration::from_secs(90);
/// Bytes that tell the backend which session it has.
const HEADER: usize = 8;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Sends or reads so many bytes.
    Bytes(usize),
    Pause(Duration),
    /// Sends a byte that is beside the stream.
    Urgent,
}

/// What a side does at last with its own stream.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Finale {
    /// Ends it.
    End,
    /// Ends it when it has seen the end of the other one.
    EndLast,
    /// Resets the connection.
    Reset,
}

/// What a side does at last with the stream of the other one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reading {
    ToTheEnd,
    /// Closes the connection, which resets it if something was not read.
    Leave,
}

#[derive(Clone, Debug)]
struct Script {
    writes: Vec<Step>,
    finale: Finale,
    reads: Vec<Step>,
    reading: Reading,
}

impl Script {
    fn random(random: &mut Rng, is_client: bool, may_be_urgent: bool) -> Self {
        let steps = |random: &mut Rng| -> Vec<_> {
            let mut step = |_| match random.u32(0..10) {
                0..3 => Step::Pause(Duration::from_micros(random.u64(0..3_000))),
                3..6 => Step::Bytes(random.usize(1..200)),
                6..9 => Step::Bytes(random.usize(1..40_000)),
                _ => Step::Bytes(random.usize(1..600_000)),
            };
            let count = 8;
            (0..count).map(&mut step).collect()
        };
        let (mut writes, mut reads) = (steps(random), steps(random));
        writes.truncate(random.usize(0..=8));
        reads.truncate(random.usize(0..=8));
        if may_be_urgent && random.u32(0..4) == 0 {
            // One alone: the kernel makes a second one part of the stream, tcp(7).
            writes.insert(random.usize(0..=writes.len()), Step::Urgent);
        }
        let finale = match random.u32(0..10) {
            0 => Finale::Reset,
            // Of both sides one has to begin.
            1..5 if !is_client => Finale::EndLast,
            _ => Finale::End,
        };
        let reading = if random.u32(0..10) == 0 { Reading::Leave } else { Reading::ToTheEnd };
        Self { writes, finale, reads, reading }
    }

    /// Whether the connection may end in another way than with both streams.
    fn may_reset(&self) -> bool {
        self.finale == Finale::Reset || self.reading == Reading::Leave
    }
}

/// How the stream of the other side ended.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Nothing,
    End,
    Failed(io::ErrorKind),
}

/// What became of one side.
#[derive(Debug)]
struct Report {
    sent: u64,
    /// Its stream was ended behind all that it sent.
    ended: bool,
    received: u64,
    seen: Seen,
    /// A send failed, which may have taken the error that the receive would have seen.
    send_failed: bool,
    /// Where other bytes came than were sent.
    wrong_at: Option<u64>,
    hangs: bool,
}

/// One side of a session, on a socket in non-blocking mode: a single thread, so that it is known which call
/// saw what.
struct Side<'a> {
    socket: Socket,
    script: &'a Script,
    stream: &'a Stream,
    /// Where in it the own stream begins, and that of the other side.
    begins: (u64, u64),
    report: Report,
    /// Which step, and how much of it was done.
    write: (usize, usize),
    read: (usize, usize),
    write_paused: Option<Instant>,
    read_paused: Option<Instant>,
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Whether a pause is over; it begins with the first call.
fn is_over(paused: &mut Option<Instant>, pause: Duration) -> bool {
    let over = Instant::now() >= *paused.get_or_insert_with(|| Instant::now() + pause);
    if over {
        *paused = None;
    }
    over
}

impl<'a> Side<'a> {
    fn new(socket: Socket, script: &'a Script, stream: &'a Stream, begins: (u64, u64)) -> Self {
        let report = Report {
            sent: 0,
            ended: false,
            received: 0,
            seen: Seen::Nothing,
            send_failed: false,
            wrong_at: None,
            hangs: false,
        };
        Self {
            socket,
            script,
            stream,
            begins,
            report,
            write: (0, 0),
            read: (0, 0),
            write_paused: None,
            read_paused: None,
        }
    }

    /// Plays the script to its end and closes.
    fn play(mut self) -> Report {
        let begun = Instant::now();
        loop {
            let (writes, reads) = (self.write_some(), self.read_some());
            match (writes, reads) {
                (Next::Leave, _) | (_, Next::Leave) => break,
                // A connection that has failed takes no more.
                (_, Next::Done) if self.report.seen != Seen::End => break,
                (Next::Done, Next::Done) => break,
                (Next::Again, _) | (_, Next::Again) => {}
                (writes, reads) => self.wait(&writes, &reads),
            }
            if begun.elapsed() > TOO_LONG {
                self.report.hangs = true;
                break;
            }
        }
        self.report
    }

    fn write_some(&mut self) -> Next {
        if self.report.ended || self.report.send_failed {
            return Next::Done;
        }
        let Some(step) = self.script.writes.get(self.write.0) else { return self.finish() };
        let result = match *step {
            Step::Pause(pause) => {
                if !is_over(&mut self.write_paused, pause) {
                    return Next::Wait;
                }
                Ok(usize::MAX)
            }
            Step::Urgent => self.socket.send_out_of_band(b"!").map(|_| usize::MAX),
            Step::Bytes(count) => {
                let piece =
                    self.stream.piece(self.begins.0 + self.report.sent, (count - self.write.1).min(64 << 10));
                (&self.socket).write(piece).map(|sent| {
                    self.report.sent += sent as u64;
                    self.write.1 += sent;
                    if self.write.1 == count { usize::MAX } else { sent }
                })
            }
        };
        match result {
            Ok(usize::MAX) => self.write = (self.write.0 + 1, 0),
            Ok(_) => {}
            Err(error) if is_later(&error) => return Next::Wait,
            Err(_) => self.report.send_failed = true,
        }
        Next::Again
    }

    fn finish(&mut self) -> Next {
        match self.script.finale {
            Finale::EndLast if self.report.seen == Seen::Nothing => Next::Wait,
            Finale::End | Finale::EndLast => {
                self.report.ended = self.socket.shutdown(Shutdown::Write).is_ok();
                self.report.send_failed = !self.report.ended;
                Next::Again
            }
            Finale::Reset => {
                // A Unix socket knows no reset: there it is a close, and so an end.
                self.report.ended = self.socket.domain().unwrap() == Domain::UNIX;
                let _ = self.socket.set_linger(Some(Duration::ZERO));
                Next::Leave
            }
        }
    }

    fn read_some(&mut self) -> Next {
        if self.report.seen != Seen::Nothing {
            return Next::Done;
        }
        let most = match self.script.reads.get(self.read.0) {
            Some(Step::Pause(pause)) => {
                if !is_over(&mut self.read_paused, *pause) {
                    return Next::Wait;
                }
                self.read = (self.read.0 + 1, 0);
                return Next::Again;
            }
            Some(Step::Bytes(count)) => count - self.read.1,
            None if self.script.reading == Reading::Leave => {
                // Its close is an end, unless something was not read.
                self.report.ended = true;
                return Next::Leave;
            }
            _ => 64 << 10,
        };
        let mut buffer = vec![0; most.min(64 << 10)];
        match (&self.socket).read(&mut buffer) {
            Ok(0) => self.report.seen = Seen::End,
            Ok(count) => {
                if !self.stream.matches(self.begins.1 + self.report.received, &buffer[..count]) {
                    self.report.wrong_at.get_or_insert(self.report.received);
                }
                self.report.received += count as u64;
                self.read.1 += count;
                if count == most {
                    self.read = (self.read.0 + 1, 0);
                }
            }
            Err(error) if is_later(&error) => return Next::Wait,
            Err(error) => self.report.seen = Seen::Failed(error.kind()),
        }
        Next::Again
    }

    /// Until the socket is ready for what the script wants of it, or a moment.
    fn wait(&self, writes: &Next, reads: &Next) {
        let mut events = 0;
        if *writes == Next::Wait && self.write_paused.is_none() && self.write.0 < self.script.writes.len() {
            events |= libc::POLLOUT;
        }
        if *reads == Next::Wait && self.read_paused.is_none() {
            events |= libc::POLLIN;
        }
        let pauses = self.write_paused.is_some() || self.read_paused.is_some();
        let mut poll = libc::pollfd { fd: self.socket.as_raw_fd(), events, revents: 0 };
        // Nothing is asked for in a pause of both; then a hang-up would end the wait at once.
        let count = libc::nfds_t::from(events != 0);
        // SAFETY: the kernel writes to one struct that outlives the call, on an open descriptor.
        unsafe { libc::poll(&raw mut poll, count, if pauses { 1 } else { 50 }) };
    }
}

/// What is next for one direction of a side.
#[derive(PartialEq)]
enum Next {
    Again,
    Wait,
    Done,
    Leave,
}

/// Kinds of sockets and the way of relaying.
#[derive(Clone, Copy, Debug)]
struct Kind {
    splice: bool,
    unix_client: bool,
    unix_backend: bool,
}

struct Plan {
    kind: Kind,
    seed: u64,
    /// Of clients and backends.
    scripts: Vec<(Script, Script)>,
    /// Each stream of a session is a part of it.
    stream: Stream,
}

/// Where the streams of a session begin, that to the backend and that to the client.
fn begins(session: u64) -> (u64, u64) {
    (session * 20_011, 500_009 + session * 20_011)
}

impl Plan {
    fn new(seed: u64) -> Self {
        let kind = Kind { splice: seed & 1 == 0, unix_client: seed & 2 != 0, unix_backend: seed & 4 != 0 };
        let mut random = Rng::with_seed(seed);
        let scripts = (0..SESSIONS).map(|_| {
            let client = Script::random(&mut random, true, !kind.unix_client);
            (client, Script::random(&mut random, false, !kind.unix_backend))
        });
        Self { kind, seed, scripts: scripts.collect(), stream: Stream::new(seed) }
    }

    fn start(&self, directory: &Path, entry: &str) -> Balancer {
        let mut random = Rng::with_seed(self.seed ^ 0x5eed);
        let splice = if self.kind.splice { "auto" } else { "off" };
        let buffer = ["1KiB", "4KiB", "16KiB", "64KiB"][random.usize(0..4)];
        let buffers = 1 << random.u32(6..9);
        let relay = format!(
            "relay: {{splice: {splice}, buffer_size: {buffer}, buffers_per_core: {buffers}, pipes_per_core: 3, pipe_size: 64KiB}}"
        );
        let builder = balancer().one_shard().runtime(&relay).entry(entry);
        // Longer than that: what it ends looks whole where nothing is held.
        let builder = builder.listener("timeouts: {half_close: 2m}");
        if self.kind.unix_client { builder.on_unix(directory.join("client")) } else { builder }.start()
    }

    fn client(&self, session: u64, address: &SockAddr) -> Report {
        let domain = if self.kind.unix_client { Domain::UNIX } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::STREAM, None).unwrap();
        if session.is_multiple_of(3) {
            socket.set_recv_buffer_size(8_192).unwrap();
        }
        socket.connect(address).unwrap();
        (&socket).write_all(&session.to_le_bytes()).unwrap();
        socket.set_nonblocking(true).unwrap();
        Side::new(socket, &self.scripts[session as usize].0, &self.stream, begins(session)).play()
    }

    /// The backend of a session that came so far as to say which one it is.
    fn backend(&self, socket: Socket) -> Option<(u64, Report)> {
        let mut header = [0; HEADER];
        socket.set_read_timeout(Some(TOO_LONG)).unwrap();
        (&socket).read_exact(&mut header).ok()?;
        socket.set_nonblocking(true).unwrap();
        let session = u64::from_le_bytes(header);
        let (to_backend, to_client) = begins(session);
        let script = &self.scripts[session as usize].1;
        Some((session, Side::new(socket, script, &self.stream, (to_client, to_backend)).play()))
    }

    /// All sessions at the same time.
    fn run(&self) -> Result<(), String> {
        let directory = tempfile::tempdir().unwrap();
        let (path, port) = (directory.path().join("backend"), Reserved::at(V4));
        let (listener, entry) = if self.kind.unix_backend {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
            socket.listen(100).unwrap();
            (socket, format!("name: b, address: \"unix:{}\"", path.display()))
        } else {
            (port.listen(100), format!("address: 127.0.0.1, port: {}", port.address().port()))
        };
        let balancer = self.start(directory.path(), &entry);
        let address = match self.kind.unix_client {
            true => SockAddr::unix(directory.path().join("client")).unwrap(),
            false => SockAddr::from(balancer.address()),
        };
        let backends = Arc::new(Mutex::new(HashMap::new()));
        let clients: Vec<_> = std::thread::scope(|scope| {
            let accepting = scope.spawn(|| {
                std::thread::scope(|scope| {
                    while let Ok((socket, _)) = listener.accept() {
                        let backends = Arc::clone(&backends);
                        scope.spawn(move || backends.lock().unwrap().extend(self.backend(socket)));
                    }
                });
            });
            let address = &address;
            let clients: Vec<_> =
                (0..SESSIONS).map(|session| scope.spawn(move || self.client(session, address))).collect();
            let clients = clients.into_iter().map(|client| client.join().unwrap()).collect();
            listener.shutdown(Shutdown::Both).unwrap();
            accepting.join().unwrap();
            clients
        });
        let backends = backends.lock().unwrap();
        for (session, client) in (0..).zip(&clients) {
            self.check(session, client, backends.get(&session))
                .map_err(|what| self.describe(session, &what, client, backends.get(&session)))?;
        }
        balancer.finish();
        Ok(())
    }

    fn check(&self, session: u64, client: &Report, backend: Option<&Report>) -> Result<(), String> {
        let (script, other) = &self.scripts[session as usize];
        let resets = script.may_reset() || other.may_reset();
        let Some(backend) = backend else {
            return match client {
                _ if client.hangs => Err("the client hangs".to_owned()),
                _ if client.received > 0 => Err("the client got bytes without a backend".to_owned()),
                _ if !resets => Err("it never reached the backend".to_owned()),
                _ => Ok(()),
            };
        };
        let both = [
            ("client", client, backend, self.kind.unix_client),
            ("backend", backend, client, self.kind.unix_backend),
        ];
        for (name, receiver, sender, on_unix) in both {
            if receiver.hangs {
                return Err(format!("the {name} hangs"));
            }
            if let Some(offset) = receiver.wrong_at {
                return Err(format!("the {name} got other bytes from {offset} on"));
            }
            if receiver.received > sender.sent {
                return Err(format!("the {name} got more than was sent"));
            }
            let is_complete = sender.ended && receiver.received == sender.sent;
            // A Unix socket knows no reset; and after a send that failed, an end may be the rest of a reset.
            let may_be_cut = on_unix && resets || receiver.send_failed;
            if receiver.seen == Seen::End && !is_complete && !may_be_cut {
                return Err(format!("the {name} saw the end of a stream that is not complete"));
            }
            if !resets && (receiver.seen != Seen::End || receiver.send_failed || !is_complete) {
                return Err(format!(
                    "neither side reset, and the {name} saw something else than a whole stream"
                ));
            }
        }
        Ok(())
    }

    fn describe(&self, session: u64, what: &str, client: &Report, backend: Option<&Report>) -> String {
        let (of_client, of_backend) = &self.scripts[session as usize];
        format!(
            "RINGWAY_SESSIONS_SEED={}, session {session}: {what}\n{:?}\nclient {of_client:?}\n{client:?}\n\
             backend {of_backend:?}\n{backend:?}",
            self.seed, self.kind
        )
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

#[test]
fn sessions_at_random_keep_their_streams_whole() {
    let seeds = match number("RINGWAY_SESSIONS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RINGWAY_SESSIONS_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        Plan::new(seed).run().unwrap_or_else(|failure| panic!("{failure}"));
    }
}
