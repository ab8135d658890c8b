//! The health of one upstream: what the checks say of its backends, which ones are ejected or ramp, and so
//! which ones serve.
//!
//! The health thread has one for each upstream; what comes out of it is broadcast. Times are those since a
//! moment that stays the same.
//!
//! Invariant: after each change ejections, ramps, panic and what is awaited are settled, so no state goes out
//! in which they lag behind.

use std::sync::Arc;
use std::time::Duration;

use super::outlier::{EjectionEnd, NotEjected, Outliers, Rise};
use super::rise_fall::{Transition, Verdict};
use super::slow_start::Ramps;
use crate::base::{Address, BackendId, limits};
use crate::config::Upstream;
use crate::upstream::{BackendState, Fault, Health, Order, Resolved, Serving, Share};

/// What is known of the backends of one upstream.
#[derive(Debug)]
pub struct UpstreamHealth {
    /// By number, as everything here: whether this generation has the backend.
    present: Vec<bool>,
    states: Vec<BackendState>,
    shares: Vec<Share>,
    /// What the resolver found, in its order.
    resolved: Vec<Arc<[Address]>>,
    /// Until when others wait for the first verdict on a backend.
    awaited_until: Vec<Duration>,
    /// How long a check may take; `None` where backends are not checked, and up once they have an address.
    timeout: Option<Duration>,
    panic_threshold: Option<u32>,
    outliers: Option<Outliers>,
    ramps: Option<Ramps>,
    serving: Serving,
    /// There is nobody to try, and it is said.
    is_deserted: bool,
}

/// What a check of a backend told.
#[derive(Clone, Copy, Debug)]
pub struct Checked<'a> {
    /// The result.
    pub verdict: Verdict,
    /// When the check began.
    pub begun: Duration,
    /// What becomes of the backend, if it is another thing from now on.
    pub transition: Option<Transition>,
    /// Why the check failed; empty where it succeeded.
    pub cause: &'a str,
}

/// What an operator wants to know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Checks have found a backend up or down; if down, the last one failed because of this.
    Judged(BackendId, Transition, String),
    /// A check failed because of this, and the backend stays what it is.
    CheckFailed(BackendId, String),
    /// A check is repeated, because this process was not running when its time ran out.
    CheckRepeated(BackendId),
    /// A check could not be made because of this.
    CannotCheck(BackendId, String),
    /// An address that has left the name of a backend is down because of this.
    DepartedDown(BackendId, Address, String),
    /// A backend is out for so long, for faults of this kind.
    Ejected(BackendId, Duration, Fault),
    /// One that failed too often is not ejected.
    NotEjected(BackendId, NotEjected),
    /// An ejection ended.
    Returned(EjectionEnd),
    /// From now on checks and ejections are ignored.
    PanicBegins,
    /// From now on they are not.
    PanicEnds,
    /// From now on there is nobody whom a session could be sent to.
    Deserted,
    /// From now on there is.
    Served,
}

impl UpstreamHealth {
    /// Nothing is known yet of the backends, whose numbers are their positions.
    #[must_use]
    pub fn new(upstream: &Upstream) -> Self {
        let numbers: Vec<_> = (0..).map(BackendId).take(upstream.backends.len()).collect();
        Self::of(upstream, &numbers, Duration::ZERO, None)
    }

