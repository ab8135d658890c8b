//! Who had the CPU: processes in nanoseconds, cores in clock ticks.
//!
//! The CPU clock of a process is the sum that /proc/PID/stat shows as user and system time, over all its
//! threads, ended ones included, without the rounding to ticks of 10 ms. A thread that runs while its clock
//! is read is counted up to the kernel's last timer interrupt, 1 to 10 ms ago.
#![expect(unsafe_code, reason = "std has no CPU clocks")]

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::topology::BALANCER_CORE;

/// A core, or a thread, that is busy for this share of the time has nothing left to give; the rest is the
/// noise of the clocks.
pub(crate) const SATURATED: f64 = 0.95;

/// User and system time of a process so far; `None` if there is no such process.
pub(crate) fn process_cpu(pid: u32) -> Option<Duration> {
    let mut clock = 0;
    // SAFETY: `clock` outlives the call, which fills it.
    let found = unsafe { libc::clock_getcpuclockid(libc::pid_t::try_from(pid).ok()?, &raw mut clock) };
    if found == 0 { read(clock) } else { None }
}

/// User and system time of this process so far.
pub(crate) fn own_cpu() -> Duration {
    read(libc::CLOCK_PROCESS_CPUTIME_ID).expect("every process has this clock")
}

fn read(clock: libc::clockid_t) -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` outlives the call, which fills it.
    let done = unsafe { libc::clock_gettime(clock, &raw mut time) };
    (done == 0).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// Ticks of some cores: all, and those in which a core was idle.
#[derive(Clone, Copy, Default)]
struct Ticks {
    all: u64,
    idle: u64,
}

impl Ticks {
    /// Of the cores in this range, as /proc/stat counts them.
    fn of(stat: &str, cores: RangeInclusive<usize>) -> Ticks {
        let mut sum = Ticks::default();
        for line in stat.lines() {
            let Some((core, ticks)) = line.strip_prefix("cpu").and_then(|line| line.split_once(' ')) else {
                continue;
            };
            if !core.parse().is_ok_and(|core| cores.contains(&core)) {
                continue;
            }
            let ticks: Vec<u64> = ticks.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            // user nice system idle iowait irq softirq steal; guest time is in user time already.
            sum.all += ticks.iter().take(8).sum::<u64>();
            sum.idle += ticks.iter().skip(3).take(2).sum::<u64>();
        }
        sum
    }

    /// The share of the time since `earlier` in which the cores were not idle; `None` within one tick.
    fn busy_since(self, earlier: Ticks) -> Option<f64> {
        let all = self.all.checked_sub(earlier.all).filter(|all| *all > 0)?;
        let idle = self.idle.saturating_sub(earlier.idle).min(all);
        Some(1.0 - idle as f64 / all as f64)
    }
}

/// The processes that are watched while the generator works.
#[derive(Clone)]
pub(crate) struct Watched {
    /// All of its processes; none if there is no balancer.
    pub(crate) balancer: Vec<u32>,
    /// 0 for none.
    pub(crate) backend: u32,
    /// A second generator; 0 for none.
    pub(crate) beside: u32,
}

/// The CPU clocks at one moment.
#[derive(Clone, Copy)]
pub(crate) struct Snapshot {
    at: Instant,
    balancer: Option<Duration>,
    backend: Option<Duration>,
    beside: Option<Duration>,
    generator: Duration,
    /// How many cores are not the balancer's.
    other_cores: usize,
    balancer_ticks: Ticks,
    other_ticks: Ticks,
}

impl Snapshot {
    pub(crate) fn take(watched: &Watched) -> Snapshot {
        let used = |pid: u32| if pid == 0 { None } else { process_cpu(pid) };
        let balancer: Option<Duration> = watched.balancer.iter().map(|&pid| used(pid)).sum();
        // This process is pinned to the cores that are not the balancer's, which come after it.
        let other_cores = std::thread::available_parallelism().map_or(1, usize::from);
        // Without /proc/stat nothing is known of the cores, and no share follows from no ticks.
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let first = BALANCER_CORE + 1;
        Snapshot {
            at: Instant::now(),
            balancer: balancer.filter(|_| !watched.balancer.is_empty()),
            backend: used(watched.backend),
            beside: used(watched.beside),
            generator: own_cpu(),
            other_cores,
            balancer_ticks: Ticks::of(&stat, BALANCER_CORE..=BALANCER_CORE),
            other_ticks: Ticks::of(&stat, first..=BALANCER_CORE + other_cores),
        }
    }

    /// What was used from here to `end`.
    pub(crate) fn until(&self, end: &Snapshot) -> Usage {
        let between = |from: Option<Duration>, to: Option<Duration>| {
            from.zip(to).map(|(from, to)| to.saturating_sub(from).as_secs_f64())
        };
        let mut usage = Usage {
            seconds: (end.at - self.at).as_secs_f64(),
            balancer: between(self.balancer, end.balancer),
            backend: between(self.backend, end.backend),
            beside: between(self.beside, end.beside),
            generator: (end.generator - self.generator).as_secs_f64(),
            other_cores_busy: end.other_ticks.busy_since(self.other_ticks),
            strangers: None,
        };
        let balancer_core_busy = end.balancer_ticks.busy_since(self.balancer_ticks);
        usage.strangers = balancer_core_busy.zip(usage.other_cores_busy).map(|(balancer_core, others)| {
            let known = [usage.balancer, usage.backend, usage.beside, Some(usage.generator)];
            let known = known.into_iter().flatten().sum::<f64>() / usage.seconds;
            let cores = self.other_cores as f64;
            ((balancer_core + others * cores - known) / (1.0 + cores)).max(0.0)
        });
        usage
    }
}

/// Who used how much CPU in the measured time of one run.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// The measured time.
    pub(crate) seconds: f64,
    /// CPU seconds of the balancer; none for the direct row.
    pub(crate) balancer: Option<f64>,
    /// CPU seconds of the backend.
    pub(crate) backend: Option<f64>,
    /// CPU seconds of a second generator, if there was one.
    pub(crate) beside: Option<f64>,
    /// CPU seconds of the load generator.
    pub(crate) generator: f64,
    /// The share of the time, 0 to 1, in which the cores beside the balancer's were not idle, whoever used
    /// them.
    pub(crate) other_cores_busy: Option<f64>,
    /// The share of all cores that went to processes which have no part in the run.
    pub(crate) strangers: Option<f64>,
}

impl Usage {
    /// How busy the balancer was, as a share of its core.
    pub(crate) fn balancer_share(&self) -> Option<f64> {
        self.balancer.map(|used| used / self.seconds)
    }

    /// Whether the load generator and the backend could not have done more, whatever the balancer did: their
    /// cores were never idle, or one of the two, a single thread each, never slept.
    pub(crate) fn generator_is_the_limit(&self) -> bool {
        self.other_cores_busy.is_some_and(|busy| busy >= SATURATED)
            || self.generator / self.seconds >= SATURATED
            || self.backend.is_some_and(|backend| backend / self.seconds >= SATURATED)
    }
}
