//! `ringway run`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;

use super::LoadError;
use super::args::RunArguments;
use crate::base::{Plain, counted};
use crate::config::{Config, LogTarget, Parsed, Problem, Severity};
use crate::control::command::{self, Command, Commands, Door};
use crate::control::service_manager;
use crate::net::Inherited;
use crate::server::{self, Attached, Obeys, Predecessor, Server};
use crate::telemetry::log::{self as logging, LogHandle};

/// How long writing the last log records may take.
const FLUSH: Duration = Duration::from_secs(1);

/// Balances until a signal asks for the end.
///
/// # Errors
///
/// The configuration is invalid, or something that it needs is missing; the text is complete for the
/// operator.
pub fn run(arguments: &RunArguments) -> anyhow::Result<ExitCode> {
    // Before any descriptor is opened, and any other thread starts.
    let (inherited, mut predecessor) = server::inherited().map_err(anyhow::Error::msg)?;
    let result = run_with(arguments, inherited, &mut predecessor);
    if let (Err(error), Some(predecessor)) = (&result, &predecessor) {
        predecessor.refuse(&in_a_line(error));
    }
    result
}

fn run_with(
    arguments: &RunArguments,
    inherited: Inherited,
    predecessor: &mut Option<Predecessor>,
) -> anyhow::Result<ExitCode> {
    let path = arguments.file.path();
    let Parsed { config, report, .. } = super::load(&path)?;
    let config = Arc::new(config);
    let log = logging::init(&config.logging)?;
    if let Some(level) = arguments.log_level {
        log.set_level(level);
    }
    logging::log_panics();
    for problem in report.problems() {
        log::warn!("{}", problem.headline());
    }
    let (door, commands) = command::door();
    let left = predecessor.as_ref().map(Predecessor::left).unwrap_or_default();
    let attached = Attached { door: Some(door.clone()), log: Some(log.clone()), inherited, left };
    server::follow_signals(door.clone())
        .map_err(|error| anyhow!("cannot handle signals: {}", Plain(&error)))?;
    let from = Origin { path: &path, pid_file: arguments.pid_file.as_deref(), predecessor };
    let result = serve(&config, attached, from, (&door, &commands, &log));
    match &result {
        // Logged whatever the filter: the reason why the process does not run must never be missing.
        Err(error) => {
            log::error!(target: logging::ALWAYS, event = "not_started", cause = error.to_string();
                "{error:#}");
            predecessor.iter().for_each(|predecessor| predecessor.refuse(&in_a_line(error)));
        }
        Ok(cause) => log::info!(event = "stopped", cause = *cause; "stopped: {cause}"),
    }
    // A log target that blocks must not keep the process alive.
    let _ = log.flush(FLUSH);
    match result {
        // The person who started the process looks at the terminal first, or at the journal.
        Err(error) if config.logging.target != LogTarget::Stderr => Err(error),
        Err(_) => Ok(ExitCode::FAILURE),
        Ok(_) => Ok(ExitCode::SUCCESS),
    }
}

/// Returns an error for a log record: of an invalid configuration, each problem without the lines of the file.
fn in_a_line(error: &anyhow::Error) -> String {
    match error.downcast_ref() {
        Some(LoadError::Invalid(report)) => {
            let errors = report.problems().iter().filter(|problem| problem.severity == Severity::Error);
            errors.map(Problem::headline).collect::<Vec<_>>().join("; ")
        }
        _ => format!("{error:#}"),
    }
}

/// What a process comes from.
struct Origin<'a> {
    /// Of the configuration.
    path: &'a Path,
    pid_file: Option<&'a Path>,
    /// `None` once this process serves.
    predecessor: &'a mut Option<Predecessor>,
}

/// Reads the file again. Warnings go to the log.
fn load_again(path: &Path) -> Result<Config, Vec<String>> {
    let (errors, report) = match super::load(path) {
        Ok(Parsed { config, report, .. }) => (Ok(config), report),
        Err(LoadError::Invalid(report)) => {
            let errors = report.problems().iter().filter(|problem| problem.severity == Severity::Error);
            (Err(errors.map(Problem::headline).collect()), report)
        }
        Err(error) => return Err(vec![error.to_string()]),
    };
    let warnings = report.problems().iter().filter(|problem| problem.severity != Severity::Error);
    warnings.for_each(|problem| log::warn!("{}", problem.headline()));
    errors
}

