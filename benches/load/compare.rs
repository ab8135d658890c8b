//! The comparison: every subject does every workload in every round, one after the other (A B C A B C ..), and
//! what is reported are medians and the ratios of figures of the same round. Ratios say more than
//! figures: on a shared machine one binary's own rate wanders by a third.
//!
//! Unfair, and known: load generator and backend are one thread each on the other cores; where there is only one
//! such core they take turns, and no balancer can be seen faster than the `direct` row of the same table, however
//! cheap it is (both ends of an echo cost that core about as much as the balancer costs its own). The CPU columns
//! are not bounded so: they decide.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::Options;
use crate::peers::{BALANCER_CORE, Process, Subject, free_ports, start_all};

/// What a generator is asked to do, and which service of the backend it needs.
struct Workload {
    name: &'static str,
    service: usize,
    arguments: &'static [&'static str],
    /// Part of `--quick`.
    quick: bool,
    /// Another generator that works beside, and the service it needs.
    beside: Option<(usize, &'static [&'static str])>,
}

const fn echo(name: &'static str, quick: bool, arguments: &'static [&'static str]) -> Workload {
    Workload { name, service: 0, arguments, quick, beside: None }
}

/// Sessions of the idle workload.
const IDLE_SESSIONS: f64 = 4000.0;

const WORKLOADS: &[Workload] = &[
    // First, while the balancers' memory is fresh.
    echo("4000 idle sessions", true, &["idle", "--sessions", "4000"]),
    echo("echo 64 B, 1 session", false, &["echo", "--bytes", "64", "--sessions", "1"]),
    echo("echo 64 B, 64 sessions", true, &["echo", "--bytes", "64", "--sessions", "64"]),
    echo("echo 64 B, 1000 sessions", true, &["echo", "--bytes", "64", "--sessions", "1000"]),
    echo("echo 4 KiB, 64 sessions", false, &["echo", "--bytes", "4096", "--sessions", "64"]),
    echo("echo 16 KiB, 64 sessions", false, &["echo", "--bytes", "16384", "--sessions", "64"]),
    echo(
        "30000/s of 64 B, 64 sessions",
        true,
        &["echo", "--bytes", "64", "--sessions", "64", "--rate", "30000"],
    ),
    echo(
        "30000/s of 64 B, 1000 sessions",
        false,
        &["echo", "--bytes", "64", "--sessions", "1000", "--rate", "30000"],
    ),
    echo("connect, 64 B, close; 64 at a time", true, &["connect", "--bytes", "64", "--sessions", "64"]),
    bulk("bulk to backend, 1 session", 1, false, &["bulk", "--direction", "to-backend", "--sessions", "1"]),
    bulk("bulk to backend, 16 sessions", 1, true, &["bulk", "--direction", "to-backend", "--sessions", "16"]),
    bulk("bulk to client, 1 session", 2, false, &["bulk", "--direction", "to-client", "--sessions", "1"]),
    bulk("bulk to client, 16 sessions", 2, true, &["bulk", "--direction", "to-client", "--sessions", "16"]),
    bulk("bulk both ways, 16 sessions", 3, false, &["bulk", "--direction", "both", "--sessions", "16"]),
    Workload {
        name: "mixed: echo 64 B, 1000 sessions, beside 1 bulk session",
        service: 0,
        arguments: &["echo", "--bytes", "64", "--sessions", "1000"],
        quick: false,
        beside: Some((1, &["bulk", "--direction", "to-backend", "--sessions", "1"])),
    },
];

const fn bulk(
    name: &'static str,
    service: usize,
    quick: bool,
    arguments: &'static [&'static str],
) -> Workload {
    Workload { name, service, arguments, quick, beside: None }
}

/// One run of one workload over one subject.
struct Figure {
    rate: f64,
    unit: String,
    /// Milliseconds of CPU per 1,000 messages, 1,000 sessions or GB; none for direct.
    cpu: Option<f64>,
    /// p50, p99 and p99.9 in microseconds; none for bulk.
    latencies: Option<[f64; 3]>,
    errors: u64,
}

/// All rounds of one workload over one subject.
struct Row {
    subject: &'static str,
    figures: Vec<Figure>,
}

/// Where the balancers' peers run: every core but the balancer's.
fn other_cores() -> Result<String, String> {
    match std::thread::available_parallelism().map_or(1, usize::from) {
        1 => Err("two cores are needed: one for the balancer, the rest for its peers".to_owned()),
        count => Ok(format!("{}-{}", BALANCER_CORE + 1, count - 1)),
    }
}

