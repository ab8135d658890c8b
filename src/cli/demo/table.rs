//! What the demo prints.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::peers::{STOPPED, Tally, WEIGHTS};
use crate::base::{ListenerId, UpstreamId, counted};
use crate::server::Server;
use crate::steering::CoreStatus;
use crate::upstream::Health;

/// The live table; drawn over the last one on a terminal.
pub(super) struct Table {
    in_place: bool,
    drawn: usize,
    last: Instant,
    sessions: u64,
}

impl Table {
    pub(super) fn new() -> Self {
        Self { in_place: std::io::stdout().is_terminal(), drawn: 0, last: Instant::now(), sessions: 0 }
    }

    pub(super) fn print(&mut self, server: &Server, stopped: bool, tally: &Tally) {
        let totals = server.totals(ListenerId(0));
        let now = Instant::now();
        let rate = (totals.accepted - self.sessions) as f64 / (now - self.last).as_secs_f64();
        (self.last, self.sessions) = (now, totals.accepted);
        let mut text = String::new();
        if self.in_place && self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        let erase = if self.in_place { "\x1b[K" } else { "" };
        text.push_str(&format!(
            "{accepted:>8} sessions  {rate:>7.0}/s  {active:>3} open  {up:>9} to backends  {down:>9} to clients  \
             {errors} client errors{erase}\n",
            accepted = totals.accepted,
            active = totals.active,
            up = mebibytes(totals.bytes_to_backend),
            down = mebibytes(totals.bytes_to_client),
            errors = tally.errors
        ));
        let mut lines = backends(server, stopped);
        lines.extend(cores(server));
        self.drawn = lines.len() + 1;
        lines.iter().for_each(|line| text.push_str(&format!("{line}{erase}\n")));
        let mut out = std::io::stdout().lock();
        // A closed standard output ends the show, not the balancing.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

fn backends(server: &Server, stopped: bool) -> Vec<String> {
    let sessions = server.backend_sessions(UpstreamId(0));
    let (in_flight, health) = (server.in_flight(UpstreamId(0)), server.health(UpstreamId(0)));
    let all = sessions.iter().sum::<u64>().max(1);
    let line = |index: usize| {
        let state = match health.get(index) {
            Some(Health::Up) => "up",
            Some(Health::Down) => "down",
            Some(Health::Checking) | None => "checking",
        };
        format!(
            "  backend {number} (weight {weight})  {count:>8} sessions {share:>5.1} %  {open:>3} open  {state}{note}",
            number = index + 1,
            weight = WEIGHTS[index],
            count = sessions[index],
            share = 100.0 * sessions[index] as f64 / all as f64,
            open = in_flight[index],
            note = if stopped && index == STOPPED { ", stopped by the demo" } else { "" },
        )
    };
    (0..WEIGHTS.len()).map(line).collect()
}

fn cores(server: &Server) -> Vec<String> {
    let status = server.core_status();
    let line = |(cpu, core): (&usize, &CoreStatus)| {
        format!(
            "  core {cpu:<3} {sessions:>20} sessions  {busy:>5.1} % busy  {open:>3} open  {passed} passed on, {received} received",
            sessions = core.sessions,
            busy = f64::from(core.busy) / 10.0,
            open = core.active,
            passed = core.passed,
            received = core.received,
        )
    };
    server.cpus().iter().zip(&status).map(line).collect()
}

pub(super) fn summary(server: &Server, tally: &Tally, elapsed: Duration) {
    let totals = server.totals(ListenerId(0));
    let mut text = format!(
        "\n{sessions} in {seconds:.1} s ({rate:.0}/s); {bytes} bytes came back as sent; {errors} seen \
         by clients\nbytes: {up} to backends, {down} to clients; sessions: accepted {accepted} = denied {denied} + \
         closed {closed} + open {active}\n",
        sessions = counted(tally.sessions, "session"),
        seconds = elapsed.as_secs_f64(),
        rate = tally.sessions as f64 / elapsed.as_secs_f64(),
        bytes = tally.bytes,
        errors = counted(tally.errors, "error"),
        up = totals.bytes_to_backend,
        down = totals.bytes_to_client,
        accepted = totals.accepted,
        denied = totals.denied,
        closed = totals.closed_sum(),
        active = totals.active,
    );
    for (index, sessions) in server.backend_sessions(UpstreamId(0)).into_iter().enumerate() {
        let sessions = counted(sessions, "session");
        text.push_str(&format!("backend {} (weight {}): {sessions}\n", index + 1, WEIGHTS[index]));
    }
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
