//! What a run of a generator found, and how its parent process reads it.

use serde::{Deserialize, Serialize};

use crate::clock::Usage;
use crate::histogram::Histogram;
use crate::network::Network;

/// What the rate and the CPU of a workload are counted by.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Message,
    /// Connect, echo, close.
    Session,
    /// A client that was served while others had open sessions.
    Client,
    Gigabyte,
    /// Bytes of memory instead of a rate.
    IdleSession,
}

/// What a run of a generator found.
#[derive(Serialize, Deserialize)]
pub(crate) struct Measurement {
    pub(crate) unit: Unit,
    /// Units done in the measured time.
    pub(crate) count: f64,
    /// Units a second; Gbit/s for bulk.
    pub(crate) rate: f64,
    pub(crate) errors: u64,
    pub(crate) latencies: Option<Histogram>,
    pub(crate) usage: Option<Usage>,
    /// What TCP did in the measured time.
    pub(crate) network: Option<Network>,
}

impl Measurement {
    /// Prints the measurement as one line of JSON.
    pub(super) fn print(&self) -> Result<(), String> {
        println!("{}", serde_json::to_string(self).map_err(|error| error.to_string())?);
        Ok(())
    }
}
