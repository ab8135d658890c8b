//! What the rules should do, said in another way: from the documentation, and by keeping everything.

use std::collections::{BTreeMap, VecDeque};

use ringway::admission::Ticket;
use ringway::balance::Tried;
use ringway::base::Address;
use ringway::base::{BackendId, CloseReason, limits};
use ringway::config::{OpenSessions, Upstream};
use ringway::upstream::{BackendState, Fault, Health, Reported, Thresholds};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    Nobody,
    Primaries,
    Unjudged,
    Backups,
    LastResort,
    Panic,
}

impl Serving {
    pub fn name(self) -> &'static str {
        match self {
            Self::Nobody => "Nobody",
            Self::Primaries => "Primaries",
            Self::Unjudged => "Unjudged",
            Self::LastResort => "LastResort",
            Self::Backups => "Backups",
            Self::Panic => "Panic",
        }
    }
}

/// What one shard knows of the backends.
pub struct View {
    pub version: u64,
    pub states: Vec<BackendState>,
    pub serving: Serving,
    /// Who takes new sessions, in the order of resort, and with which weight.
    pub tiers: Vec<Vec<(BackendId, u32)>>,
    /// Until then some backend may count as fuller than it is.
    pub unanswered_until: u64,
    /// Which backends have been at other addresses.
    pub has_moved: Vec<bool>,
    /// Sessions of the other shards, as of a moment.
    pub others: Vec<u32>,
    pub others_at: Option<u64>,
}

pub fn is_eligible(state: &BackendState) -> bool {
    state.health == Health::Up && !state.addresses.is_empty() && !state.ejected
}

impl View {
    pub fn new(backends: usize) -> Self {
        Self {
            version: 0,
            states: vec![BackendState::unknown(); backends],
            serving: Serving::Nobody,
            tiers: Vec::new(),
            unanswered_until: 0,
            has_moved: vec![false; backends],
            others: vec![0; backends],
            others_at: None,
        }
    }

    /// Takes new states. For each backend the ends that its sessions are ordered.
    pub fn apply(&mut self, upstream: &Upstream, states: &[BackendState]) -> Vec<Vec<ForcedClose>> {
        let before = self.serving;
        (self.serving, self.tiers) = order(upstream, states);
        let primaries_are_back = self.serving == Serving::Primaries && before != Serving::Primaries;
        let closes = upstream.on_down == OpenSessions::Close;
        let mut all = Vec::new();
        for (index, backend) in upstream.backends.iter().enumerate() {
            let (old, new) = (&self.states[index], &states[index]);
            self.has_moved[index] |= old.addresses.iter().any(|address| !new.addresses.contains(address));
            let mut orders = Vec::new();
            let is_out = new.health == Health::Down || new.ejected;
            if is_eligible(old) && is_out && self.serving != Serving::Panic && closes {
                let addresses = self.has_moved[index].then(|| new.addresses.to_vec());
                orders.push(ForcedClose { reason: CloseReason::BackendDown, addresses });
            }
            let gone: Vec<_> = new.gone.iter().filter(|gone| !old.gone.contains(gone)).cloned().collect();
            if closes && !gone.is_empty() {
                orders.push(ForcedClose { reason: CloseReason::BackendDown, addresses: Some(gone) });
            }
            if backend.backup && primaries_are_back && upstream.on_up == OpenSessions::Close {
                orders.push(ForcedClose { reason: CloseReason::PrimaryUp, addresses: None });
            }
            all.push(orders);
        }
        self.states = states.to_vec();
        all
    }

    pub fn is_candidate(&self, backend: BackendId) -> bool {
        self.tiers.iter().flatten().any(|(candidate, _)| *candidate == backend)
    }

    /// Whether a pool may have connections to it, as docs/CONFIGURATION.md says it.
    pub fn may_pool(&self, upstream: &Upstream, backend: BackendId) -> bool {
        is_eligible(&self.states[backend.index()]) && upstream.backends[backend.index()].weight > 0
    }

    pub fn untried(&self, tried: &Tried) -> Vec<BackendId> {
        self.tiers.iter().flat_map(|tier| untried(tier, tried)).collect()
    }

