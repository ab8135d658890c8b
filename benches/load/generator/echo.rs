//! Messages of a size over open sessions: closed loop, or at a fixed rate.
//!
//! At a fixed rate a message is due by the clock, whether the one before it was answered or not, and its
//! latency counts from when it was due: a stall is paid for by every message that fell due in it, which
//! corrects for coordinated omission. A closed loop sends less when it is answered late, and so hides stalls.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use super::measurement::{Measurement, Unit};
use super::tally::{GRACE, Schedule, TURN, Tally};
use super::work::Work;
use crate::epoll::{BOTH, Epoll, Interest, READ, without_timer_slack};
use crate::options::Options;
use crate::pattern::Pattern;
use crate::wire::{READ_MAX, Wire};

/// One echo session: the message under way, and those that wait for their turn (open loop only).
pub(super) struct Echo {
    pub(super) stream: Wire,
    message: Vec<u8>,
    number: u64,
    sent: usize,
    received: usize,
    /// When the message under way was due.
    due: Option<Instant>,
    waiting: VecDeque<Instant>,
}

impl Echo {
    pub(super) fn new(stream: Wire, message: Vec<u8>) -> Echo {
        Echo { stream, message, number: 0, sent: 0, received: 0, due: None, waiting: VecDeque::new() }
    }

    /// Starts a message that was due at `due`.
    pub(super) fn begin(&mut self, epoll: &Epoll, token: usize, due: Instant) -> io::Result<()> {
        self.number += 1;
        // At the end, so that what a message begins with, which a balancer may read, stays as it is.
        let start = self.message.len().saturating_sub(8);
        let number = self.number.to_le_bytes();
        let tail = &mut self.message[start..];
        tail.copy_from_slice(&number[..tail.len()]);
        self.due = Some(due);
        self.received = 0;
        self.sent = self.stream.write_some(&self.message)?;
        if self.has_more_to_send() { epoll.change(&self.stream, token, BOTH) } else { Ok(()) }
    }

    /// Starts a message, or lets it wait for the one under way.
    fn begin_in_turn(&mut self, epoll: &Epoll, token: usize, due: Instant) -> io::Result<()> {
        if self.due.is_some() {
            self.waiting.push_back(due);
            return Ok(());
        }
        self.begin(epoll, token, due)
    }

    /// Goes on as far as the socket allows; when the message was due, if its echo is complete now.
    pub(super) fn turn(
        &mut self,
        epoll: &Epoll,
        token: usize,
        ready: Interest,
        buffer: &mut [u8],
    ) -> io::Result<Option<Instant>> {
        if ready.write && self.has_more_to_send() {
            self.sent += self.stream.write_some(&self.message[self.sent..])?;
            if !self.has_more_to_send() {
                epoll.change(&self.stream, token, READ)?;
            }
        }
        if !ready.read {
            return Ok(None);
        }
        let count = match self.stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        if self.message.get(self.received..self.received + count) != Some(&buffer[..count]) {
            return Err(io::Error::other("the echo differs"));
        }
        self.received += count;
        Ok(if self.received == self.message.len() { self.due.take() } else { None })
    }

    fn has_more_to_send(&self) -> bool {
        self.sent < self.message.len() || self.stream.is_behind()
    }

    /// Whether a message was ever sent.
    pub(super) fn has_begun(&self) -> bool {
        self.number > 0
    }

    /// Messages that were due and are not answered.
    fn unanswered(&self) -> usize {
        usize::from(self.due.is_some()) + self.waiting.len()
    }
}

/// When messages fall due, and over which session each goes.
struct Pace {
    start: Instant,
    per_second: f64,
    issued: u64,
}

impl Pace {
    fn next(&self) -> Instant {
        self.start + Duration::from_secs_f64(self.issued as f64 / self.per_second)
    }
}

/// Sessions that play ping-pong, in a closed loop or at a pace.
pub(super) struct PingPong {
    sessions: Vec<Option<Echo>>,
    pace: Option<Pace>,
    under_way: usize,
}

