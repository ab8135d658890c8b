//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, Parser, Subcommand};

use super::ctl::args::CtlArguments;
use super::top::args::TopArguments;
use super::values::{level, whole};
use crate::import::Format;

/// The files that are looked for if no configuration is named.
const DEFAULT_FILES: [&str; 2] = ["configs/config.yaml", "/etc/ringway/config.yaml"];

/// A Layer-4 (TCP) load balancer: one pinned thread per core, io_uring.
#[derive(Debug, Parser)]
#[command(name = "ringway", version = env!("RINGWAY_VERSION"))]
pub struct Arguments {
    /// What to do; `run` if no command is given.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// The arguments of `run`, and of any other command the file that precedes it.
    #[command(flatten)]
    pub run: RunArguments,
}

/// The sub-commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Balance until a signal asks for the end (the default command)
    Run(RunCommand),
    /// Print every problem of a configuration file, and exit 1 if there is an error
    Check(FileCommand),
    /// Print the resolved configuration in its long form
    Config(FileCommand),
    /// Translate the TCP parts of an haproxy.cfg or an nginx.conf: YAML to standard output, and what it does not have to
    /// standard error
    Import(ImportArguments),
    /// Show the balancer at work: embedded backends, traffic and a live table; no set-up, no root
    Demo(DemoArguments),
    /// Ask a running process, or give it an order, through its admin socket
    Ctl(CtlArguments),
    /// Watch a running process on a terminal
    Top(TopArguments),
    /// Print a script that completes the command line in a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page ringway(1)
    Man {
        /// Write a page for each command into this folder instead
        #[arg(long, value_name = "FOLDER")]
        dir: Option<PathBuf>,
    },
}

/// A configuration file.
#[derive(Args, Debug, Default)]
pub struct FileArguments {
    /// Configuration file, `-` for the standard input [default: configs/config.yaml if there is one, else
    /// /etc/ringway/config.yaml]
    #[arg(short = 'f', long = "config", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// A command about a file.
#[derive(Args, Debug)]
pub struct FileCommand {
    /// The file, given by its option.
    #[command(flatten)]
    pub file: FileArguments,

    /// The same without the option
    #[arg(value_name = "FILE", conflicts_with = "config")]
    pub named: Option<PathBuf>,
}

/// The `run` command.
#[derive(Args, Debug)]
pub struct RunCommand {
    /// The arguments of `run`.
    #[command(flatten)]
    pub run: RunArguments,

    /// The configuration file without the option
    #[arg(value_name = "FILE", conflicts_with = "config")]
    pub named: Option<PathBuf>,
}

/// The arguments of `run`.
#[derive(Args, Debug, Default)]
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
    #[arg(long, value_name = "LEVEL", value_parser = level::<log::LevelFilter>)]
    pub log_level: Option<log::LevelFilter>,
}

/// The task that the arguments ask for.
#[derive(Debug)]
pub enum Task {
    /// Balance.
    Run(RunArguments),
    /// Check this file.
    Check(PathBuf),
    /// Print this file resolved.
    Config(PathBuf),
    /// Translate a file of another program.
    Import {
        /// The file.
        file: PathBuf,
        /// Whose file it is; by its content if it is not said.
        from: Option<Format>,
    },
    /// Show the balancer at work.
    Demo(DemoArguments),
    /// Ask a running process.
    Ctl(CtlArguments),
    /// Watch a running process.
    Top(TopArguments),
    /// Print completions for this shell.
    Completions(clap_complete::Shell),
    /// Print the manual page, or write all pages into this folder.
    Man(Option<PathBuf>),
}

