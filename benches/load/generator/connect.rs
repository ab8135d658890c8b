//! Connect, one echo, close; so many at a time. With TLS, each has a handshake of its own.
//!
//! At a fixed rate a session is due by the clock, and its latency counts from then: where all places are taken
//! it waits for one.

use std::io;
use std::time::{Duration, Instant};

use super::exchange::Exchange;
use super::measurement::{Measurement, Unit};
use super::pace::Pace;
use super::tally::{GRACE, Schedule, TURN, Tally};
use super::work::Work;
use crate::epoll::{Epoll, Interest, READ, without_timer_slack};
use crate::options::Options;
use crate::pattern::Pattern;
use crate::wire::{READ_MAX, Wire};

/// A balancer that refuses everything must not keep the generator for ever.
const ERRORS_MAX: u64 = 10_000;

pub(super) fn run(mut options: Options) -> Result<Measurement, String> {
    let file = options.take_all("--message")?.pop();
    let read = |file: String| std::fs::read(&file).map_err(|error| format!("{file}: {error}"));
    let message = file.map(read).transpose()?;
    let work = Work::take(&mut options, message.as_ref().map(Vec::len), None)?;
    let rate: f64 = options.take("--rate", Some(0.0))?;
    let work = work.with_address(options)?;
    let message = message.unwrap_or_else(|| Pattern::new().at(0)[..work.bytes].to_vec());
    connect(&work, message, rate).map_err(|error| error.to_string())
}

/// The places for sessions.
struct Places<'a> {
    work: &'a Work,
    message: Vec<u8>,
    /// `None` in a closed loop.
    pace: Option<Pace>,
    sessions: Vec<Option<Exchange>>,
    /// Tokens of the places that nobody has.
    free: Vec<usize>,
}

fn connect(work: &Work, message: Vec<u8>, rate: f64) -> io::Result<Measurement> {
    without_timer_slack();
    let mut epoll = Epoll::new()?;
    let mut buffer = vec![0; READ_MAX];
    if work.resume {
        collect_tickets(work, &message)?;
    }
    let mut tally = Tally::new(&work.watched);
    let schedule = Schedule::new(work.seconds);
    let mut places = Places {
        work,
        message,
        pace: Pace::new(rate),
        sessions: (0..work.sessions).map(|_| None).collect(),
        free: (0..work.sessions).collect(),
    };
    loop {
        let goes_on = schedule.turn(Instant::now(), &mut tally);
        places.fill(&epoll, &schedule, &mut tally);
        if !goes_on && (places.under_way() == 0 || Instant::now() >= schedule.until + GRACE) {
            break;
        }
        for index in 0..epoll.wait(places.rest(goes_on))? {
            places.turn(&epoll, epoll.event(index), &mut tally, &mut buffer);
            places.fill(&epoll, &schedule, &mut tally);
        }
    }
    tally.errors += places.under_way() as u64;
    Ok(tally.into_measurement(Unit::Session))
}

impl Places<'_> {
    /// Opens what is due, as far as there are places.
    fn fill(&mut self, epoll: &Epoll, schedule: &Schedule, tally: &mut Tally) {
        while tally.errors < ERRORS_MAX {
            let Some(&token) = self.free.last() else { return };
            let Some(due) = self.next_due(schedule) else { return };
            match self.open(epoll, token, due) {
                Ok(session) => {
                    self.sessions[token] = Some(session);
                    self.free.pop();
                }
                Err(_) => tally.errors += 1,
            }
        }
    }

    /// When the next session is due, or was; `None` if none is. In a closed loop one is due always.
    fn next_due(&mut self, schedule: &Schedule) -> Option<Instant> {
        let now = Instant::now();
        match &mut self.pace {
            Some(pace) => pace.take(now.min(schedule.until)).map(|(_, due)| due),
            None => (now < schedule.until).then_some(now),
        }
    }

    fn open(&self, epoll: &Epoll, token: usize, due: Instant) -> io::Result<Exchange> {
        let mut session = Exchange::echo(self.work.connect()?, self.message.clone());
        epoll.add(&session.stream, token, READ)?;
        session.begin(epoll, token, due)?;
        Ok(session)
    }

    /// An event of one of the sessions; closes it when it is over.
    fn turn(
        &mut self,
        epoll: &Epoll,
        (token, ready): (usize, Interest),
        tally: &mut Tally,
        buffer: &mut [u8],
    ) {
        let Some(session) = &mut self.sessions[token] else { return };
        match session.turn(epoll, token, ready, buffer) {
            Ok(None) => return,
            // A full handshake in place of a resumed one, or the other way round, is other work.
            Ok(Some(_)) if session.stream.resumed().is_some_and(|resumed| resumed != self.work.resume) => {
                tally.errors += 1;
            }
            Ok(Some(due)) => tally.answered(due, Instant::now()),
            Err(_) => tally.errors += 1,
        }
        self.sessions[token] = None;
        self.free.push(token);
    }

    fn under_way(&self) -> usize {
        self.sessions.len() - self.free.len()
    }

    /// How long to wait for events at most.
    fn rest(&self, goes_on: bool) -> Duration {
        let pace = self.pace.as_ref().filter(|_| goes_on && !self.free.is_empty());
        pace.map_or(TURN, |pace| pace.rest().min(TURN))
    }
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
