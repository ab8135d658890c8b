//! The kernel as it is for a comparison: one congestion control for everybody, and loopback that drops
//! nothing.
//!
//! BBR, which some machines have as their default, paces; without a pacing queue that is a timer for each
//! piece, and on loopback it is most of what is measured. And loopback drops what comes while
//! `netdev_max_backlog` packets wait, 1,000 by default, which stalls a session for as long as a
//! retransmission takes, whoever is in between.

use std::fs;

const CONGESTION_CONTROL: (&str, &str) = ("/proc/sys/net/ipv4/tcp_congestion_control", "cubic");
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
        for (path, value) in [CONGESTION_CONTROL, BACKLOG] {
            let old = fs::read_to_string(path).unwrap_or_default().trim().to_owned();
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

/// The second column of `/proc/net/softnet_stat`, hexadecimal, of all CPUs.
fn dropped() -> u64 {
    let text = fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
    let of_cpu = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    text.lines().filter_map(of_cpu).sum()
}
