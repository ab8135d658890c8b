//! The life of a server from its start to its end, driven by commands.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, after, never, select, tick};
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;

use super::Server;
use super::threads::die;
use super::turned_away::{TurnedAway, log_totals};
use super::upgrade::Upgrades;
use crate::base::counted;
use crate::config::Config;
use crate::control::command::{Applied, Command, Commands, Door, Refused, Reply};
use crate::control::{self, service_manager};
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
    pub load: &'a (dyn Fn() -> Result<Config, Vec<String>> + Sync),
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
    let mut supervisor = Supervisor {
        server,
        obeys,
        turned_away: TurnedAway::new(Instant::now()),
        upgrades: Upgrades::new(),
        waiting: VecDeque::new(),
        reloads: Vec::new(),
    };
    let stop = supervisor.wait_for_stop(&never());
    let config = supervisor.server.config();
    let runtime = &config.runtime;
    if supervisor.server.has_left() {
        let open = counted(supervisor.server.status().open_sessions(), "open session");
        log::info!("draining: {open} may take {} to end", words(runtime.drain_timeout));
        if supervisor.wait_for_stop(&runtime.drain_timeout.map_or_else(never, after)).is_none() {
            return if supervisor.server.wait_ended(Duration::ZERO) {
                "a successor serves, and every session here has ended"
            } else {
                end(supervisor.server, "runtime.drain_timeout")
            };
        }
    } else {
        service_manager::stopping();
        supervisor.server.announce_end();
    }
    if let (Some(Command::Stop { .. } | Command::Drain), Some(delay)) = (stop, runtime.shutdown_delay) {
        log::info!("stopping: accepting goes on for {delay:?}");
        if supervisor.wait_for_stop(&after(delay)).is_some() {
            return end(supervisor.server, "a second signal");
        }
    }
    let open = counted(supervisor.server.status().open_sessions(), "open session");
    let limit = runtime.shutdown_timeout;
    log::info!("draining: {open} may take {} to end", words(limit));
    supervisor.server.drain();
    let deadline = limit.map_or_else(never, after);
    match supervisor.wait_for_stop(&deadline) {
        Some(_) => end(supervisor.server, "a second signal"),
        None if supervisor.server.wait_ended(Duration::ZERO) => "every session has ended",
        None => end(supervisor.server, "runtime.shutdown_timeout"),
    }
}

/// Obeys commands, and follows what comes of them.
struct Supervisor<'a> {
    server: &'a mut Server,
    obeys: &'a Obeys<'a>,
    turned_away: TurnedAway,
    upgrades: Upgrades,
    /// Commands that were taken, and not obeyed yet.
    waiting: VecDeque<Command>,
    /// Who waits for a reload.
    reloads: Vec<Reply>,
}

