//! What is made from the definition of the command line: completions for shells, and manual pages.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use super::args::Arguments;

/// `ringway completions`: prints the script of a shell to standard output.
///
/// # Errors
///
/// The script cannot be written.
pub fn completions(shell: Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "ringway", &mut script);
    print(&script)
}

/// `ringway man`: prints ringway(1) to standard output, or writes a page for each command into a folder.
///
/// # Errors
///
/// A page cannot be written.
pub fn man(folder: Option<&Path>) -> anyhow::Result<ExitCode> {
    let command = Arguments::command();
    if let Some(folder) = folder {
        let unwritten = || format!("the pages cannot be written into {}", folder.display());
        clap_mangen::generate_to(command, folder).with_context(unwritten)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).context("the page cannot be made")?;
    print(&page)
}

fn print(text: &[u8]) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        // Who reads has seen enough, as in `ringway man | head`.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("the output cannot be written")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
