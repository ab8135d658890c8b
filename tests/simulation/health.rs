//! The health thread as `src/health/` leads it, a message or a timer at a time, and what must hold of its verdicts.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringway::rules::config::{HealthCheck, Outlier, Upstream};
use ringway::rules::upstream::{
    Address, BackendState, Cause, Event, Failures, Health, HealthRules, Return, Spared, UpstreamStates,
    Verdict, Verdicts,
};
use ringway::words::{BackendId, limits};

use super::shadow::{Serving, Streaks, is_eligible, who_serves};
use super::trace::{count, note};
use super::world::World;

type Reports = Arc<Mutex<VecDeque<BackendId>>>;

pub struct HealthThread {
    upstream: Upstream,
    pub verdicts: Verdicts,
    rules: Option<Vec<HealthRules>>,
    addresses: Vec<Arc<[Address]>>,
    pub failures: Option<Arc<Failures>>,
    reports: Reports,
    pub version: u64,
    is_changed: bool,
    // Shadows.
    pub streaks: Option<Streaks>,
    histories: Vec<History>,
    panics: bool,
}

/// What happened to a backend.
#[derive(Clone)]
struct History {
    /// What the last checks in a row said, and how many they are.
    run: Option<(Verdict, u32)>,
    health: Health,
    /// End of the ejection.
    until: Option<Duration>,
    eligible_since: Option<Duration>,
}

impl HealthThread {
    pub fn new(upstream: &Upstream) -> Self {
        let backends = upstream.backends.len();
        let reports = Reports::default();
        let threshold = upstream.outlier.as_ref().map(|rules| rules.consecutive_failures);
        let failures = threshold.map(|threshold| {
            let reports = Arc::clone(&reports);
            let report = move |backend| reports.lock().expect("no panic under it").push_back(backend);
            Failures::new(threshold, backends, Box::new(report))
        });
        let rules = |check: &HealthCheck| (0..backends).map(|_| HealthRules::new(check)).collect();
        let history = History { run: None, health: Health::Checking, until: None, eligible_since: None };
        Self {
            verdicts: Verdicts::new(upstream),
            rules: upstream.healthcheck.as_ref().map(rules),
            addresses: vec![Arc::from([]); backends],
            failures,
            reports,
            version: 0,
            is_changed: true,
            streaks: threshold.map(|threshold| Streaks::new(threshold, backends)),
            histories: vec![history; backends],
            panics: false,
            upstream: upstream.clone(),
        }
    }

    pub fn reports_on_their_way(&self) -> usize {
        self.reports.lock().expect("no panic under it").len()
    }

    /// When there is something to do next, milliseconds.
    pub fn next_due(&self) -> Option<u64> {
        self.verdicts.next_due().map(|due| due.as_nanos().div_ceil(1_000_000) as u64)
    }

    /// Changes the verdicts, and checks what comes of it. `reported` failed too often.
    fn update(
        &mut self,
        now: u64,
        reported: Option<BackendId>,
        change: impl FnOnce(&mut Verdicts, Duration) -> Vec<Event>,
    ) {
        let at = Duration::from_millis(now);
        let before = self.verdicts.states().to_vec();
        let expected = reported.map(|backend| self.judge(backend, &before));
        let events = change(&mut self.verdicts, at);
        let judged = events.iter().any(|event| matches!(event, Event::Ejected(..) | Event::Spared(..)));
        assert_eq!(judged, reported.is_some() && self.upstream.outlier.is_some(), "{events:?}");
        for event in &events {
            note(now, format_args!("{event:?}"));
            self.follow(*event, reported, expected, at);
        }
        let states = self.verdicts.states().to_vec();
        self.is_changed |= states != before;
        self.check_early(&events, &states);
        self.check_ejections(&states, at);
        self.check_ramps(&before, &states, at);
        let serving = who_serves(&self.upstream, &states).0;
        assert_eq!(self.panics, serving == Serving::Panic, "what was said of panic");
        assert!(self.verdicts.next_due().is_none_or(|due| due > at), "what is due is done");
    }

    /// What is to become of a backend that failed too often.
    fn judge(&self, backend: BackendId, states: &[BackendState]) -> Result<(), Spared> {
        let Some(rules) = &self.upstream.outlier else { return Ok(()) };
        if !self.is_up(states, backend.index()) || states[backend.index()].ejected {
            return Err(Spared::Out);
        }
        let backup = self.upstream.backends[backend.index()].backup;
        if self.ejected(states, backup) >= self.most_ejected(rules, backup) {
            return Err(Spared::MaxEjected);
        }
        let is_left =
            |other: usize| other != backend.index() && self.is_up(states, other) && !states[other].ejected;
        if (0..states.len()).any(is_left) { Ok(()) } else { Err(Spared::LastEligible) }
    }

