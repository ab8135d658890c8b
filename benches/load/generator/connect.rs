//! Connect, one echo, close; so many at a time. With TLS, each has a handshake of its own.

use std::io;
use std::time::Instant;

use super::echo::Echo;
use super::measurement::{Measurement, Unit};
use super::tally::{GRACE, Schedule, TURN, Tally};
use super::work::Work;
use crate::epoll::{Epoll, READ};
use crate::options::Options;
use crate::pattern::Pattern;
use crate::wire::{READ_MAX, Wire};

/// A balancer that refuses everything must not keep the generator for ever.
const ERRORS_MAX: u64 = 10_000;

pub(super) fn run(mut options: Options) -> Result<Measurement, String> {
    let file = options.take_all("--message")?.pop();
    let read = |file: String| std::fs::read(&file).map_err(|error| format!("{file}: {error}"));
    let message = file.map(read).transpose()?;
    let work = Work::take(&mut options, message.as_ref().map(Vec::len), None)?.with_address(options)?;
    let message = message.unwrap_or_else(|| Pattern::new().at(0)[..work.bytes].to_vec());
    connect(&work, &message).map_err(|error| error.to_string())
}

fn connect(work: &Work, message: &[u8]) -> io::Result<Measurement> {
    let mut epoll = Epoll::new()?;
    let mut tally = Tally::new(work.watched);
    let schedule = Schedule::new(work.seconds);
    let mut buffer = vec![0; READ_MAX];
    let open = |epoll: &Epoll, token: usize| -> io::Result<Echo> {
        let began = Instant::now();
        let mut echo = Echo::new(work.connect()?, message.to_vec());
        epoll.add(&echo.stream, token, READ)?;
        echo.begin(epoll, token, began)?;
        Ok(echo)
    };
    if work.resume {
        collect_tickets(work, message)?;
    }
    let mut sessions: Vec<Option<Echo>> = Vec::new();
    for token in 0..work.sessions {
        sessions.push(Some(open(&epoll, token)?));
    }
    let mut under_way = work.sessions;
    loop {
        let goes_on = schedule.turn(Instant::now(), &mut tally);
        if !goes_on && (under_way == 0 || Instant::now() >= schedule.until + GRACE) {
            break;
        }
        for index in 0..epoll.wait(TURN)? {
            let (token, ready) = epoll.event(index);
            let Some(session) = &mut sessions[token] else { continue };
            match session.turn(&epoll, token, ready, &mut buffer) {
                Ok(None) => continue,
                // A full handshake in place of a resumed one, or the other way round, is other work.
                Ok(Some(_)) if session.stream.resumed().is_some_and(|resumed| resumed != work.resume) => {
                    tally.errors += 1;
                }
                Ok(Some(began)) => tally.answered(began, Instant::now()),
                Err(_) => tally.errors += 1,
            }
            // Closed before the next one opens.
            sessions[token] = None;
            under_way -= 1;
            while goes_on && sessions[token].is_none() && tally.errors < ERRORS_MAX {
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
    Ok(tally.into_measurement(Unit::Session))
}

/// Two tickets for each session under way: all clients are made before the first ticket comes, so none of them resumes.
fn collect_tickets(work: &Work, message: &[u8]) -> io::Result<()> {
    let wires: io::Result<Vec<Wire>> = (0..work.sessions).map(|_| work.connect()).collect();
    for mut wire in wires? {
        wire.handshake(GRACE)?;
        wire.write_some(message)?;
        // Tickets come before the answer.
        wire.read_exact(&mut vec![0; message.len()], GRACE)?;
    }
    Ok(())
}
