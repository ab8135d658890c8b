//! What the demo prints.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::peers::{STOPPED, Tally, WEIGHTS};
use crate::base::counted;
use crate::control::{BackendStatus, ShardStatus, Status};

/// The live table; on a terminal it is drawn over the previous one.
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

    pub(super) fn print(&mut self, status: &Status, stopped: bool, tally: &Tally) {
        let totals = &status.listeners[0].totals;
        let now = Instant::now();
        let rate = (totals.accepted - self.sessions) as f64 / (now - self.last).as_secs_f64();
        (self.last, self.sessions) = (now, totals.accepted);
        let mut text = String::new();
        if self.in_place && self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        let erase = if self.in_place { "\x1b[K" } else { "" };
        text.push_str(&format!(
            "{accepted:>8} sessions  {rate:>7.0}/s  {active:>3} open  {up:>9} to backends  {down:>9} to \
             clients  \
             {errors} client errors{erase}\n",
            accepted = totals.accepted,
            active = totals.active,
            up = mebibytes(totals.bytes_to_backend),
            down = mebibytes(totals.bytes_to_client),
            errors = tally.errors
        ));
        let mut lines = backends(status, stopped);
        lines.extend(cores(status));
        self.drawn = lines.len() + 1;
        lines.iter().for_each(|line| text.push_str(&format!("{line}{erase}\n")));
        let mut out = std::io::stdout().lock();
        // A closed standard output ends the display, not the balancing.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

fn backends(status: &Status, stopped: bool) -> Vec<String> {
    let backends = &status.upstreams[0].backends;
    let all = backends.iter().map(|backend| backend.totals.sessions).sum::<u64>().max(1);
    let line = |(index, backend): (usize, &BackendStatus)| {
        format!(
            "  backend {number} (weight {weight})  {count:>8} sessions {share:>5.1} %  {open:>3} open  \
             {state}{note}",
            number = index + 1,
            weight = WEIGHTS[index],
            count = backend.totals.sessions,
            share = 100.0 * backend.totals.sessions as f64 / all as f64,
            open = backend.in_flight,
            state = backend.state(),
            note = if stopped && index == STOPPED { ", stopped by the demo" } else { "" },
        )
    };
    backends.iter().enumerate().map(line).collect()
}

fn cores(status: &Status) -> Vec<String> {
    let line = |shard: &ShardStatus| {
        let ShardStatus { cpu, core, .. } = shard;
        format!(
            "  core {cpu:<3} {sessions:>20} sessions  {busy:>5.1} % busy  {open:>3} open  {handed_off} \
             handed off, {received} received",
            sessions = core.sessions,
            busy = f64::from(core.busy) / 10.0,
            open = core.active,
            handed_off = core.handed_off,
            received = core.received,
        )
    };
    status.shards.iter().map(line).collect()
}

pub(super) fn summary(status: &Status, tally: &Tally, elapsed: Duration) {
    let totals = &status.listeners[0].totals;
    let mut text = format!(
        "\n{sessions} in {seconds:.1} s ({rate:.0}/s); {bytes} bytes came back as sent; {errors} seen \
         by clients\nbytes: {up} to backends, {down} to clients; sessions: accepted {accepted} = denied \
         {denied} + closed {closed} + open {active}\n",
        sessions = counted(tally.sessions, "session"),
        seconds = elapsed.as_secs_f64(),
        rate = tally.sessions as f64 / elapsed.as_secs_f64(),
        bytes = tally.bytes,
        errors = counted(tally.errors, "error"),
        up = totals.bytes_to_backend,
        down = totals.bytes_to_client,
        accepted = totals.accepted,
        denied = totals.denied_sum(),
        closed = totals.closed_sum(),
        active = totals.active,
    );
    if let Some(error) = &tally.first_error {
        text.push_str(&format!("the first error: {error}\n"));
    }
    for (index, backend) in status.upstreams[0].backends.iter().enumerate() {
        let sessions = counted(backend.totals.sessions, "session");
        text.push_str(&format!("backend {} (weight {}): {sessions}\n", index + 1, WEIGHTS[index]));
    }
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
