//! The client side of each workload. Prints one line of JSON: a [`Measurement`].
//!
//! Each is one thread that sleeps in epoll. At the edges of the measured time it reads the CPU clocks, its
//! own too, so that the figures of a run belong to the same stretch of time, and a run that was limited by
//! its generator can be told from one that was limited by its balancer.

mod bulk;
mod connect;
mod echo;
mod exchange;
mod idle;
mod measurement;
mod pace;
mod storm;
mod tally;
mod work;

use crate::options::Options;
use echo::Game;

pub(crate) use measurement::{Measurement, Unit};

/// Runs the generator of this name; `None` if there is none.
pub(crate) fn run(name: &str, options: Options) -> Option<Result<(), String>> {
    let measured = match name {
        "echo" => echo::run(options, Game::Echo),
        "ask" => echo::run(options, Game::Ask),
        "connect" => connect::run(options),
        "bulk" => bulk::run(options),
        "idle" => return Some(idle::run(options)),
        "storm" => storm::run(options),
        _ => return None,
    };
    Some(measured.and_then(|measurement| measurement.print()))
}
