//! What each source of clients has: open sessions, and the state of its rate. A source is a prefix of addresses at one
//! listener.
//!
//! Memory is bounded: at most `limits::SOURCES_MAX` sources are known. One that has no session and whose rate is as that
//! of a new one is forgotten when another needs its place, so forgetting changes no answer. Where no place can be found,
//! the further sources of a listener share one place, beyond the bound: under a flood from a million sources a new one
//! is limited together with other new ones, and those that are known go on as before.
//!
//! The table is divided into parts with a lock each, held for some 100 ns; clients cannot choose their part, because the
//! hash is keyed.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam_utils::CachePadded;
use hashbrown::HashTable;

use super::rate::{Pace, Paced};
use crate::base::{DenyReason, ListenerId, Moment, Shared, limits};
use crate::config::PerSource;

/// Number of parts.
const PARTS: usize = 64;
/// Slots that are looked at for one to forget, for each new source.
const LOOKS: usize = 4;

/// The sources of all listeners of the process.
pub struct Sources {
    parts: Box<[CachePadded<Shared<Mutex<Part>>>]>,
    hasher: RandomState,
    slots_per_part: usize,
    overflowed: Shared<AtomicU64>,
}

/// A place in the table that a session holds. Its source is not forgotten until it is given back.
///
/// One word with bits to spare, because each session keeps it: the part, and one more than the number of the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceSlot(NonZeroU32);

impl SourceSlot {
    /// Bits that a slot never uses.
    pub const SPARE: [u32; 2] = [1 << 31, 1 << 30];
    /// Bits of the number of a slot within its part.
    const BITS: u32 = 24;

    fn new(part: usize, slot: u32) -> Option<Self> {
        NonZeroU32::new((part as u32) << Self::BITS | (slot + 1)).map(Self)
    }

    fn place(self) -> (usize, usize) {
        let word = self.0.get();
        ((word >> Self::BITS) as usize, (word & ((1 << Self::BITS) - 1)) as usize - 1)
    }

    /// Returns the slot as a number.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0.get()
    }

    /// Returns the slot with this number; 0 is none.
    #[must_use]
    pub fn of_number(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }
}

const _: () = assert!(PARTS << SourceSlot::BITS <= SourceSlot::SPARE[1] as usize);
const _: () = assert!(limits::SOURCES_MAX / PARTS + limits::LISTENERS_MAX < (1 << SourceSlot::BITS) - 1);

/// The rules for the sources of a listener.
#[derive(Clone, Copy, Debug)]
pub struct SourceRules {
    max_connections: u32,
    pace: Option<Pace>,
    ipv4_prefix: u8,
    ipv6_prefix: u8,
}

impl From<&PerSource> for SourceRules {
    fn from(rules: &PerSource) -> Self {
        Self {
            max_connections: rules.max_connections.map_or(u32::MAX, NonZeroU32::get),
            pace: rules.rate_limit().map(Pace::from),
            ipv4_prefix: rules.ipv4_prefix,
            ipv6_prefix: rules.ipv6_prefix,
        }
    }
}

impl SourceRules {
    fn key(&self, listener: ListenerId, ip: IpAddr) -> Key {
        let prefix = self.prefix(ip);
        let length = if prefix.is_ipv4() { self.ipv4_prefix } else { self.ipv6_prefix };
        Key { listener, length, prefix: Some(prefix) }
    }

    /// Returns what all addresses of one source have in common.
    fn prefix(&self, ip: IpAddr) -> IpAddr {
        let kept = |bits: u8, length: u8| u32::from(bits.saturating_sub(length));
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(kept(32, self.ipv4_prefix)).unwrap_or(0);
                IpAddr::V4((ip.to_bits() & mask).into())
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(kept(128, self.ipv6_prefix)).unwrap_or(0);
                IpAddr::V6((ip.to_bits() & mask).into())
            }
        }
    }
}

/// What a source is called in the table; the one that has no address stands for all without a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    listener: ListenerId,
    /// That of the prefix: after a reload with another length, sources are others.
    length: u8,
    prefix: Option<IpAddr>,
}

#[derive(Debug)]
struct Slot {
    key: Key,
    pace: Paced,
    open: u32,
}

