//! Metrics: everything that the process counts, in the formats of Prometheus.
//!
//! There is no second set of counters: one collector reads a status and writes it down. Names, labels and help texts are
//! listed in docs/METRICS.md; a test compares the page with what is exposed.

mod encoder;
mod families;
mod process;

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text, text};
use prometheus_client::registry::Registry;

use super::process::Exposition;
use super::status::Status;
use encoder::Families;

/// Writes all metrics.
#[must_use]
pub fn expose(status: Status, exposition: Exposition) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Reading(Arc::new(status))));
    let mut out = String::new();
    // Writing to memory does not fail.
    let _ = match exposition {
        Exposition::Text => prometheus_text::encode(&mut out, &registry),
        Exposition::OpenMetrics => text::encode(&mut out, &registry),
    };
    out
}

/// A status on its way to be written.
#[derive(Debug)]
struct Reading(Arc<Status>);

impl Collector for Reading {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Families(encoder);
        let status = &*self.0;
        families::process(status, &mut out)?;
        families::listeners(status, &mut out)?;
        families::upstreams(status, &mut out)?;
        families::backends(status, &mut out)?;
        families::connections_of_backends(status, &mut out)?;
        families::checks(status, &mut out)?;
        families::cores(status, &mut out)?;
        process::families(&mut out)
    }
}

#[cfg(test)]
mod tests;