    fn is_up(&self, states: &[BackendState], index: usize) -> bool {
        let state = &states[index];
        state.health == Health::Up && !state.addresses.is_empty() && self.upstream.backends[index].weight > 0
    }

    fn ejected(&self, states: &[BackendState], backup: bool) -> usize {
        let of_it =
            states.iter().zip(&self.upstream.backends).filter(|(_, backend)| backend.backup == backup);
        of_it.filter(|(state, _)| state.ejected).count()
    }

    fn most_ejected(&self, rules: &Outlier, backup: bool) -> usize {
        let counts =
            self.upstream.backends.iter().filter(|backend| backend.backup == backup && backend.weight > 0);
        counts.count() * rules.max_ejected as usize / 100
    }

    /// Takes an event, as `src/health/passive.rs` does, and checks that there was reason for it.
    fn follow(
        &mut self,
        event: Event,
        reported: Option<BackendId>,
        expected: Option<Result<(), Spared>>,
        now: Duration,
    ) {
        match event {
            Event::Ejected(backend, length) => {
                assert_eq!((Some(backend), Some(Ok(()))), (reported, expected), "who is ejected");
                let first =
                    self.upstream.outlier.as_ref().map_or(Duration::ZERO, |rules| rules.ejection_time);
                assert!(first <= length && length <= first * limits::EJECTION_GROWTH, "out for {length:?}");
                self.histories[backend.index()].until = Some(now + length);
                count("ejected");
            }
            Event::Spared(backend, spared) => {
                assert_eq!((Some(backend), Some(Err(spared))), (reported, expected), "who is spared");
                count("spared");
            }
            Event::Returned(Return { backend, cause }) => {
                let until = self.histories[backend.index()].until.take().expect("who is back was ejected");
                count(match cause {
                    Cause::Time => "returned",
                    Cause::NobodyElse => "returned early",
                    Cause::Checks => "returned by checks",
                });
                // Whoever is back by the checks may have been due at the same moment.
                let fits = cause == Cause::Checks || (cause == Cause::Time) == (until <= now);
                assert!(fits, "the time of {backend:?} is over, or not");
                if let (Some(failures), Some(streaks)) = (&self.failures, &mut self.streaks) {
                    failures.clear(backend);
                    streaks.clear(backend);
                }
            }
            Event::PanicBegins | Event::PanicEnds => {
                let begins = event == Event::PanicBegins;
                assert_ne!(
                    std::mem::replace(&mut self.panics, begins),
                    begins,
                    "panic ends before it begins"
                );
            }
        }
    }

    /// Ejections end before their time only for all that are up, when nobody else is.
    fn check_early(&self, events: &[Event], states: &[BackendState]) {
        let early = |event: &Event| match event {
            Event::Returned(Return { backend, cause: Cause::NobodyElse }) => Some(backend.index()),
            _ => None,
        };
        let early: Vec<_> = events.iter().filter_map(early).collect();
        let up: Vec<_> = (0..states.len()).filter(|index| self.is_up(states, *index)).collect();
        assert!(early.is_empty() || early == up, "{early:?} are back early, {up:?} are up");
    }

    fn check_ejections(&self, states: &[BackendState], now: Duration) {
        for (index, (state, history)) in states.iter().zip(&self.histories).enumerate() {
            assert_eq!(state.ejected, history.until.is_some(), "whether backend {index} is ejected");
            assert!(history.until.is_none_or(|until| until > now), "backend {index} is ejected for too long");
        }
        let Some(rules) = &self.upstream.outlier else { return };
        for backup in [false, true] {
            let (ejected, most) = (self.ejected(states, backup), self.most_ejected(rules, backup));
            assert!(ejected <= most, "{ejected} are ejected, of {most}");
        }
        let up: Vec<_> = (0..states.len()).filter(|index| self.is_up(states, *index)).collect();
        assert!(
            up.is_empty() || up.iter().any(|index| !states[*index].ejected),
            "all that are up are ejected"
        );
    }

