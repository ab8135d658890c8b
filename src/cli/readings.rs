//! What two readings of the status say: rows with totals, or with rates once there is an earlier reading. Pure: the
//! process itself says how much time lies between the two.

use std::time::Duration;

use super::grid::{Cell, Grid, Tone};
use super::units;
use crate::base::CloseReason;
use crate::control::process::SessionStatus;
use crate::control::status::Phase;
use crate::control::{BackendStatus, ListenerStatus, ShardStatus, Status, UpstreamStatus};
use crate::telemetry::histogram::Histogram;

/// A reading, and an earlier one of the same process if there is one.
#[derive(Clone, Debug)]
pub(super) struct Readings {
    /// The last reading.
    pub(super) now: Status,
    before: Option<Status>,
}

impl Readings {
    /// Begins with a first reading.
    pub(super) fn first(now: Status) -> Self {
        Self { now, before: None }
    }

    /// Adds a reading. One of another process begins anew.
    pub(super) fn next(&self, now: Status) -> Self {
        let is_same = now.pid == self.now.pid && now.uptime > self.now.uptime;
        Self { before: is_same.then(|| self.now.clone()), now }
    }

    /// Returns whether there are rates.
    pub(super) fn has_rates(&self) -> bool {
        self.before.is_some()
    }

    /// Returns the number of new sessions a second, denied ones included; `None` without an earlier reading.
    pub(super) fn sessions_per_second(&self) -> Option<f64> {
        let accepted =
            |status: &Status| status.listeners.iter().map(|listener| listener.totals.accepted).sum();
        let before = self.before.as_ref()?;
        Some(self.per_second(accepted(&self.now), accepted(before)))
    }

    /// Returns the process in words: version, number, age, phase, generation, sessions, lost log records.
    pub(super) fn header(&self) -> Vec<Cell> {
        let now = &self.now;
        let (phase, tone) = match now.phase {
            Phase::Running => ("running", Tone::Good),
            Phase::Stopping => ("stopping", Tone::Doubtful),
            Phase::Draining => ("draining", Tone::Doubtful),
        };
        let open = format!(
            "{} of {} sessions",
            units::count(now.open_sessions()),
            units::count(now.max_sessions.into())
        );
        let mut cells = vec![
            Cell::words(format!("ringway {}", now.version)),
            Cell::words(format!("pid {}", now.pid)),
            Cell::words(format!("up {}", units::span(now.uptime))),
            Cell::words(phase).toned(tone),
            Cell::words(format!("generation {}", now.generation)),
            Cell::words(open),
        ];
        let lost = now.log_dropped.process + now.log_dropped.access;
        let lost_tone = if lost > 0 { Tone::Bad } else { Tone::Plain };
        cells.push(Cell::words(format!("{} log records lost", units::count(lost))).toned(lost_tone));
        cells
    }

    /// Returns a row for each listener.
    pub(super) fn listeners(&self) -> Grid {
        let mut grid = Grid::new(self.titles([
            ("listener", "listener"),
            ("ready", "ready"),
            ("open", "open"),
            ("max", "max"),
            ("accepted", "accepts/s"),
            ("denied", "denied/s"),
            ("errors", "errors/s"),
            ("most of them", "most of them"),
            ("to backends", "to backends/s"),
            ("to clients", "to clients/s"),
            ("p50", "p50"),
            ("p99", "p99"),
            ("address", "address"),
        ]));
        for now in &self.now.listeners {
            let before = self.before.as_ref().and_then(|status| named(&status.listeners, &now.name));
            grid.push(self.listener(now, before));
        }
        grid
    }

    fn listener(&self, now: &ListenerStatus, before: Option<&ListenerStatus>) -> Vec<Cell> {
        let (totals, earlier) = (&now.totals, before.map(|before| &before.totals));
        let ready = match now.ready {
            _ if now.draining => ("drains", Tone::Doubtful),
            true => ("yes", Tone::Good),
            false => ("no", Tone::Bad),
        };
        let (errors, most) = errors(&totals.closed, earlier.map(|earlier| &earlier.closed));
        let duration = since(&totals.duration, earlier.map(|earlier| &earlier.duration));
        vec![
            Cell::words(&now.name),
            Cell::words(ready.0).toned(ready.1),
            Cell::count(totals.active),
            Cell::count(now.active_max),
            self.count(totals.accepted, earlier.map(|earlier| earlier.accepted)),
            self.count(totals.denied_sum(), earlier.map(|earlier| earlier.denied_sum())).if_any(Tone::Bad),
            self.count(errors, None).if_any(Tone::Bad),
            Cell::words(most.unwrap_or("-")),
            self.bytes(totals.bytes_to_backend, earlier.map(|earlier| earlier.bytes_to_backend)),
            self.bytes(totals.bytes_to_client, earlier.map(|earlier| earlier.bytes_to_client)),
            Cell::duration(duration.quantile(0.5)),
            Cell::duration(duration.quantile(0.99)),
            Cell::words(&now.address),
        ]
    }

