//! What the rules should do, said in another way: from the documentation, and by keeping everything.

use std::collections::{BTreeMap, VecDeque};

use ringway::rules::admission::Ticket;
use ringway::rules::balance::Tried;
use ringway::rules::config::{Backend, OpenSessions, Upstream};
use ringway::rules::upstream::{BackendState, Health};
use ringway::words::{BackendId, CloseReason, limits};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    Nobody,
    Primaries,
    Backups,
    Panic,
}

impl Serving {
    pub fn name(self) -> &'static str {
        match self {
            Self::Nobody => "Nobody",
            Self::Primaries => "Primaries",
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
    /// Who takes new sessions, and with which weight.
    pub candidates: Vec<(BackendId, u32)>,
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
            candidates: Vec::new(),
            others: vec![0; backends],
            others_at: None,
        }
    }

    /// Takes new states. For each backend, why its sessions have to end, if they have to.
    pub fn apply(&mut self, upstream: &Upstream, states: &[BackendState]) -> Vec<Option<CloseReason>> {
        let before = self.serving;
        (self.serving, self.candidates) = who_serves(upstream, states);
        let primaries_are_back = self.serving == Serving::Primaries && before != Serving::Primaries;
        let cut = |(index, backend): (usize, &Backend)| {
            let has_left = is_eligible(&self.states[index]) && !is_eligible(&states[index]);
            if backend.backup && primaries_are_back && upstream.on_up == OpenSessions::Close {
                return Some(CloseReason::PrimaryUp);
            }
            (has_left && self.serving != Serving::Panic && upstream.on_down == OpenSessions::Close)
                .then_some(CloseReason::BackendDown)
        };
        let cuts = upstream.backends.iter().enumerate().map(cut).collect();
        self.states = states.to_vec();
        cuts
    }

    pub fn is_candidate(&self, backend: BackendId) -> bool {
        self.candidates.iter().any(|(candidate, _)| *candidate == backend)
    }

    /// Whether a pool may have connections to it, as docs/CONFIGURATION.md says it.
    pub fn may_pool(&self, upstream: &Upstream, backend: BackendId) -> bool {
        is_eligible(&self.states[backend.index()]) && upstream.backends[backend.index()].weight > 0
    }

    pub fn untried(&self, tried: &Tried) -> Vec<BackendId> {
        let ids = self.candidates.iter().map(|(candidate, _)| *candidate);
        ids.filter(|candidate| !tried.contains(*candidate)).collect()
    }
}

/// As docs/CONFIGURATION.md says it.
pub fn who_serves(upstream: &Upstream, states: &[BackendState]) -> (Serving, Vec<(BackendId, u32)>) {
    let all: Vec<_> =
        (0..upstream.backends.len()).filter(|index| upstream.backends[*index].weight > 0).collect();
    let part = |backup: bool, wanted: fn(&BackendState) -> bool| -> Vec<usize> {
        let of_it = all.iter().copied().filter(|index| upstream.backends[*index].backup == backup);
        of_it.filter(|index| wanted(&states[*index])).collect()
    };
    let is_reachable = |state: &BackendState| !state.addresses.is_empty();
    let (primaries, backups) = (part(false, is_eligible), part(true, is_eligible));
    let reachable = [part(false, is_reachable), part(true, is_reachable)];
    let is_waiting = reachable.iter().flatten().any(|index| states[*index].health == Health::Checking);
    let counted = part(false, |_| true).len();
    let is_low = |percent: u32| primaries.len() * 100 < counted.max(1) * percent as usize;
    let panics = upstream.panic_threshold.is_some_and(is_low) && backups.is_empty() && !is_waiting;
    let [reachable_primaries, reachable_backups] = reachable;
    let (serving, chosen) = if panics && !reachable_primaries.is_empty() {
        (Serving::Panic, reachable_primaries)
    } else if panics && !reachable_backups.is_empty() {
        (Serving::Panic, reachable_backups)
    } else if !primaries.is_empty() {
        (Serving::Primaries, primaries)
    } else if !backups.is_empty() {
        (Serving::Backups, backups)
    } else {
        (Serving::Nobody, Vec::new())
    };
    let ramps =
        serving != Serving::Panic && chosen.iter().any(|index| states[*index].ramp < limits::RAMP_STEPS);
    let candidate = |index: usize| {
        let factor = if ramps { states[index].ramp } else { 1 };
        (BackendId(index as u16), upstream.backends[index].weight * factor)
    };
    (serving, chosen.into_iter().map(candidate).collect())
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

    /// A waiter whose place was of no use waits again, before all who came later.
    pub fn join_again(&mut self, ticket: Ticket, tried: Tried) {
        let later = self.0.iter().position(|(waiting, _)| waiting.number > ticket.number);
        self.0.insert(later.unwrap_or(self.0.len()), (ticket, tried));
    }

    /// Whether somebody waits who has use for a backend.
    pub fn wants(&self, backend: BackendId) -> bool {
        self.0.iter().any(|(_, tried)| !tried.contains(backend))
    }

    /// A place at a backend was given to a waiter.
    pub fn serve(&mut self, ticket: Ticket, backend: BackendId) {
        let first = self.0.iter().position(|(_, tried)| !tried.contains(backend));
        let served = first.and_then(|first| self.0.remove(first)).map(|(served, _)| served);
        assert_eq!(Some(ticket), served, "who is served with {backend:?}, and the first who can use it");
    }

    pub fn leave(&mut self, ticket: Ticket) {
        self.0.retain(|(waiting, _)| *waiting != ticket);
    }
}

/// Failures in a row of each backend.
pub struct Streaks {
    threshold: u32,
    counts: Vec<u32>,
    on_its_way: Vec<bool>,
}

impl Streaks {
    pub fn new(threshold: u32, backends: usize) -> Self {
        Self { threshold, counts: vec![0; backends], on_its_way: vec![false; backends] }
    }

    /// Whether it is to be reported.
    pub fn failed(&mut self, backend: BackendId) -> bool {
        let count = &mut self.counts[backend.index()];
        *count += 1;
        if *count < self.threshold {
            return false;
        }
        *count = 0;
        !std::mem::replace(&mut self.on_its_way[backend.index()], true)
    }

    pub fn clear(&mut self, backend: BackendId) {
        self.counts[backend.index()] = 0;
    }

    pub fn take_report(&mut self, backend: BackendId) {
        assert!(self.on_its_way[backend.index()], "a report of {backend:?} without its failures");
        self.on_its_way[backend.index()] = false;
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
