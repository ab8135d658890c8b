//! The `ringway` binary: see `ringway --help`.

use std::io::Write;
use std::process::ExitCode;

use ringway::cli::args::{self, Task};
use ringway::cli::{check, completions, ctl, demo, import, man, print_config, run, top};

fn main() -> ExitCode {
    let result = match args::read().task().unwrap_or_else(|error| error.exit()) {
        Task::Check(path) => Ok(ExitCode::from(check(&path))),
        Task::Config(path) => Ok(ExitCode::from(print_config(&path))),
        Task::Import { file, from } => Ok(ExitCode::from(import(&file, from))),
        Task::Demo(arguments) => demo(arguments.duration(), arguments.plain),
        Task::Ctl(arguments) => Ok(ctl(&arguments)),
        Task::Top(arguments) => top(&arguments),
        Task::Completions(shell) => completions(shell),
        Task::Man(folder) => man(folder.as_deref()),
        Task::Run(arguments) => run(&arguments),
    };
    result.unwrap_or_else(|error| {
        // If standard error cannot be written, the exit status has to say it all; `eprintln` would panic.
        let _ = writeln!(std::io::stderr().lock(), "{error:#}");
        ExitCode::FAILURE
    })
}
