//! `ringway demo`: shows the main job without any set-up. Real sockets, real sessions, the real server: three
//! echo backends of weights 1, 1 and 2, clients that compare every echoed byte, and a live table. In the
//! middle, the third backend is stopped for a while.

mod peers;
mod table;

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use crossbeam_channel::{after, never, select, tick};

use crate::config::{self, Config};
use crate::control::command::{self, Command, Commands};
use crate::server::{self, Server};
use peers::{Peers, WEIGHTS};
use table::Table;

const TABLE_INTERVAL: Duration = Duration::from_millis(500);
/// How long the first check of all backends may take, and how long the end may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the demo until `duration` is over or a signal comes. The exit status says whether every client got
/// what it should.
///
/// # Errors
///
/// The server does not start, or no port is free.
pub fn demo(duration: Option<Duration>) -> anyhow::Result<ExitCode> {
    let (door, commands) = command::door();
    server::follow_signals(door).context("cannot handle signals")?;
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
    watch(&server, &peers, &commands, duration);
    let elapsed = begin.elapsed();
    let tally = peers.finish();
    server.drain();
    let drained = server.wait_ended(PATIENCE);
    table::summary(&server.status(), &tally, elapsed);
    let good = drained && tally.errors == 0 && tally.sessions > 0;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the table until the end, and stops and restarts a backend on the way.
fn watch(server: &Server, peers: &Peers, commands: &Commands, duration: Option<Duration>) {
    let begin = Instant::now();
    // The second third of the duration; without a duration, seconds 4 to 6 of every ten.
    let is_stopped = |at: Duration| match duration {
        Some(all) => at > all / 3 && at < all * 2 / 3,
        None => (4..7).contains(&(at.as_secs() % 10)),
    };
    let (tables, end) = (tick(TABLE_INTERVAL), duration.map_or_else(never, after));
    let mut table = Table::new();
    loop {
        select! {
            recv(end) -> _ => return,
            recv(commands) -> command => {
                if let Ok(Command::Stop { .. } | Command::StopNow { .. }) | Err(_) = command {
                    return;
                }
            }
            recv(tables) -> _ => {
                let stopped = is_stopped(begin.elapsed());
                peers.stop_one(stopped);
                table.print(&server.status(), stopped, &peers.tally());
            }
        }
    }
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
