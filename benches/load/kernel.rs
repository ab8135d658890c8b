//! The kernel as it is for a comparison: one congestion control for everybody, loopback that drops
//! nothing, room for every TIME_WAIT, and TCP Fast Open for those who ask for it.
//!
//! BBR, which some machines have as their default, paces; without a pacing queue that is a timer for each
//! piece, and on loopback it is most of what is measured. And loopback drops what comes while
//! `netdev_max_backlog` packets wait, 1,000 by default, which stalls a session for as long as a
//! retransmission takes, whoever is in between.

use std::fs;
use std::thread;
use std::time::Duration;

const CONGESTION_CONTROL: (&str, &str) = ("/proc/sys/net/ipv4/tcp_congestion_control", "cubic");
/// Beyond so many, sessions close without TIME_WAIT: more cheaply, whoever is in between.
const TIME_WAITS: (&str, &str) = ("/proc/sys/net/ipv4/tcp_max_tw_buckets", "524288");
/// Both to connect and to listen.
const FAST_OPEN: (&str, &str) = ("/proc/sys/net/ipv4/tcp_fastopen", "3");
const BACKLOG: (&str, &str) = ("/proc/sys/net/core/netdev_max_backlog", "20000");

/// What was set, until it is dropped.
pub(crate) struct Kernel {
    /// Path and value of before.
    before: Vec<(&'static str, String)>,
    dropped: u64,
}

impl Kernel {
    /// Sets what may be set, and says what may not.
    pub(crate) fn set() -> Kernel {
        let mut before = Vec::new();
        for (path, value) in [CONGESTION_CONTROL, BACKLOG, TIME_WAITS, FAST_OPEN] {
            let Ok(old) = fs::read_to_string(path) else {
                eprintln!("{path} is not there: it cannot be set to {value}");
                continue;
            };
            let old = old.trim().to_owned();
            if old == value {
                continue;
            }
            match fs::write(path, value) {
                Ok(()) => before.push((path, old)),
                Err(error) => eprintln!("{path} stays at {old} instead of {value}: {error}"),
            }
        }
        Kernel { before, dropped: dropped() }
    }

    /// Packets that were dropped since, because too many waited.
    pub(crate) fn dropped(&self) -> u64 {
        dropped() - self.dropped
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        for (path, value) in &self.before {
            if let Err(error) = fs::write(path, value) {
                eprintln!("{path} cannot be set back to {value}: {error}");
            }
        }
    }
}

/// The congestion control of new connections.
pub(crate) fn congestion_control() -> String {
    fs::read_to_string(CONGESTION_CONTROL.0).unwrap_or_default().trim().to_owned()
}

/// What the kernel holds, in bytes: its objects in use of all kinds (sockets, files, timers, requests of a ring:
/// `/proc/slabinfo`, which only root may read) and what waits in TCP's buffers, where these are pages of their own.
/// Slabs that are empty since do not count: `/proc/meminfo` counts them, and who comes next finds them free.
///
/// What is freed comes back late: this waits until nothing moves any more, for two seconds at most.
pub(crate) fn memory() -> Option<f64> {
    /// Less than this is other processes' coming and going.
    const STILL: f64 = 65_536.0;
    let mut before = memory_now()?;
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(100));
        let now = memory_now()?;
        if (now - before).abs() < STILL {
            return Some(now);
        }
        before = now;
    }
    Some(before)
}

fn memory_now() -> Option<f64> {
    let read = |file| fs::read_to_string(file).ok();
    Some(slab_bytes(&read("/proc/slabinfo")?) + tcp_bytes(&read("/proc/net/sockstat")?)?)
}

/// Of each kind, the objects in use times their size.
pub(crate) fn slab_bytes(slabinfo: &str) -> f64 {
    let bytes_of = |line: &str| -> Option<f64> {
        let mut numbers = line.split_whitespace().skip(1).map(|word| word.parse::<f64>().ok());
        let active = numbers.next()??;
        Some(active * numbers.nth(1)??)
    };
    slabinfo.lines().filter_map(bytes_of).sum()
}

/// The last number of the line of TCP is in pages.
pub(crate) fn tcp_bytes(sockstat: &str) -> Option<f64> {
    const PAGE: f64 = 4096.0;
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let pages = line.split_whitespace().skip_while(|word| *word != "mem").nth(1)?;
    Some(pages.parse::<f64>().ok()? * PAGE)
}

/// The second column of `/proc/net/softnet_stat`, hexadecimal, of all CPUs.
fn dropped() -> u64 {
    let text = fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
    let of_cpu = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    text.lines().filter_map(of_cpu).sum()
}
