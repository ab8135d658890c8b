//! Connect, one echo, close; so many at a time.

use std::io;
use std::time::Instant;

use super::echo::Echo;
use super::measurement::{Measurement, Unit};
use super::tally::{GRACE, Schedule, TURN, Tally};
use super::work::Work;
use crate::epoll::{Epoll, READ};
use crate::options::Options;
use crate::pattern::Pattern;

/// A balancer that refuses everything must not keep the generator for ever.
const ERRORS_MAX: u64 = 10_000;

pub(super) fn run(mut options: Options) -> Result<Measurement, String> {
    let work = Work::take(&mut options, None, None)?.with_address(options)?;
    connect(&work).map_err(|error| error.to_string())
}

fn connect(work: &Work) -> io::Result<Measurement> {
    let mut epoll = Epoll::new()?;
    let mut tally = Tally::new(work.watched);
    let schedule = Schedule::new(work.seconds);
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
