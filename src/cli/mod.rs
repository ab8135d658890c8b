//! The command line, and what its commands do.

mod api;
pub mod args;
mod config_file;
mod ctl;
mod demo;
mod generated;
mod grid;
mod import;
mod readings;
mod run;
#[cfg(test)]
mod testing;
mod top;
mod units;
mod values;

pub use config_file::{LoadError, load};
pub use ctl::ctl;
pub use demo::demo;
pub use generated::{completions, man};
pub use import::import;
pub use run::run;
pub use top::top;

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;

use crate::config::Parsed;
use crate::server::NOT_LOOKED_AT;

/// `ringway check`: prints every problem of the file, what this machine lacks for it, and a summary line to
/// standard output. Returns the exit status: 0 for a valid file, 1 for any other. What the machine lacks is
/// only a warning, because the file may be meant for another machine.
#[must_use]
pub fn check(path: &Path) -> u8 {
    let (valid, text) = match load(path) {
        Ok(parsed) => (true, with_lacks(&parsed)),
        Err(error) => (false, error.to_string()),
    };
    let printed = writeln!(io::stdout().lock(), "{text}").is_ok();
    u8::from(!(valid && printed))
}

/// Returns the report, with what the machine lacks before the last line.
fn with_lacks(parsed: &Parsed) -> String {
    let report = parsed.report.to_string();
    let (problems, summary) =
        report.rsplit_once('\n').map_or(("", &*report), |(before, last)| (before, last));
    let lacks = crate::server::lacks(&parsed.config);
    let lacks = lacks.iter().map(|lack| format!("warning: on this machine: {lack}"));
    let lines = (!problems.is_empty()).then(|| problems.to_owned()).into_iter().chain(lacks);
    let notes = parsed.config.notes().into_iter().chain([NOT_LOOKED_AT.to_owned()]);
    let lines = lines.chain(notes.map(|note| format!("({note})"))).chain([summary.to_owned()]);
    lines.collect::<Vec<_>>().join("\n")
}

/// `ringway config`: prints the resolved configuration to standard output, or what is wrong with the file
/// to standard error. Returns the exit status as [`check`] does.
#[must_use]
pub fn print_config(path: &Path) -> u8 {
    let printed = match load(path) {
        Ok(parsed) => io::stdout().lock().write_all(parsed.config.to_yaml().as_bytes()).is_ok(),
        Err(error) => {
            complain(error);
            false
        }
    };
    u8::from(!printed)
}

/// Writes a line to standard error. If that is closed, the exit status has to say it all; `eprintln` would panic.
fn complain(what: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{what}");
}
