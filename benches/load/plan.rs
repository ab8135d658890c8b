//! What the command line asks of a comparison.

use std::path::{Path, PathBuf};

use crate::options::Options;
use crate::workloads::{ECHO_64, Subjects, WORKLOADS, Workload};

pub(crate) struct Plan {
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) workloads: Vec<&'static Workload>,
    /// Other builds of Ringway, by name, that are measured instead of the peers.
    pub(crate) others: Vec<(String, PathBuf)>,
    /// Plots for docs/maintainers/PERFORMANCE.md go here, if anywhere.
    pub(crate) figures: Option<PathBuf>,
    /// A report to print and plot again, instead of measuring.
    pub(crate) from: Option<PathBuf>,
}

impl Plan {
    pub(crate) fn take(mut options: Options) -> Result<Plan, String> {
        let quick = options.flag("--quick");
        let only: Vec<String> = options.take_all("--only")?;
        let wanted = |workload: &&Workload| match only.as_slice() {
            [] => workload.quick || !quick,
            only => only.iter().any(|text| workload.name.contains(text.as_str())),
        };
        // The shares of the best rate need that rate.
        let loads = WORKLOADS.iter().any(|workload| workload.share.is_some() && wanted(&workload));
        let wanted = |workload: &&Workload| wanted(workload) || (loads && workload.name == ECHO_64);
        let plan = Plan {
            quick,
            rounds: options.take("--rounds", Some(if quick { 2 } else { 9 }))?,
            seconds: options.take("--seconds", Some(if quick { 0.1 } else { 1.5 }))?,
            workloads: WORKLOADS.iter().filter(wanted).collect(),
            others: options
                .take_all::<String>("--other")?
                .iter()
                .map(|other| named(other))
                .collect::<Result<_, _>>()?,
            figures: options.take_all("--figures")?.pop(),
            from: options.take_all("--from")?.pop(),
        };
        options.rest(0)?;
        if plan.rounds == 0 || plan.seconds <= 0.0 {
            return Err("nothing to do".to_owned());
        }
        Ok(plan)
    }

    /// What a session leaves in memory shows the first time only, and a run with reloads is long.
    pub(crate) fn rounds_of(&self, workload: &Workload) -> usize {
        match workload.subjects {
            _ if workload.is_idle() => 1,
            Subjects::Reloaded => self.rounds.min(3),
            _ => self.rounds,
        }
    }

    /// How long a run is: ten reloads long, or one in a smoke run, where it has reloads.
    pub(crate) fn seconds_of(&self, workload: &Workload) -> f64 {
        match workload.subjects {
            Subjects::Reloaded if self.quick => self.seconds.max(1.5),
            Subjects::Reloaded => self.seconds.max(10.5),
            _ => self.seconds,
        }
    }
}

/// `NAME=BINARY`.
fn named(other: &str) -> Result<(String, PathBuf), String> {
    let named =
        other.split_once('=').filter(|(name, binary)| !name.is_empty() && Path::new(binary).is_file());
    let (name, binary) = named.ok_or_else(|| format!("--other {other} is no NAME=BINARY"))?;
    Ok((name.to_owned(), PathBuf::from(binary)))
}
