//! Opens sessions, sends one message over each, says so in a line, and keeps them until stdin ends.

use std::io::{self, Read};

use super::measurement::{Measurement, Unit};
use super::tally::GRACE;
use super::work::Work;
use crate::options::Options;
use crate::wire::Wire;

pub(super) fn run(mut options: Options) -> Result<(), String> {
    let work = Work::take(&mut options, Some(64), Some(0.0))?.with_address(options)?;
    let _sessions = open(&work).map_err(|error| error.to_string())?;
    let count = work.sessions as f64;
    Measurement {
        unit: Unit::IdleSession,
        count,
        rate: f64::NAN,
        errors: 0,
        latencies: None,
        usage: None,
        network: None,
    }
    .print()?;
    io::stdin().read_to_end(&mut Vec::new()).map(|_| ()).map_err(|error| error.to_string())
}

fn open(work: &Work) -> io::Result<Vec<Wire>> {
    let message = vec![7; work.bytes];
    let mut answer = vec![0; work.bytes];
    let mut sessions = Vec::new();
    for _ in 0..work.sessions {
        let mut stream = work.open()?;
        stream.write_some(&message)?;
        stream.read_exact(&mut answer, GRACE)?;
        sessions.push(stream);
    }
    Ok(sessions)
}
