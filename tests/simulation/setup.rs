//! The random part of a run that stays the same in it: the configuration and the mix of events.

use std::fmt::{self, Write};

use fastrand::Rng;
use ringway::balance;
use ringway::base::BackendId;
use ringway::config::{self, Backend, Config, Upstream};

/// What happens. `world` says what each does.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    Arrive,
    Crowd,
    Storm,
    Turn,
    Mail,
    Poll,
    Clock,
    Answer,
    Relay,
    Pool,
    ClientLeaves,
    SessionPanics,
    BackendChanges,
    Check,
    Report,
    HealthTimer,
    Publish,
    Resolve,
    Settle,
}

/// Each event with its usual weight.
const EVENTS: [(Event, u32); 19] = [
    (Event::Arrive, 40),
    (Event::Crowd, 1),
    (Event::Storm, 1),
    (Event::Turn, 20),
    (Event::Mail, 40),
    (Event::Poll, 60),
    (Event::Clock, 20),
    (Event::Answer, 50),
    (Event::Relay, 60),
    (Event::Pool, 10),
    (Event::ClientLeaves, 8),
    (Event::SessionPanics, 2),
    (Event::BackendChanges, 4),
    (Event::Check, 40),
    (Event::Report, 10),
    (Event::HealthTimer, 10),
    (Event::Publish, 20),
    (Event::Resolve, 4),
    (Event::Settle, 2),
];

pub struct Plan {
    pub shards: usize,
    pub steps: u32,
    /// Sessions of the process.
    pub sessions: u32,
    /// How fast time goes; 0 where it mostly stands still.
    pub pace: u64,
    /// Whether there are pools.
    pub pools: bool,
    pub config: Config,
    yaml: String,
    weights: [u32; EVENTS.len()],
}

impl Plan {
    pub fn new(rng: &mut Rng) -> Self {
        let yaml = yaml(rng);
        let parsed = config::parse("simulation", yaml.as_bytes());
        let config = parsed.unwrap_or_else(|report| panic!("{report}\n{yaml}")).config;
        Self {
            shards: rng.usize(1..=4),
            steps: rng.u32(300..2_000),
            sessions: if rng.u32(..4) > 0 { 1_000 } else { rng.u32(2..60) },
            pace: [0, 20, 100, 1_000][rng.usize(..4)],
            pools: rng.u32(..3) == 0,
            config,
            yaml,
            weights: EVENTS.map(|(_, usual)| usual * [1, 3, 3, 9][rng.usize(..4)]),
        }
    }

    pub fn upstream(&self) -> &Upstream {
        &self.config.upstreams[0]
    }

    pub fn backends(&self) -> impl Iterator<Item = (BackendId, &Backend)> {
        (0..).map(BackendId).zip(&self.upstream().backends)
    }

    pub fn event(&self, rng: &mut Rng) -> Event {
        let mut left = rng.u32(..self.weights.iter().sum::<u32>());
        for ((event, _), weight) in EVENTS.iter().zip(self.weights) {
            match left.checked_sub(weight) {
                Some(rest) => left = rest,
                None => return *event,
            }
        }
        unreachable!("{left} is below the sum of the weights")
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} shards, {} sessions at most, pace {}", self.shards, self.sessions, self.pace)?;
        f.write_str(&self.yaml)
    }
}

/// A valid configuration with one upstream.
fn yaml(rng: &mut Rng) -> String {
    let names: Vec<_> = balance::names().collect();
    let algorithm = names[rng.usize(..names.len())];
    let ramps = balance::find(algorithm).is_some_and(|algorithm| algorithm.slow_start);
    let mut text = String::new();
    let mut line = |line: fmt::Arguments<'_>| writeln!(text, "{line}").expect("memory takes it");
    let pick = |rng: &mut Rng, choices: &[&'static str]| choices[rng.usize(..choices.len())];
    line(format_args!("listeners: [{{name: in, address: '127.0.0.1:1', upstream: out}}]"));
    line(format_args!("upstreams:\n- name: out\n  algorithm: {algorithm}\n  backends:"));
    let limited = rng.u32(0..=4);
    for index in 0..rng.u32(1..=6) {
        let weight = if index == 0 { 1 } else { [1, 1, 1, 2, 5, 0][rng.usize(..6)] };
        let limit = if rng.u32(..4) < limited { rng.u32(1..=3) } else { 0 };
        let backup = index > 0 && rng.u32(..4) == 0;
        line(format_args!(
            "  - {{name: b{index}, address: 127.0.0.1, port: {port}, weight: {weight}, \
             max_connections: {limit}, backup: {backup}}}",
            port = 1_000 + index,
        ));
    }
    let health = match rng.bool() {
        true => "off".to_owned(),
        false => format!("{{rise: {}, fall: {}}}", rng.u32(1..=3), rng.u32(1..=3)),
    };
    line(format_args!("  healthcheck: {health}"));
    if rng.u32(..3) > 0 {
        line(format_args!(
            "  outlier: {{consecutive_failures: {}, empty_answers: {}, ejection_time: {}, max_ejected: {}%}}",
            rng.u32(1..=4),
            pick(rng, &["off", "1", "3"]),
            pick(rng, &["100ms", "2s", "30s"]),
            pick(rng, &["10", "34", "50", "100"]),
        ));
    }
    line(format_args!("  panic_threshold: {}", pick(rng, &["off", "off", "20%", "50%", "100%"])));
    if ramps {
        line(format_args!("  slow_start: {}", pick(rng, &["off", "off", "1s", "20s"])));
    }
    line(format_args!("  on_down: {}", pick(rng, &["keep", "close"])));
    line(format_args!("  on_up: {}", pick(rng, &["keep", "close"])));
    line(format_args!("  retries: {}", rng.u32(0..=5)));
    line(format_args!("  retry_budget: {}", pick(rng, &["off", "1%", "20%", "100%"])));
    let queue = if rng.u32(..4) == 0 { 0 } else { rng.u32(1..=8) };
    line(format_args!("  queue: {{max: {queue}, timeout: {}}}", pick(rng, &["50ms", "1s", "5s"])));
    line(format_args!(
        "  timeouts: {{connect: {}, establish: {}}}",
        pick(rng, &["100ms", "2s"]),
        pick(rng, &["off", "3s", "10s"]),
    ));
    text
}
