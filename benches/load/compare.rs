//! The comparison: every subject does every workload in every round, one after the other (A B C A B C ..),
//! and what is reported are medians and the ratios of figures of the same round.
//!
//! Before it, the generator is tried against the backend alone: a comparison whose generator does not work,
//! or cannot keep its pace, says so before it takes half an hour.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::costs::Costs;
use crate::counters::Counters;
use crate::figures::{Figure, Latencies, Outcome, Row};
use crate::generator::{Measurement, Unit};
use crate::histogram::Histogram;
use crate::kernel::{self, Kernel};
use crate::machine::Machine;
use crate::options::Options;
use crate::peers::{
    Subject, WithTls, free_ports, start_all, start_all_with_tls, start_fast_open, start_reloaded,
    start_sharded,
};
use crate::plan::Plan;
use crate::plots;
use crate::process::{Process, settle};
use crate::progress::Progress;
use crate::report::{Calibration, Report};
use crate::table::table;
use crate::topology::{BALANCER_CORE, Ports, SERVICES};
use crate::workloads::{CALIBRATION, ECHO_64, Subjects, Workload};

/// How long idle sessions are left alone before memory is measured: what a balancer does with idle ones is done by then.
const REST: std::time::Duration = std::time::Duration::from_secs(3);
/// Where reports and plots go.
const DIRECTORY: &str = "target/bench";

/// The processes of a comparison, and where each runs.
struct Bench {
    program: PathBuf,
    /// Every core but the balancer's.
    cores: String,
    backend: Process,
    subjects: Vec<Subject>,
    /// Those that end TLS, where a workload needs them.
    with_tls: Option<WithTls>,
    /// Those that take first bytes with the SYN, where a workload needs them.
    fast_open: Vec<Subject>,
    /// Those with one core and with two, where a workload needs them.
    sharded: Vec<Subject>,
    /// Those that reload, where a workload needs them.
    reloaded: Vec<Subject>,
    /// Of a balancer in [`ECHO_64`]; 0 before that.
    best_rate: f64,
    /// Takes configurations and logs, and goes last.
    directory: Directory,
}

/// `cargo bench`.
pub(crate) fn run(options: Options) -> Result<(), String> {
    let plan = Plan::take(options)?;
    let report = match &plan.from {
        Some(file) => {
            let report = Report::read(file)?;
            println!("{}\n", report.head());
            report.workloads.iter().for_each(|outcome| println!("{}", table(outcome)));
            report
        }
        None if plan.workloads.is_empty() => {
            eprintln!("load: no workload has such a name");
            return Ok(());
        }
        None => measure_all(&plan)?,
    };
    let failed = report.failed.clone();
    println!("{}", report.tail());
    std::fs::create_dir_all(DIRECTORY).map_err(|error| format!("{DIRECTORY}: {error}"))?;
    let base = Path::new(DIRECTORY).join(&report.machine.date);
    if plan.from.is_none() {
        let file = base.with_extension("json");
        report.write(&file)?;
        println!("written: {}", file.display());
    }
    let prefix = format!("{}-", report.machine.date);
    let mut figures = plots::draw(&report, Path::new(DIRECTORY), &prefix)?;
    if let Some(directory) = &plan.figures {
        figures.extend(plots::draw(&report, directory, "")?);
    }
    figures.iter().for_each(|figure| println!("written: {}", figure.display()));
    failed.map_or(Ok(()), Err)
}

fn measure_all(plan: &Plan) -> Result<Report, String> {
    // Before any socket is made.
    let kernel = Kernel::set();
    let mut bench = Bench::start(plan)?;
    let mut report = Report::new(Machine::describe(&bench.subjects), plan.quick, plan.rounds, plan.seconds);
    println!("{}; balancer on core {BALANCER_CORE}, the rest on {}", report.head(), bench.cores);
    let costs = Costs::measure().map_err(|error| format!("calibration: {error}"))?;
    println!("{}", costs.line());
    report.costs = Some(costs);
    report.calibration = bench.calibrate(plan.seconds)?;
    let runs_of = |workload: &&Workload| plan.rounds_of(workload) * bench.subjects(workload).len();
    let progress = Progress::new(plan.workloads.iter().map(runs_of).sum());
    for workload in &plan.workloads {
        progress.begin(workload.name);
        if workload.is_idle() && !report.workloads.is_empty() {
            bench.restart(workload, plan)?;
        }
        let outcome = match bench.measure(workload, plan, &progress) {
            Ok(outcome) => outcome,
            // What was measured before may have taken an hour.
            Err(error) => {
                report.failed = Some(error);
                break;
            }
        };
        progress.print(&table(&outcome));
        if workload.name == ECHO_64 {
            bench.best_rate = outcome.best_rate();
        }
        report.workloads.push(outcome);
    }
    progress.end();
    report.dropped = kernel.dropped();
    Ok(report)
}

