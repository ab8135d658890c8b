//! Processes that a comparison starts, and what it asks the kernel about them.

use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::clock::process_cpu;

/// A process that ends with its owner.
pub(crate) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let family = self.family();
        // It may have ended already; then there is nothing to do.
        self.0.kill().ok();
        self.0.wait().ok();
        // A worker may outlive its master.
        for worker in &family[1..] {
            signal(*worker, Signal::KILL).ok();
        }
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

    /// Its pid, and then those of all processes that it or one of them has started and that run still.
    pub(crate) fn family(&self) -> Vec<u32> {
        let mut family = vec![self.pid()];
        let mut next = 0;
        while let Some(pid) = family.get(next) {
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            family.extend(
                children.unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()),
            );
            next += 1;
        }
        family
    }

    pub(crate) fn signal(&self, which: Signal) -> Result<(), String> {
        signal(self.pid(), which).map_err(|error| format!("process {}: {error}", self.pid()))
    }

    /// The resident memory of its whole family.
    pub(crate) fn resident_bytes(&self) -> Option<f64> {
        // The sum over all mappings is exact; the counter in `status` may lack what the cores have not
        // reported yet.
        let resident =
            |pid| kibibytes(pid, "smaps_rollup", "Rss:").or_else(|| kibibytes(pid, "status", "VmRSS:"));
        self.family().into_iter().map(resident).sum()
    }

    /// The resident anonymous memory of its whole family; a page that several of them share counts once. Pages of files are not in
    /// it, which the same program shares with other subjects.
    pub(crate) fn family_bytes(&self) -> Option<f64> {
        self.family().into_iter().map(|pid| kibibytes(pid, "smaps_rollup", "Pss_Anon:")).sum()
    }
}

/// What a line of a file of `/proc/PID` says in KiB, in bytes.
fn kibibytes(pid: u32, file: &str, key: &str) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok().map(|kib| kib * 1024.0)
}

fn signal(pid: u32, which: Signal) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(kill_process(pid, which)?)
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
