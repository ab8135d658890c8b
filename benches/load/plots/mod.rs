//! The figures of a report as SVG: throughput, CPU, latency distribution.
//!
//! Each carries its units, the number of rounds, the machine and the commit; bars begin at zero, and whiskers reach
//! from the worst round to the best.

mod bars;
mod canvas;
mod curves;

use std::path::{Path, PathBuf};

use crate::figures::Measure;
use crate::report::Report;
use crate::workloads::{
    CONNECT, ECHO_16K, ECHO_64, ECHO_1000, MIXED, PACED_64, PACED_1000, STORM, TO_BACKEND_1, TO_BACKEND_16,
    TO_CLIENT_1, TO_CLIENT_16,
};

/// Draws what the report has figures for; returns the files, each named with `prefix`.
pub(crate) fn draw(report: &Report, directory: &Path, prefix: &str) -> Result<Vec<PathBuf>, String> {
    let has =
        |names: &[&str]| report.workloads.iter().any(|outcome| names.contains(&outcome.workload.as_str()));
    let file = |name: &str| directory.join(format!("{prefix}{name}.svg"));
    std::fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let mut files = Vec::new();
    for bars in [&THROUGHPUT, &CPU] {
        if has(bars.workloads) {
            files.push(file(bars.name));
            bars::draw(report, bars, &file(bars.name))?;
        }
    }
    if has(LATENCY) {
        files.push(file("latency"));
        curves::draw(report, LATENCY, &file("latency"))?;
    }
    Ok(files)
}

/// A figure of bars: a panel a workload, a bar a subject.
struct Bars {
    name: &'static str,
    title: &'static str,
    measure: Measure,
    workloads: &'static [&'static str],
}

const THROUGHPUT: Bars = Bars {
    name: "throughput",
    title: "Throughput: longer is better",
    measure: Measure::Rate,
    workloads: &[
        ECHO_64,
        ECHO_1000,
        ECHO_16K,
        CONNECT,
        TO_BACKEND_1,
        TO_CLIENT_1,
        TO_BACKEND_16,
        TO_CLIENT_16,
    ],
};

const CPU: Bars = Bars {
    name: "cpu",
    title: "CPU time of the balancer for the same work: shorter is better",
    measure: Measure::Cpu,
    workloads: &[TO_BACKEND_1, TO_CLIENT_1, TO_BACKEND_16, TO_CLIENT_16, PACED_64, CONNECT],
};

const LATENCY: &[&str] = &[PACED_64, PACED_1000, STORM, MIXED];