    /// Returns a row for each upstream.
    pub(super) fn upstreams(&self) -> Grid {
        let mut grid = Grid::new(self.titles([
            ("upstream", "upstream"),
            ("eligible", "eligible"),
            ("waiting", "waiting"),
            ("retries", "retries/s"),
            ("over budget", "over budget/s"),
            ("connect p50", "connect p50"),
            ("connect p99", "connect p99"),
            ("queue p99", "queue p99"),
            ("algorithm", "algorithm"),
            ("serving", "serving"),
        ]));
        for now in &self.now.upstreams {
            let before = self.before.as_ref().and_then(|status| named(&status.upstreams, &now.name));
            grid.push(self.upstream(now, before));
        }
        grid
    }

    fn upstream(&self, now: &UpstreamStatus, before: Option<&UpstreamStatus>) -> Vec<Cell> {
        let (totals, earlier) = (&now.totals, before.map(|before| &before.totals));
        let eligible = now.backends.iter().filter(|backend| backend.state() == "up").count();
        let tone = match eligible {
            0 => Tone::Bad,
            some if some < now.backends.len() => Tone::Doubtful,
            _ => Tone::Good,
        };
        let connect = since(&totals.connect, earlier.map(|earlier| &earlier.connect));
        let queue = since(&totals.queue, earlier.map(|earlier| &earlier.queue));
        let over_budget =
            self.count(totals.retries_over_budget, earlier.map(|earlier| earlier.retries_over_budget));
        vec![
            Cell::words(&now.name),
            Cell::number(eligible as f64, format!("{eligible} of {}", now.backends.len())).toned(tone),
            Cell::count(now.waiting as u64).if_any(Tone::Doubtful),
            self.count(totals.retries, earlier.map(|earlier| earlier.retries)).if_any(Tone::Doubtful),
            over_budget.if_any(Tone::Bad),
            Cell::duration(connect.quantile(0.5)),
            Cell::duration(connect.quantile(0.99)),
            Cell::duration(queue.quantile(0.99)),
            Cell::words(&now.algorithm),
            Cell::words(now.serving.words()),
        ]
    }

    /// Returns a row for each backend of all upstreams.
    pub(super) fn backends(&self) -> Grid {
        let mut grid = Grid::new(self.titles([
            ("backend", "backend"),
            ("state", "state"),
            ("open", "open"),
            ("max", "max"),
            ("limit", "limit"),
            ("sessions", "sessions/s"),
            ("failures", "failures/s"),
            ("broken", "broken/s"),
            ("connect", "connect"),
            ("to backend", "to backend/s"),
            ("to client", "to client/s"),
            ("last check", "last check"),
            ("weight", "weight"),
            ("addresses", "addresses"),
        ]));
        for upstream in &self.now.upstreams {
            let earlier = self.before.as_ref().and_then(|status| named(&status.upstreams, &upstream.name));
            for now in &upstream.backends {
                let before = earlier.and_then(|upstream| named(&upstream.backends, &now.name));
                grid.push(self.backend(&upstream.name, now, before));
            }
        }
        grid
    }

