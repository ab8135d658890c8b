//! What three things cost on this machine that every balancer does all the time. They say which machines may be
//! compared: between two hosts, a wake-up may cost several times as much while a copy costs the same.

use std::hint::black_box;
use std::io::{self, Read, Write};
use std::thread;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::epoll::pin_to;
use crate::topology::BALANCER_CORE;

#[derive(Serialize, Deserialize)]
pub(crate) struct Costs {
    /// A system call that does nothing, in ns.
    pub(crate) system_call_ns: f64,
    /// From a write into a pipe until its reader, asleep on another core, has read it, in ns.
    pub(crate) wake_up_ns: f64,
    /// A copy of 16 KiB within the cache, in ns.
    pub(crate) copy_16k_ns: f64,
}

impl Costs {
    /// Takes about a tenth of a second.
    pub(crate) fn measure() -> io::Result<Costs> {
        Ok(Costs { system_call_ns: system_call(), wake_up_ns: wake_up()?, copy_16k_ns: copy() })
    }

    pub(crate) fn line(&self) -> String {
        format!(
            "the machine: a system call {:.0} ns, a wake-up on another core {:.1} us, a copy of 16 KiB {:.0} ns",
            self.system_call_ns,
            self.wake_up_ns / 1e3,
            self.copy_16k_ns
        )
    }
}

/// The mean time of `count` calls, in ns.
fn mean(count: u32, mut action: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..count {
        action();
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(count)
}

fn system_call() -> f64 {
    mean(100_000, || {
        black_box(std::os::unix::process::parent_id());
    })
}

fn copy() -> f64 {
    let (from, mut to) = (vec![1_u8; 16 << 10], vec![0_u8; 16 << 10]);
    mean(20_000, || black_box(&mut to).copy_from_slice(black_box(&from)))
}

/// Half of a ping-pong between two threads, each pinned to a core.
fn wake_up() -> io::Result<f64> {
    const TURNS: u32 = 2_000;
    let (mut questions, mut ask) = io::pipe()?;
    let (mut answers, mut answer) = io::pipe()?;
    let echo = thread::spawn(move || -> io::Result<()> {
        pin_to(BALANCER_CORE)?;
        let mut byte = [0];
        for _ in 0..TURNS {
            questions.read_exact(&mut byte)?;
            answer.write_all(&byte)?;
        }
        Ok(())
    });
    let asking = thread::spawn(move || -> io::Result<f64> {
        pin_to(BALANCER_CORE + 1)?;
        let mut byte = [0];
        let start = Instant::now();
        for _ in 0..TURNS {
            ask.write_all(&byte)?;
            answers.read_exact(&mut byte)?;
        }
        Ok(start.elapsed().as_secs_f64() * 1e9 / f64::from(2 * TURNS))
    });
    let join = |_| io::Error::other("a thread of the calibration panicked");
    let cost = asking.join().map_err(join)?;
    echo.join().map_err(join)??;
    cost
}
