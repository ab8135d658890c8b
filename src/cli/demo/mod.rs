//! `ringway demo`: shows the main job without any set-up. Real sockets, real sessions, the real server: three
//! echo backends of weights 1, 1 and 2, clients that compare every echoed byte, and the view of `ringway top`, or
//! lines where there is no terminal. In the middle, the third backend is stopped for a while.

mod inside;
mod peers;
mod table;

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use crossbeam_channel::{Receiver, after, bounded, never, select, tick};

use super::grid::Tone;
use super::top::{App, Look, watch};
use crate::base::counted;
use crate::config::{self, Config};
use crate::control::command::{self, Command, Commands, Door};
use crate::server::{self, Server};
use inside::Inside;
use peers::{Peers, STOPPED, WEIGHTS};
use table::Table;

const TABLE_INTERVAL: Duration = Duration::from_millis(500);
/// How long the first check of all backends may take, and how long the end may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the demo until `duration` is over, a key or a signal comes. Draws on a terminal unless it shall be `plain`. The
/// exit status says whether every client got what it should.
///
/// # Errors
///
/// The server does not start, no port is free, or the terminal does not let itself be set.
pub fn demo(duration: Option<Duration>, plain: bool) -> anyhow::Result<ExitCode> {
    let (door, commands) = command::door();
    server::follow_signals(door.clone()).context("cannot handle signals")?;
    let peers = Peers::start()?;
    let listen = free_address()?;
    let server = Server::start(Arc::new(configuration(listen, peers.addresses())?))?;
    anyhow::ensure!(server.wait_checked(PATIENCE), "the backends were not checked within {PATIENCE:?}");
    // A closed standard output ends the display, not the balancing; `println` would panic.
    let _ = writeln!(
        std::io::stdout().lock(),
        "{listen} -> {} echo backends, {} clients at a time, on CPU {}",
        WEIGHTS.len(),
        peers::CLIENTS,
        server.status().shards.iter().map(|shard| shard.cpu.to_string()).collect::<Vec<_>>().join(",")
    );
    let begin = Instant::now();
    peers.begin(listen);
    let run = Run { server: &server, peers: &peers, begin, duration };
    if plain || !std::io::stdout().is_terminal() {
        run.print(&commands);
    } else {
        run.draw(door, commands)?;
    }
    let elapsed = begin.elapsed();
    let tally = peers.finish();
    server.drain();
    let drained = server.wait_ended(PATIENCE);
    table::summary(&server.status(), &tally, elapsed);
    let good = drained && tally.errors == 0 && tally.sessions > 0;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The demo while clients come.
struct Run<'a> {
    server: &'a Server,
    peers: &'a Peers,
    begin: Instant,
    duration: Option<Duration>,
}

impl Run<'_> {
    /// Prints the table until the end.
    fn print(&self, commands: &Commands) {
        let (tables, end) = (tick(TABLE_INTERVAL), self.end());
        let mut table = Table::new();
        loop {
            select! {
                recv(end) -> _ => return,
                recv(commands) -> command => if is_end(command) {
                    return;
                },
                recv(tables) -> _ => {
                    let stopped = self.stop_and_restart();
                    table.print(&self.server.status(), stopped, &self.peers.tally());
                }
            }
        }
    }

    /// Draws on the terminal until the end.
    fn draw(&self, door: Door, commands: Commands) -> anyhow::Result<()> {
        let end = self.end();
        let (alive, stop) = bounded(0);
        std::thread::Builder::new().name("end".into()).spawn(move || {
            loop {
                select! {
                    recv(end) -> _ => break,
                    recv(commands) -> command => if is_end(command) {
                        break;
                    },
                }
            }
            drop(alive);
        })?;
        let feed = Inside::new(self.server.process(Some(door)))?;
        let mut app = App::new();
        app.note_look(Look { status: self.server.status(), sessions: None });
        watch(app, Box::new(feed), TABLE_INTERVAL, &stop, || Some(self.aside()))
    }

    /// What only the demo knows.
    fn aside(&self) -> (String, Tone) {
        let stopped = if self.stop_and_restart() {
            format!("; backend {} stopped", STOPPED + 1)
        } else {
            String::new()
        };
        let errors = self.peers.tally().errors;
        let tone = if errors > 0 { Tone::Bad } else { Tone::Good };
        // Short: a terminal of 80 columns has 28 for it.
        (format!("{}{stopped}", counted(errors, "error")), tone)
    }

    /// Stops a backend on the way, and restarts it: in the second third of the duration; without a duration, in
    /// seconds 4 to 6 of every ten. Returns whether it is stopped now.
    fn stop_and_restart(&self) -> bool {
        let at = self.begin.elapsed();
        let stopped = match self.duration {
            Some(all) => at > all / 3 && at < all * 2 / 3,
            None => (4..7).contains(&(at.as_secs() % 10)),
        };
        self.peers.stop_one(stopped);
        stopped
    }

    fn end(&self) -> Receiver<Instant> {
        self.duration.map_or_else(never, after)
    }
}

/// Returns whether a command asks for the end, or nobody is left to give any.
fn is_end(command: Result<Command, crossbeam_channel::RecvError>) -> bool {
    matches!(command, Ok(Command::Stop { .. } | Command::StopNow { .. }) | Err(_))
}

/// Writes a configuration as an operator would write it.
fn configuration(listen: SocketAddr, backends: &[SocketAddr]) -> anyhow::Result<Config> {
    let mut text = format!(
        "admin: {{listen_address: off, socket: off}}\n\
         loadbalancer: {{listen_address: \"{listen}\", algorithm: round_robin}}\n\
         healthcheck: {{interval: 200ms, fast_interval: 50ms, timeout: 200ms, fall: 2}}\n\
         backends:\n"
    );
    for (address, weight) in backends.iter().zip(WEIGHTS) {
        let entry =
            format!("  - {{address: {}, port: {}, weight: {weight}}}\n", address.ip(), address.port());
        text.push_str(&entry);
    }
    Ok(config::parse("demo.yaml", text.as_bytes())?.config)
}

fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("no port is free on 127.0.0.1")?;
    Ok(listener.local_addr()?)
}