    fn check_ramps(&mut self, before: &[BackendState], states: &[BackendState], now: Duration) {
        for (index, (before, state)) in before.iter().zip(states).enumerate() {
            let (was, is) = (is_eligible(before), is_eligible(state));
            let history = &mut self.histories[index];
            if is != was {
                history.eligible_since = is.then_some(now);
            }
            let ramp = state.ramp;
            assert!((1..=limits::RAMP_STEPS).contains(&ramp), "backend {index} has {ramp} parts");
            let is_full = ramp == limits::RAMP_STEPS;
            match (self.upstream.slow_start, history.eligible_since) {
                (Some(duration), Some(since)) if is && was => {
                    assert!(ramp >= before.ramp, "the ramp of backend {index} falls");
                    assert!(is_full || now < since + duration, "the ramp of backend {index} is late");
                }
                (Some(_), _) if is => {
                    let is_first = before.health == Health::Checking;
                    count(if is_first { "first verdict" } else { "ramp" });
                    assert_eq!(
                        ramp,
                        if is_first { limits::RAMP_STEPS } else { 1 },
                        "backend {index} is back"
                    );
                }
                _ => assert!(is_full, "backend {index} ramps for nothing"),
            }
        }
    }

    /// What the checks say, by the last ones in a row.
    fn observe(&mut self, backend: BackendId, verdict: Verdict) -> Option<Health> {
        let (Some(rules), Some(check)) = (&mut self.rules, &self.upstream.healthcheck) else { return None };
        let history = &mut self.histories[backend.index()];
        let run = match history.run {
            Some((last, count)) if last == verdict => count + 1,
            _ => 1,
        };
        history.run = Some((verdict, run));
        let (to, needed) = match verdict {
            Verdict::Success => (Health::Up, check.rise),
            Verdict::Failure => (Health::Down, check.fall),
        };
        if history.health == Health::Checking || run >= needed {
            history.health = to;
        }
        let transition = rules[backend.index()].observe(verdict);
        assert_eq!(rules[backend.index()].health(), history.health, "{backend:?} after {run} {verdict:?}");
        transition.map(|transition| transition.to)
    }
}

impl World {
    /// A check of a backend ends; mostly it tells the truth.
    pub fn check_backend(&mut self) {
        let backend = BackendId(self.rng.usize(..self.is_well.len()) as u16);
        let is_well = self.is_well[backend.index()] == (self.rng.u32(..10) > 0);
        if self.health.addresses[backend.index()].is_empty() {
            return;
        }
        let verdict = if is_well { Verdict::Success } else { Verdict::Failure };
        if let Some(health) = self.health.observe(backend, verdict) {
            note(self.now, format_args!("{backend:?} is {health:?}"));
            self.health.update(self.now, None, |verdicts, now| verdicts.set_health(backend, health, now));
        }
    }

    /// The health thread takes a report. Whether there was one.
    pub fn take_report(&mut self) -> bool {
        let report = self.health.reports.lock().expect("no panic under it").pop_front();
        let Some(backend) = report else { return false };
        note(self.now, format_args!("{backend:?} is reported"));
        if let (Some(failures), Some(streaks)) = (&self.health.failures, &mut self.health.streaks) {
            failures.take_report(backend);
            streaks.take_report(backend);
        }
        self.health.update(self.now, Some(backend), |verdicts, now| verdicts.report(backend, now));
        true
    }

    /// The timer of the health thread, late or in time. Whether something was due.
    pub fn health_timer(&mut self) -> bool {
        let is_due = self.health.next_due().is_some_and(|due| due <= self.now);
        if is_due {
            self.health.update(self.now, None, Verdicts::settle);
        }
        is_due
    }

    /// The newest states go out; each shard takes them when it comes to it. Whether there was something new.
    pub fn publish(&mut self) -> bool {
        if !std::mem::take(&mut self.health.is_changed) {
            return false;
        }
        self.health.version += 1;
        let upstreams = vec![self.health.verdicts.states().to_vec()];
        let states = Arc::new(UpstreamStates { version: self.health.version, upstreams });
        note(self.now, format_args!("states {} go out", states.version));
        self.shards.iter_mut().for_each(|shard| shard.states = Some(Arc::clone(&states)));
        true
    }

    /// The name of a backend is looked up, or some are.
    pub fn resolve(&mut self) {
        for index in 0..self.is_well.len() {
            if self.rng.u32(..3) == 0 {
                continue;
            }
            let port = self.rng.u16(1..=2);
            self.health.addresses[index] = Arc::from([Address::Tcp(([127, 0, 0, 1], port).into())]);
        }
        note(self.now, format_args!("names are resolved"));
        let addresses = self.health.addresses.clone();
        self.health.update(self.now, None, |verdicts, now| verdicts.set_addresses(&addresses, now));
    }
}
