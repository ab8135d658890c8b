//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Where a configuration is looked for when none is named.
const DEFAULT_FILES: [&str; 2] = ["configs/config.yaml", "/etc/ringway/config.yaml"];

/// A Layer-4 (TCP) load balancer: one pinned thread per core, io_uring.
#[derive(Debug, Parser)]
#[command(name = "ringway", version = env!("RINGWAY_VERSION"), args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// What to do; `run` when nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// What `run` takes.
    #[command(flatten)]
    pub run: RunArguments,
}

/// The sub-commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Balance until a signal asks for the end (the default command)
    Run(RunArguments),
    /// Print every problem of a configuration file, and exit 1 if there is an error
    Check(FileArguments),
    /// Print the resolved configuration in its long form
    Config(FileArguments),
    /// Show the balancer at work: embedded backends, traffic and a live table; no set-up, no root
    Demo(DemoArguments),
}

/// A configuration file.
#[derive(Args, Debug)]
pub struct FileArguments {
    /// Configuration file [default: configs/config.yaml if there is one, else /etc/ringway/config.yaml]
    #[arg(short = 'f', long = "config", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What `run` takes.
#[derive(Args, Debug)]
pub struct RunArguments {
    /// The configuration.
    #[command(flatten)]
    pub file: FileArguments,

    /// Check the configuration and exit, as `ringway check` does
    #[arg(short = 't', long = "check")]
    pub check: bool,

    /// File that gets the process number, removed at the end
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,

    /// Log level instead of the configuration's and of RUST_LOG: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<log::LevelFilter>,
}

/// What `demo` takes.
#[derive(Args, Debug)]
pub struct DemoArguments {
    /// Stop after so many seconds; without it, at Ctrl-C
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: Option<u64>,
}

impl DemoArguments {
    /// How long the demo runs.
    #[must_use]
    pub fn duration(&self) -> Option<Duration> {
        self.seconds.map(Duration::from_secs)
    }
}

impl FileArguments {
    /// The file that was named, or the default one.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let default = || {
            let [here, system] = DEFAULT_FILES.map(PathBuf::from);
            if here.exists() { here } else { system }
        };
        self.config.clone().unwrap_or_else(default)
    }
}

/// The arguments as clap takes them: `-config FILE`, with one dash, is how the original program took it.
#[must_use]
pub fn accept_single_dash(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let double = |argument: OsString| match argument.to_str() {
        Some("-config") => OsString::from("--config"),
        Some(text) if text.starts_with("-config=") => OsString::from(format!("-{text}")),
        _ => argument,
    };
    arguments.into_iter().map(double).collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(arguments: &[&str]) -> Arguments {
        let arguments = accept_single_dash(arguments.iter().map(OsString::from));
        Arguments::try_parse_from(arguments).unwrap()
    }

    #[test]
    fn definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn single_dash_of_the_original_program_names_the_file() {
        for arguments in [["ringway", "-config", "a.yaml"].as_slice(), &["ringway", "-config=a.yaml"]] {
            assert_eq!(parse(arguments).run.file.path(), PathBuf::from("a.yaml"));
        }
    }

    #[test]
    fn run_is_the_default_command() {
        let arguments = parse(&["ringway", "-t", "-f", "a.yaml", "--log-level", "debug"]);
        assert!(arguments.command.is_none() && arguments.run.check);
        assert_eq!(arguments.run.log_level, Some(log::LevelFilter::Debug));
        assert!(matches!(parse(&["ringway", "run", "-f", "a"]).command, Some(Command::Run(_))));
    }
}