impl Bench {
    fn start(plan: &Plan) -> Result<Bench, String> {
        let directory = Directory::new()?;
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let cores = match std::thread::available_parallelism().map_or(1, usize::from) {
            1 => return Err("two cores are needed: one for the balancer, the rest for its peers".to_owned()),
            count => format!("{}-{}", BALANCER_CORE + 1, count - 1),
        };
        let (backend, ports) = start_backend(&directory.0, &program, &cores)?;
        let subjects = start_all(&directory.0, ports, &plan.others)?;
        let needs = |subjects| plan.workloads.iter().any(|workload| workload.subjects == subjects);
        let mut bench = Bench {
            program,
            cores,
            backend,
            subjects,
            with_tls: None,
            fast_open: vec![],
            sharded: vec![],
            reloaded: vec![],
            best_rate: 0.0,
            directory,
        };
        if needs(Subjects::WithTls) {
            bench.with_tls = Some(start_all_with_tls(&bench.directory.0, ports, &plan.others)?);
        }
        if needs(Subjects::FastOpen) {
            bench.fast_open = start_fast_open(&bench.directory.0, ports, &plan.others)?;
        }
        if needs(Subjects::Sharded) {
            bench.sharded = start_sharded(&bench.directory.0, ports, &plan.others)?;
        }
        if needs(Subjects::Reloaded) {
            bench.reloaded = start_reloaded(&bench.directory.0, ports, &plan.others)?;
        }
        Ok(bench)
    }

    /// Starts those that do this workload anew: what a session leaves in memory shows the first time only.
    fn restart(&mut self, workload: &Workload, plan: &Plan) -> Result<(), String> {
        let (directory, backend) = (&self.directory.0, self.subjects[0].ports);
        if workload.subjects == Subjects::WithTls {
            self.with_tls = Some(start_all_with_tls(directory, backend, &plan.others)?);
        } else {
            self.subjects = start_all(directory, backend, &plan.others)?;
        }
        Ok(())
    }

    /// Who does this workload.
    fn subjects(&self, workload: &Workload) -> Vec<&Subject> {
        let all = match workload.subjects {
            Subjects::All => self.subjects.as_slice(),
            Subjects::WithTls => self.with_tls.as_ref().map_or(&[][..], |with_tls| &with_tls.subjects),
            Subjects::FastOpen => &self.fast_open,
            Subjects::Sharded => &self.sharded,
            Subjects::Reloaded => &self.reloaded,
        };
        all.iter().filter(|subject| subject.does(workload)).collect()
    }

    /// At what fixed rate it is done.
    fn pace(&self, workload: &Workload) -> Option<f64> {
        let share = workload.share.map(|share| (share * self.best_rate).round());
        share.or_else(|| workload.pace())
    }

    /// The generator against the backend alone: does it work, what can it do, does it keep its pace?
    fn calibrate(&self, seconds: f64) -> Result<Vec<Calibration>, String> {
        let direct = &self.subjects[0];
        let mut found = Vec::new();
        for workload in &CALIBRATION {
            let measured =
                self.generate(workload, direct, seconds, None).map_err(|error| format!("direct: {error}"))?;
            let (Some(usage), Some(latencies)) = (measured.usage, measured.latencies) else {
                return Err("the generator tells no CPU time".to_owned());
            };
            if measured.errors > 0 || measured.count == 0.0 {
                return Err(format!("the generator fails without a balancer: {} errors", measured.errors));
            }
            let p99_us = latencies.quantile_micros(0.99);
            println!(
                "generator alone, {}: {:.0} messages/s, p99 {p99_us:.0} us; {:.0} % of a core for the generator and \
                 {:.0} % for the backend",
                workload.name,
                measured.rate,
                100.0 * usage.generator / usage.seconds,
                100.0 * usage.backend.unwrap_or(0.0) / usage.seconds,
            );
            found.push(Calibration {
                name: workload.name.to_owned(),
                messages_per_second: measured.rate,
                p99_us,
                usage,
            });
        }
        if found.last().is_some_and(|paced| paced.messages_per_second < 0.99 * 30_000.0) {
            println!(
                "WARNING: the generator does not keep the pace of 30,000/s by itself; rows at that pace say little"
            );
        }
        println!();
        Ok(found)
    }