/// `cargo bench`.
pub(crate) fn run(mut options: Options) -> Result<(), String> {
    let quick = options.flag("--quick");
    let rounds: usize = options.take("--rounds", Some(if quick { 3 } else { 9 }))?;
    let seconds: f64 = options.take("--seconds", Some(if quick { 0.4 } else { 1.5 }))?;
    let only = options.take_all("--only")?;
    options.rest(0)?;
    let chosen: Vec<&Workload> = WORKLOADS
        .iter()
        .filter(|workload| !only.is_empty() || workload.quick || !quick)
        .filter(|workload| only.is_empty() || only.iter().any(|text| workload.name.contains(text.as_str())))
        .collect();
    if chosen.is_empty() || rounds == 0 || seconds <= 0.0 {
        return Err("nothing to do".to_owned());
    }

    let directory = Directory::new()?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let cores = other_cores()?;
    let (_backend, ports) = start_backend(&directory.0, &program, &cores)?;
    let subjects = start_all(&directory.0, ports)?;
    let machine = machine(&subjects);
    println!("{} rounds of {seconds} s; balancer on core {BALANCER_CORE}, the rest on {cores}", rounds);
    let mut report = Vec::new();
    for workload in chosen {
        eprint!("{} ", workload.name);
        let rows = measure(workload, &subjects, &program, &cores, rounds, seconds)?;
        println!("\n{}", table(workload.name, &rows));
        report.push(json!({"workload": workload.name, "rows": rows.iter().map(as_json).collect::<Vec<_>>()}));
    }
    let file = write_report(
        &json!({"machine": machine, "rounds": rounds, "seconds": seconds, "workloads": report}),
    )?;
    println!("written: {}", file.display());
    Ok(())
}

/// A directory that goes with the run.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Result<Directory, String> {
        let path = std::env::temp_dir().join(format!("ringway-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Directory(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn start_backend(directory: &Path, program: &Path, cores: &str) -> Result<(Process, [u16; 4]), String> {
    let mut held: Vec<TcpListener> = Vec::new();
    let ports = free_ports(&mut held)?;
    drop(held);
    let mut arguments = vec!["backend".to_owned()];
    for (name, port) in ["--echo", "--sink", "--source", "--both"].iter().zip(ports) {
        arguments.extend([(*name).to_owned(), port.to_string()]);
    }
    let process = Process::start(cores, program, &arguments, &directory.join("backend.log"))?;
    let direct = Subject::direct(ports);
    direct.wait_until_it_serves()?;
    Ok((process, ports))
}

fn measure(
    workload: &Workload,
    subjects: &[Subject],
    program: &Path,
    cores: &str,
    rounds: usize,
    seconds: f64,
) -> Result<Vec<Row>, String> {
    let mut rows: Vec<Row> =
        subjects.iter().map(|subject| Row { subject: subject.name, figures: Vec::new() }).collect();
    // What a session leaves in memory shows the first time only.
    let rounds = if workload.is_idle() { 1 } else { rounds };
    for round in 0..rounds {
        eprint!(".");
        // Each round begins with another subject, so that none always follows the same one.
        for turn in 0..subjects.len() {
            let index = (round + turn) % subjects.len();
            let subject = &subjects[index];
            let figure = if workload.is_idle() {
                idle_run(workload, subject, program, cores)
            } else {
                one_run(workload, subject, program, cores, seconds)
            };
            let figure =
                figure.map_err(|error| format!("{} over {}: {error}", workload.name, subject.name))?;
            rows[index].figures.push(figure);
        }
    }
    eprintln!();
    Ok(rows)
}

fn one_run(
    workload: &Workload,
    subject: &Subject,
    program: &Path,
    cores: &str,
    seconds: f64,
) -> Result<Figure, String> {
    let generator = |service: usize, arguments: &[&str], seconds: f64| {
        let mut command = generator(program, cores, arguments);
        command
            .args(["--seconds", &seconds.to_string()])
            .arg(format!("127.0.0.1:{}", subject.ports[service]));
        command
    };
    let mut beside = None;
    if let Some((service, arguments)) = workload.beside {
        // Longer than the run, and ended with it.
        let mut command = generator(service, arguments, seconds + 10.0);
        beside =
            Some(Process::from(command.stdout(Stdio::null()).spawn().map_err(|error| error.to_string())?));
    }
    let before = subject.cpu_seconds();
    let output = generator(workload.service, workload.arguments, seconds)
        .output()
        .map_err(|error| format!("cannot start the generator: {error}"))?;
    let after = subject.cpu_seconds();
    drop(beside);
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let result: Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    let number = |key: &str| result[key].as_f64();
    let unit = result["unit"].as_str().unwrap_or_default().to_owned();
    let units = number("count").unwrap_or(0.0) / if unit == "GB" { 1.0 } else { 1e3 };
    let latencies = number("p50_us").zip(number("p99_us")).zip(number("p999_us"));
    Ok(Figure {
        rate: number("gbit_per_second").or(number("per_second")).ok_or("no rate")?,
        cpu: after.zip(before).map(|(after, before)| (after - before) * 1e3 / units),
        latencies: latencies.map(|((p50, p99), p999)| [p50, p99, p999]),
        errors: result["errors"].as_u64().ok_or("no errors")?,
        unit,
    })
}

/// Resident memory of the balancer for each session that once sent a message and is idle since.
fn idle_run(workload: &Workload, subject: &Subject, program: &Path, cores: &str) -> Result<Figure, String> {
    let before = subject.resident_bytes();
    let mut child = generator(program, cores, workload.arguments)
        .arg(format!("127.0.0.1:{}", subject.ports[workload.service]))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut line = String::new();
    let read = child.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut line));
    let after = subject.resident_bytes();
    // The end of its stdin ends it.
    drop(child.stdin.take());
    let status = child.wait().map_err(|error| error.to_string())?;
    if !status.success() || !matches!(read, Some(Ok(count)) if count > 0) {
        return Err("the sessions did not open".to_owned());
    }
    let rate = after.zip(before).map_or(f64::NAN, |(after, before)| (after - before) / IDLE_SESSIONS);
    Ok(Figure { rate, unit: "idle session".to_owned(), cpu: None, latencies: None, errors: 0 })
}

