//! Which core takes a fresh connection: the one it came to, unless another one is clearly better off.
//!
//! SO_REUSEPORT distributes connections by a hash. Many short sessions come out even, few long ones do not:
//! with 16 of them on 16 cores, a third of the cores gets none. A connection is handed off at most once,
//! before it is a session; open sessions never move.
//!
//! A core that shares the last-level cache is chosen before one of the same node, and that one before all others:
//! what the kernel and the card have touched of the connection is still near.
//!
//! The loads of the other cores are read once a millisecond, and the load of the chosen core is read again
//! before it is chosen. That load includes connections on their way, so many shards that see the same idle
//! core do not all choose it.

mod cores;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::balance::{Random, pair};
use crate::base::{ShardId, ShardPlace, Tick};

pub use cores::{CoreLoad, CoreLoads, CoreStatus};

/// A core counts as busy above this share, per mille.
const BUSY: u32 = 700;
/// A busy core is clearly busier than another one if its share is greater by more than this, per mille.
const CLEARLY_BUSIER: u32 = 300;
/// Maximum number of other cores of one distance that are looked at in one millisecond: 64 cache lines take about
/// 3 microseconds to fetch.
const LOOKED_AT: usize = 64;
/// How long the ends of sessions are counted to tell short sessions from long ones, and how old a sample of
/// the busy share may be.
const WINDOW: Duration = Duration::from_millis(100);

/// Number of ends in a window up to which sessions do not count as short: handing off so few connections
/// costs nothing worth saving.
const FEW_ENDS: u64 = 16;

/// How far one core is from another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// They share their last-level cache.
    SameCache,
    /// They have their memory at the same node.
    SameNode,
    /// Neither.
    OtherNode,
}

impl Distance {
    const ALL: [Self; 3] = [Self::SameCache, Self::SameNode, Self::OtherNode];
}

/// How a shard steers the connections that come to it.
pub struct Steering {
    own: usize,
    random: Random,
    /// The nearest first.
    neighbours: Vec<Neighbours>,
    turnover: Turnover,
    relief: Relief,
}

/// The other cores that are equally far away.
struct Neighbours {
    cores: Vec<usize>,
    /// Loads of these cores as of `seen_at`, plus the connections that were sent there since.
    seen: Vec<(usize, CoreLoad)>,
    seen_at: Option<Tick>,
}

/// Whether the sessions of a core are short or long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SessionLength {
    Short,
    Long,
}

impl Steering {
    /// Creates the steering of one shard, which is this far from each shard of the process.
    #[must_use]
    pub fn new(place: ShardPlace, distances: &[Distance]) -> Self {
        let own = place.shard.index();
        let at = |distance| {
            let others = (0..distances.len()).filter(|other| *other != own && distances[*other] == distance);
            Neighbours { cores: others.collect(), seen: Vec::new(), seen_at: None }
        };
        Self {
            own,
            random: Random::new(pair(place.seed, place.shard.index() as u64)),
            neighbours: Distance::ALL.map(at).into_iter().filter(|all| !all.cores.is_empty()).collect(),
            turnover: Turnover::default(),
            relief: Relief::default(),
        }
    }

    /// Returns the shard that a fresh connection is to be handed off to, where the connection is announced
    /// already; `None` if the connection stays.
    pub fn choose(&mut self, now: Tick, cores: &CoreLoads) -> Option<ShardId> {
        if self.neighbours.is_empty() {
            return None;
        }
        let mut own = cores.load(self.own);
        let stay = self.turnover.look(now, cores.ended(self.own), own.sessions);
        // In a window, more short sessions consume processor time than are open at any moment.
        let share = u64::from(own.busy) / self.turnover.last.max(u64::from(own.sessions)).max(1);
        own.busy = own.busy.saturating_sub(self.relief.look(now));
        if own.sessions == 0 && own.busy <= BUSY {
            return None;
        }
        for neighbours in &mut self.neighbours {
            neighbours.look(now, cores, &mut self.random);
            if let Some(to) = neighbours.take_best(cores, |other| is_better_off(own, other, stay)) {
                cores.announce(to);
                self.relief.note(share);
                return Some(to);
            }
        }
        None
    }
}

impl Neighbours {
    /// Reads the loads of these cores, unless the known ones were read in this millisecond.
    fn look(&mut self, now: Tick, cores: &CoreLoads, random: &mut Random) {
        if self.seen_at == Some(now) {
            return;
        }
        self.seen_at = Some(now);
        let count = self.cores.len();
        // Starts at a random core, so that equal cores are equally likely, and all cores get their turn if
        // there are too many.
        let first = random.below(u32::try_from(count).unwrap_or(u32::MAX)) as usize;
        let shards = (0..count.min(LOOKED_AT)).map(|step| self.cores[(first + step) % count]);
        self.seen.clear();
        self.seen.extend(shards.map(|shard| (shard, cores.load(shard))));
    }

    /// Returns the least loaded core that is better off, and counts a connection there.
    fn take_best(&mut self, cores: &CoreLoads, is_better: impl Fn(CoreLoad) -> bool) -> Option<ShardId> {
        // What was read in this millisecond may be outdated. Each step reads one core anew, so this ends.
        loop {
            let better = self.seen.iter_mut().filter(|(_, load)| is_better(*load));
            let (shard, seen) = better.min_by_key(|(_, load)| (load.busy > BUSY, load.sessions))?;
            *seen = cores.load(*shard);
            if is_better(*seen) {
                seen.sessions += 1;
                return Some(ShardId(u16::try_from(*shard).expect("limits::SHARDS_MAX fits")));
            }
        }
    }
}

/// Returns whether a fresh connection is clearly better off on another core than on the one it came to.
///
/// Where sessions are long, a core has too many if it has one session and a quarter more than the other core:
/// 9 and 7 are fine, 10 and 6 are not. The number of short sessions says nothing: they come and go, and in a
/// burst the shard that wakes first sees no sessions on the others yet.
fn is_better_off(own: CoreLoad, other: CoreLoad, stay: SessionLength) -> bool {
    if is_clearly_busier(own, other) {
        return true;
    }
    let most = other.sessions.saturating_add(1 + other.sessions / 4);
    // The fresh connection would come on top of `own.sessions`.
    stay == SessionLength::Long && own.sessions >= most && !is_clearly_busier(other, own)
}

fn is_clearly_busier(one: CoreLoad, other: CoreLoad) -> bool {
    one.busy > BUSY && one.busy > other.busy + CLEARLY_BUSIER
}

/// Tells from the ends of sessions whether sessions are short or long.
#[derive(Default)]
struct Turnover {
    since: Tick,
    ended_before: u64,
    /// Sessions that ended in the window before this one.
    last: u64,
}

impl Turnover {
    /// Sessions are short if more of them end in a window than are open, and more than a few end.
    fn look(&mut self, now: Tick, ended: u64, open: u32) -> SessionLength {
        let (elapsed, ends) = (now.since(self.since), ended - self.ended_before);
        if elapsed < WINDOW {
            return stay(self.last.max(ends), open);
        }
        // The last look may have been a long time ago.
        self.last = ends.saturating_mul(WINDOW.as_millis() as u64) / elapsed.as_millis() as u64;
        (self.since, self.ended_before) = (now, ended);
        stay(self.last, open)
    }
}

fn stay(ends: u64, open: u32) -> SessionLength {
    if ends > u64::from(open).max(FEW_ENDS) { SessionLength::Short } else { SessionLength::Long }
}

/// What was handed off since the last sample of the busy share, which does not show it yet. Each connection
/// narrows the gap between two cores by twice its share.
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