    /// The tier whose backends a client that has tried these waits for.
    pub fn waited_for(&self, tried: &Tried) -> Vec<BackendId> {
        let tiers = self.tiers.iter().map(|tier| untried(tier, tried));
        tiers.into_iter().find(|tier| !tier.is_empty()).unwrap_or_default()
    }
}

pub fn untried(tier: &[(BackendId, u32)], tried: &Tried) -> Vec<BackendId> {
    tier.iter().map(|(id, _)| *id).filter(|id| !tried.contains(*id)).collect()
}

/// An end that sessions of a backend are ordered: all, or those on some addresses.
#[derive(Clone, Debug)]
pub struct ForcedClose {
    pub reason: CloseReason,
    pub addresses: Option<Vec<Address>>,
}

/// As docs/CONFIGURATION.md says it.
pub fn order(upstream: &Upstream, states: &[BackendState]) -> (Serving, Vec<Vec<(BackendId, u32)>>) {
    let all: Vec<_> =
        (0..upstream.backends.len()).filter(|index| upstream.backends[*index].weight > 0).collect();
    let part = |backup: bool, wanted: &dyn Fn(&BackendState) -> bool| -> Vec<usize> {
        let of_it = all.iter().copied().filter(|index| upstream.backends[*index].backup == backup);
        of_it.filter(|index| wanted(&states[*index])).collect()
    };
    let is_reachable = |state: &BackendState| !state.addresses.is_empty();
    let (primaries, backups) = (part(false, &is_eligible), part(true, &is_eligible));
    let is_waiting = all.iter().any(|index| states[*index].awaited);
    let counted = part(false, &|_| true).len();
    let is_low = |percent: u32| primaries.len() * 100 < counted.max(1) * percent as usize;
    let reachable = [part(false, &is_reachable), part(true, &is_reachable)];
    let panics = upstream.panic_threshold.is_some_and(is_low)
        && backups.is_empty()
        && !is_waiting
        && reachable.iter().any(|part| !part.is_empty());
    let last_resort = |state: &BackendState| {
        let is_blamed = state.ejected && state.health == Health::Up;
        is_reachable(state) && (is_blamed || state.health == Health::Checking && !state.awaited)
    };
    let named = if panics {
        let [primaries, backups] = reachable;
        vec![(Serving::Panic, primaries), (Serving::Panic, backups)]
    } else {
        vec![
            (Serving::Primaries, primaries),
            (Serving::Unjudged, part(false, &|state| is_reachable(state) && state.awaited)),
            (Serving::Backups, backups),
            (Serving::Unjudged, part(true, &|state| is_reachable(state) && state.awaited)),
            (Serving::LastResort, part(false, &last_resort)),
            (Serving::LastResort, part(true, &last_resort)),
        ]
    };
    let named: Vec<_> = named.into_iter().filter(|(_, tier)| !tier.is_empty()).collect();
    let serving = named.first().map_or(Serving::Nobody, |(serving, _)| *serving);
    let weighed = |tier: Vec<usize>| {
        let ramps = !panics && tier.iter().any(|index| states[*index].ramp < limits::RAMP_STEPS);
        let candidate = |index: usize| {
            let factor = if ramps { states[index].ramp } else { 1 };
            (BackendId(index as u16), upstream.backends[index].weight * factor)
        };
        tier.into_iter().map(candidate).collect()
    };
    (serving, named.into_iter().map(|(_, tier)| weighed(tier)).collect())
}

/// Who waits, in the order in which they came.
#[derive(Default)]
pub struct Line(VecDeque<(Ticket, Tried)>);

impl Line {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn join(&mut self, ticket: Ticket, tried: Tried) {
        let last = self.0.back().map_or(0, |(last, _)| last.number);
        assert!(ticket.number > last, "{ticket:?} comes after number {last}");
        self.0.push_back((ticket, tried));
    }

    /// A waiter whose permit was of no use waits again, before all who came later.
    pub fn join_again(&mut self, ticket: Ticket, tried: Tried) {
        let later = self.0.iter().position(|(waiting, _)| waiting.number > ticket.number);
        self.0.insert(later.unwrap_or(self.0.len()), (ticket, tried));
    }

    /// Whether a client waits that has use for a backend, as all these shards know the states.
    pub fn wants(&self, views: &[&View], backend: BackendId) -> bool {
        self.0.iter().any(|(_, tried)| views.iter().all(|view| view.waited_for(tried).contains(&backend)))
    }