    fn measure(&self, workload: &Workload, plan: &Plan, progress: &Progress) -> Result<Outcome, String> {
        let mut rows: Vec<(Row, Histogram)> = Vec::new();
        let subjects = self.subjects(workload);
        for subject in &subjects {
            let row =
                Row { subject: subject.name.clone(), rounds: vec![], distribution: vec![], summary: None };
            rows.push((row, Histogram::new()));
        }
        let mut unit = Unit::IdleSession;
        for round in 0..plan.rounds_of(workload) {
            progress.round();
            // Each round begins with another subject, so that none always follows the same one.
            for turn in 0..subjects.len() {
                let index = (round + turn) % subjects.len();
                let subject = subjects[index];
                progress.run(workload.name, &subject.name);
                let in_context = |error| format!("{} over {}: {error}", workload.name, subject.name);
                let (row, distribution) = &mut rows[index];
                if workload.is_idle() {
                    row.rounds.push(self.idle(workload, subject).map_err(in_context)?);
                } else {
                    let (figure, measured) =
                        self.run(workload, subject, plan.seconds_of(workload)).map_err(in_context)?;
                    unit = measured.unit;
                    row.rounds.push(figure);
                    measured.latencies.iter().for_each(|latencies| distribution.merge(latencies));
                }
                progress.ran();
            }
        }
        let rows = rows
            .into_iter()
            .map(|(row, distribution)| Row { distribution: distribution.curve(), ..row })
            .collect();
        let pace = self.pace(workload);
        let mut outcome = Outcome { workload: workload.name.to_owned(), unit, pace, rows };
        outcome.summarize();
        Ok(outcome)
    }