    fn backend(&self, upstream: &str, now: &BackendStatus, before: Option<&BackendStatus>) -> Vec<Cell> {
        let (totals, earlier) = (&now.totals, before.map(|before| &before.totals));
        let failures =
            self.count(now.connect_failures_sum(), before.map(BackendStatus::connect_failures_sum));
        let connects = totals.connects - earlier.map_or(0, |earlier| earlier.connects.min(totals.connects));
        let micros =
            totals.connect_micros.saturating_sub(earlier.map_or(0, |earlier| earlier.connect_micros));
        let limit = now.max_connections;
        let weight = if now.backup { format!("{}, backup", now.weight) } else { now.weight.to_string() };
        vec![
            Cell::words(format!("{upstream}/{}", now.name)),
            Cell::words(now.state()).toned(tone_of_state(now.state())),
            Cell::count(now.in_flight.into()),
            Cell::count(now.in_flight_max.into()),
            limit.map_or_else(|| Cell::number(0.0, "-".to_owned()), |limit| Cell::count(limit.into())),
            self.count(totals.sessions, earlier.map(|earlier| earlier.sessions)),
            failures.if_any(Tone::Bad),
            self.count(totals.broken, earlier.map(|earlier| earlier.broken)).if_any(Tone::Bad),
            Cell::duration(micros.checked_div(connects).map(Duration::from_micros)),
            self.bytes(totals.bytes_to_backend, earlier.map(|earlier| earlier.bytes_to_backend)),
            self.bytes(totals.bytes_to_client, earlier.map(|earlier| earlier.bytes_to_client)),
            last_check(now),
            Cell::number(now.weight.into(), weight),
            Cell::words(now.addresses.join(" ")),
        ]
    }

    /// Returns a row for each core.
    pub(super) fn cores(&self) -> Grid {
        let mut grid = Grid::new(self.titles([
            ("core", "core"),
            ("busy", "busy"),
            ("open", "open"),
            ("sessions", "sessions/s"),
            ("turns", "turns/s"),
            ("completions", "completions/s"),
            ("slow turns", "slow turns/s"),
            ("handed off", "handed off/s"),
            ("received", "received/s"),
        ]));
        for (index, now) in self.now.shards.iter().enumerate() {
            let before = self.before.as_ref().and_then(|status| status.shards.get(index));
            grid.push(self.core(now, before.filter(|before| before.cpu == now.cpu)));
        }
        grid
    }

    fn core(&self, now: &ShardStatus, before: Option<&ShardStatus>) -> Vec<Cell> {
        let count = |of: fn(&ShardStatus) -> u64| self.count(of(now), before.map(of));
        let busy = f64::from(now.core.busy) / 10.0;
        let tone = if busy >= 90.0 { Tone::Doubtful } else { Tone::Plain };
        vec![
            Cell::words(now.cpu.to_string()),
            Cell::number(busy, format!("{busy:.0} %")).toned(tone),
            Cell::count(now.core.active.into()),
            count(|shard| shard.core.sessions),
            count(|shard| shard.turns.turns),
            count(|shard| shard.turns.completions),
            count(|shard| shard.turns.slow_turns).if_any(Tone::Bad),
            count(|shard| shard.core.handed_off),
            count(|shard| shard.core.received),
        ]
    }

    fn titles<const COUNT: usize>(&self, titles: [(&'static str, &'static str); COUNT]) -> Vec<&'static str> {
        let pick = |(total, rate)| if self.before.is_some() { rate } else { total };
        titles.map(pick).to_vec()
    }

    /// Returns a cell with the rate of a counter, or with its total where there is no earlier reading at all. What has
    /// appeared since the earlier reading began at zero.
    fn count(&self, now: u64, before: Option<u64>) -> Cell {
        if !self.has_rates() {
            return Cell::count(now);
        }
        let rate = self.per_second(now, before.unwrap_or(0));
        Cell::number(rate, units::rate(rate))
    }

    fn bytes(&self, now: u64, before: Option<u64>) -> Cell {
        let bytes = match self.has_rates() {
            true => self.per_second(now, before.unwrap_or(0)),
            false => now as f64,
        };
        Cell::number(bytes, units::bytes(bytes))
    }

    fn per_second(&self, now: u64, before: u64) -> f64 {
        let elapsed = self.before.as_ref().map_or(self.now.uptime, |before| self.now.uptime - before.uptime);
        now.saturating_sub(before) as f64 / elapsed.as_secs_f64().max(f64::EPSILON)
    }
}

