//! The figures of a comparison: runs, rows of runs, and what is told of them.
//!
//! Ratios are formed within a round and then summed up: on a shared machine one binary's own rate wanders by
//! a third from minute to minute, but two runs that follow each other meet the same weather.

use serde::{Deserialize, Serialize};

use crate::clock::Usage;
use crate::counters::Counters;
use crate::generator::Unit;
use crate::histogram::Point;
use crate::network::Network;

/// The subject whose ratios are told.
pub(crate) const OWN: &str = "ringway";

/// The same build again: how far its ratios lie from 1 is what cannot be told apart.
pub(crate) const AGAIN: &str = "ringway again";
/// Ringway without the acknowledgements that data will carry, as HAProxy's expert rows have it.
pub(crate) const TUNED: &str = "ringway tuned";

/// The peers' rows, as they come and as an expert sets them.
pub(crate) const PEERS: &[&str] =
    &["haproxy", "haproxy auto", "haproxy tuned", "nginx", "nginx tuned", "envoy", SOZU, SOZU_TUNED];

pub(crate) const SOZU: &str = "sozu";

/// sozu, built so that it splices.
pub(crate) const SOZU_TUNED: &str = "sozu tuned";

/// The subject without a balancer.
pub(crate) const DIRECT: &str = "direct";

/// Latencies of one run, in microseconds.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Latencies {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

/// One run of one workload over one subject.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// Units a second, Gbit/s for bulk, resident bytes a session for idle ones.
    pub(crate) rate: Option<f64>,
    /// Milliseconds of the balancer's CPU for 1,000 messages or sessions, or for a GB; none for direct.
    pub(crate) cpu_ms: Option<f64>,
    /// In microseconds; none for bulk.
    pub(crate) latencies_us: Option<Latencies>,
    pub(crate) errors: u64,
    /// What the bulk session beside got, where there was one.
    pub(crate) beside_gbit_per_second: Option<f64>,
    pub(crate) usage: Option<Usage>,
    /// What TCP did in the measured time; absent in reports of before.
    #[serde(default)]
    pub(crate) network: Option<Network>,
    /// Messages, sessions or GB of the measured time; absent in reports of before.
    #[serde(default)]
    pub(crate) units: f64,
    /// Kernel memory for each idle session, in bytes; none for other workloads.
    #[serde(default)]
    pub(crate) kernel_bytes: Option<f64>,
    /// For each message or session, where it is about shards.
    #[serde(default)]
    pub(crate) counters: Option<Counters>,
    /// Anonymous memory of all processes of the balancer at the end of a run with reloads.
    #[serde(default)]
    pub(crate) family_bytes: Option<f64>,
    /// Whether the generator or the backend could not have done more.
    pub(crate) generator_is_the_limit: bool,
}

impl Figure {
    /// Whether TCP sent so much again that the round is not quoted.
    fn is_disturbed(&self) -> bool {
        self.network.is_some_and(|network| network.is_disturbed())
    }

    /// Segments for each message, session or GB.
    fn segments(&self) -> Option<f64> {
        let network = self.network.filter(|_| self.units > 0.0)?;
        Some(network.segments as f64 / self.units)
    }
}

/// All rounds of one workload over one subject.
#[derive(Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) subject: String,
    pub(crate) rounds: Vec<Figure>,
    /// The latencies of all rounds together.
    pub(crate) distribution: Vec<Point>,
    /// For readers of the file; computed anew when it is read back.
    #[serde(skip_deserializing)]
    pub(crate) summary: Option<Summary>,
}

/// All rows of one workload.
#[derive(Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) workload: String,
    pub(crate) unit: Unit,
    /// The fixed rate; `None` for as fast as it goes, and in reports of before.
    #[serde(default)]
    pub(crate) pace: Option<f64>,
    pub(crate) rows: Vec<Row>,
}

/// What of a figure is looked at.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Measure {
    Rate,
    Cpu,
    P50,
    P99,
    P999,
    Max,
    /// Gbit/s of the bulk session beside.
    Beside,
    /// Segments for each unit.
    Segments,
    /// Kernel memory of a session.
    Kernel,
    /// Anonymous memory of all processes.
    Family,
}

impl Measure {
    fn of(self, figure: &Figure) -> Option<f64> {
        let latency = |of: fn(&Latencies) -> f64| figure.latencies_us.as_ref().map(of);
        match self {
            Measure::Rate => figure.rate,
            Measure::Cpu => figure.cpu_ms,
            Measure::P50 => latency(|latencies| latencies.p50),
            Measure::P99 => latency(|latencies| latencies.p99),
            Measure::P999 => latency(|latencies| latencies.p999),
            Measure::Max => latency(|latencies| latencies.max),
            Measure::Beside => figure.beside_gbit_per_second,
            Measure::Segments => figure.segments(),
            Measure::Kernel => figure.kernel_bytes,
            Measure::Family => figure.family_bytes,
        }
    }
}

/// Several values: the middle one and the extremes.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Spread { median, min, max })
    }
}

