//! The life of a server from its start to its end, driven by commands.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, after, never, select, tick};
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;

use super::Server;
use super::turned_away::{TurnedAway, log_totals};
use crate::base::counted;
use crate::config::Config;
use crate::control::command::{Applied, Command, Commands, Door, Refused, Reply};
use crate::control::service_manager;
use crate::telemetry::log::LogHandle;

/// How often the threads beside the shards are checked.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Turns the signals of the process into commands. Call this before making any thread that signals should not
/// interrupt.
///
/// # Errors
///
/// The handlers cannot be installed.
pub fn follow_signals(door: Door) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            let by = signal_name(signal).unwrap_or("a signal");
            let command = match signal {
                SIGTERM => Command::Stop { by },
                SIGINT | SIGQUIT => Command::StopNow { by },
                SIGUSR1 => Command::ReopenLog,
                SIGHUP => Command::Reload(Reply::none()),
                _ => Command::Upgrade(Reply::none()),
            };
            if !door.give(command) {
                return;
            }
        }
    })?;
    Ok(())
}

/// What obeys commands, besides the server.
pub struct Obeys<'a> {
    /// Where commands come from.
    pub commands: &'a Commands,
    /// The log of the process.
    pub log: &'a LogHandle,
    /// Reads the configuration again. The errors are complete for the operator.
    pub load: &'a dyn Fn() -> Result<Config, Vec<String>>,
}

/// Serves until a signal asks for the end, and then until the sessions have ended or have to end.
///
/// TERM: the process goes on accepting for `runtime.shutdown_delay`, then drains for at most
/// `runtime.shutdown_timeout`. INT and QUIT skip the delay. A second signal ends all sessions at once.
/// Returns what ended the process, for the last log line.
pub fn supervise(server: &mut Server, obeys: &Obeys<'_>) -> &'static str {
    let cause = serve(server, obeys);
    log_totals(server);
    cause
}

fn serve(server: &mut Server, obeys: &Obeys<'_>) -> &'static str {
    let mut supervisor =
        Supervisor { server, obeys, turned_away: TurnedAway::new(Instant::now()), waiting: VecDeque::new() };
    let stop = supervisor.wait_for_stop(&never());
    let server = &*supervisor.server;
    let runtime = &server.config().runtime;
    service_manager::stopping();
    server.announce_end();
    if let (Some(Command::Stop { .. } | Command::Drain), Some(delay)) = (stop, runtime.shutdown_delay) {
        log::info!("stopping: accepting goes on for {delay:?}");
        if supervisor.wait_for_stop(&after(delay)).is_some() {
            return end(supervisor.server, "a second signal");
        }
    }
    let server = &*supervisor.server;
    let open = counted(server.status().open_sessions(), "open session");
    let limit = runtime.shutdown_timeout;
    match limit {
        Some(limit) => log::info!("draining: {open} may take {limit:?} to end"),
        None => log::info!("draining: {open} may take any time to end"),
    }
    server.drain();
    let deadline = limit.map_or_else(never, after);
    match supervisor.wait_for_stop(&deadline) {
        Some(_) => end(supervisor.server, "a second signal"),
        None if supervisor.server.wait_ended(Duration::ZERO) => "every session has ended",
        None => end(supervisor.server, "runtime.shutdown_timeout"),
    }
}

struct Supervisor<'a> {
    server: &'a mut Server,
    obeys: &'a Obeys<'a>,
    turned_away: TurnedAway,
    /// Commands that were taken, and not obeyed yet.
    waiting: VecDeque<Command>,
}

impl Supervisor<'_> {
    /// Obeys commands until one asks for the end, and returns it; returns `None` at the deadline or when the
    /// shards have ended.
    fn wait_for_stop(&mut self, deadline: &Receiver<Instant>) -> Option<Command> {
        let look = tick(LOOK_INTERVAL);
        loop {
            if let Some(command) = self.waiting.pop_front() {
                if let Some(stop) = self.obey(command) {
                    return Some(stop);
                }
                continue;
            }
            select! {
                recv(self.obeys.commands) -> command => self.waiting.push_back(command.ok()?),
                recv(deadline) -> _ => return None,
                recv(self.server.ended()) -> _ => return None,
                recv(look) -> _ => {
                    if self.server.is_broken() {
                        super::die("the health or control thread has ended; see the panic above");
                    }
                    self.turned_away.look(self.server, Instant::now());
                }
            }
        }
    }

    /// Obeys a command, unless it asks for the end.
    fn obey(&mut self, command: Command) -> Option<Command> {
        match command {
            Command::Stop { by } | Command::StopNow { by } => {
                log::info!("{by} received");
                return Some(command);
            }
            Command::Drain if self.server.is_running() => return Some(command),
            Command::Drain => log::info!("asked to drain, which the process does already"),
            Command::ReopenLog => {
                self.obeys.log.reopen();
                self.server.reopen_access_log();
            }
            Command::SetLogLevel(level) => {
                self.obeys.log.set_level(level);
                log::info!("records are written from level {level} on");
            }
            Command::Reload(reply) => self.reload(reply),
            Command::Edit(edit, reply) => reply.give(self.change("change", |server| server.edit(edit))),
            Command::Upgrade(reply) => {
                let cause = "this does nothing yet; restart";
                log::warn!("{cause}");
                reply.give(Err(Refused::because(cause)));
            }
        }
        None
    }

    /// Loads the file once for all who have asked for it by now: they all get what the file says last.
    fn reload(&mut self, reply: Reply) {
        let mut replies = vec![reply];
        for command in self.obeys.commands.try_iter() {
            match command {
                Command::Reload(reply) => replies.push(reply),
                other => self.waiting.push_back(other),
            }
        }
        let load = self.obeys.load;
        let outcome = self.change("reload", |server| match load() {
            Ok(file) => server.reload(file),
            Err(errors) => {
                server.note_failed_reload();
                Err(Refused { errors })
            }
        });
        replies.into_iter().for_each(|reply| reply.give(outcome.clone()));
    }

    /// Changes what runs, and says what has become of it.
    fn change(
        &mut self,
        what: &str,
        change: impl FnOnce(&mut Server) -> Result<Applied, Refused>,
    ) -> Result<Applied, Refused> {
        if !self.server.is_running() {
            return Err(Refused {
                errors: vec![format!("the process ends, so there is no {what} any more")],
            });
        }
        let begun = Instant::now();
        let level = self.server.config().logging.level;
        let outcome = change(self.server);
        match &outcome {
            Ok(Applied { generation, changes }) => {
                let wanted = self.server.config().logging.level;
                if wanted != level {
                    self.obeys.log.set_level(wanted);
                }
                changes.iter().for_each(|change| log::info!("{what}: {change}"));
                let (count, millis) = (changes.len() as u64, begun.elapsed().as_millis() as u64);
                log::info!(event = "reloaded", generation, count, millis;
                    "{what}: generation {generation} runs after {millis} ms, with {}", counted(count, "change"));
            }
            Err(Refused { errors }) => {
                for error in errors {
                    log::error!(event = "reload_refused", cause = &**error;
                        "{what} refused, and nothing is changed: {error}");
                }
            }
        }
        outcome
    }
}

fn end(server: &Server, cause: &'static str) -> &'static str {
    log::warn!("closing {}: {cause}", counted(server.status().open_sessions(), "open session"));
    server.close();
    // The ends of these sessions belong in the totals. Shards that do not end are reported when the server is
    // dropped.
    let _ = server.wait_ended(super::CLOSE_PATIENCE);
    cause
}