/// Returns a row for each session; the first cell is its number.
pub(super) fn sessions(sessions: &[SessionStatus]) -> Grid {
    let mut grid = Grid::new([
        "session",
        "client",
        "listener",
        "backend",
        "state",
        "age",
        "to backend",
        "to client",
        "to backend/s",
        "to client/s",
        "core",
    ]);
    let bytes = |bytes: f64| Cell::number(bytes, units::bytes(bytes));
    for session in sessions {
        let backend = session.backend.as_deref().unwrap_or("-");
        let state = serde_json::to_value(session.state).ok();
        grid.push(vec![
            Cell::number(session.id as f64, session.id.to_string()),
            Cell::words(&session.client),
            Cell::words(&session.listener),
            Cell::words(format!("{}/{backend}", session.upstream)),
            Cell::words(state.as_ref().and_then(|state| state.as_str()).unwrap_or("-")),
            Cell::number(session.age_seconds, units::span(seconds(session.age_seconds))),
            bytes(session.to_backend_bytes as f64),
            bytes(session.to_client_bytes as f64),
            bytes(session.to_backend_bytes_per_second),
            bytes(session.to_client_bytes_per_second),
            Cell::number(session.core as f64, session.core.to_string()),
        ]);
    }
    grid
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// Returns the tone of a state word.
pub(super) fn tone_of_state(state: &str) -> Tone {
    match state {
        "up" => Tone::Good,
        "down" => Tone::Bad,
        _ => Tone::Doubtful,
    }
}

fn last_check(backend: &BackendStatus) -> Cell {
    let Some(checks) = &backend.checks else { return Cell::words("no checks") };
    let Some(last) = &checks.last else { return Cell::words("not yet") };
    let age = units::span(last.age);
    match last.ok {
        true => Cell::words(format!("ok in {}, {age} ago", units::duration(last.took))),
        false => Cell::words(format!("{}, {age} ago", last.message)).toned(Tone::Bad),
    }
}

/// Returns how many sessions ended for a reason that is worth a look, and the most frequent one of these reasons.
fn errors<const COUNT: usize>(
    now: &[u64; COUNT],
    before: Option<&[u64; COUNT]>,
) -> (u64, Option<&'static str>) {
    let counts = CloseReason::ALL.iter().map(|reason| {
        let index = reason.index();
        (*reason, now[index].saturating_sub(before.map_or(0, |before| before[index])))
    });
    let errors: Vec<_> = counts.filter(|(reason, count)| is_error(*reason) && *count > 0).collect();
    let most = errors.iter().max_by_key(|(_, count)| *count);
    (errors.iter().map(|(_, count)| count).sum(), most.map(|(reason, _)| reason.name()))
}

/// A session that ended because both sides, the client or an operator wanted it is no error.
fn is_error(reason: CloseReason) -> bool {
    let wanted = ["normal", "client_left", "client_reset", "answer_cut", "primary_up", "killed", "shutdown"];
    !wanted.contains(&reason.name())
}

fn since(now: &Histogram<u64>, before: Option<&Histogram<u64>>) -> Histogram<u64> {
    before.map_or_else(|| now.clone(), |before| now.since(before))
}

/// What is found again in the earlier reading by its name.
trait Named {
    fn name(&self) -> &str;
}

impl Named for ListenerStatus {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for UpstreamStatus {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for BackendStatus {
    fn name(&self) -> &str {
        &self.name
    }
}

fn named<'a, T: Named>(all: &'a [T], name: &str) -> Option<&'a T> {
    all.iter().find(|one| one.name() == name)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, status, two_readings};
    use super::*;
    use crate::config::AdminState;

    /// Returns the text of a cell by the name of its row and the title of its column.
    fn text<'a>(grid: &'a Grid, row: &str, title: &str) -> &'a str {
        let column = grid.titles.iter().position(|known| *known == title);
        let column = column.unwrap_or_else(|| panic!("{title} is none of {:?}", grid.titles));
        let row = grid.rows.iter().find(|cells| cells[0].text == row);
        &row.unwrap_or_else(|| panic!("{:?}", grid.rows))[column].text
    }

    #[test]
    fn first_reading_has_totals() {
        let readings = Readings::first(status(2));
        assert_eq!(readings.sessions_per_second(), None);
        assert_eq!(text(&readings.listeners(), "web", "accepted"), "24,690");
        assert_eq!(text(&readings.listeners(), "web", "errors"), "50");
        assert_eq!(text(&readings.listeners(), "web", "to backends"), "100 MiB");
        assert_eq!(text(&readings.backends(), "app/b", "failures"), "7");
        assert_eq!(text(&readings.cores(), "1", "completions"), "1,000,000");
    }

    #[test]
    fn second_reading_has_rates_by_the_clock_of_the_process() {
        let readings = two_readings();
        assert_eq!(readings.sessions_per_second(), Some(12_345.0 / testing::BETWEEN as f64));
        let listeners = readings.listeners();
        assert_eq!(text(&listeners, "web", "accepts/s"), "1,235");
        assert_eq!(text(&listeners, "web", "denied/s"), "1.0");
        assert_eq!(text(&listeners, "web", "errors/s"), "2.5");
        assert_eq!(text(&listeners, "web", "most of them"), "no_backend");
        assert_eq!(text(&listeners, "web", "to backends/s"), "5 MiB");
        assert_eq!(text(&listeners, "web", "to clients/s"), "1 GiB");
        assert_eq!(text(&listeners, "web", "p50"), "75 ms");
        let backends = readings.backends();
        assert_eq!(text(&backends, "app/a", "sessions/s"), "100");
        assert_eq!(text(&backends, "app/a", "connect"), "250 us");
        assert_eq!(text(&backends, "app/b", "connect"), "-");
        assert_eq!(text(&backends, "app/b", "failures/s"), "0");
        assert_eq!(text(&readings.upstreams(), "app", "retries/s"), "3.0");
        assert_eq!(text(&readings.cores(), "0", "turns/s"), "10,000");
        assert_eq!(text(&readings.cores(), "0", "slow turns/s"), "0.1");
    }

    #[test]
    fn states_are_words_and_checks_say_what_they_found() {
        let backends = two_readings().backends();
        let states = ["app/a", "app/b", "app/c"].map(|name| text(&backends, name, "state").to_owned());
        assert_eq!(states, ["up", "down", "ejected"]);
        assert_eq!(text(&backends, "app/a", "last check"), "ok in 850 us, 2.5 s ago");
        assert_eq!(text(&backends, "app/b", "last check"), "Connection refused, 2.5 s ago");
        assert_eq!(text(&two_readings().upstreams(), "app", "eligible"), "1 of 3");
    }

    #[test]
    fn what_operators_want_of_a_backend_is_its_state_whatever_the_checks_say() {
        let mut status = testing::status(1);
        let [a, b, c] = &mut status.upstreams[0].backends[..] else { panic!("three backends") };
        (a.admin_state, b.admin_state) = (AdminState::Drain, AdminState::Maint);
        assert_eq!([a.state(), b.state(), c.state()], ["drain", "maint", "ejected"]);
        assert!([a, b, c].iter().all(|backend| BackendStatus::STATES.contains(&backend.state())));
        let readings = Readings::first(status);
        assert_eq!(text(&readings.backends(), "app/a", "state"), "drain");
        assert_eq!(text(&readings.upstreams(), "app", "eligible"), "0 of 3");
    }

    #[test]
    fn another_process_begins_anew() {
        let mut other = status(3);
        other.pid += 1;
        assert!(!two_readings().next(other).has_rates());
        assert!(!two_readings().next(status(1)).has_rates(), "an earlier clock is that of another process");
        assert!(two_readings().next(status(3)).has_rates());
    }

    #[test]
    fn what_appears_later_began_at_zero() {
        let mut before = status(1);
        before.listeners.clear();
        before.upstreams[0].backends.clear();
        before.shards.clear();
        let readings = Readings::first(before).next(status(2));
        assert_eq!(text(&readings.listeners(), "web", "accepts/s"), "2,469");
        assert_eq!(text(&readings.backends(), "app/a", "sessions/s"), "200");
        assert_eq!(text(&readings.cores(), "0", "sessions/s"), "1,200");
    }

    #[test]
    fn counters_that_fall_are_no_panic() {
        let mut after = status(2);
        after.listeners[0].totals = Default::default();
        after.upstreams[0].backends[0].totals = Default::default();
        let readings = Readings::first(status(1)).next(after);
        assert_eq!(text(&readings.listeners(), "web", "accepts/s"), "0");
        assert_eq!(text(&readings.backends(), "app/a", "connect"), "-");
    }

    #[test]
    fn header_says_what_the_process_is() {
        let words: Vec<_> = two_readings().header().into_iter().map(|cell| cell.text).collect();
        let expected =
            "ringway 1.2.3|pid 4711|up 20.0 s|running|generation 1|42 of 65,000 sessions|3 log records lost";
        assert_eq!(words.join("|"), expected);
    }

    #[test]
    fn sessions_are_told_apart_by_their_number() {
        let grid = super::sessions(&testing::sessions().sessions);
        assert_eq!(text(&grid, "2", "client"), "192.0.2.2:5000");
        assert_eq!(text(&grid, "2", "age"), "2 min 30 s");
        assert_eq!((text(&grid, "2", "backend"), text(&grid, "3", "backend")), ("app/a", "app/-"));
        assert_eq!(text(&grid, "3", "state"), "queued");
    }
}