fn serve(
    config: &Arc<Config>,
    attached: Attached,
    Origin { path, pid_file, predecessor }: Origin<'_>,
    (door, commands, log): (&Door, &Commands, &LogHandle),
) -> anyhow::Result<&'static str> {
    let mut written = None;
    let is_first = predecessor.is_none();
    // Not before the process listens: a start that is refused because another instance runs must leave that
    // instance's file alone. And not after it accepts: a script whose first session succeeds may look for the
    // file right away.
    let write = || {
        match pid_file {
            Some(path) if is_first => written = Some(PidFile::write(path)?),
            Some(path) => PidFile::check(path)?,
            None => {}
        }
        Ok(())
    };
    let mut server = Server::start_with(Arc::clone(config), attached, write)?;
    announce(&server, path);
    if let Some(old) = predecessor {
        let asked: Vec<_> = commands.try_iter().collect();
        if asked.iter().any(Command::ends) {
            return Err(anyhow!("it was asked to stop before it was ready"));
        }
        // They wait until this process serves.
        for command in asked {
            let _ = door.try_give(command);
        }
        old.take_over(&server.unused()).map_err(|error| {
            anyhow!("the process that this one is to replace has ended: {}", Plain(&error))
        })?;
        *predecessor = None;
        // The standard error stream is another one now.
        log.reopen();
        server.reopen_access_log();
        server.claim();
        written = pid_file
            .map(PidFile::write)
            .and_then(|written| written.map_err(|error| log::error!("{error}")).ok());
    }
    service_manager::ready();
    let load = || load_again(path);
    let obeys = Obeys { commands, log, load: &load };
    let cause = server::supervise(&mut server, &obeys);
    if server.has_left() {
        // The successor writes it at any moment, perhaps between a look at it and its removal.
        written.iter_mut().for_each(PidFile::leave);
    }
    drop(server);
    drop(written);
    Ok(cause)
}

fn announce(server: &Server, path: &Path) {
    let status = server.status();
    let cpus = status.shards.iter().map(|shard| shard.cpu.to_string()).collect::<Vec<_>>().join(",");
    let (version, file) = (env!("RINGWAY_VERSION"), path.display().to_string());
    let most = status.max_sessions;
    log::info!(event = "started", version, cpus, file, max_sessions = most;
        "ringway {version} runs on CPU {cpus} with {file}, at most {}", counted(most.into(), "session"));
    for listener in &server.config().listeners {
        let upstream = &server.config().upstreams[listener.upstream.index()];
        let (name, address, to) = (&*listener.name, listener.address.to_string(), &*upstream.name);
        let (count, algorithm) = (upstream.backends.len() as u64, upstream.algorithm.name);
        if listener.sni.closes_others {
            let routes = listener.sni.routes.len() as u64;
            log::info!(event = "listener", listener = name, address, routes;
                "listener {name} on {address} closes all clients but those of its {}", counted(routes, "route"));
            continue;
        }
        log::info!(event = "listener", listener = name, address, upstream = to, backends = count, algorithm;
            "listener {name} on {address} sends to upstream {to} ({}, {algorithm})",
            counted(count, "backend"));
    }
    if !server.admin().is_empty() {
        let address = server.admin();
        log::info!(event = "admin", address; "the admin API is on {address}");
    }
    server.doubts().iter().for_each(|doubt| log::warn!("{doubt}"));
}

/// The file with the process number; removed on drop, unless a successor has written its own there.
struct PidFile {
    path: PathBuf,
    is_ours: bool,
}

impl PidFile {
    /// Finds out whether the file could be written, which another process has its number in.
    fn check(path: &Path) -> Result<(), String> {
        let opened = File::options().append(true).create(true).open(path);
        opened.map(drop).map_err(|error| Self::refused(path, &error))
    }

    fn write(path: &Path) -> Result<Self, String> {
        let file = Self { path: path.to_owned(), is_ours: true };
        file.replace().map(|()| file).map_err(|error| Self::refused(path, &error))
    }

    /// Writes the number beside the file and puts it in its place, so that nobody reads half of one. What cannot be replaced,
    /// as a device, is written to.
    fn replace(&self) -> io::Result<()> {
        let number = format!("{}\n", std::process::id());
        let mut beside = self.path.clone().into_os_string();
        beside.push(format!(".{}", std::process::id()));
        let is_file = std::fs::symlink_metadata(&self.path).map_or(true, |found| found.is_file());
        let replaced = is_file && std::fs::write(&beside, &number).is_ok() && {
            let renamed = std::fs::rename(&beside, &self.path);
            if renamed.is_err() {
                let _ = std::fs::remove_file(&beside);
            }
            renamed.is_ok()
        };
        if replaced { Ok(()) } else { std::fs::write(&self.path, number) }
    }

    /// Leaves it to a successor.
    fn leave(&mut self) {
        self.is_ours = false;
    }

    fn refused(path: &Path, error: &io::Error) -> String {
        format!("the pid file {} cannot be written: {}", path.display(), Plain(error))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let ours = std::process::id().to_string();
        if self.is_ours && std::fs::read_to_string(&self.path).is_ok_and(|text| text.trim() == ours) {
            // A file that is already gone is just as good.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