    /// Judges the backends of a generation, which have these numbers, from `now` on. What is known of those that were
    /// in the generation before, `previous`, stays.
    #[must_use]
    pub fn of(upstream: &Upstream, numbers: &[BackendId], now: Duration, previous: Option<&Self>) -> Self {
        let given = numbers.iter().map(|number| number.index() + 1).max().unwrap_or(0);
        let mut shares = vec![Share::NONE; given];
        for (position, (number, backend)) in numbers.iter().zip(&upstream.backends).enumerate() {
            shares[number.index()] = Share::of(position, backend);
        }
        let check = upstream.healthcheck.as_ref();
        // The jitter may bring two checks nearer to each other.
        let rise = check
            .map(|check| Rise { checks: check.rise, apart: check.fast_interval.min(check.interval) / 2 });
        let mut health = Self {
            present: vec![false; given],
            states: vec![BackendState::absent(); given],
            resolved: vec![Arc::from([]); given],
            awaited_until: vec![now + limits::FIRST_LOOKUP_MAX; given],
            timeout: check.map(|check| check.timeout),
            panic_threshold: upstream.panic_threshold,
            outliers: upstream.outlier.as_ref().map(|rules| Outliers::new(rules, rise, &shares)),
            ramps: upstream.slow_start.map(|duration| Ramps::new(duration, given)),
            serving: previous.map_or(Serving::Nobody, |previous| previous.serving),
            is_deserted: previous.is_some_and(|previous| previous.is_deserted),
            shares,
        };
        for number in numbers {
            health.present[number.index()] = true;
            health.states[number.index()] = BackendState::unknown();
            if let Some(previous) = previous.filter(|previous| previous.has(*number)) {
                health.keep(*number, previous);
            }
        }
        health
    }

    /// Goes on with what is known of a backend from the generation before.
    fn keep(&mut self, backend: BackendId, previous: &Self) {
        let index = backend.index();
        let state = &mut self.states[index];
        *state = previous.states[index].clone();
        if self.timeout.is_none() && state.has_address() {
            state.health = Health::Up;
        }
        // Where the rules for them are gone, so are ejections and ramps.
        state.ejected &= self.outliers.is_some();
        if self.ramps.is_none() {
            state.ramp = limits::RAMP_STEPS;
        }
        self.resolved[index] = Arc::clone(&previous.resolved[index]);
        self.awaited_until[index] = previous.awaited_until[index];
        if let (Some(outliers), Some(previous)) = (&mut self.outliers, &previous.outliers) {
            outliers.keep(backend, previous);
        }
        if let (Some(ramps), Some(previous)) = (&mut self.ramps, &previous.ramps) {
            ramps.keep(backend, previous);
        }
    }

    /// Returns whether the generation has a backend with this number.
    #[must_use]
    pub fn has(&self, backend: BackendId) -> bool {
        self.present.get(backend.index()).copied().unwrap_or(false)
    }

    /// The states now, by number.
    #[must_use]
    pub fn states(&self) -> &[BackendState] {
        &self.states
    }

    /// The addresses of a backend as the resolver found them.
    #[must_use]
    pub fn resolved(&self, backend: BackendId) -> &Arc<[Address]> {
        &self.resolved[backend.index()]
    }

    /// Takes what a check told.
    pub fn checked(&mut self, backend: BackendId, check: &Checked<'_>, now: Duration) -> Vec<Event> {
        let Checked { verdict, begun, transition, cause } = *check;
        let passed = verdict == Verdict::Success;
        let back = self.outliers.as_mut().and_then(|outliers| outliers.checked(backend, passed, begun, now));
        let judged = match transition {
            Some(transition) => {
                self.states[backend.index()].health = transition.to;
                Some(Event::Judged(backend, transition, cause.to_owned()))
            }
            None => (!passed).then(|| Event::CheckFailed(backend, cause.to_owned())),
        };
        // The operator reads of the transition first, which explains what follows from it.
        let mut events: Vec<_> = judged.into_iter().chain(back.map(Event::Returned)).collect();
        events.extend(self.settle(now));
        events
    }

    /// Takes at which of its addresses a check found a backend well: sessions begin with that one.
    pub fn found_at(&mut self, backend: BackendId, address: &Address) {
        let state = &mut self.states[backend.index()];
        if state.addresses.first() != Some(address) && state.addresses.contains(address) {
            state.addresses = begin_with(address, &self.resolved[backend.index()]);
        }
    }

