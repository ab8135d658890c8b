//! The verdicts on the backends of one upstream: what the checks say, who is ejected, who ramps, and so who serves.
//!
//! The health thread has one for each upstream; what comes out of it is broadcast. Times are those since a moment that
//! stays the same.
//!
//! Invariant: after each change ejections, ramps and panic are settled, so no state goes out in which they lag behind.

use std::sync::Arc;
use std::time::Duration;

use super::outlier::{Outliers, Return, Spared};
use super::serving::{Serving, Share};
use super::slow_start::Ramps;
use super::state::{Address, BackendState, Health};
use crate::rules::config::Upstream;
use crate::words::BackendId;

/// The verdicts on one upstream.
#[derive(Debug)]
pub struct Verdicts {
    states: Vec<BackendState>,
    shares: Vec<Share>,
    /// Whether the backends are checked; else they are up once they have an address.
    checked: bool,
    panic_threshold: Option<u32>,
    outliers: Option<Outliers>,
    ramps: Option<Ramps>,
    serving: Serving,
}

/// What an operator wants to know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A backend is out for so long.
    Ejected(BackendId, Duration),
    /// One that failed too often is not ejected.
    Spared(BackendId, Spared),
    /// An ejection ended.
    Returned(Return),
    /// From now on checks and ejections are ignored.
    PanicBegins,
    /// From now on they are not.
    PanicEnds,
}

impl Verdicts {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(upstream: &Upstream) -> Self {
        let shares: Vec<Share> = upstream.backends.iter().map(Share::of).collect();
        Self {
            states: vec![BackendState::unknown(); shares.len()],
            checked: upstream.healthcheck.is_some(),
            panic_threshold: upstream.panic_threshold,
            outliers: upstream.outlier.as_ref().map(|rules| Outliers::new(rules, &shares)),
            ramps: upstream.slow_start.map(|duration| Ramps::new(duration, shares.len())),
            serving: Serving::Nobody,
            shares,
        }
    }

    /// The states now, in the order of the configuration.
    #[must_use]
    pub fn states(&self) -> &[BackendState] {
        &self.states
    }

    /// Takes what the checks say of a backend.
    pub fn set_health(&mut self, backend: BackendId, health: Health, now: Duration) -> Vec<Event> {
        let before = std::mem::replace(&mut self.states[backend.index()].health, health);
        let is_back = (before, health) == (Health::Down, Health::Up);
        let recovered =
            self.outliers.as_mut().filter(|_| is_back).and_then(|outliers| outliers.recover(backend, now));
        let mut events: Vec<_> = recovered.map(Event::Returned).into_iter().collect();
        events.extend(self.settle(now));
        events
    }

    /// Takes where the backends are.
    pub fn set_addresses(&mut self, addresses: &[Arc<[Address]>], now: Duration) -> Vec<Event> {
        assert_eq!(addresses.len(), self.states.len(), "addresses of the same configuration");
        for (state, addresses) in self.states.iter_mut().zip(addresses) {
            state.addresses = Arc::clone(addresses);
            if !self.checked && !addresses.is_empty() {
                state.health = Health::Up;
            }
        }
        self.settle(now)
    }