impl Arguments {
    /// Returns the task: options for the file and for `run` may stand before or after the command.
    ///
    /// # Errors
    ///
    /// An option is given twice, or stands before a command that does not take it.
    pub fn task(self) -> Result<Task, clap::Error> {
        let Self { command, run: before } = self;
        let refuse = |message: &str| Err(Self::command().error(ErrorKind::ArgumentConflict, message));
        let of_run = before.check || before.pid_file.is_some() || before.log_level.is_some();
        match command {
            None => Ok(Task::run(before)),
            Some(Command::Run(RunCommand { run, named })) => {
                let twice = [
                    before.file.config.is_some() && (run.file.config.is_some() || named.is_some()),
                    before.pid_file.is_some() && run.pid_file.is_some(),
                    before.log_level.is_some() && run.log_level.is_some(),
                ];
                if twice.contains(&true) {
                    return refuse("an option is given both before and after `run`");
                }
                let config = named.or(run.file.config).or(before.file.config);
                Ok(Task::run(RunArguments {
                    file: FileArguments { config },
                    check: before.check || run.check,
                    pid_file: before.pid_file.or(run.pid_file),
                    log_level: before.log_level.or(run.log_level),
                }))
            }
            Some(_) if of_run => refuse("`--check`, `--pid-file` and `--log-level` are for `run` only"),
            Some(
                Command::Check(FileCommand { file, named }) | Command::Config(FileCommand { file, named }),
            ) if before.file.config.is_some() && (file.config.is_some() || named.is_some()) => {
                refuse("the file is named twice")
            }
            Some(Command::Check(command)) => Ok(Task::Check(command.path(before.file))),
            Some(Command::Config(command)) => Ok(Task::Config(command.path(before.file))),
            Some(_) if before.file.config.is_some() => {
                refuse("`--config` is for `run`, `check` and `config` only")
            }
            Some(Command::Import(import)) => Ok(Task::Import {
                file: import.file,
                from: import.from.map(|program| match program {
                    Program::Haproxy => Format::Haproxy,
                    Program::Nginx => Format::Nginx,
                }),
            }),
            Some(Command::Demo(demo)) => Ok(Task::Demo(demo)),
            Some(Command::Ctl(ctl)) => Ok(Task::Ctl(ctl)),
            Some(Command::Top(top)) => Ok(Task::Top(top)),
            Some(Command::Completions { shell }) => Ok(Task::Completions(shell)),
            Some(Command::Man { dir }) => Ok(Task::Man(dir)),
        }
    }
}

impl Task {
    /// Makes `run` with `-t` a check.
    fn run(run: RunArguments) -> Self {
        if run.check { Self::Check(run.file.path()) } else { Self::Run(run) }
    }
}

impl FileCommand {
    fn path(self, before: FileArguments) -> PathBuf {
        FileArguments { config: self.named.or(self.file.config).or(before.config) }.path()
    }
}

/// The arguments of `import`.
#[derive(Args, Debug)]
pub struct ImportArguments {
    /// The file, `-` for the standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Whose file it is, if its content does not tell
    #[arg(long, value_name = "PROGRAM")]
    pub from: Option<Program>,
}

/// A program whose file can be translated.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Program {
    /// haproxy.cfg
    Haproxy,
    /// nginx.conf, its block `stream`
    Nginx,
}

/// The arguments of `demo`.
#[derive(Args, Debug)]
pub struct DemoArguments {
    /// Stop after this many seconds; without it, at Ctrl-C
    #[arg(long, value_name = "N", value_parser = whole::<1, 86_400>)]
    pub seconds: Option<u64>,

    /// Print a table now and then instead of drawing on the terminal
    #[arg(long)]
    pub plain: bool,
}

impl DemoArguments {
    /// Returns how long the demo runs.
    #[must_use]
    pub fn duration(&self) -> Option<Duration> {
        self.seconds.map(Duration::from_secs)
    }
}

impl FileArguments {
    /// Returns the file that was named, or the default one.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let default = || {
            let [here, system] = DEFAULT_FILES.map(PathBuf::from);
            if here.exists() { here } else { system }
        };
        self.config.clone().unwrap_or_else(default)
    }
}

/// Reads the command line; what is wrong with it ends the process with status 2, and an unknown command is answered with
/// how a file and the usual questions are written.
#[must_use]
pub fn read() -> Arguments {
    Arguments::try_parse_from(accept_single_dash(std::env::args_os())).unwrap_or_else(|mut error| {
        if error.kind() == ErrorKind::InvalidSubcommand
            && error.get(ContextKind::SuggestedSubcommand).is_none()
        {
            let tips =
                ["to run with a file: ringway -f FILE", "to ask a running process: ringway ctl status"];
            let tips = tips.map(|tip| StyledStr::from(tip.to_owned())).to_vec();
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
        }
        error.exit()
    })
}

