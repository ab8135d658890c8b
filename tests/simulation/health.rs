//! The health thread as `src/health/` leads it, a message or a timer at a time, and what must hold of its
//! verdicts.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringway::base::{Address, BackendId, BackendKey, limits};
use ringway::config::{HealthCheck, Outlier, Upstream};
use ringway::health::rules::{
    Cause, Checked, EjectionEnd, Event, NotEjected, RiseFall, Transition, UpstreamHealth, Verdict,
};
use ringway::upstream::{
    BackendState, Failures, Fault, Health, OnReport, Reported, Resolved, Thresholds, UpstreamStates,
};

use super::shadow::{Serving, Streaks, is_eligible, order};
use super::trace::{count, note};
use super::world::World;

/// Half of the `fast_interval` that the plan leaves at its default.
const APART: Duration = Duration::from_secs(1);

type Reports = Arc<Mutex<VecDeque<(BackendId, Reported)>>>;

pub struct HealthThread {
    upstream: Upstream,
    pub verdicts: UpstreamHealth,
    rules: Option<Vec<RiseFall>>,
    addresses: Vec<Resolved>,
    /// Addresses that have left a name.
    departed: Vec<Vec<Address>>,
    pub failures: Option<Arc<Failures>>,
    reports: Reports,
    pub version: u64,
    is_changed: bool,
    // Shadows.
    pub streaks: Option<Streaks>,
    histories: Vec<History>,
    panics: bool,
    is_deserted: bool,
}

/// What happened to a backend.
#[derive(Clone)]
struct History {
    /// What the last consecutive checks said, and how many they are.
    run: Option<(Verdict, u32)>,
    health: Health,
    /// The moment from which a check that begins counts, the end of the ejection, and the consecutive checks
    /// that passed.
    ejection: Option<(Duration, Duration, u32)>,
    /// Whether it was eligible when it last had a verdict.
    was_eligible: Option<bool>,
    ramps_since: Option<Duration>,
}

impl HealthThread {
    /// Where shards report failures.
    pub fn on_report(&self) -> OnReport {
        let reports = Arc::clone(&self.reports);
        Arc::new(move |key: BackendKey, reported| {
            reports.lock().expect("no panic under it").push_back((key.backend, reported));
        })
    }