#[derive(Default)]
struct Part {
    slots: Vec<Slot>,
    /// The positions of the slots in use, by the hash of their keys.
    index: HashTable<u32>,
    free: Vec<u32>,
    /// Where the search for a slot to forget goes on.
    hand: usize,
}

impl Default for Sources {
    fn default() -> Self {
        Self::with_bound(limits::SOURCES_MAX)
    }
}

impl Sources {
    fn with_bound(bound: usize) -> Self {
        Self {
            parts: (0..PARTS).map(|_| CachePadded::default()).collect(),
            hasher: RandomState::new(),
            slots_per_part: bound / PARTS,
            overflowed: Shared::default(),
        }
    }

    /// Takes a session for a source. Returns the slot to give back when the session ends, if there is one.
    ///
    /// # Errors
    ///
    /// The limit that the source has reached; nothing was taken then.
    pub fn take(
        &self,
        listener: ListenerId,
        ip: IpAddr,
        rules: &SourceRules,
        now: Moment,
    ) -> Result<Option<SourceSlot>, DenyReason> {
        let key = rules.key(listener, ip);
        if let Some(taken) = self.take_for(key, rules, now) {
            return taken;
        }
        self.overflowed.write().fetch_add(1, Relaxed);
        self.take_for(Key { prefix: None, length: 0, ..key }, rules, now).unwrap_or(Ok(None))
    }

    /// As [`Sources::take`]; `None` if there is no place for the source.
    fn take_for(
        &self,
        key: Key,
        rules: &SourceRules,
        now: Moment,
    ) -> Option<Result<Option<SourceSlot>, DenyReason>> {
        let hash = self.hasher.hash_one(key);
        let number = (hash % PARTS as u64) as usize;
        let mut part = self.part(number);
        let at = match part.find(hash, key) {
            Some(at) => at,
            None => {
                // The one of all others needs its place whatever there is.
                let most = if key.prefix.is_some() { self.slots_per_part } else { usize::MAX };
                part.add(hash, key, (most, now), &self.hasher)?
            }
        };
        let slot = &mut part.slots[at as usize];
        Some(slot.take(rules, now).map(|()| {
            let counts = rules.max_connections != u32::MAX;
            slot.open += u32::from(counts);
            if counts { SourceSlot::new(number, at) } else { None }
        }))
    }

    /// Gives back what [`Sources::take`] has returned.
    pub fn give_back(&self, slot: SourceSlot) {
        let (part, at) = slot.place();
        let mut part = self.part(part);
        let slot = &mut part.slots[at];
        debug_assert!(slot.open > 0, "more given back than taken");
        slot.open = slot.open.saturating_sub(1);
    }

    /// Takes back what [`Sources::take`] has done for a client that another rule denies: its session, and its part of the
    /// rate.
    pub fn undo(&self, listener: ListenerId, ip: IpAddr, rules: &SourceRules, slot: Option<SourceSlot>) {
        slot.into_iter().for_each(|slot| self.give_back(slot));
        let Some(pace) = rules.pace else { return };
        let own = rules.key(listener, ip);
        for key in [own, Key { prefix: None, length: 0, ..own }] {
            let hash = self.hasher.hash_one(key);
            let mut part = self.part((hash % PARTS as u64) as usize);
            if let Some(at) = part.find(hash, key) {
                let slot = &mut part.slots[at as usize];
                slot.pace = slot.pace.before(pace);
                return;
            }
        }
    }

    /// Returns the open sessions of a source that are limited, and whether another one is within its rate.
    #[must_use]
    pub fn look(&self, listener: ListenerId, ip: IpAddr, rules: &SourceRules, now: Moment) -> (u32, bool) {
        let key = rules.key(listener, ip);
        let hash = self.hasher.hash_one(key);
        let part = self.part((hash % PARTS as u64) as usize);
        let Some(at) = part.find(hash, key) else { return (0, true) };
        let slot = &part.slots[at as usize];
        (slot.open, rules.pace.is_none_or(|pace| slot.pace.after(pace, now).is_some()))
    }

    /// Returns the number of sources that have a place.
    #[must_use]
    pub fn tracked(&self) -> u64 {
        (0..PARTS).map(|number| self.part(number).index.len() as u64).sum()
    }

