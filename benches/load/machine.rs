//! What figures cannot be read without: the machine, the versions, the commit.

use std::collections::BTreeMap;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::kernel::congestion_control;
use crate::peers::Subject;

#[derive(Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Of the beginning, UTC.
    pub(crate) date: String,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) virtual_machine: bool,
    pub(crate) kernel: String,
    /// Of all connections; absent in reports of before.
    #[serde(default)]
    pub(crate) congestion_control: String,
    pub(crate) memory_gib: f64,
    /// Average over one, five and fifteen minutes, before the run.
    pub(crate) load_before: String,
    /// What the kernel does against each flaw of the CPU; it makes system calls dearer.
    pub(crate) mitigations: BTreeMap<String, String>,
    pub(crate) cpu_clock: String,
    pub(crate) commit: String,
    /// Version of each subject.
    pub(crate) versions: BTreeMap<String, String>,
}

impl Machine {
    pub(crate) fn describe(subjects: &[Subject]) -> Machine {
        let cpu = read("/proc/cpuinfo");
        let value = |text: &str, key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or_default().trim_start_matches([' ', '\t', ':']).to_owned()
        };
        let memory = value(&read("/proc/meminfo"), "MemTotal");
        let kib: f64 = memory.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
        Machine {
            date: output("date", &["-u", "+%Y-%m-%dT%H%M%SZ"]),
            cpu: value(&cpu, "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            virtual_machine: value(&cpu, "flags").split(' ').any(|flag| flag == "hypervisor"),
            kernel: read("/proc/sys/kernel/osrelease"),
            congestion_control: congestion_control(),
            memory_gib: (kib / f64::from(1 << 20) * 10.0).round() / 10.0,
            load_before: read("/proc/loadavg"),
            mitigations: mitigations(),
            cpu_clock: "user and system time of all its processes, in ns (their CPU clocks)".to_owned(),
            commit: commit(),
            versions: subjects
                .iter()
                .filter(|subject| !subject.version.is_empty())
                .map(|subject| (subject.name.clone(), subject.version.clone()))
                .collect(),
        }
    }

    /// One line for figures and tables.
    pub(crate) fn line(&self) -> String {
        let kind = if self.virtual_machine { ", virtual machine" } else { "" };
        let control = match self.congestion_control.as_str() {
            "" => String::new(),
            control => format!(", {control}"),
        };
        format!("{}, {} cores{kind}, Linux {}{control}", self.cpu, self.cores, self.kernel)
    }

    /// The versions of what was compared, each once.
    pub(crate) fn versions_line(&self) -> String {
        let mut versions: Vec<&str> = self.versions.values().map(String::as_str).collect();
        versions.dedup();
        versions.join("; ")
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// What a program prints; nothing if it cannot.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.ok().filter(|output| output.status.success());
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

fn commit() -> String {
    let commit = output("git", &["rev-parse", "--short=12", "HEAD"]);
    match (commit.is_empty(), output("git", &["status", "--porcelain"]).is_empty()) {
        (true, _) => "unknown".to_owned(),
        (false, true) => commit,
        (false, false) => format!("{commit} and uncommitted changes"),
    }
}

fn mitigations() -> BTreeMap<String, String> {
    let directory = "/sys/devices/system/cpu/vulnerabilities";
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let flaw = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let text = read(&format!("{directory}/{name}"));
        Some((name, text))
    };
    entries.filter_map(flaw).filter(|(_, text)| text != "Not affected").collect()
}