/// Prepares the arguments for clap: the original program took `-config FILE`, with a single dash.
fn accept_single_dash(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let double = |argument: OsString| match argument.to_str() {
        Some("-config") => OsString::from("--config"),
        Some(text) if text.starts_with("-config=") => OsString::from(format!("-{text}")),
        _ => argument,
    };
    arguments.into_iter().map(double).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Arguments {
        let arguments = accept_single_dash(arguments.iter().map(OsString::from));
        Arguments::try_parse_from(arguments).unwrap()
    }

    #[test]
    fn definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    fn task(arguments: &[&str]) -> Task {
        parse(arguments).task().unwrap()
    }

    #[test]
    fn single_dash_of_the_original_program_names_the_file() {
        for arguments in [["ringway", "-config", "a.yaml"].as_slice(), &["ringway", "-config=a.yaml"]] {
            assert_eq!(parse(arguments).run.file.path(), PathBuf::from("a.yaml"));
        }
    }

    #[test]
    fn run_is_the_default_command() {
        for arguments in [
            ["ringway", "-f", "a", "--log-level", "debug"].as_slice(),
            &["ringway", "run", "-f", "a", "--log-level", "debug"],
            &["ringway", "-f", "a", "run", "--log-level", "debug"],
            &["ringway", "--log-level", "debug", "run", "a"],
        ] {
            let Task::Run(run) = task(arguments) else { panic!("{arguments:?}") };
            assert_eq!((run.file.path(), run.log_level), ("a".into(), Some(log::LevelFilter::Debug)));
        }
    }

    #[test]
    fn file_stands_before_the_command_or_behind_it_with_or_without_its_option() {
        for arguments in [
            ["ringway", "check", "a"].as_slice(),
            &["ringway", "check", "-f", "a"],
            &["ringway", "-f", "a", "check"],
            &["ringway", "-config", "a", "check"],
            &["ringway", "-t", "-f", "a"],
            &["ringway", "-t", "run", "a"],
            &["ringway", "run", "-t", "a"],
        ] {
            assert!(matches!(task(arguments), Task::Check(path) if path.as_os_str() == "a"), "{arguments:?}");
        }
        assert!(matches!(task(&["ringway", "config", "-"]), Task::Config(path) if path.as_os_str() == "-"));
    }

    #[test]
    fn import_takes_a_file_and_whose_it_is() {
        let Task::Import { file, from } = task(&["ringway", "import", "a", "--from", "nginx"]) else {
            panic!()
        };
        assert_eq!((file, from), ("a".into(), Some(Format::Nginx)));
        assert!(matches!(task(&["ringway", "import", "-"]), Task::Import { from: None, .. }));
        assert!(Arguments::try_parse_from(["ringway", "import"]).is_err());
        assert!(Arguments::try_parse_from(["ringway", "import", "a", "--from", "envoy"]).is_err());
    }

    #[test]
    fn what_is_said_twice_or_in_vain_is_wrong_usage() {
        for arguments in [
            ["ringway", "-f", "a", "check", "b"].as_slice(),
            &["ringway", "-f", "a", "run", "-f", "b"],
            &["ringway", "--pid-file", "p", "check", "a"],
            &["ringway", "-f", "a", "demo"],
            &["ringway", "-f", "a", "ctl", "status"],
            &["ringway", "-t", "top"],
        ] {
            assert_eq!(parse(arguments).task().unwrap_err().exit_code(), 2, "{arguments:?}");
        }
        for arguments in [
            ["ringway", "check", "-f", "a", "b"].as_slice(),
            &["ringway", "a.yaml"],
            &["ringway", "ctl"],
            &["ringway", "ctl", "kill", "all"],
            &["ringway", "ctl", "log-level", "loud"],
            &["ringway", "ctl", "set", "web/a"],
            &["ringway", "ctl", "set", "web", "weight=1"],
            &["ringway", "ctl", "set", "web/a", "weight=x"],
            &["ringway", "ctl", "add", "web", "10.0.0.1:80", "state=drain"],
            &["ringway", "ctl", "remove", "web"],
            &["ringway", "ctl", "log-level", "off"],
            &["ringway", "--log-level", "loud"],
            &["ringway", "ctl", "status", "--watch", "0"],
            &["ringway", "completions", "cmd.exe"],
        ] {
            assert!(Arguments::try_parse_from(arguments).is_err(), "{arguments:?}");
        }
    }
}
