//! `ringway run`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use crossbeam_channel::Receiver;

use super::args::RunArguments;
use crate::rules::config::{Config, LogTarget, Parsed};
use crate::server::{self, Server};
use crate::telemetry::log::{self as logging, LogHandle};

/// How long the last log records may take.
const FLUSH: Duration = Duration::from_secs(1);

/// Balances until a signal asks for the end.
///
/// # Errors
///
/// The configuration is invalid, or something it needs is missing; the text is complete for the operator.
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
    let signals = server::signals().context("signals cannot be received")?;
    let result = serve(&config, &path, arguments.pid_file.as_deref(), &signals, &log);
    if let Err(error) = &result {
        log::error!("{error:#}");
    }
    // A target that takes nothing must not keep the process.
    let _ = log.flush(FLUSH);
    match result {
        // Who started it looks at the terminal first, or at the journal.
        Err(error) if config.logging.target != LogTarget::Stderr => Err(error),
        Err(_) => Ok(ExitCode::FAILURE),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

fn serve(
    config: &Arc<Config>,
    path: &Path,
    pid_file: Option<&Path>,
    signals: &Receiver<i32>,
    log: &LogHandle,
) -> anyhow::Result<()> {
    let server = Server::start(Arc::clone(config))?;
    // Not before: a start that is refused because another instance runs must leave the file of that one alone.
    let _pid_file = pid_file.map(PidFile::write).transpose()?;
    announce(&server, path);
    server::supervise(&server, signals, log);
    drop(server);
    Ok(())
}

fn announce(server: &Server, path: &Path) {
    let cpus = server.cpus().iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    log::info!(
        "ringway {} runs on CPU {cpus} with {}, at most {} sessions",
        env!("RINGWAY_VERSION"),
        path.display(),
        server.max_sessions()
    );
    for listener in &server.config().listeners {
        let upstream = &server.config().upstreams[listener.upstream.index()];
        log::info!(
            "listener {} on {} sends to upstream {} ({} backends, {})",
            listener.name,
            listener.address,
            upstream.name,
            upstream.backends.len(),
            upstream.algorithm.name
        );
    }
    warn_of_backlog(server.config());
}

/// The kernel cuts a backlog down to net.core.somaxconn without a word, listen(2).
fn warn_of_backlog(config: &Config) {
    let somaxconn = std::fs::read_to_string("/proc/sys/net/core/somaxconn");
    let Some(somaxconn) = somaxconn.ok().and_then(|text| text.trim().parse::<u32>().ok()) else { return };
    for listener in config.listeners.iter().filter(|listener| listener.backlog > somaxconn) {
        log::warn!(
            "listener {}: backlog {} is cut down to {somaxconn} by the sysctl net.core.somaxconn",
            listener.name,
            listener.backlog
        );
    }
}

/// The file with the process number; removed on drop, unless a successor has written its own there.
struct PidFile(PathBuf);

impl PidFile {
    fn write(path: &Path) -> anyhow::Result<Self> {
        std::fs::write(path, format!("{}\n", std::process::id()))
            .with_context(|| format!("the pid file {} cannot be written", path.display()))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let ours = std::process::id().to_string();
        if std::fs::read_to_string(&self.0).is_ok_and(|text| text.trim() == ours) {
            // Gone already is as good.
            let _ = std::fs::remove_file(&self.0);
        }
    }
}
