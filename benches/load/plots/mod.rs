//! The figures of a report as SVG: throughput, CPU, latency distribution.
//!
//! Each carries its units, the number of rounds, the machine and the commit; bars begin at zero, and whiskers
//! reach from the worst round to the best.

mod bars;
mod canvas;
mod curves;

use std::path::{Path, PathBuf};

use crate::report::Report;
use crate::workloads::{MIXED, PACED_64, PACED_1000, STORM};

use bars::{CPU, THROUGHPUT};

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

const LATENCY: &[&str] = &[PACED_64, PACED_1000, STORM, MIXED];