fn generator(program: &Path, cores: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", cores]).arg(program).args(arguments);
    command
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

impl Workload {
    fn is_idle(&self) -> bool {
        self.arguments[0] == "idle"
    }
}

impl Row {
    fn median(&self, of: impl Fn(&Figure) -> Option<f64>) -> Option<f64> {
        median(self.figures.iter().filter_map(of).collect())
    }

    /// The median of this row's figures, each divided by that of the same round of `base`.
    fn ratio(&self, base: &Row, of: impl Fn(&Figure) -> Option<f64>) -> Option<f64> {
        let pairs = self.figures.iter().zip(&base.figures);
        median(
            pairs
                .filter_map(|(own, base)| Some(of(own)? / of(base)?))
                .filter(|ratio| ratio.is_finite())
                .collect(),
        )
    }

    fn errors(&self) -> u64 {
        self.figures.iter().map(|figure| figure.errors).sum()
    }
}

fn table(name: &str, rows: &[Row]) -> String {
    let base = rows.iter().find(|row| row.subject == "ringway");
    let unit = rows.first().and_then(|row| row.figures.first()).map_or("", |figure| figure.unit.as_str());
    let (rate, cpu) = match unit {
        "GB" => ("Gbit/s".to_owned(), "CPU ms/GB".to_owned()),
        "idle session" => ("bytes/session".to_owned(), String::new()),
        other => (format!("{other}s/s"), format!("CPU ms/1000 {other}s")),
    };
    let mut text = format!("{name}\n{:<14} {rate:>14} {:>9} {cpu:>22} {:>9}", "", "/ringway", "/ringway");
    let _ = writeln!(text, " {:>9} {:>9} {:>9} {:>6}", "p50 us", "p99 us", "p99.9 us", "errors");
    for row in rows {
        let cell = |value: Option<f64>, digits: usize| {
            value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
        };
        let ratio = |of: &dyn Fn(&Figure) -> Option<f64>| cell(base.and_then(|base| row.ratio(base, of)), 2);
        let digits = if unit == "GB" { 1 } else { 0 };
        let _ = write!(
            text,
            "{:<14} {:>14} {:>9} {:>22} {:>9}",
            row.subject,
            cell(row.median(|figure| Some(figure.rate).filter(|rate| rate.is_finite())), digits),
            ratio(&|figure| Some(figure.rate)),
            cell(row.median(|figure| figure.cpu), if unit == "GB" { 0 } else { 2 }),
            ratio(&|figure| figure.cpu),
        );
        for quantile in 0..3 {
            let value = row.median(|figure| figure.latencies.map(|latencies| latencies[quantile]));
            let _ = write!(text, " {:>9}", cell(value, 0));
        }
        let _ = writeln!(text, " {:>6}", row.errors());
    }
    text
}

fn as_json(row: &Row) -> Value {
    let rounds: Vec<Value> = row
        .figures
        .iter()
        .map(|figure| {
            json!({"rate": figure.rate, "unit": figure.unit, "cpu_ms": figure.cpu,
                "p50_p99_p999_us": figure.latencies, "errors": figure.errors})
        })
        .collect();
    json!({"subject": row.subject, "rate_median": row.median(|figure| Some(figure.rate)),
        "cpu_ms_median": row.median(|figure| figure.cpu), "errors": row.errors(), "rounds": rounds})
}

/// What figures cannot be read without.
fn machine(subjects: &[Subject]) -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let versions: Vec<Value> =
        subjects.iter().map(|subject| json!({"name": subject.name, "version": subject.version})).collect();
    json!({"kernel": read("/proc/sys/kernel/osrelease"), "cpu": model.trim_start_matches([' ', '\t', ':']),
        "cores": std::thread::available_parallelism().map_or(1, usize::from), "load": read("/proc/loadavg"),
        "subjects": versions})
}

fn write_report(report: &Value) -> Result<PathBuf, String> {
    let date =
        Command::new("date").args(["-u", "+%Y-%m-%dT%H%M%SZ"]).output().map_err(|error| error.to_string())?;
    let date = String::from_utf8_lossy(&date.stdout).trim().to_owned();
    let directory = Path::new("target/bench");
    let file = directory.join(format!("{date}.json"));
    std::fs::create_dir_all(directory)
        .and_then(|()| std::fs::write(&file, format!("{report:#}\n")))
        .map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(file)
}