    /// One run of a workload, with nothing left to do from the one before.
    fn run(
        &self,
        workload: &Workload,
        subject: &Subject,
        seconds: f64,
    ) -> Result<(Figure, Measurement), String> {
        settle(&self.pids(subject));
        match workload.subjects {
            Subjects::Sharded => return self.run_counted(workload, subject, seconds),
            Subjects::Reloaded => return self.run_reloaded(workload, subject, seconds),
            Subjects::All | Subjects::WithTls | Subjects::FastOpen => {}
        }
        let Some(other) = &workload.beside else {
            let measured = self.generate(workload, subject, seconds, None)?;
            return Ok((figure(&measured), measured));
        };
        // Longer than the run, and ended with it.
        let mut child = self
            .generator(workload, other.arguments, subject, other.service)
            .args(["--seconds", &(seconds + 60.0).to_string(), "--until-stdin-ends"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let measured = self.generate(workload, subject, seconds, Some(child.id()));
        drop(child.stdin.take());
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        let beside: Measurement =
            serde_json::from_slice(&output.stdout).map_err(|error| format!("beside: {error}"))?;
        let measured = measured?;
        let figure = Figure {
            // Of work of two kinds, nobody knows which part of the CPU is whose.
            cpu_ms: None,
            errors: measured.errors + beside.errors,
            beside_gbit_per_second: Some(beside.rate),
            ..figure(&measured)
        };
        Ok((figure, measured))
    }

    /// One run, with what it costs beside CPU time.
    fn run_counted(
        &self,
        workload: &Workload,
        subject: &Subject,
        seconds: f64,
    ) -> Result<(Figure, Measurement), String> {
        let pid = subject.pid().ok_or("it has no process")?;
        // Within the measured time, which begins after a fifth.
        let counting = thread::spawn(move || {
            thread::sleep(Duration::from_secs_f64(0.3 * seconds));
            Counters::watch(pid, Duration::from_secs_f64(0.6 * seconds))
        });
        let measured = self.generate(workload, subject, seconds, None)?;
        let counters = counting.join().map_err(|_| "nothing was counted")?;
        Ok((Figure { counters: Some(counters.each(measured.rate)), ..figure(&measured) }, measured))
    }

    /// One run in which the subject is told to reload each second.
    fn run_reloaded(
        &self,
        workload: &Workload,
        subject: &Subject,
        seconds: f64,
    ) -> Result<(Figure, Measurement), String> {
        let (end, ended) = mpsc::channel();
        let (measured, times) = thread::scope(|scope| {
            let reloading = scope.spawn(move || subject.reload_each_second(&ended));
            let measured = self.generate(workload, subject, seconds, None);
            drop(end);
            (measured, reloading.join())
        });
        if times.map_err(|_| "the reloads ended early")?? == 0 {
            return Err("it was not reloaded".to_owned());
        }
        let measured = measured?;
        let figure = Figure {
            // Its processes come and go, and their CPU time with them.
            cpu_ms: None,
            usage: None,
            family_bytes: subject.family_bytes(),
            ..figure(&measured)
        };
        Ok((figure, measured))
    }

    /// Who works in a run, beside the generator.
    fn pids(&self, subject: &Subject) -> Vec<u32> {
        subject.family().into_iter().chain([self.backend.pid()]).collect()
    }

    /// One run of a generator; `beside` is another one that works meanwhile.
    fn generate(
        &self,
        workload: &Workload,
        subject: &Subject,
        seconds: f64,
        beside: Option<u32>,
    ) -> Result<Measurement, String> {
        let mut command = self.generator(workload, workload.arguments, subject, workload.service);
        if workload.share.is_some() {
            command.args(["--rate", &self.pace(workload).unwrap_or(0.0).to_string()]);
        }
        for pid in subject.family() {
            command.args(["--balancer", &pid.to_string()]);
        }
        let output = command
            .args(["--seconds", &seconds.to_string(), "--backend", &self.backend.pid().to_string()])
            .args(["--beside", &beside.unwrap_or(0).to_string()])
            .output()
            .map_err(|error| format!("cannot start the generator: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
    }

    /// Resident memory of the balancer for each session that once sent a message and is idle since.
    fn idle(&self, workload: &Workload, subject: &Subject) -> Result<Figure, String> {
        settle(&self.pids(subject));
        let (before, kernel_before) = (subject.resident_bytes(), kernel::memory());
        let mut child = self
            .generator(workload, workload.arguments, subject, workload.service)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut line = String::new();
        let read = child.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut line));
        std::thread::sleep(REST);
        let (after, kernel_after) = (subject.resident_bytes(), kernel::memory());
        // The end of its stdin ends it.
        drop(child.stdin.take());
        let status = child.wait().map_err(|error| error.to_string())?;
        if !status.success() || !matches!(read, Some(Ok(count)) if count > 0) {
            return Err("the sessions did not open".to_owned());
        }
        Ok(Figure {
            rate: after.zip(before).map(|(after, before)| (after - before) / workload.sessions()),
            cpu_ms: None,
            latencies_us: None,
            errors: 0,
            beside_gbit_per_second: None,
            usage: None,
            network: None,
            units: workload.sessions(),
            kernel_bytes: kernel_after
                .zip(kernel_before)
                .map(|(after, before)| (after - before) / workload.sessions()),
            counters: None,
            family_bytes: None,
            generator_is_the_limit: false,
        })
    }

    fn generator(
        &self,
        workload: &Workload,
        arguments: &[&str],
        subject: &Subject,
        service: usize,
    ) -> Command {
        let mut command = Command::new("taskset");
        command.args(["-c", &self.cores]).arg(&self.program).args(arguments);
        if let Some(with_tls) = self.with_tls.as_ref().filter(|_| workload.subjects == Subjects::WithTls) {
            command.arg("--tls").arg(&with_tls.certificate);
        }
        command.arg(format!("127.0.0.1:{}", subject.ports[service]));
        command
    }
}

fn figure(measured: &Measurement) -> Figure {
    let per = match measured.unit {
        // The open sessions' messages are work too.
        Unit::Client | Unit::IdleSession => None,
        Unit::Gigabyte => Some(1.0),
        Unit::Message | Unit::Session => Some(1e3),
    };
    let cpu = measured.usage.and_then(|usage| usage.balancer);
    let cpu_ms = cpu.zip(per).map(|(seconds, per)| seconds * 1e3 * per / measured.count);
    let latencies = measured.latencies.as_ref().map(|latencies| Latencies {
        p50: latencies.quantile_micros(0.5),
        p99: latencies.quantile_micros(0.99),
        p999: latencies.quantile_micros(0.999),
        max: latencies.max_micros(),
    });
    Figure {
        rate: Some(measured.rate).filter(|rate| rate.is_finite()),
        cpu_ms: cpu_ms.filter(|cpu| cpu.is_finite()),
        latencies_us: latencies,
        errors: measured.errors,
        beside_gbit_per_second: None,
        usage: measured.usage,
        network: measured.network,
        units: measured.count,
        kernel_bytes: None,
        counters: None,
        family_bytes: None,
        generator_is_the_limit: measured.usage.is_some_and(|usage| usage.generator_is_the_limit()),
    }
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

fn start_backend(directory: &Path, program: &Path, cores: &str) -> Result<(Process, Ports), String> {
    let ports = free_ports()?;
    let mut arguments = vec!["backend".to_owned()];
    for (name, port) in SERVICES.iter().zip(ports) {
        arguments.extend([format!("--{name}"), port.to_string()]);
    }
    let process = Process::start(cores, program, &arguments, &directory.join("backend.log"))?;
    Subject::direct(ports).wait_until_it_serves(None)?;
    Ok((process, ports))
}