impl PingPong {
    /// Opens the sessions, with the tokens from 0 on; `rate` 0 is the closed loop.
    pub(super) fn open(work: &Work, epoll: &Epoll, rate: f64) -> io::Result<PingPong> {
        let pattern = Pattern::new();
        let mut sessions = Vec::new();
        for token in 0..work.sessions {
            let echo = Echo::new(work.open()?, pattern.at(token as u64 * 97)[..work.bytes].to_vec());
            epoll.add(&echo.stream, token, READ)?;
            sessions.push(Some(echo));
        }
        let pace = (rate > 0.0).then(|| Pace { start: Instant::now(), per_second: rate, issued: 0 });
        Ok(PingPong { sessions, pace, under_way: 0 })
    }

    /// The first message of each session of a closed loop.
    fn begin(&mut self, epoll: &Epoll) -> io::Result<()> {
        if self.pace.is_none() {
            for (token, session) in self.sessions.iter_mut().flatten().enumerate() {
                session.begin(epoll, token, Instant::now())?;
                self.under_way += 1;
            }
        }
        Ok(())
    }

    /// Sends what has fallen due; returns for how long nothing will.
    pub(super) fn issue(&mut self, epoll: &Epoll, tally: &mut Tally) -> Duration {
        let Some(pace) = &mut self.pace else { return TURN };
        let now = Instant::now();
        while pace.next() <= now {
            let due = pace.next();
            let token = (pace.issued % self.sessions.len() as u64) as usize;
            pace.issued += 1;
            let session = &mut self.sessions[token];
            match session.as_mut().map(|session| session.begin_in_turn(epoll, token, due)) {
                Some(Ok(())) => self.under_way += 1,
                // Its session is gone: the message can never be answered.
                None => tally.errors += 1,
                Some(Err(_)) => {
                    let before = session.take().map_or(0, |session| session.unanswered());
                    // The message that failed is among the unanswered ones, but was not under way yet.
                    tally.errors += before as u64;
                    self.under_way -= before.saturating_sub(1);
                }
            }
        }
        pace.next().saturating_duration_since(Instant::now())
    }

    /// An event of one of the sessions; begins the next message if it is time.
    pub(super) fn turn(
        &mut self,
        epoll: &Epoll,
        (token, ready): (usize, Interest),
        tally: &mut Tally,
        buffer: &mut [u8],
    ) {
        let Some(session) = &mut self.sessions[token] else { return };
        let closed_loop = self.pace.is_none();
        let under_way = &mut self.under_way;
        let turned = session.turn(epoll, token, ready, buffer).and_then(|due| {
            let Some(due) = due else { return Ok(()) };
            let now = Instant::now();
            tally.answered(due, now);
            *under_way -= 1;
            let next =
                if closed_loop { tally.ended.is_none().then_some(now) } else { session.waiting.pop_front() };
            let Some(next) = next else { return Ok(()) };
            // At a pace, a waiting message was counted when it fell due.
            *under_way += usize::from(closed_loop);
            session.begin(epoll, token, next)
        });
        if turned.is_err() {
            let lost = session.unanswered();
            // A session that breaks without a message under way is an error too.
            tally.errors += lost.max(1) as u64;
            self.under_way -= lost;
            self.sessions[token] = None;
        }
    }

    /// Messages that are not answered yet.
    pub(super) fn under_way(&self) -> usize {
        self.under_way
    }
}

pub(super) fn run(mut options: Options) -> Result<Measurement, String> {
    let work = Work::take(&mut options, None, None)?;
    let rate: f64 = options.take("--rate", Some(0.0))?;
    let work = work.with_address(options)?;
    play(&work, rate).map_err(|error| error.to_string())
}

fn play(work: &Work, rate: f64) -> io::Result<Measurement> {
    without_timer_slack();
    let mut epoll = Epoll::new()?;
    let mut sessions = PingPong::open(work, &epoll, rate)?;
    let mut tally = Tally::new(work.watched);
    let schedule = Schedule::new(work.seconds);
    let mut buffer = vec![0; READ_MAX];
    sessions.begin(&epoll)?;
    loop {
        let now = Instant::now();
        let goes_on = schedule.turn(now, &mut tally);
        if !goes_on && (sessions.under_way() == 0 || now >= schedule.until + GRACE) {
            break;
        }
        let timeout = if goes_on { sessions.issue(&epoll, &mut tally) } else { TURN };
        for index in 0..epoll.wait(timeout)? {
            sessions.turn(&epoll, epoll.event(index), &mut tally, &mut buffer);
        }
    }
    // An answer that never came is an error too.
    tally.errors += sessions.under_way() as u64;
    Ok(tally.into_measurement(Unit::Message))
}