/// Medians of a row, and the ratios of Ringway to it.
#[derive(Serialize)]
pub(crate) struct Summary {
    rate: Option<Spread>,
    cpu_ms: Option<Spread>,
    p50_us: Option<Spread>,
    p99_us: Option<Spread>,
    p999_us: Option<Spread>,
    max_us: Option<Spread>,
    beside_gbit_per_second: Option<Spread>,
    ringway_to_this_rate: Option<Spread>,
    ringway_to_this_cpu: Option<Spread>,
    ringway_to_this_p99: Option<Spread>,
    segments: Option<Spread>,
    kernel_bytes: Option<Spread>,
    rounds_limited_by_generator: usize,
    rounds_with_many_retransmissions: usize,
    errors: u64,
}

impl Row {
    pub(crate) fn spread(&self, measure: Measure) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(|figure| measure.of(figure)))
    }

    pub(crate) fn median(&self, measure: Measure) -> Option<f64> {
        self.spread(measure).map(|spread| spread.median)
    }

    pub(crate) fn errors(&self) -> u64 {
        self.rounds.iter().map(|figure| figure.errors).sum()
    }

    /// The median over the rounds of something about CPU.
    pub(crate) fn usage(&self, of: impl Fn(&Usage) -> Option<f64>) -> Option<f64> {
        Spread::of(self.rounds.iter().filter_map(|figure| of(figure.usage.as_ref()?)))
            .map(|spread| spread.median)
    }

    /// The median over the rounds of something that was counted for each message or session.
    pub(crate) fn counter(&self, of: impl Fn(&Counters) -> Option<f64>) -> Option<f64> {
        Spread::of(self.rounds.iter().filter_map(|figure| of(figure.counters.as_ref()?)))
            .map(|spread| spread.median)
    }

    pub(crate) fn rounds_limited_by_generator(&self) -> usize {
        self.rounds.iter().filter(|figure| figure.generator_is_the_limit).count()
    }

    /// Rounds in which TCP sent so much again that nothing of them is quoted.
    pub(crate) fn disturbed_rounds(&self) -> usize {
        self.rounds.iter().filter(|figure| figure.is_disturbed()).count()
    }

    /// A counter of TCP, over all rounds.
    pub(crate) fn counted(&self, of: impl Fn(&Network) -> u64) -> Option<u64> {
        self.rounds.iter().map(|figure| figure.network.as_ref().map(&of)).sum()
    }

    /// Whether the generator was the limit in most rounds.
    pub(crate) fn generator_is_the_limit(&self) -> bool {
        2 * self.rounds_limited_by_generator() > self.rounds.len()
    }
}

impl Outcome {
    pub(crate) fn row(&self, subject: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.subject == subject)
    }

    /// Ringway divided by another subject, round by round, without those in which TCP sent much again.
    pub(crate) fn ratio(&self, to: &str, measure: Measure) -> Option<Spread> {
        let (own, other) = (self.row(OWN)?, self.row(to)?);
        let pairs = own.rounds.iter().zip(&other.rounds);
        let pairs = pairs.filter(|(own, other)| !own.is_disturbed() && !other.is_disturbed());
        Spread::of(pairs.filter_map(|(own, other)| Some(measure.of(own)? / measure.of(other)?)))
    }

    /// Of these subjects, the one whose median is the lowest.
    pub(crate) fn lowest<'a>(&self, subjects: &[&'a str], measure: Measure) -> Option<&'a str> {
        let median = |subject| self.row(subject).and_then(|row| row.median(measure));
        let known = subjects.iter().filter_map(|&subject| Some((subject, median(subject)?)));
        known.min_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(subject, _)| subject)
    }

    /// The best median rate of a balancer; 0 without any.
    pub(crate) fn best_rate(&self) -> f64 {
        let balancers = self.rows.iter().filter(|row| row.subject != DIRECT);
        balancers.filter_map(|row| row.median(Measure::Rate)).fold(0.0, f64::max)
    }

    /// Whether a row did not keep the fixed rate.
    pub(crate) fn is_behind(&self, row: &Row) -> bool {
        /// The edges of the measured time cut messages off.
        const KEPT: f64 = 0.99;
        self.pace.zip(row.median(Measure::Rate)).is_some_and(|(pace, rate)| rate < KEPT * pace)
    }

    /// Fills in what readers of the file want.
    pub(crate) fn summarize(&mut self) {
        let summaries: Vec<Summary> = self.rows.iter().map(|row| self.summary(row)).collect();
        for (row, summary) in self.rows.iter_mut().zip(summaries) {
            row.summary = Some(summary);
        }
    }

    fn summary(&self, row: &Row) -> Summary {
        let ratio =
            |measure| Some(&row.subject).filter(|to| *to != OWN).and_then(|to| self.ratio(to, measure));
        Summary {
            rate: row.spread(Measure::Rate),
            cpu_ms: row.spread(Measure::Cpu),
            p50_us: row.spread(Measure::P50),
            p99_us: row.spread(Measure::P99),
            p999_us: row.spread(Measure::P999),
            max_us: row.spread(Measure::Max),
            beside_gbit_per_second: row.spread(Measure::Beside),
            ringway_to_this_rate: ratio(Measure::Rate),
            ringway_to_this_cpu: ratio(Measure::Cpu),
            ringway_to_this_p99: ratio(Measure::P99),
            segments: row.spread(Measure::Segments),
            kernel_bytes: row.spread(Measure::Kernel),
            rounds_limited_by_generator: row.rounds_limited_by_generator(),
            rounds_with_many_retransmissions: row.disturbed_rounds(),
            errors: row.errors(),
        }
    }
}
