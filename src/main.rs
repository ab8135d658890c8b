//! The `ringway` binary: see `ringway --help`.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use ringway::cli::args::{Arguments, Command, RunArguments, accept_single_dash};
use ringway::cli::{check, demo, print_config, run};

fn main() -> ExitCode {
    let arguments = Arguments::parse_from(accept_single_dash(std::env::args_os()));
    let result = match arguments.command {
        Some(Command::Check(file)) => Ok(ExitCode::from(check(&file.path()))),
        Some(Command::Config(file)) => Ok(ExitCode::from(print_config(&file.path()))),
        Some(Command::Demo(arguments)) => demo(arguments.duration()),
        Some(Command::Run(arguments)) => run_or_check(&arguments),
        None => run_or_check(&arguments.run),
    };
    result.unwrap_or_else(|error| {
        // Where standard error takes nothing the exit status has to do; `eprintln` would panic.
        let _ = writeln!(std::io::stderr().lock(), "{error:#}");
        ExitCode::FAILURE
    })
}

fn run_or_check(arguments: &RunArguments) -> anyhow::Result<ExitCode> {
    if arguments.check { Ok(ExitCode::from(check(&arguments.file.path()))) } else { run(arguments) }
}
