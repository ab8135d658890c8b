//! How far a comparison is: a bar on a terminal, a line of dots a workload elsewhere.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};

pub(crate) struct Progress {
    /// None where nobody watches.
    bar: Option<ProgressBar>,
}

impl Progress {
    /// `runs` is how many runs there will be.
    pub(crate) fn new(runs: usize) -> Progress {
        if !std::io::stderr().is_terminal() {
            return Progress { bar: None };
        }
        let style =
            ProgressStyle::with_template("{bar:32} {pos}/{len} runs, {elapsed} of about {duration}  {msg}")
                .expect("the template is valid");
        let bar = ProgressBar::new(runs as u64).with_style(style);
        bar.enable_steady_tick(std::time::Duration::from_millis(500));
        Progress { bar: Some(bar) }
    }

    pub(crate) fn begin(&self, workload: &str) {
        if self.bar.is_none() {
            eprint!("{workload} ");
        }
    }

    /// A round of this workload begins.
    pub(crate) fn round(&self) {
        if self.bar.is_none() {
            eprint!(".");
        }
    }

    /// A run begins.
    pub(crate) fn run(&self, workload: &str, subject: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{workload}: {subject}"));
        }
    }

    pub(crate) fn ran(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    /// Prints the table of a workload that is done.
    pub(crate) fn print(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| println!("{text}")),
            None => {
                eprintln!();
                println!("{text}");
            }
        }
    }

    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
