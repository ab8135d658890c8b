//! `ringway run`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;

use super::args::RunArguments;
use super::config_file::LoadError;
use crate::base::{Plain, counted};
use crate::config::{Config, LogTarget, Parsed, Problem, Severity};
use crate::control::command::{self, Commands};
use crate::control::service_manager;
use crate::server::{self, Attached, Obeys, Server};
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
    let attached = Attached { door: Some(door.clone()), log: Some(log.clone()) };
    server::follow_signals(door).map_err(|error| anyhow!("cannot handle signals: {}", Plain(&error)))?;
    let obeyed = Obeyed { commands: &commands, log: &log };
    let result = serve(&config, &path, arguments.pid_file.as_deref(), attached, &obeyed);
    match &result {
        // Logged whatever the filter: the reason why the process does not run must never be missing.
        Err(error) => {
            log::error!(target: logging::ALWAYS, event = "not_started", cause = error.to_string();
                "{error:#}")
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

/// Where commands come from, and the log that some of them concern.
struct Obeyed<'a> {
    commands: &'a Commands,
    log: &'a LogHandle,
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
    path: &Path,
    pid_file: Option<&Path>,
    attached: Attached,
    obeyed: &Obeyed<'_>,
) -> anyhow::Result<&'static str> {
    let mut written = None;
    // Not before the process listens: a start that is refused because another instance runs must leave that
    // instance's file alone. And not after it accepts: a script whose first session succeeds may look for the
    // file right away.
    let write = || {
        written = pid_file.map(PidFile::write).transpose()?;
        Ok(())
    };
    let mut server = Server::start_with(Arc::clone(config), attached, write)?;
    announce(&server, path);
    service_manager::ready();
    let load = || load_again(path);
    let obeys = Obeys { commands: obeyed.commands, log: obeyed.log, load: &load };
    let cause = server::supervise(&mut server, &obeys);
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
struct PidFile(PathBuf);

impl PidFile {
    fn write(path: &Path) -> Result<Self, String> {
        let written = std::fs::write(path, format!("{}\n", std::process::id()));
        let refused = |error| format!("the pid file {} cannot be written: {}", path.display(), Plain(&error));
        written.map(|()| Self(path.to_owned())).map_err(refused)
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let ours = std::process::id().to_string();
        if std::fs::read_to_string(&self.0).is_ok_and(|text| text.trim() == ours) {
            // A file that is already gone is just as good.
            let _ = std::fs::remove_file(&self.0);
        }
    }
}
