//! Messages over open sessions, echoed or answered: closed loop, or at a fixed rate.
//!
//! At a fixed rate a message is due by the clock, whether the one before it was answered or not, and its
//! latency counts from when it was due: a stall is paid for by every message that fell due in it, which
//! corrects for coordinated omission. A closed loop sends less when it is answered late, and so hides stalls.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::exchange::Exchange;
use super::measurement::{Measurement, Unit};
use super::pace::Pace;
use super::tally::{GRACE, Schedule, TURN, Tally};
use super::work::Work;
use crate::epoll::{Epoll, Interest, READ, without_timer_slack};
use crate::options::Options;
use crate::pattern::Pattern;
use crate::wire::READ_MAX;

/// What the backend does with a message.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Game {
    Echo,
    /// It answers a request of 256 bytes.
    Ask,
}

/// Sessions that play ping-pong, in a closed loop or at a pace.
pub(super) struct PingPong {
    sessions: Vec<Option<Exchange>>,
    pace: Option<Pace>,
    under_way: usize,
}

impl PingPong {
    /// Opens the sessions, with the tokens from 0 on; `rate` 0 is the closed loop.
    pub(super) fn open(work: &Work, epoll: &Epoll, game: Game, rate: f64) -> io::Result<PingPong> {
        let pattern = Rc::new(Pattern::new());
        let mut sessions = Vec::new();
        for token in 0..work.sessions {
            let stream = work.open()?;
            let session = match game {
                Game::Echo => Exchange::echo(stream, pattern.at(token as u64 * 97)[..work.bytes].to_vec()),
                Game::Ask => Exchange::ask(stream, work.bytes, pattern.clone()),
            };
            epoll.add(&session.stream, token, READ)?;
            sessions.push(Some(session));
        }
        Ok(PingPong { sessions, pace: Pace::new(rate), under_way: 0 })
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
        while let Some((number, due)) = pace.take(now) {
            let token = (number % self.sessions.len() as u64) as usize;
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
        pace.rest()
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
                if closed_loop { tally.ended.is_none().then_some(now) } else { session.next_waiting() };
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

pub(super) fn run(mut options: Options, game: Game) -> Result<Measurement, String> {
    let work = Work::take(&mut options, None, None)?;
    let rate: f64 = options.take("--rate", Some(0.0))?;
    let work = work.with_address(options)?;
    play(&work, game, rate).map_err(|error| error.to_string())
}

fn play(work: &Work, game: Game, rate: f64) -> io::Result<Measurement> {
    without_timer_slack();
    let mut epoll = Epoll::new()?;
    let mut sessions = PingPong::open(work, &epoll, game, rate)?;
    let mut tally = Tally::new(&work.watched);
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
