//! Writes families of metrics and their series.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::telemetry::histogram::{BOUNDS_MICROS, Histogram};

/// The labels of a series, in order.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

/// Writes families of metrics. Names of counters lack `_total`, which the encoder adds.
pub(super) struct Families<'a>(pub(super) DescriptorEncoder<'a>);

/// Writes the series of one family.
pub(super) struct Series<'a>(MetricEncoder<'a>);

impl Families<'_> {
    pub(super) fn counter(
        &mut self,
        name: &str,
        help: &str,
        write: impl FnOnce(&mut Series<'_>) -> fmt::Result,
    ) -> fmt::Result {
        write(&mut Series(self.0.encode_descriptor(name, help, None, MetricType::Counter)?))
    }

    pub(super) fn gauge(
        &mut self,
        name: &str,
        help: &str,
        write: impl FnOnce(&mut Series<'_>) -> fmt::Result,
    ) -> fmt::Result {
        write(&mut Series(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?))
    }

    pub(super) fn histogram(
        &mut self,
        name: &str,
        help: &str,
        write: impl FnOnce(&mut Series<'_>) -> fmt::Result,
    ) -> fmt::Result {
        write(&mut Series(self.0.encode_descriptor(name, help, None, MetricType::Histogram)?))
    }
}

impl Series<'_> {
    pub(super) fn count(&mut self, labels: Labels<'_>, value: u64) -> fmt::Result {
        self.0.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    pub(super) fn seconds(&mut self, labels: Labels<'_>, value: f64) -> fmt::Result {
        self.0.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    pub(super) fn level(&mut self, labels: Labels<'_>, value: impl Into<f64>) -> fmt::Result {
        self.0.encode_family(&labels)?.encode_gauge(&value.into())
    }

    /// A sum and a count, as a histogram with the one bucket that every histogram has.
    pub(super) fn total(&mut self, labels: Labels<'_>, sum: f64, count: u64) -> fmt::Result {
        let buckets = [(f64::INFINITY, count)];
        self.0.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    pub(super) fn distribution(&mut self, labels: Labels<'_>, histogram: &Histogram<u64>) -> fmt::Result {
        let bounds = BOUNDS_MICROS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(histogram.buckets).collect();
        self.0.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
            histogram.sum_seconds(),
            histogram.count(),
            &buckets,
            None,
        )
    }
}