    /// Returns how often a client came from a source for which there was no place.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.overflowed.get().load(Relaxed)
    }

    fn part(&self, number: usize) -> MutexGuard<'_, Part> {
        self.parts[number].write().lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Takes a session. The rate counts only clients that are within the limit.
    fn take(&mut self, rules: &SourceRules, now: Moment) -> Result<(), DenyReason> {
        let pace = match rules.pace {
            Some(pace) => self.pace.after(pace, now).ok_or(DenyReason::SourceRate)?,
            None => self.pace,
        };
        if self.open >= rules.max_connections {
            return Err(DenyReason::SourceLimit);
        }
        self.pace = pace;
        Ok(())
    }

    fn is_as_new(&self, now: Moment) -> bool {
        self.open == 0 && self.pace.is_as_new(now)
    }
}

impl Part {
    fn find(&self, hash: u64, key: Key) -> Option<u32> {
        self.index.find(hash, |at| self.slots[*at as usize].key == key).copied()
    }

    /// Adds a source, unless there are `most` already and none of those that are looked at can be forgotten.
    fn add(
        &mut self,
        hash: u64,
        key: Key,
        (most, now): (usize, Moment),
        hasher: &RandomState,
    ) -> Option<u32> {
        self.forget(now, hasher);
        let slot = Slot { key, pace: Paced::default(), open: 0 };
        let at = if let Some(at) = self.free.pop() {
            self.slots[at as usize] = slot;
            at
        } else if self.slots.len() < most {
            self.slots.push(slot);
            (self.slots.len() - 1) as u32
        } else {
            return None;
        };
        let slots = &self.slots;
        self.index.insert_unique(hash, at, |at| hasher.hash_one(slots[*at as usize].key));
        Some(at)
    }

    /// Forgets sources that are as new, of the few that are looked at.
    fn forget(&mut self, now: Moment, hasher: &RandomState) {
        for _ in 0..LOOKS.min(self.slots.len()) {
            self.hand = (self.hand + 1) % self.slots.len();
            let (at, slot) = (self.hand as u32, &self.slots[self.hand]);
            if slot.is_as_new(now)
                && let Ok(known) = self.index.find_entry(hasher.hash_one(slot.key), |known| *known == at)
            {
                known.remove();
                self.free.push(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Rate, RateLimit};

    const LISTENER: ListenerId = ListenerId(0);

    fn ip(number: u32) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + number).into())
    }

    fn rules(max_connections: u32, rate: Option<(u32, u32)>) -> SourceRules {
        let number = |number| NonZeroU32::new(number).expect("not 0");
        let limit = |(events, burst)| RateLimit {
            rate: Rate { events: number(events), per: Duration::from_secs(1) },
            burst: number(burst),
        };
        SourceRules {
            max_connections,
            pace: rate.map(limit).map(Pace::from),
            ipv4_prefix: 32,
            ipv6_prefix: 64,
        }
    }

    #[test]
    fn limits_of_a_source_are_its_own_and_come_back() {
        let (sources, rules) = (Sources::default(), rules(2, None));
        let take = |number| sources.take(LISTENER, ip(number), &rules, Moment(0));
        let first = take(1).unwrap().expect("it counts");
        take(1).unwrap();
        assert_eq!(take(1), Err(DenyReason::SourceLimit));
        assert!(take(2).is_ok(), "another source");
        assert!(sources.take(ListenerId(1), ip(1), &rules, Moment(0)).is_ok(), "another listener");
        sources.give_back(first);
        assert!(take(1).is_ok());
        assert_eq!(take(1), Err(DenyReason::SourceLimit));
        assert_eq!(sources.look(LISTENER, ip(1), &rules, Moment(0)), (2, true));
    }

    #[test]
    fn rate_of_a_source_counts_those_that_were_let_in() {
        let (sources, rules) = (Sources::default(), rules(2, Some((10, 3))));
        let take = |now| sources.take(LISTENER, ip(1), &rules, Moment(now));
        let slots: Vec<_> = (0..2).map(|_| take(0).unwrap().expect("it counts")).collect();
        assert_eq!(take(0), Err(DenyReason::SourceLimit));
        slots.into_iter().for_each(|slot| sources.give_back(slot));
        assert!(take(0).is_ok(), "the refused one has not used the burst");
        assert_eq!(take(0), Err(DenyReason::SourceRate));
        assert!(take(100_000).is_ok(), "a tenth of a second later");
    }

