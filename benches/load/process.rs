//! Processes that a comparison starts, and what it asks the kernel about them.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::clock::process_cpu;

/// A process that ends with its owner.
pub(crate) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl From<Child> for Process {
    fn from(child: Child) -> Process {
        Process(child)
    }
}

impl Process {
    /// Starts a program on these cores, its output in a file.
    pub(crate) fn start(
        cores: &str,
        program: &Path,
        arguments: &[String],
        log: &Path,
    ) -> Result<Process, String> {
        let output = std::fs::File::create(log).map_err(|error| format!("{}: {error}", log.display()))?;
        let errors = output.try_clone().map_err(|error| error.to_string())?;
        Command::new("taskset")
            .arg("-c")
            .arg(cores)
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map(Process)
            .map_err(|error| format!("cannot start {}: {error}", program.display()))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Its resident memory.
    pub(crate) fn resident_bytes(&self) -> Option<f64> {
        // The sum over all mappings is exact; the counter in `status` may lack what the cores have not
        // reported yet.
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", self.0.id()));
        let (text, key) = match read("smaps_rollup") {
            Ok(text) => (text, "Rss:"),
            Err(_) => (read("status").ok()?, "VmRSS:"),
        };
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok().map(|kib| kib * 1024.0)
    }
}

/// Waits until these processes have nothing left to do from the run before, for a second at most.
pub(crate) fn settle(pids: &[u32]) {
    /// CPU within a nap that does not count as work.
    const QUIET: Duration = Duration::from_micros(500);
    const NAP: Duration = Duration::from_millis(20);
    let used = || pids.iter().filter_map(|&pid| process_cpu(pid)).sum::<Duration>();
    let mut before = used();
    for _ in 0..50 {
        std::thread::sleep(NAP);
        let now = used();
        if now.saturating_sub(before) < QUIET {
            return;
        }
        before = now;
    }
}