    /// A permit of a backend was given to a waiter, by a shard that knows these states.
    pub fn serve(&mut self, view: &View, ticket: Ticket, backend: BackendId) {
        let first = self.0.iter().position(|(_, tried)| view.waited_for(tried).contains(&backend));
        let served = first.and_then(|first| self.0.remove(first)).map(|(served, _)| served);
        assert_eq!(Some(ticket), served, "who is served with {backend:?}, and the first who can use it");
    }

    pub fn leave(&mut self, ticket: Ticket) {
        self.0.retain(|(waiting, _)| *waiting != ticket);
    }
}

/// Consecutive faults of each backend.
pub struct Streaks {
    thresholds: Thresholds,
    counts: Vec<[u32; 2]>,
    on_their_way: Vec<Vec<Reported>>,
}

impl Streaks {
    pub fn new(thresholds: Thresholds, backends: usize) -> Self {
        Self { thresholds, counts: vec![[0; 2]; backends], on_their_way: vec![Vec::new(); backends] }
    }

    /// What is to be reported of it.
    pub fn failed(&mut self, backend: BackendId, fault: Fault) -> Vec<Reported> {
        let (threshold, index) = match fault {
            Fault::Failure => (self.thresholds.failures, 0),
            Fault::EmptyAnswer => (self.thresholds.empty_answers, 1),
        };
        let mut reports = Vec::new();
        if fault == Fault::Failure {
            reports.push(Reported::Suspect);
        }
        if let Some(threshold) = threshold {
            let count = &mut self.counts[backend.index()][index];
            *count += 1;
            if *count == threshold {
                *count = 0;
                reports.push(Reported::TooMany(fault));
            }
        }
        let on_their_way = &mut self.on_their_way[backend.index()];
        let is_new = |report: &Reported| match report {
            Reported::Suspect => !on_their_way.contains(report),
            Reported::TooMany(_) => on_their_way.iter().all(|other| *other == Reported::Suspect),
        };
        reports.retain(is_new);
        on_their_way.extend(&reports);
        reports
    }

    pub fn clear(&mut self, backend: BackendId) {
        self.counts[backend.index()] = [0; 2];
    }

    pub fn take_report(&mut self, backend: BackendId, report: Reported) {
        let on_their_way = &mut self.on_their_way[backend.index()];
        let position = on_their_way.iter().position(|other| *other == report);
        on_their_way.remove(position.unwrap_or_else(|| panic!("{report:?} of {backend:?} was never sent")));
    }
}

/// Every session and every retry there was, by the second.
pub struct Budget {
    percent: Option<u32>,
    sessions: BTreeMap<u64, u64>,
    retries: BTreeMap<u64, u64>,
    newest: u64,
    /// Retries of shards whose clock was behind another one's: they count for longer than they should.
    behind: u64,
}

impl Budget {
    pub fn new(percent: Option<u32>) -> Self {
        Self { percent, sessions: BTreeMap::new(), retries: BTreeMap::new(), newest: 0, behind: 0 }
    }

    pub fn note_session(&mut self, now: u64) {
        *self.sessions.entry(now / 1_000).or_default() += 1;
    }

    /// Checks whether a retry was to be taken or not.
    pub fn retry(&mut self, now: u64, taken: bool) {
        let Some(percent) = self.percent else {
            return assert!(taken, "a retry is refused that nothing limits");
        };
        let second = now / 1_000;
        let first = (second + 1).saturating_sub(10);
        let in_window =
            |counts: &BTreeMap<u64, u64>| counts.range(first..).map(|(_, count)| count).sum::<u64>();
        let allowed = (in_window(&self.sessions) * u64::from(percent) / 100).max(100);
        let had = in_window(&self.retries);
        if second < self.newest {
            self.behind += u64::from(taken);
        } else if taken {
            assert!(had < allowed, "retry {had} of {allowed} in ten seconds");
        } else {
            assert!(
                had + self.behind >= allowed,
                "a retry is refused after {had} of {allowed} in ten seconds"
            );
        }
        if taken {
            *self.retries.entry(second).or_default() += 1;
        }
        self.newest = self.newest.max(second);
    }
}