impl Supervisor<'_> {
    /// Obeys commands until one asks for the end, and returns it; returns `None` at the deadline, when the shards have
    /// ended, or when a successor serves.
    fn wait_for_stop(&mut self, deadline: &Receiver<Instant>) -> Option<Command> {
        let look = tick(LOOK_INTERVAL);
        loop {
            if let Some(command) = self.next() {
                if let Some(stop) = self.obey(command) {
                    return Some(stop);
                }
                continue;
            }
            select! {
                recv(self.obeys.commands) -> command => self.waiting.push_back(command.ok()?),
                recv(deadline) -> _ => return None,
                recv(self.server.ended()) -> _ => return None,
                recv(self.upgrades.outcomes()) -> outcome => {
                    let successor = outcome.ok().and_then(|outcome| self.upgrades.conclude(self.server, outcome));
                    self.after_upgrade(successor);
                    if successor.is_some() {
                        return None;
                    }
                }
                recv(look) -> _ => {
                    if self.server.is_broken() {
                        die("the health or control thread has ended; see the panic above");
                    }
                    self.turned_away.look(self.server, Instant::now());
                }
            }
        }
    }

    /// Returns the next command that waits; one that asks for the end is the first.
    fn next(&mut self) -> Option<Command> {
        let end = self.waiting.iter().position(Command::ends);
        self.waiting.remove(end.unwrap_or(0))
    }

    /// Obeys a command, unless it asks for the end.
    fn obey(&mut self, command: Command) -> Option<Command> {
        match command {
            Command::Stop { by } | Command::StopNow { by } => {
                log::info!("{by} received");
                self.upgrades.cancel(self.server);
                return Some(command);
            }
            Command::Drain if self.server.is_running() => {
                self.upgrades.cancel(self.server);
                return Some(command);
            }
            Command::Drain => log::info!("asked to drain, which the process does already"),
            Command::ReopenLog => {
                self.obeys.log.reopen();
                self.server.reopen_access_log();
            }
            Command::SetLogLevel(level) => {
                self.obeys.log.set_level(level);
                log::info!("records are written from level {level} on");
            }
            Command::Upgrade(reply) => self.upgrades.begin(self.server, reply),
            Command::Reload(reply) => self.reload(reply),
            Command::Edit(edit, reply) => {
                let outcome = self.change("change", |server, ends| server.edit_unless(edit, ends));
                reply.give(outcome);
            }
        }
        None
    }

    /// Loads the file once for all who have asked for it by now: they all get what the file says last.
    fn reload(&mut self, reply: Reply) {
        self.reloads.push(reply);
        if self.upgrades.is_under_way() {
            log::info!("reload: waits for the end of the upgrade");
            return;
        }
        for command in self.waiting.drain(..).chain(self.obeys.commands.try_iter()).collect::<Vec<_>>() {
            match command {
                Command::Reload(reply) => self.reloads.push(reply),
                other => self.waiting.push_back(other),
            }
        }
        let load = self.obeys.load;
        service_manager::reloading();
        let outcome = self.change("reload", |server, ends| match load() {
            Ok(file) => server.reload_unless(file, ends),
            Err(errors) => {
                server.note_failed_reload();
                Err(Refused { errors })
            }
        });
        service_manager::ready();
        self.reloads.drain(..).for_each(|reply| reply.give(outcome.clone()));
    }

    /// Does what had to wait for the end of an upgrade; with a successor, that one does.
    fn after_upgrade(&mut self, successor: Option<u32>) {
        let Some(reply) = self.reloads.pop() else { return };
        let Some(pid) = successor else { return self.reload(reply) };
        let process = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        let told = process.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::HUP));
        log::info!("reload: process {pid} is told to load the configuration");
        let why = match told {
            Some(Ok(())) => format!("process {pid} has taken over meanwhile and loads it now; see its log"),
            _ => format!("process {pid} has taken over meanwhile; ask once more"),
        };
        self.reloads.drain(..).chain([reply]).for_each(|reply| reply.give(Err(Refused::because(&*why))));
    }

    /// Changes what runs, and says what has become of it. The change is told whether somebody wants the end of the
    /// process meanwhile, who does not wait for name servers.
    fn change(
        &mut self,
        what: &str,
        change: impl FnOnce(&mut Server, &mut (dyn FnMut() -> bool + Send)) -> Result<Applied, Refused> + Send,
    ) -> Result<Applied, Refused> {
        let refused = |why: &str| {
            let cause = format!("there is no {what} now: {why}");
            log::info!("{cause}");
            Err(Refused::because(cause))
        };
        if !self.server.is_running() {
            return refused("the process ends");
        }
        if self.upgrades.is_under_way() {
            return refused("an upgrade is under way; try again once it has ended");
        }
        let begun = Instant::now();
        let level = self.server.config().logging.level;
        let (server, waiting, commands) = (&mut *self.server, &mut self.waiting, self.obeys.commands);
        let mut ends = || {
            waiting.extend(commands.try_iter());
            waiting.iter().any(Command::ends)
        };
        let outcome = beside_shards(|| change(server, &mut ends));
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

/// Does something that may take a moment in a thread that yields to the shards. Returns what it returns.
fn beside_shards<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let yielding = || {
            control::yield_to_shards();
            work()
        };
        match scope.spawn(yielding).join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn words(limit: Option<Duration>) -> String {
    limit.map_or_else(|| "any time".to_owned(), |limit| format!("{limit:?}"))
}

fn end(server: &Server, cause: &'static str) -> &'static str {
    log::warn!("closing {}: {cause}", counted(server.status().open_sessions(), "open session"));
    server.close();
    // The ends of these sessions belong in the totals. Shards that do not end are reported when the server is
    // dropped.
    let _ = server.wait_ended(super::CLOSE_PATIENCE);
    cause
}