    #[test]
    fn prefixes_make_a_source_and_mapped_addresses_are_ipv4() {
        let sources = Sources::default();
        let rules = SourceRules { ipv4_prefix: 24, ..rules(1, None) };
        let take = |text: &str| sources.take(LISTENER, text.parse().unwrap(), &rules, Moment(0)).is_ok();
        assert!(take("192.0.2.1") && !take("192.0.2.255") && take("192.0.3.0"));
        assert!(!take("::ffff:192.0.2.7"));
        assert!(take("2001:db8::1") && !take("2001:db8::ffff:1") && take("2001:db8:0:1::1"));
        let whole = SourceRules { ipv4_prefix: 0, ipv6_prefix: 0, ..rules };
        assert_eq!(whole.prefix("1.2.3.4".parse().unwrap()), "0.0.0.0".parse::<IpAddr>().unwrap());
        assert_eq!(whole.prefix("1::4".parse().unwrap()), "::".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn memory_is_bounded_and_those_beyond_share_one_limit() {
        let bound = PARTS * 16;
        let (sources, rules) = (Sources::with_bound(bound), rules(u32::MAX, Some((1, 5))));
        let many = 20_000;
        let refused = (0..many)
            .filter(|number| sources.take(LISTENER, ip(*number), &rules, Moment(0)).is_err())
            .count() as u64;
        assert!(sources.tracked() <= bound as u64 + 1, "{}", sources.tracked());
        // Those without a place had one burst together.
        assert!(sources.overflowed() > u64::from(many) / 2);
        assert_eq!(refused, sources.overflowed() - 5);
        let known = (0..many).find(|number| {
            let (open, within) = sources.look(LISTENER, ip(*number), &rules, Moment(0));
            open == 0 && within
        });
        assert!(known.is_some(), "who is known goes on");
        // All are as new a second later, and their places are free for others.
        let later = Moment(1_000_001);
        let before = sources.overflowed();
        // So few that no part gets more than it has places.
        for number in 100_000..100_000 + bound as u32 / 8 {
            sources.take(LISTENER, ip(number), &rules, later).expect("a place");
        }
        assert_eq!(sources.overflowed(), before);
        assert!(sources.tracked() <= bound as u64 + 1);
    }

    #[test]
    fn source_with_a_session_is_not_forgotten() {
        let (sources, rules) = (Sources::with_bound(PARTS * 4), rules(1, None));
        let held = sources.take(LISTENER, ip(0), &rules, Moment(0)).unwrap().expect("it counts");
        for number in 1..10_000 {
            if let Ok(Some(slot)) = sources.take(LISTENER, ip(number), &rules, Moment(0)) {
                sources.give_back(slot);
            }
        }
        assert_eq!(sources.take(LISTENER, ip(0), &rules, Moment(0)), Err(DenyReason::SourceLimit));
        sources.give_back(held);
        assert!(sources.take(LISTENER, ip(0), &rules, Moment(0)).is_ok());
    }

    #[test]
    fn last_session_of_a_source_is_taken_once_while_threads_race() {
        let (sources, rules) = (Sources::with_bound(PARTS), rules(3, None));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (sources, rules) = (&sources, &rules);
                scope.spawn(move || {
                    for round in 0..5_000 {
                        // Others come and go, so that places are forgotten meanwhile.
                        let numbers = [1, 100 + thread * 10_000 + round];
                        let taken =
                            numbers.map(|number| sources.take(LISTENER, ip(number), rules, Moment(0)));
                        assert!(sources.look(LISTENER, ip(1), rules, Moment(0)).0 <= 3);
                        taken.into_iter().flatten().flatten().for_each(|slot| sources.give_back(slot));
                    }
                });
            }
        });
        assert_eq!(sources.look(LISTENER, ip(1), &rules, Moment(0)).0, 0);
    }

    #[test]
    fn slot_is_small() {
        assert!(size_of::<Slot>() <= 40, "{}", size_of::<Slot>());
    }
}
