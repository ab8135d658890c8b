//! Bytes as fast as they go, in one direction or both.
//!
//! Measured is all of it, from the first byte to the backend's receipt for the last: the bytes that are still
//! on their way belong to the work, and so do their time and CPU. There is no warm-up.

use std::io;
use std::time::{Duration, Instant};

use super::measurement::{Measurement, Unit};
use super::tally::{GRACE, TURN, Tally};
use super::work::Work;
use crate::epoll::{BOTH, Epoll, Interest, READ, WRITE};
use crate::options::Options;
use crate::pattern::Pattern;
use crate::wire::Wire;

/// The token of stdin; those of the sessions count from 0.
const STDIN: usize = usize::MAX;

struct Bulk {
    stream: Wire,
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
    let work = work.with_address(options)?;
    transfer(&work, interest, stop_with_stdin).map_err(|error| error.to_string())
}

fn transfer(work: &Work, interest: Interest, stop_with_stdin: bool) -> io::Result<Measurement> {
    let mut epoll = Epoll::new()?;
    let mut sessions = Vec::new();
    let pattern = Pattern::new();
    let mut buffer = vec![0; 256 << 10];
    let mut tally = Tally::new(work.watched);
    tally.begin();
    for token in 0..work.sessions {
        let stream = work.open()?;
        epoll.add(&stream, token, interest)?;
        sessions.push(Bulk { stream, sent: 0, received: 0 });
    }
    if stop_with_stdin {
        epoll.add(io::stdin(), STDIN, READ)?;
    }
    let mut until = Instant::now() + Duration::from_secs_f64(work.seconds);
    while Instant::now() < until {
        for index in 0..epoll.wait(TURN)? {
            let (token, ready) = epoll.event(index);
            if token == STDIN {
                until = Instant::now();
                break;
            }
            if sessions[token].turn(ready, interest, &pattern, &mut buffer).is_err() {
                tally.errors += 1;
                // Not heard of again; its bytes still count.
                epoll.change(&sessions[token].stream, token, Interest { read: false, write: false })?;
                sessions[token].stream.abandon();
                if tally.errors > work.sessions as u64 {
                    return Err(io::Error::other("every session failed"));
                }
            }
        }
    }
    if interest == WRITE {
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

impl Bulk {
    fn turn(
        &mut self,
        ready: Interest,
        interest: Interest,
        pattern: &Pattern,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        if ready.write && interest.write {
            self.sent += self.stream.write_some(pattern.at(self.sent))? as u64;
        }
        if ready.read && interest.read {
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