    /// Takes which address that has left the name of a backend is dead by its checks, and why.
    pub fn gone(&mut self, backend: BackendId, address: &Address, cause: String) -> Vec<Event> {
        let state = &mut self.states[backend.index()];
        if !state.addresses.contains(address) && !state.gone.contains(address) {
            let older = state.gone.len().saturating_sub(limits::ADDRESSES_PER_BACKEND_MAX - 1);
            state.gone = state.gone[older..].iter().chain([address]).cloned().collect();
        }
        vec![Event::DepartedDown(backend, address.clone(), cause)]
    }

    /// Takes where the backends are, by number; what is known of others is passed over. One whose address, of several
    /// the one last found well, is not among the new ones is judged afresh.
    pub fn set_addresses(&mut self, found: &[Resolved], now: Duration) -> Vec<Event> {
        let mut events = Vec::new();
        for (index, found) in found.iter().enumerate().take(self.states.len()) {
            if !self.present[index] {
                continue;
            }
            if found.has_failed && found.addresses.is_empty() {
                self.awaited_until[index] = self.awaited_until[index].min(now);
            }
            if found.addresses == self.resolved[index] {
                continue;
            }
            self.resolved[index] = Arc::clone(&found.addresses);
            let state = &mut self.states[index];
            state.gone = state.gone.iter().filter(|gone| !found.addresses.contains(gone)).cloned().collect();
            let first = state.addresses.first().filter(|first| found.addresses.contains(first)).cloned();
            let Some(first) = first else {
                let has_moved = state.has_address();
                state.addresses = Arc::clone(&found.addresses);
                if let Some(timeout) = self.timeout {
                    state.health = Health::Checking;
                    self.awaited_until[index] = now + timeout + limits::FIRST_CHECK_SPREAD_MAX;
                } else if state.has_address() {
                    state.health = Health::Up;
                }
                if let Some(outliers) = self.outliers.as_mut().filter(|_| has_moved) {
                    let id = BackendId(u16::try_from(index).expect("limits::BACKENDS_PER_UPSTREAM_MAX fits"));
                    events.extend(outliers.moved(id, now).map(Event::Returned));
                }
                continue;
            };
            state.addresses = begin_with(&first, &found.addresses);
        }
        events.extend(self.settle(now));
        events
    }

    /// Takes the report of a backend whose sessions suffered too often.
    pub fn report(&mut self, backend: BackendId, fault: Fault, now: Duration) -> Vec<Event> {
        let up = self.up();
        let Some(outliers) = &mut self.outliers else { return Vec::new() };
        let mut events = vec![match outliers.report(backend, &up, now) {
            Ok(length) => Event::Ejected(backend, length, fault),
            Err(spared) => Event::NotEjected(backend, spared),
        }];
        events.extend(self.settle(now));
        events
    }

    /// Does what time has made due, and what follows from the last change.
    pub fn settle(&mut self, now: Duration) -> Vec<Event> {
        let mut events = Vec::new();
        let up = self.up();
        if let Some(outliers) = &mut self.outliers {
            events.extend(outliers.settle(&up, now).into_iter().map(Event::Returned));
            for (id, state) in (0..).map(BackendId).zip(&mut self.states) {
                state.ejected = outliers.is_ejected(id);
            }
        }
        let known = self.states.iter_mut().zip(&self.awaited_until).zip(&self.present);
        for ((state, until), _) in known.filter(|(_, present)| **present) {
            state.awaited = state.health == Health::Checking && now < *until;
        }
        if let Some(ramps) = &mut self.ramps {
            let decided =
                |state: &BackendState| (state.health != Health::Checking).then(|| state.is_eligible());
            ramps.observe(self.states.iter().map(decided), now);
            for (id, state) in (0..).map(BackendId).zip(&mut self.states) {
                state.ramp = ramps.part(id, now);
            }
        }
        let serving = Order::of(&self.states, &self.shares, self.panic_threshold).serving;
        let before = std::mem::replace(&mut self.serving, serving);
        if (before == Serving::Panic) != (serving == Serving::Panic) {
            events.push(if serving == Serving::Panic { Event::PanicBegins } else { Event::PanicEnds });
        }
        let takes_sessions = |(_, share): &(&BackendState, &Share)| share.weight > 0;
        let mut takers = self.states.iter().zip(&self.shares).filter(takes_sessions);
        let is_deserted = serving == Serving::Nobody && !takers.any(|(state, _)| state.awaited);
        if std::mem::replace(&mut self.is_deserted, is_deserted) != is_deserted {
            events.push(if is_deserted { Event::Deserted } else { Event::Served });
        }
        events
    }

