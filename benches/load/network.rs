//! What TCP did meanwhile, as the kernel counts it: of all sockets, whoever they belong to.

use std::fs;

use serde::{Deserialize, Serialize};

/// A round with more retransmissions than this share of its segments was about them, not about its subject.
const RETRANSMISSIONS_MAX: f64 = 0.001;

#[derive(Clone, Copy, Default, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Network {
    /// Sent, without those that were sent again.
    pub(crate) segments: u64,
    pub(crate) retransmissions: u64,
    /// Sessions whose end was not remembered because too many others were: they closed more cheaply.
    pub(crate) time_wait_overflows: u64,
}

impl Network {
    /// What was counted so far.
    pub(crate) fn so_far() -> Network {
        let read = |file| fs::read_to_string(file).unwrap_or_default();
        Network::parse(&read("/proc/net/snmp"), &read("/proc/net/netstat"))
    }

    /// Of the two files of the kernel.
    pub(crate) fn parse(snmp: &str, netstat: &str) -> Network {
        Network {
            segments: counter(snmp, "Tcp:", "OutSegs"),
            retransmissions: counter(snmp, "Tcp:", "RetransSegs"),
            time_wait_overflows: counter(netstat, "TcpExt:", "TCPTimeWaitOverflow"),
        }
    }

    pub(crate) fn since(self, earlier: Network) -> Network {
        Network {
            segments: self.segments.saturating_sub(earlier.segments),
            retransmissions: self.retransmissions.saturating_sub(earlier.retransmissions),
            time_wait_overflows: self.time_wait_overflows.saturating_sub(earlier.time_wait_overflows),
        }
    }

    /// Whether so much was sent again that the round says little.
    pub(crate) fn is_disturbed(&self) -> bool {
        self.retransmissions as f64 > RETRANSMISSIONS_MAX * self.segments as f64
    }
}

/// A line of names is followed by one of numbers, both with the same first word; 0 for a name that is not there.
fn counter(text: &str, first: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter(|line| line.split_whitespace().next() == Some(first));
    let (Some(names), Some(numbers)) = (lines.next(), lines.next()) else { return 0 };
    let mut columns = names.split_whitespace().zip(numbers.split_whitespace());
    columns.find(|(column, _)| *column == name).and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
}
