//! Bytes as fast as they go, in one direction or both, or at a fixed rate.
//!
//! At a fixed rate the client writes, or reads, a piece when it is due by the clock, each over the next session.
//!
//! Measured is all of it, from the first byte to the backend's receipt for the last: the bytes that are still
//! on their way belong to the work, and so do their time and CPU. There is no warm-up.

use std::io;
use std::time::{Duration, Instant};

use super::measurement::{Measurement, Unit};
use super::pace::Pace;
use super::tally::{GRACE, TURN, Tally};
use super::work::Work;
use crate::epoll::{BOTH, Epoll, Interest, NONE, READ, WRITE, without_timer_slack};
use crate::options::Options;
use crate::pattern::Pattern;
use crate::wire::{READ_MAX, Wire};

/// The token of stdin; those of the sessions count from 0.
const STDIN: usize = usize::MAX;

/// What falls due at once, at a fixed rate.
const PIECE: usize = READ_MAX;

/// Which way bytes go, and how fast.
struct Transfer {
    interest: Interest,
    pace: Option<Pace>,
    /// The most that a turn moves.
    piece: usize,
}

struct Bulk {
    stream: Wire,
    /// Bytes that it may still move now, or has moved too early if it is negative.
    due: i64,
    sent: u64,
    received: u64,
}

pub(super) fn run(mut options: Options) -> Result<Measurement, String> {
    let work = Work::take(&mut options, Some(1), None)?;
    let direction: String = options.take("--direction", None)?;
    let interest = match direction.as_str() {
        "to-backend" => WRITE,
        "to-client" => READ,
        "both" => BOTH,
        other => return Err(format!("no direction '{other}'")),
    };
    let stop_with_stdin = options.flag("--until-stdin-ends");
    let gbit_per_second: f64 = options.take("--rate", Some(0.0))?;
    let work = work.with_address(options)?;
    let pace = Pace::new(gbit_per_second * 1e9 / 8.0 / PIECE as f64);
    let piece = if pace.is_some() { PIECE } else { Pattern::WINDOW };
    transfer(&work, Transfer { interest, pace, piece }, stop_with_stdin).map_err(|error| error.to_string())
}

fn transfer(work: &Work, mut transfer: Transfer, stop_with_stdin: bool) -> io::Result<Measurement> {
    without_timer_slack();
    let mut epoll = Epoll::new()?;
    let mut sessions = Vec::new();
    let pattern = Pattern::new();
    let mut buffer = vec![0; transfer.piece];
    let mut tally = Tally::new(&work.watched);
    tally.begin();
    // Without a pace, all is due at once.
    let (due, interest) = if transfer.pace.is_some() { (0, NONE) } else { (i64::MAX, transfer.interest) };
    for token in 0..work.sessions {
        let stream = work.open()?;
        epoll.add(&stream, token, interest)?;
        sessions.push(Bulk { stream, due, sent: 0, received: 0 });
    }
    if stop_with_stdin {
        epoll.add(io::stdin(), STDIN, READ)?;
    }
    let mut until = Instant::now() + Duration::from_secs_f64(work.seconds);
    while Instant::now() < until {
        let timeout = transfer.issue(&epoll, &mut sessions)?;
        for index in 0..epoll.wait(timeout)? {
            let (token, ready) = epoll.event(index);
            if token == STDIN {
                until = Instant::now();
                break;
            }
            let session = &mut sessions[token];
            if session.turn(ready, &transfer, &pattern, &mut buffer).is_err() {
                tally.errors += 1;
                session.stream.abandon();
                // Its bytes still count.
                session.due = i64::MIN / 2;
                if tally.errors > work.sessions as u64 {
                    return Err(io::Error::other("every session failed"));
                }
            }
            if session.due <= 0 {
                epoll.change(&session.stream, token, NONE)?;
            }
        }
    }
    if transfer.interest == WRITE {
        tally.errors += sessions.iter_mut().filter_map(|session| session.confirmed().err()).count() as u64;
    }
    tally.end();
    let gigabytes = sessions.iter().map(|session| session.sent + session.received).sum::<u64>() as f64 / 1e9;
    Ok(Measurement {
        count: gigabytes,
        rate: gigabytes * 8.0 / tally.seconds(),
        latencies: None,
        ..tally.into_measurement(Unit::Gigabyte)
    })
}

impl Transfer {
    /// Hands out what has fallen due; returns for how long nothing will.
    fn issue(&mut self, epoll: &Epoll, sessions: &mut [Bulk]) -> io::Result<Duration> {
        let Some(pace) = &mut self.pace else { return Ok(TURN) };
        let now = Instant::now();
        while let Some((number, _)) = pace.take(now) {
            let token = (number % sessions.len() as u64) as usize;
            let session = &mut sessions[token];
            let rested = session.due <= 0;
            session.due += PIECE as i64;
            if rested && session.due > 0 {
                epoll.change(&session.stream, token, self.interest)?;
            }
        }
        Ok(pace.rest().min(TURN))
    }
}

impl Bulk {
    fn turn(
        &mut self,
        ready: Interest,
        transfer: &Transfer,
        pattern: &Pattern,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        let before = self.sent + self.received;
        if ready.write && transfer.interest.write {
            self.sent += self.stream.write_some(&pattern.at(self.sent)[..transfer.piece])? as u64;
        }
        if ready.read && transfer.interest.read {
            match self.stream.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) if !pattern.agrees(self.received, &buffer[..count]) => {
                    return Err(io::Error::other("not the pattern"));
                }
                Ok(count) => self.received += count as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        self.due -= (self.sent + self.received - before) as i64;
        Ok(())
    }

    /// Ends the stream and compares the backend's count with what was sent.
    fn confirmed(&mut self) -> io::Result<()> {
        let mut count = [0; 8];
        self.stream.block(GRACE)?;
        self.stream.end()?;
        self.stream.read_exact(&mut count, GRACE)?;
        if u64::from_le_bytes(count) == self.sent { Ok(()) } else { Err(io::Error::other("bytes were lost")) }
    }
}