    /// When there is something to [`settle`](Self::settle) next.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        let end = self.outliers.as_ref().and_then(Outliers::next_end);
        let step = self.ramps.as_ref().and_then(Ramps::next_step);
        let awaited = self.states.iter().zip(&self.awaited_until).filter(|(state, _)| state.awaited);
        [end, step, awaited.map(|(_, until)| *until).min()].into_iter().flatten().min()
    }

    /// How many primaries are eligible, and how many there are; only those that take sessions count.
    #[must_use]
    pub fn count_primaries(&self) -> (usize, usize) {
        let primaries =
            self.states.iter().zip(&self.shares).filter(|(_, share)| !share.backup && share.weight > 0);
        primaries.fold((0, 0), |(eligible, all), (state, _)| {
            (eligible + usize::from(state.is_eligible()), all + 1)
        })
    }

    /// How many backends are up by their checks.
    #[must_use]
    pub fn count_up(&self) -> usize {
        self.states.iter().filter(|state| state.health == Health::Up).count()
    }

    /// Which backends could take sessions but for an ejection.
    fn up(&self) -> Vec<bool> {
        self.states.iter().zip(&self.shares).map(|(state, share)| state.is_up() && share.weight > 0).collect()
    }
}

/// These addresses in their order, but that one comes first.
fn begin_with(first: &Address, addresses: &[Address]) -> Arc<[Address]> {
    [first].into_iter().chain(addresses.iter().filter(|address| *address != first)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::super::Cause;
    use super::*;
    use crate::config;

    const A: BackendId = BackendId(0);
    const B: BackendId = BackendId(1);

    fn health_of(keys: &str) -> UpstreamHealth {
        let yaml = format!(
            "loadbalancer: {{listen_address: ':1'}}\n\
             backends: [{{address: 127.0.0.1, port: 2}}, {{address: 127.0.0.1, port: 3}}]\n{keys}\n"
        );
        let parsed = config::parse("test", yaml.as_bytes()).unwrap_or_else(|report| panic!("{report}"));
        let mut health = UpstreamHealth::new(&parsed.config.upstreams[0]);
        assert_eq!(health.set_addresses(&[at(&[2]), at(&[3])], Duration::ZERO), []);
        health
    }

    fn address(port: u16) -> Address {
        Address::Tcp(([127, 0, 0, 1], port).into())
    }

    fn at(ports: &[u16]) -> Resolved {
        Resolved { addresses: ports.iter().map(|port| address(*port)).collect(), has_failed: false }
    }

    /// A check that begins and ends at this moment; returns what follows beside its own event.
    fn check(health: &mut UpstreamHealth, backend: BackendId, to: Health, now: Duration) -> Vec<Event> {
        let verdict = if to == Health::Up { Verdict::Success } else { Verdict::Failure };
        let from = health.states()[backend.index()].health;
        let transition = (from != to).then_some(Transition { from, to, results: 1 });
        let check = Checked { verdict, begun: now, transition, cause: "why" };
        let mut events = health.checked(backend, &check, now);
        let own = match transition {
            Some(transition) => Some(Event::Judged(backend, transition, "why".to_owned())),
            None => (to == Health::Down).then(|| Event::CheckFailed(backend, "why".to_owned())),
        };
        if let Some(own) = own {
            assert_eq!(events.remove(0), own, "the operator reads of it first");
        }
        events
    }

    fn gone(health: &mut UpstreamHealth, port: u16) {
        let events = health.gone(A, &address(port), String::new());
        assert_eq!(events, [Event::DepartedDown(A, address(port), String::new())]);
    }

    const FAILURES: Fault = Fault::Failure;

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn ejection_return_and_ramp_follow_each_other() {
        let mut health = health_of("healthcheck: off\noutlier: {}\nslow_start: 19s");
        assert!(health.states().iter().all(|state| state.is_eligible() && state.ramp == 20));
        assert_eq!(health.report(A, FAILURES, secs(1)), [Event::Ejected(A, secs(30), FAILURES)]);
        assert!(!health.states()[0].is_eligible());
        assert_eq!(health.count_primaries(), (1, 2));
        assert_eq!(health.next_due(), Some(secs(31)));
        assert_eq!(
            health.settle(secs(31)),
            [Event::Returned(EjectionEnd { backend: A, cause: Cause::Time })]
        );
        assert_eq!((health.states()[0].ramp, health.states()[1].ramp), (1, 20));
        assert_eq!(health.settle(secs(40)), []);
        assert_eq!(health.states()[0].ramp, 10);
        assert_eq!(health.settle(secs(50)), []);
        assert_eq!((health.states()[0].ramp, health.next_due()), (20, None));
    }

    #[test]
    fn an_ejection_ends_when_a_check_takes_the_other_one_down() {
        let mut health = health_of("outlier: {}\npanic_threshold: 100%");
        assert_eq!(check(&mut health, A, Health::Up, secs(0)), []);
        assert_eq!(check(&mut health, B, Health::Up, secs(0)), []);
        assert_eq!(
            health.report(A, FAILURES, secs(1)),
            [Event::Ejected(A, secs(30), FAILURES), Event::PanicBegins]
        );
        let events = check(&mut health, B, Health::Down, secs(2));
        assert_eq!(events, [Event::Returned(EjectionEnd { backend: A, cause: Cause::NobodyElse })]);
        assert_eq!(check(&mut health, B, Health::Up, secs(3)), [Event::PanicEnds]);
    }

    #[test]
    fn an_ejection_ends_when_as_many_checks_have_passed_as_a_backend_needs_to_rise() {
        let mut health = health_of("outlier: {}");
        for backend in [A, B] {
            assert_eq!(check(&mut health, backend, Health::Up, secs(0)), []);
        }
        let back = Event::Returned(EjectionEnd { backend: A, cause: Cause::Checks });
        for checks in
            [&[Health::Up][..], &[Health::Down, Health::Up], &[Health::Up, Health::Down, Health::Up]]
        {
            assert_eq!(health.report(A, FAILURES, secs(1)), [Event::Ejected(A, secs(30), FAILURES)]);
            for (second, to) in (2..).zip(checks) {
                assert_eq!(check(&mut health, A, *to, secs(second)), []);
                assert!(!health.states()[0].is_eligible());
            }
            assert_eq!(check(&mut health, A, Health::Up, secs(9)), std::slice::from_ref(&back));
            assert!(health.states()[0].is_eligible());
            health.outliers.as_mut().expect("it is on").moved(A, secs(9));
        }
    }

    #[test]
    fn first_verdict_is_awaited_for_the_time_of_a_look_up_and_a_check() {
        let mut health = health_of("healthcheck: {timeout: 3s}");
        let awaited =
            |health: &UpstreamHealth| health.states().iter().map(|state| state.awaited).collect::<Vec<_>>();
        let until = secs(3) + limits::FIRST_CHECK_SPREAD_MAX;
        assert_eq!((awaited(&health), health.next_due()), (vec![true; 2], Some(until)));
        assert_eq!(check(&mut health, A, Health::Up, secs(1)), []);
        assert_eq!((awaited(&health), health.next_due()), (vec![false, true], Some(until)));
        assert_eq!(health.settle(until), []);
        assert_eq!((awaited(&health), health.next_due()), (vec![false; 2], None));
        assert!(!health.states()[1].is_eligible());
    }

    #[test]
    fn a_name_is_awaited_until_its_look_up_fails() {
        let parsed = config::parse(
            "test",
            b"loadbalancer: {listen_address: ':1'}\nbackends: [{address: a, port: 2}, {address: b, port: 3}]\n",
        );
        let mut health =
            UpstreamHealth::new(&parsed.unwrap_or_else(|report| panic!("{report}")).config.upstreams[0]);
        assert_eq!(health.settle(secs(0)), []);
        assert_eq!(health.next_due(), Some(limits::FIRST_LOOKUP_MAX));
        let failed = Resolved { has_failed: true, ..Resolved::default() };
        assert_eq!(health.set_addresses(&[at(&[2]), failed.clone()], secs(1)), []);
        assert_eq!([0, 1].map(|index| health.states()[index].awaited), [true, false]);
        assert_eq!(health.set_addresses(&[at(&[2]), failed], secs(2)), []);
        assert_eq!(check(&mut health, A, Health::Down, secs(2)), [Event::Deserted]);
        assert_eq!(check(&mut health, A, Health::Up, secs(3)), [Event::Served]);
    }

    #[test]
    fn sessions_begin_with_the_address_that_a_check_found_well() {
        let mut health = health_of("");
        health.set_addresses(&[at(&[2, 3, 4]), at(&[3])], secs(0));
        check(&mut health, A, Health::Up, secs(0));
        health.found_at(A, &address(4));
        assert_eq!(*health.states()[0].addresses, [address(4), address(2), address(3)]);
        health.found_at(A, &address(9));
        health.set_addresses(&[at(&[3, 2, 4, 5]), at(&[3])], secs(0));
        assert_eq!(*health.states()[0].addresses, [address(4), address(3), address(2), address(5)]);
        assert_eq!(health.states()[0].health, Health::Up, "the good one is still there");
    }

    #[test]
    fn a_backend_that_has_moved_is_judged_afresh() {
        let mut health = health_of("outlier: {}");
        for backend in [A, B] {
            check(&mut health, backend, Health::Up, secs(0));
        }
        health.report(A, FAILURES, secs(1));
        let back = Event::Returned(EjectionEnd { backend: A, cause: Cause::Moved });
        assert_eq!(health.set_addresses(&[at(&[8]), at(&[3])], secs(2)), [back]);
        let state = &health.states()[0];
        assert_eq!((state.health, state.awaited, state.ejected), (Health::Checking, true, false));
        assert_eq!(health.states()[1].health, Health::Up);
    }

    #[test]
    fn addresses_that_have_left_are_gone_until_they_are_back() {
        let mut health = health_of("");
        gone(&mut health, 2);
        assert_eq!(*health.states()[0].gone, [], "it has not left");
        health.set_addresses(&[at(&[8]), at(&[3])], secs(1));
        gone(&mut health, 2);
        gone(&mut health, 2);
        assert_eq!(*health.states()[0].gone, [address(2)]);
        health.set_addresses(&[at(&[8, 2]), at(&[3])], secs(2));
        assert_eq!(*health.states()[0].gone, []);
        (100..200).for_each(|port| gone(&mut health, port));
        let gone = &health.states()[0].gone;
        assert_eq!((gone.len(), gone.last()), (limits::ADDRESSES_PER_BACKEND_MAX, Some(&address(199))));
    }

    #[test]
    fn nothing_happens_where_nothing_is_configured() {
        let mut health = health_of("healthcheck: {rise: 1}\noutlier: off");
        check(&mut health, B, Health::Up, secs(0));
        check(&mut health, A, Health::Down, secs(0));
        check(&mut health, A, Health::Up, secs(1));
        assert_eq!((health.report(A, FAILURES, secs(2)), health.next_due()), (vec![], None));
        assert_eq!(health.states()[0].ramp, 20);
    }
}