    pub fn new(upstream: &Upstream) -> Self {
        let backends = upstream.backends.len();
        let reports = Reports::default();
        let thresholds = Thresholds::of(upstream);
        let is_told = upstream.outlier.is_some() || upstream.healthcheck.is_some();
        let rules = |check: &HealthCheck| (0..backends).map(|_| RiseFall::new(check)).collect();
        let history = History {
            run: None,
            health: Health::Checking,
            ejection: None,
            was_eligible: None,
            ramps_since: None,
        };
        Self {
            verdicts: UpstreamHealth::new(upstream),
            rules: upstream.healthcheck.as_ref().map(rules),
            addresses: vec![Resolved::default(); backends],
            departed: vec![Vec::new(); backends],
            failures: None,
            reports,
            version: 0,
            is_changed: true,
            streaks: is_told.then(|| Streaks::new(thresholds, backends)),
            histories: vec![history; backends],
            panics: false,
            is_deserted: false,
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
        change: impl FnOnce(&mut UpstreamHealth, Duration) -> Vec<Event>,
    ) {
        let at = Duration::from_millis(now);
        let before = self.verdicts.states().to_vec();
        let expected = reported.map(|backend| self.judge(backend, &before));
        let events = change(&mut self.verdicts, at);
        let judged = events.iter().any(|event| matches!(event, Event::Ejected(..) | Event::NotEjected(..)));
        assert_eq!(judged, reported.is_some() && self.upstream.outlier.is_some(), "{events:?}");
        for event in &events {
            note(now, format_args!("{event:?}"));
            self.follow(event.clone(), reported, expected, at);
        }
        let states = self.verdicts.states().to_vec();
        self.is_changed |= states != before;
        self.check_early(&events, &states);
        self.check_ejections(&states, at);
        self.check_ramps(&before, &states, at);
        let serving = order(&self.upstream, &states).0;
        assert_eq!(self.panics, serving == Serving::Panic, "what was said of panic");
        let takers = states.iter().zip(&self.upstream.backends).filter(|(_, backend)| backend.weight > 0);
        let is_awaited = takers.into_iter().any(|(state, _)| state.awaited);
        assert_eq!(
            self.is_deserted,
            serving == Serving::Nobody && !is_awaited,
            "what was said of a deserted upstream"
        );
        assert!(self.verdicts.next_due().is_none_or(|due| due > at), "what is due is done");
    }

    /// What is to become of a backend that failed too often.
    fn judge(&self, backend: BackendId, states: &[BackendState]) -> Result<(), NotEjected> {
        let Some(rules) = &self.upstream.outlier else { return Ok(()) };
        if !self.is_up(states, backend.index()) || states[backend.index()].ejected {
            return Err(NotEjected::Out);
        }
        let backup = self.upstream.backends[backend.index()].backup;
        let is_left = |other: &usize| {
            *other != backend.index() && self.is_up(states, *other) && !states[*other].ejected
        };
        let left: Vec<_> = (0..states.len()).filter(is_left).collect();
        let only_backups = !left.is_empty() && left.iter().all(|other| self.upstream.backends[*other].backup);
        let is_last = !backup && only_backups;
        if self.ejected(states, backup) >= self.most_ejected(rules, backup) && !is_last {
            return Err(NotEjected::MaxEjected);
        }
        if left.is_empty() { Err(NotEjected::LastEligible) } else { Ok(()) }
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

    /// Takes an event, as `src/health/events.rs` does, and checks that there was reason for it.
    fn follow(
        &mut self,
        event: Event,
        reported: Option<BackendId>,
        expected: Option<Result<(), NotEjected>>,
        now: Duration,
    ) {
        match event {
            Event::Ejected(backend, length, _) => {
                assert_eq!((Some(backend), Some(Ok(()))), (reported, expected), "who is ejected");
                let first =
                    self.upstream.outlier.as_ref().map_or(Duration::ZERO, |rules| rules.ejection_time);
                assert!(
                    first <= length && length <= first * limits::EJECTION_GROWTH_MAX,
                    "out for {length:?}"
                );
                self.histories[backend.index()].ejection = Some((now, now + length, 0));
                count("ejected");
            }
            Event::NotEjected(backend, spared) => {
                assert_eq!((Some(backend), Some(Err(spared))), (reported, expected), "who is spared");
                count("spared");
            }
            Event::Returned(EjectionEnd { backend, cause }) => {
                let ejection = self.histories[backend.index()].ejection.take();
                let (_, until, passed) = ejection.expect("who is back was ejected");
                count(match cause {
                    Cause::Time => "returned",
                    Cause::NobodyElse => "returned early",
                    Cause::Checks => "returned by checks",
                    Cause::Moved => "returned elsewhere",
                });
                let rise = self.upstream.healthcheck.as_ref().map(|check| check.rise);
                // A backend that is back by the checks, or elsewhere, may have been due at the same moment.
                let fits = match cause {
                    Cause::Time => until <= now,
                    Cause::NobodyElse => until > now,
                    Cause::Checks => Some(passed) == rise,
                    Cause::Moved => true,
                };
                assert!(fits, "why {backend:?} is back: {cause:?}, {passed} checks passed");
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
            Event::Judged(backend, transition, _) => {
                assert_eq!(transition.to, self.histories[backend.index()].health, "what the checks say");
            }
            Event::CheckFailed(..) | Event::DepartedDown(..) => {}
            Event::CheckRepeated(_) | Event::CannotCheck(..) => unreachable!("of the checks alone"),
            Event::Deserted | Event::Served => {
                let begins = event == Event::Deserted;
                count(if begins { "deserted" } else { "served again" });
                assert_ne!(std::mem::replace(&mut self.is_deserted, begins), begins, "it is said twice");
            }
        }
    }

    /// Ejections end before their time only for all that are up, when no other is.
    fn check_early(&self, events: &[Event], states: &[BackendState]) {
        let early = |event: &Event| match event {
            Event::Returned(EjectionEnd { backend, cause: Cause::NobodyElse }) => Some(backend.index()),
            _ => None,
        };
        let early: Vec<_> = events.iter().filter_map(early).collect();
        let up: Vec<_> = (0..states.len()).filter(|index| self.is_up(states, *index)).collect();
        assert!(early.is_empty() || early == up, "{early:?} are back early, {up:?} are up");
    }

    fn check_ejections(&self, states: &[BackendState], now: Duration) {
        for (index, (state, history)) in states.iter().zip(&self.histories).enumerate() {
            assert_eq!(state.ejected, history.ejection.is_some(), "whether backend {index} is ejected");
            let is_over = history.ejection.is_some_and(|(_, until, _)| until <= now);
            assert!(!is_over, "backend {index} is ejected for too long");
        }
        let Some(rules) = &self.upstream.outlier else { return };
        for backup in [false, true] {
            let (ejected, most) = (self.ejected(states, backup), self.most_ejected(rules, backup));
            let has_backups = self.upstream.backends.iter().any(|backend| backend.backup);
            assert!(ejected <= most || !backup && has_backups, "{ejected} are ejected, of {most}");
        }
        let up: Vec<_> = (0..states.len()).filter(|index| self.is_up(states, *index)).collect();
        assert!(
            up.is_empty() || up.iter().any(|index| !states[*index].ejected),
            "all that are up are ejected"
        );
    }

    fn check_ramps(&mut self, before: &[BackendState], states: &[BackendState], now: Duration) {
        for (index, (before, state)) in before.iter().zip(states).enumerate() {
            let history = &mut self.histories[index];
            let ramp = state.ramp;
            assert!((1..=limits::RAMP_STEPS).contains(&ramp), "backend {index} has {ramp} parts");
            let is_full = ramp == limits::RAMP_STEPS;
            let Some(duration) = self.upstream.slow_start else {
                assert!(is_full, "backend {index} ramps for nothing");
                continue;
            };
            if state.health == Health::Checking {
                continue;
            }
            let was = history.was_eligible.replace(is_eligible(state));
            match (was, is_eligible(state)) {
                (_, false) => {
                    history.ramps_since = None;
                    assert!(is_full, "backend {index} ramps for nothing");
                }
                (None, true) => {
                    count("first verdict");
                    assert!(is_full, "backend {index} ramps at first");
                }
                (Some(false), true) => {
                    count("ramp");
                    history.ramps_since = Some(now);
                    assert_eq!(ramp, 1, "backend {index} is back");
                }
                (Some(true), true) => {
                    let is_late = history.ramps_since.is_none_or(|since| now >= since + duration);
                    assert!(ramp >= before.ramp, "the ramp of backend {index} falls");
                    assert!(is_full || !is_late, "the ramp of backend {index} is late");
                }
            }
        }
    }

    /// What the checks say, by the last consecutive ones.
    fn observe(&mut self, backend: BackendId, verdict: Verdict) -> Option<Transition> {
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
        transition
    }
}

impl World {
    /// A check of a backend ends; mostly it tells the truth.
    pub fn check_backend(&mut self) {
        let backend = BackendId(self.rng.usize(..self.is_well.len()) as u16);
        self.check_backend_now(backend);
    }

    fn check_backend_now(&mut self, backend: BackendId) {
        let is_well = self.is_well[backend.index()] == (self.rng.u32(..10) > 0);
        if self.health.addresses[backend.index()].addresses.is_empty() {
            return;
        }
        let verdict = if is_well { Verdict::Success } else { Verdict::Failure };
        if self.health.rules.is_none() {
            return;
        }
        // It took its time.
        let begun = Duration::from_millis(self.now.saturating_sub(self.rng.u64(..20)));
        if let Some((since, _, passed)) = &mut self.health.histories[backend.index()].ejection {
            match verdict {
                Verdict::Success if begun >= *since => {
                    *passed += 1;
                    *since = begun + APART;
                }
                Verdict::Success => {}
                Verdict::Failure => *passed = 0,
            }
        }
        let transition = self.health.observe(backend, verdict);
        let to = transition.map(|transition| transition.to);
        note(self.now, format_args!("{backend:?}: {verdict:?}, {to:?}"));
        let check = Checked { verdict, begun, transition, cause: "" };
        self.health.update(self.now, None, |verdicts, now| verdicts.checked(backend, &check, now));
    }

    /// The health thread takes a report. Whether there was one.
    pub fn take_report(&mut self) -> bool {
        let report = self.health.reports.lock().expect("no panic under it").pop_front();
        let Some((backend, reported)) = report else { return false };
        note(self.now, format_args!("{backend:?} is reported: {reported:?}"));
        if let (Some(failures), Some(streaks)) = (&self.health.failures, &mut self.health.streaks) {
            failures.take_report(backend, reported);
            streaks.take_report(backend, reported);
        }
        match reported {
            Reported::Suspect => self.check_backend_now(backend),
            Reported::TooMany(fault) => {
                count(if fault == Fault::Failure { "too many failures" } else { "too many empty answers" });
                self.health
                    .update(self.now, Some(backend), |verdicts, now| verdicts.report(backend, fault, now));
            }
        }
        true
    }

    /// The timer of the health thread, late or in time. Whether something was due.
    pub fn health_timer(&mut self) -> bool {
        let is_due = self.health.next_due().is_some_and(|due| due <= self.now);
        if is_due {
            self.health.update(self.now, None, UpstreamHealth::settle);
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
        let states = Arc::new(UpstreamStates { generation: 1, version: self.health.version, upstreams });
        note(self.now, format_args!("states {} go out", states.version));
        self.shards.iter_mut().for_each(|shard| shard.states = Some(Arc::clone(&states)));
        true
    }

    /// The name of a backend is looked up, or some are; mostly they lead where they did.
    pub fn resolve(&mut self) {
        for index in 0..self.is_well.len() {
            if self.rng.u32(..3) == 0 {
                continue;
            }
            let known = &mut self.health.addresses[index];
            if known.addresses.is_empty() && self.rng.u32(..4) == 0 {
                known.has_failed = true;
                continue;
            }
            let port = self.rng.u16(1..=2);
            let addresses: Arc<[Address]> = Arc::from([Address::Tcp(([127, 0, 0, 1], port).into())]);
            if known.addresses != addresses {
                self.health.departed[index].extend(known.addresses.iter().cloned());
                if !known.addresses.is_empty() {
                    count("moved");
                }
                let history = &mut self.health.histories[index];
                if let (Some(rules), Some(check)) =
                    (&mut self.health.rules, &self.health.upstream.healthcheck)
                {
                    rules[index] = RiseFall::new(check);
                    (history.run, history.health) = (None, Health::Checking);
                }
            }
            *known = Resolved { addresses, has_failed: false };
        }
        note(self.now, format_args!("names are resolved"));
        let addresses = self.health.addresses.clone();
        self.health.update(self.now, None, |verdicts, now| verdicts.set_addresses(&addresses, now));
        // A checker that watches an address that has left a name finds that it is dead.
        let index = self.rng.usize(..self.is_well.len());
        if self.health.rules.is_some()
            && let Some(address) = self.health.departed[index].pop()
        {
            note(self.now, format_args!("{address} is gone"));
            let backend = BackendId(index as u16);
            self.health.update(self.now, None, |verdicts, _| verdicts.gone(backend, &address, String::new()));
        }
    }
}
