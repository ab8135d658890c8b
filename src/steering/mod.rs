//! Which core takes a fresh connection: the one it came to, unless another one is clearly better off.
//!
//! SO_REUSEPORT deals connections out by a hash. Many short sessions come out even, few long ones do not: of
//! 16 on 16 cores a third of the cores gets none. A connection is passed on at most once, before it is a
//! session; open ones never move.
//!
//! The loads of the others are read once a millisecond, and that of the chosen one again before it is taken:
//! it counts connections on their way, so many shards that see the same idle core do not all take it.

mod cores;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::balance::{Random, pair};
use crate::base::{ShardId, ShardPlace, Tick};

pub use cores::{CoreLoad, CoreLoads, CoreStatus};

/// A core is busy from here on, per mille.
const BUSY: u32 = 700;
/// And clearly busier than another one with so much more, per mille.
const CLEARLY_BUSIER: u32 = 300;
/// Most others that are looked at in one millisecond: 64 cache lines take about 3 microseconds to fetch.
const LOOKED_AT: usize = 64;
/// Choices that may turn out to be outdated before a connection stays.
const CHOICES: usize = 2;
/// How long ends of sessions are counted to tell short ones from long ones, and how old a sample of the busy
/// share may be.
const WINDOW: Duration = Duration::from_millis(100);

/// Ends of sessions in a window that do not count as many: passing on so few costs nothing worth saving.
const FEW_ENDS: u64 = 16;

/// How a shard steers the connections that come to it.
pub struct Steering {
    own: usize,
    random: Random,
    /// Loads of others as of `seen_at`, and what was sent there since.
    seen: Vec<(usize, CoreLoad)>,
    seen_at: Option<Tick>,
    turnover: Turnover,
    relief: Relief,
}

/// Whether the sessions of a core last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SessionLength {
    Short,
    Long,
}

impl Steering {
    /// That of one shard.
    #[must_use]
    pub fn new(place: ShardPlace) -> Self {
        Self {
            own: place.shard.index(),
            random: Random::new(pair(place.seed, place.shard.index() as u64)),
            seen: Vec::new(),
            seen_at: None,
            turnover: Turnover::default(),
            relief: Relief::default(),
        }
    }

    /// The shard that a fresh connection is to be passed to, where it is announced already; `None` if it
    /// stays.
    pub fn choose(&mut self, now: Tick, cores: &CoreLoads) -> Option<ShardId> {
        if cores.len() < 2 {
            return None;
        }
        let mut own = cores.load(self.own);
        let stay = self.turnover.look(now, cores.ended(self.own), own.sessions);
        // Of short sessions more take their part in a window than are open.
        let share = u64::from(own.busy) / self.turnover.last.max(u64::from(own.sessions)).max(1);
        own.busy = own.busy.saturating_sub(self.relief.look(now));
        if own.sessions == 0 && own.busy <= BUSY {
            return None;
        }
        self.look(now, cores);
        for _ in 0..CHOICES {
            let at = self.best(own, stay)?;
            let (shard, seen) = &mut self.seen[at];
            *seen = cores.load(*shard);
            if is_better_off(own, *seen, stay) {
                seen.sessions += 1;
                let to = ShardId(u16::try_from(*shard).expect("limits::SHARDS_MAX fits"));
                cores.announce(to);
                self.relief.note(share);
                return Some(to);
            }
        }
        None
    }

    /// Reads the loads of the others, if those at hand are from another millisecond.
    fn look(&mut self, now: Tick, cores: &CoreLoads) {
        if self.seen_at == Some(now) {
            return;
        }
        self.seen_at = Some(now);
        let others = cores.len() - 1;
        // From a random place on, so that equals are chosen alike, and of too many each has its turn.
        let first = self.random.below(u32::try_from(others).unwrap_or(u32::MAX)) as usize;
        let own = self.own;
        let shards = (0..others.min(LOOKED_AT)).map(|step| (own + 1 + (first + step) % others) % cores.len());
        self.seen.clear();
        self.seen.extend(shards.map(|shard| (shard, cores.load(shard))));
    }

    /// Where in `seen` the one with the least to do is, of those that are better off.
    fn best(&self, own: CoreLoad, stay: SessionLength) -> Option<usize> {
        let better = self.seen.iter().enumerate().filter(|(_, (_, load))| is_better_off(own, *load, stay));
        let least = better.min_by_key(|(_, (_, load))| (load.busy > BUSY, load.sessions));
        least.map(|(at, _)| at)
    }
}

/// Whether a fresh connection is clearly better off on another core than on the one it came to.
///
/// Where sessions last, one more than the other and a quarter is too many: 9 and 7 may be, 10 and 6 not. The
/// number of short ones says nothing: they come and go, and of a crowd that comes at once the shard that
/// wakes first sees none on the others yet.
fn is_better_off(own: CoreLoad, other: CoreLoad, stay: SessionLength) -> bool {
    if is_clearly_busier(own, other) {
        return true;
    }
    let most = other.sessions.saturating_add(1 + other.sessions / 4);
    // The fresh connection would be one more than `own.sessions`.
    stay == SessionLength::Long && own.sessions >= most && !is_clearly_busier(other, own)
}

fn is_clearly_busier(one: CoreLoad, other: CoreLoad) -> bool {
    one.busy > BUSY && one.busy > other.busy + CLEARLY_BUSIER
}

/// Tells from their ends how long sessions stay.
#[derive(Default)]
struct Turnover {
    since: Tick,
    ended_before: u64,
    /// Sessions that ended in the window before this one.
    last: u64,
}

impl Turnover {
    /// Sessions are short where more end in a window than are open, and more than a few.
    fn look(&mut self, now: Tick, ended: u64, open: u32) -> SessionLength {
        let (elapsed, ends) = (now.since(self.since), ended - self.ended_before);
        if elapsed < WINDOW {
            return stay(self.last.max(ends), open);
        }
        // Nobody may have looked for a long time.
        self.last = ends.saturating_mul(WINDOW.as_millis() as u64) / elapsed.as_millis() as u64;
        (self.since, self.ended_before) = (now, ended);
        stay(self.last, open)
    }
}

fn stay(ends: u64, open: u32) -> SessionLength {
    if ends > u64::from(open).max(FEW_ENDS) { SessionLength::Short } else { SessionLength::Long }
}

/// What was passed on since the last sample of the busy share, which does not show it yet: of the gap between
/// two cores each connection closes twice its part.
#[derive(Default)]
struct Relief {
    since: Tick,
    per_mille: u64,
}

impl Relief {
    fn look(&mut self, now: Tick) -> u32 {
        if now.since(self.since) >= WINDOW {
            (self.since, self.per_mille) = (now, 0);
        }
        u32::try_from(self.per_mille).unwrap_or(u32::MAX)
    }

    fn note(&mut self, share: u64) {
        self.per_mille = self.per_mille.saturating_add(2 * share.max(1));
    }
}
