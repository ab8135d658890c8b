//! The life of a server from its start to its end, driven by commands.

use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, after, never, select, tick};
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;

use super::Server;
use super::turned_away::{TurnedAway, log_totals};
use crate::base::counted;
use crate::control::command::{Command, Commands, Door, Refused, Reply};
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

/// Serves until a signal asks for the end, and then until the sessions have ended or have to end.
///
/// TERM: the process goes on accepting for `runtime.shutdown_delay`, then drains for at most
/// `runtime.shutdown_timeout`. INT and QUIT skip the delay. A second signal ends all sessions at once.
/// Returns what ended the process, for the last log line.
pub fn supervise(server: &Server, commands: &Commands, log: &LogHandle) -> &'static str {
    let cause = serve(server, commands, log);
    log_totals(server);
    cause
}

fn serve(server: &Server, commands: &Commands, log: &LogHandle) -> &'static str {
    let runtime = &server.config().runtime;
    let mut turned_away = TurnedAway::new(server, Instant::now());
    let mut wait_for_stop =
        |deadline: &Receiver<Instant>| wait_for_stop(server, commands, deadline, log, &mut turned_away);
    let stop = wait_for_stop(&never());
    service_manager::stopping();
    server.announce_end();
    if let (Some(Command::Stop { .. } | Command::Drain), Some(delay)) = (stop, runtime.shutdown_delay) {
        log::info!("stopping: accepting goes on for {delay:?}");
        if wait_for_stop(&after(delay)).is_some() {
            return end(server, "a second signal");
        }
    }
    let open = counted(server.status().open_sessions(), "open session");
    let limit = runtime.shutdown_timeout;
    match limit {
        Some(limit) => log::info!("draining: {open} may take {limit:?} to end"),
        None => log::info!("draining: {open} may take any time to end"),
    }
    server.drain();
    let deadline = limit.map_or_else(never, after);
    match wait_for_stop(&deadline) {
        Some(_) => end(server, "a second signal"),
        None if server.wait_ended(Duration::ZERO) => "every session has ended",
        None => end(server, "runtime.shutdown_timeout"),
    }
}

/// Obeys commands until one asks for the end, and returns it; returns `None` at the deadline or when the
/// shards have ended.
fn wait_for_stop(
    server: &Server,
    commands: &Commands,
    deadline: &Receiver<Instant>,
    log: &LogHandle,
    turned_away: &mut TurnedAway,
) -> Option<Command> {
    let look = tick(LOOK_INTERVAL);
    loop {
        let command = select! {
            recv(commands) -> command => command.ok()?,
            recv(deadline) -> _ => return None,
            recv(server.ended()) -> _ => return None,
            recv(look) -> _ => {
                if server.is_broken() {
                    super::die("the health or control thread has ended; see the panic above");
                }
                turned_away.look(server, Instant::now());
                continue;
            }
        };
        match command {
            Command::Stop { by } | Command::StopNow { by } => {
                log::info!("{by} received");
                return Some(command);
            }
            Command::Drain if server.is_running() => return Some(command),
            Command::Drain => log::info!("asked to drain, which the process does already"),
            Command::ReopenLog => {
                log.reopen();
                server.reopen_access_log();
            }
            Command::SetLogLevel(level) => {
                log.set_level(level);
                log::info!("records are written from level {level} on");
            }
            Command::Reload(reply) | Command::Edit(_, reply) | Command::Upgrade(reply) => {
                let cause = "this does nothing yet; restart";
                log::warn!("{cause}");
                reply.give(Err(Refused::because(cause)));
            }
        }
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