    /// Takes the report of a backend whose sessions failed too often.
    pub fn report(&mut self, backend: BackendId, now: Duration) -> Vec<Event> {
        let up = self.up();
        let Some(outliers) = &mut self.outliers else { return Vec::new() };
        let mut events = vec![match outliers.report(backend, &up, now) {
            Ok(length) => Event::Ejected(backend, length),
            Err(spared) => Event::Spared(backend, spared),
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
        if let Some(ramps) = &mut self.ramps {
            let decided =
                |state: &BackendState| (state.health != Health::Checking).then(|| state.is_eligible());
            ramps.observe(self.states.iter().map(decided), now);
            for (id, state) in (0..).map(BackendId).zip(&mut self.states) {
                state.ramp = ramps.part(id, now);
            }
        }
        let serving = Serving::of(&self.states, &self.shares, self.panic_threshold);
        let before = std::mem::replace(&mut self.serving, serving);
        if (before == Serving::Panic) != (serving == Serving::Panic) {
            events.push(if serving == Serving::Panic { Event::PanicBegins } else { Event::PanicEnds });
        }
        events
    }

    /// When there is something to [`settle`](Self::settle) next.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        let end = self.outliers.as_ref().and_then(Outliers::next_end);
        let step = self.ramps.as_ref().and_then(Ramps::next_step);
        [end, step].into_iter().flatten().min()
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

    /// Which backends could take sessions but for an ejection.
    fn up(&self) -> Vec<bool> {
        self.states.iter().zip(&self.shares).map(|(state, share)| state.is_up() && share.weight > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Cause;
    use super::*;
    use crate::rules::config;

    const A: BackendId = BackendId(0);
    const B: BackendId = BackendId(1);

    fn verdicts(keys: &str) -> Verdicts {
        let yaml = format!(
            "loadbalancer: {{listen_address: ':1'}}\n\
             backends: [{{address: 127.0.0.1, port: 2}}, {{address: 127.0.0.1, port: 3}}]\n{keys}\n"
        );
        let parsed = config::parse("test", yaml.as_bytes()).unwrap_or_else(|report| panic!("{report}"));
        let mut verdicts = Verdicts::new(&parsed.config.upstreams[0]);
        let address: Arc<[Address]> = Arc::from([Address::Tcp(([127, 0, 0, 1], 2).into())]);
        assert_eq!(verdicts.set_addresses(&[Arc::clone(&address), address], Duration::ZERO), []);
        verdicts
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn ejection_return_and_ramp_follow_each_other() {
        let mut verdicts = verdicts("healthcheck: off\noutlier: {}\nslow_start: 19s");
        assert!(verdicts.states().iter().all(|state| state.is_eligible() && state.ramp == 20));
        assert_eq!(verdicts.report(A, secs(1)), [Event::Ejected(A, secs(30))]);
        assert!(!verdicts.states()[0].is_eligible());
        assert_eq!(verdicts.count_primaries(), (1, 2));
        assert_eq!(verdicts.next_due(), Some(secs(31)));
        assert_eq!(verdicts.settle(secs(31)), [Event::Returned(Return { backend: A, cause: Cause::Time })]);
        assert_eq!((verdicts.states()[0].ramp, verdicts.states()[1].ramp), (1, 20));
        assert_eq!(verdicts.settle(secs(40)), []);
        assert_eq!(verdicts.states()[0].ramp, 10);
        assert_eq!(verdicts.settle(secs(50)), []);
        assert_eq!((verdicts.states()[0].ramp, verdicts.next_due()), (20, None));
    }

    #[test]
    fn an_ejection_ends_when_a_check_takes_the_other_one_down() {
        let mut verdicts = verdicts("outlier: {}\npanic_threshold: 100%");
        assert_eq!(verdicts.set_health(A, Health::Up, secs(0)), []);
        assert_eq!(verdicts.set_health(B, Health::Up, secs(0)), []);
        assert_eq!(verdicts.report(A, secs(1)), [Event::Ejected(A, secs(30)), Event::PanicBegins]);
        let events = verdicts.set_health(B, Health::Down, secs(2));
        assert_eq!(events, [Event::Returned(Return { backend: A, cause: Cause::NobodyElse })]);
        assert_eq!(verdicts.set_health(B, Health::Up, secs(3)), [Event::PanicEnds]);
    }

    #[test]
    fn an_ejection_ends_when_the_checks_find_the_backend_up_again() {
        let mut verdicts = verdicts("outlier: {}");
        for backend in [A, B] {
            assert_eq!(verdicts.set_health(backend, Health::Up, secs(0)), []);
        }
        assert_eq!(verdicts.report(A, secs(1)), [Event::Ejected(A, secs(30))]);
        assert_eq!(verdicts.set_health(A, Health::Down, secs(2)), []);
        let back = Event::Returned(Return { backend: A, cause: Cause::Checks });
        assert_eq!(verdicts.set_health(A, Health::Up, secs(3)), [back]);
        assert!(verdicts.states()[0].is_eligible());
    }

    #[test]
    fn nothing_happens_where_nothing_is_configured() {
        let mut verdicts = verdicts("healthcheck: {rise: 1}\noutlier: off");
        verdicts.set_health(A, Health::Down, secs(0));
        verdicts.set_health(A, Health::Up, secs(1));
        assert_eq!((verdicts.report(A, secs(2)), verdicts.next_due()), (vec![], None));
        assert_eq!(verdicts.states()[0].ramp, 20);
    }
}
