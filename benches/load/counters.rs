//! What work costs beside CPU time: switches of the balancer's threads, locks that they wait for, interrupts between cores.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Events: each second as they are counted, for each message or session as they are reported.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Counters {
    /// Context switches of threads that waited.
    pub(crate) voluntary: f64,
    /// Context switches of threads that had to give way.
    pub(crate) involuntary: f64,
    /// Waits for a lock of the kernel; `None` without perf.
    pub(crate) contentions: Option<f64>,
    /// Interrupts that wake another core, of the whole machine.
    pub(crate) wake_ups: f64,
    /// Interrupts that have another core call a function, of the whole machine.
    pub(crate) calls: f64,
    /// Interrupts that have another core forget address translations, of the whole machine.
    pub(crate) flushes: f64,
}

impl Counters {
    /// Counts for this long what a process causes.
    pub(crate) fn watch(pid: u32, window: Duration) -> Counters {
        let perf = Command::new("perf")
            .args(["stat", "-x,", "-e", CONTENTION, "-p", &pid.to_string(), "--timeout"])
            .arg(window.as_millis().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let (began, before) = (Instant::now(), Totals::of(pid));
        thread::sleep(window);
        let (after, seconds) = (Totals::of(pid), began.elapsed().as_secs_f64());
        let each_second = |of: fn(&Totals) -> u64| of(&after).saturating_sub(of(&before)) as f64 / seconds;
        let said = perf.and_then(|perf| perf.wait_with_output()).ok();
        let contentions = said.and_then(|said| perf_count(&String::from_utf8_lossy(&said.stderr)));
        Counters {
            voluntary: each_second(|totals| totals.voluntary),
            involuntary: each_second(|totals| totals.involuntary),
            contentions: contentions.map(|count| count as f64 / window.as_secs_f64()),
            wake_ups: each_second(|totals| totals.wake_ups),
            calls: each_second(|totals| totals.calls),
            flushes: each_second(|totals| totals.flushes),
        }
    }

    /// For each of the messages or sessions, of which so many came each second.
    pub(crate) fn each(self, rate: f64) -> Counters {
        Counters {
            voluntary: self.voluntary / rate,
            involuntary: self.involuntary / rate,
            contentions: self.contentions.map(|contentions| contentions / rate),
            wake_ups: self.wake_ups / rate,
            calls: self.calls / rate,
            flushes: self.flushes / rate,
        }
    }
}

/// A tracepoint of Linux 5.19 and later.
const CONTENTION: &str = "lock:contention_begin";

/// What was counted so far.
struct Totals {
    voluntary: u64,
    involuntary: u64,
    wake_ups: u64,
    calls: u64,
    flushes: u64,
}

impl Totals {
    fn of(pid: u32) -> Totals {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let status = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("status")).ok();
        // One text of all threads: each line of a kind counts.
        let threads: String = threads.filter_map(status).collect();
        let interrupts = fs::read_to_string("/proc/interrupts").unwrap_or_default();
        Totals {
            voluntary: sum(&threads, "voluntary_ctxt_switches:"),
            involuntary: sum(&threads, "nonvoluntary_ctxt_switches:"),
            wake_ups: sum(&interrupts, "RES:"),
            calls: sum(&interrupts, "CAL:"),
            flushes: sum(&interrupts, "TLB:"),
        }
    }
}

/// The sum of all numbers in the lines whose first word is this one.
pub(crate) fn sum(text: &str, first: &str) -> u64 {
    let words = text.lines().map(str::split_whitespace);
    let lines = words.filter_map(|mut words| (words.next() == Some(first)).then_some(words));
    lines.map(|words| words.map_while(|word| word.parse::<u64>().ok()).sum::<u64>()).sum()
}

/// What `perf stat -x,` says of the event; `None` where it could not count it.
pub(crate) fn perf_count(said: &str) -> Option<u64> {
    let line = said.lines().find(|line| line.split(',').nth(2) == Some(CONTENTION))?;
    line.split(',').next()?.parse().ok()
}
