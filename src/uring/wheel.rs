//! A hierarchical timer wheel, pure; each ring has one.
//!
//! Six levels of 64 slots; a slot of level `n` spans 64^n ticks, so the wheel spans 64^6 ms, a little over
//! two years, and `limits::DURATION_MAX` fits. Arming and cancelling cost O(1), and a timer moves down at
//! most five times (Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", 1987).
//!
//! Invariants: a timer never fires before its deadline, and fires in the first [`Wheel::advance`] at or after
//! it; the key of a timer that has fired or was cancelled names nothing, even when its entry is reused.

use std::task::Waker;

use crate::base::Tick;

const LEVELS: usize = 6;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Longest distance of a deadline; a deadline further away is clamped to it.
const SPAN: u64 = (1 << (SLOT_BITS * LEVELS as u32)) - 1;
const NIL: u32 = u32::MAX;
/// A table of so many timers is not worth shrinking.
const FEW: usize = if cfg!(test) { 4 } else { 256 };

const _: () = assert!(crate::base::limits::DURATION_MAX.as_millis() < SPAN as u128);

/// Names an armed timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimerKey {
    index: u32,
    generation: u32,
}

struct Entry {
    deadline: u64,
    /// Taken when the timer fires or is cancelled; `None` marks a free entry.
    waker: Option<Waker>,
    generation: u32,
    next: u32,
    previous: u32,
    /// `level * SLOTS + slot`: the list that this entry is in.
    list: u16,
}

/// The timers of one ring.
pub(super) struct Wheel {
    now: u64,
    entries: Vec<Entry>,
    free: u32,
    heads: Box<[u32; LEVELS * SLOTS]>,
    occupied: [u64; LEVELS],
    armed: usize,
    /// Generation of an entry that is new: none before that of an entry that was forgotten.
    first: u32,
    /// Whether a timer fired or was cancelled since the last [`Self::shrink`].
    has_shed: bool,
}

impl Wheel {
    pub(super) fn new(now: Tick) -> Self {
        Self {
            now: now.0,
            entries: Vec::new(),
            free: NIL,
            heads: Box::new([NIL; LEVELS * SLOTS]),
            occupied: [0; LEVELS],
            armed: 0,
            first: 0,
            has_shed: false,
        }
    }

    /// Arms a timer; one whose deadline has passed fires in the next [`Self::advance`].
    pub(super) fn arm(&mut self, deadline: Tick, waker: Waker) -> TimerKey {
        let entry = Entry {
            deadline: deadline.0.clamp(self.now, self.now + SPAN),
            waker: Some(waker),
            generation: self.first,
            next: NIL,
            previous: NIL,
            list: 0,
        };
        let index = if self.free == NIL {
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).expect("fewer timers than descriptors")
        } else {
            let index = self.free;
            let slot = &mut self.entries[index as usize];
            self.free = slot.next;
            let generation = slot.generation;
            *slot = Entry { generation, ..entry };
            index
        };
        self.armed += 1;
        self.link(index);
        TimerKey { index, generation: self.entries[index as usize].generation }
    }

    /// Cancels a timer; does nothing if it has fired.
    pub(super) fn cancel(&mut self, key: TimerKey) {
        if self.is_armed(key) {
            self.unlink(key.index);
            self.release(key.index);
        }
    }

    /// Returns whether the timer has neither fired nor been cancelled.
    pub(super) fn is_armed(&self, key: TimerKey) -> bool {
        let entry = self.entries.get(key.index as usize);
        entry.is_some_and(|entry| entry.generation == key.generation && entry.waker.is_some())
    }

    /// Returns the moment up to which timers have fired.
    pub(super) fn now(&self) -> Tick {
        Tick(self.now)
    }

    /// Returns a tick before which no timer fires; it may be earlier than the first deadline, because a slot
    /// can span many ticks.
    pub(super) fn next_event(&self) -> Option<Tick> {
        self.next_slot().map(|(_, _, start)| Tick(start.max(self.now)))
    }

    /// Moves the time forward if no timer is due at that moment or before. Returns whether it did.
    pub(super) fn pass(&mut self, now: Tick) -> bool {
        let passes = self.next_event().is_none_or(|next| next > now);
        if passes {
            self.now = self.now.max(now.0);
        }
        passes
    }

    /// Moves the time forward and hands over the wakers of all due timers.
    pub(super) fn advance(&mut self, now: Tick, mut fire: impl FnMut(Waker)) {
        let target = now.0.max(self.now);
        while let Some((level, slot, start)) = self.next_slot() {
            if start > target {
                break;
            }
            self.now = self.now.max(start);
            // The list is detached first, because an entry of a high level is linked into a lower one again.
            let list = level * SLOTS + slot;
            let mut index = std::mem::replace(&mut self.heads[list], NIL);
            self.occupied[level] &= !(1 << slot);
            while index != NIL {
                let next = self.entries[index as usize].next;
                if self.entries[index as usize].deadline <= self.now {
                    if let Some(waker) = self.release(index) {
                        fire(waker);
                    }
                } else {
                    self.link(index);
                }
                index = next;
            }
        }
        self.now = target;
    }

    /// Returns whether [`Self::shrink`] could give memory back.
    pub(super) fn can_shrink(&self) -> bool {
        self.has_shed && self.entries.capacity() >= 2 * self.armed.max(FEW)
    }

    /// Gives back the memory of the free entries behind the last armed one, if that is at least half of it.
    /// Returns the number of bytes.
    pub(super) fn shrink(&mut self) -> usize {
        self.has_shed = false;
        let before = self.entries.capacity();
        let kept = self.entries.iter().rposition(|entry| entry.waker.is_some()).map_or(0, |last| last + 1);
        if before < 2 * kept.max(FEW) {
            return 0;
        }
        for Entry { generation, .. } in self.entries.drain(kept..) {
            // Generations wrap around.
            let is_later = generation.wrapping_sub(self.first) <= u32::MAX / 2;
            self.first = if is_later { generation } else { self.first };
        }
        self.entries.shrink_to(FEW);
        self.free = NIL;
        for (index, entry) in
            self.entries.iter_mut().enumerate().rev().filter(|(_, entry)| entry.waker.is_none())
        {
            entry.next = std::mem::replace(&mut self.free, index as u32);
        }
        (before - self.entries.capacity()) * size_of::<Entry>()
    }

    /// Returns the number of armed timers.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.armed
    }

    /// Returns level, slot and first tick of the next occupied slot.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        // A timer is on the lowest level whose current rotation holds its deadline, so the first occupied
        // level has the earliest slot.
        (0..LEVELS).find_map(|level| {
            let occupied = self.occupied[level];
            if occupied == 0 {
                return None;
            }
            let shift = SLOT_BITS * level as u32;
            let current = ((self.now >> shift) & (SLOTS as u64 - 1)) as u32;
            let ahead = occupied.rotate_right(current).trailing_zeros();
            let slot = (current + ahead) as usize % SLOTS;
            let rotation = self.now >> (shift + SLOT_BITS) << (shift + SLOT_BITS);
            let start = rotation + ((slot as u64) << shift);
            let wrapped = start + if (slot as u32) < current { 1 << (shift + SLOT_BITS) } else { 0 };
            Some((level, slot, wrapped))
        })
    }

    fn link(&mut self, index: u32) {
        let deadline = self.entries[index as usize].deadline;
        let differing = (self.now ^ deadline) | (SLOTS as u64 - 1);
        let level = ((63 - differing.leading_zeros()) / SLOT_BITS).min(LEVELS as u32 - 1) as usize;
        let slot = ((deadline >> (SLOT_BITS * level as u32)) & (SLOTS as u64 - 1)) as usize;
        let list = level * SLOTS + slot;
        let head = self.heads[list];
        let entry = &mut self.entries[index as usize];
        entry.list = list as u16;
        entry.previous = NIL;
        entry.next = head;
        if head != NIL {
            self.entries[head as usize].previous = index;
        }
        self.heads[list] = index;
        self.occupied[level] |= 1 << slot;
    }

    fn unlink(&mut self, index: u32) {
        let Entry { next, previous, list, .. } = self.entries[index as usize];
        if next != NIL {
            self.entries[next as usize].previous = previous;
        }
        if previous == NIL {
            self.heads[list as usize] = next;
            if next == NIL {
                self.occupied[list as usize / SLOTS] &= !(1 << (list as usize % SLOTS));
            }
        } else {
            self.entries[previous as usize].next = next;
        }
    }

    fn release(&mut self, index: u32) -> Option<Waker> {
        let free = self.free;
        let entry = &mut self.entries[index as usize];
        let waker = entry.waker.take();
        entry.generation = entry.generation.wrapping_add(1);
        entry.next = free;
        self.free = index;
        self.armed -= 1;
        self.has_shed = true;
        waker
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::Wake;

    use proptest::prelude::*;

    use super::*;

    struct Record(AtomicU64);

    impl Wake for Record {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Arm(u64),
        Cancel(usize),
        Advance(u64),
        Shrink,
    }

    fn distance() -> impl Strategy<Value = u64> {
        prop_oneof![0..70_u64, 0..5_000_u64, 0..10_000_000_u64, 0..40_000_000_000_u64]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => distance().prop_map(Step::Arm),
            1 => any::<usize>().prop_map(Step::Cancel),
            2 => distance().prop_map(Step::Advance),
            1 => Just(Step::Shrink),
        ]
    }

    proptest! {
        #[test]
        fn timers_fire_exactly_when_a_sorted_map_says(start in 0..10_000_000_000_u64, steps in prop::collection::vec(step(), 1..120)) {
            let mut now = start;
            let mut wheel = Wheel::new(Tick(now));
            let mut model: BTreeMap<usize, (u64, TimerKey, Arc<Record>)> = BTreeMap::new();
            let mut keys = Vec::new();
            for (id, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Arm(ahead) => {
                        let record = Arc::new(Record(AtomicU64::new(0)));
                        let key = wheel.arm(Tick(now + ahead), Waker::from(record.clone()));
                        model.insert(id, (now + ahead, key, record));
                        keys.push((id, key));
                    }
                    Step::Cancel(pick) => {
                        let ids: Vec<_> = model.keys().copied().collect();
                        if !ids.is_empty() {
                            let (_, key, record) = model.remove(&ids[pick % ids.len()]).unwrap();
                            wheel.cancel(key);
                            prop_assert!(!wheel.is_armed(key));
                            prop_assert_eq!(record.0.load(Ordering::Relaxed), 0);
                        }
                    }
                    Step::Shrink => {
                        wheel.shrink();
                        prop_assert!(!wheel.can_shrink());
                    }
                    Step::Advance(by) => {
                        now += by;
                        if let Some(first) = model.values().map(|(deadline, ..)| *deadline).min() {
                            prop_assert!(wheel.next_event().unwrap().0 <= first.max(now - by));
                        }
                        let due = model.values().any(|(deadline, ..)| *deadline <= now);
                        let passed = wheel.pass(Tick(now));
                        prop_assert!(!(passed && due));
                        prop_assert!(!passed || wheel.now() == Tick(now));
                        wheel.advance(Tick(now), Waker::wake);
                        model.retain(|_, (deadline, key, record)| {
                            let due = *deadline <= now;
                            assert_eq!(record.0.load(Ordering::Relaxed), u64::from(due));
                            assert_eq!(wheel.is_armed(*key), !due);
                            !due
                        });
                    }
                }
                // A key that has fired or was cancelled names no other timer.
                prop_assert!(keys.iter().all(|&(id, key)| wheel.is_armed(key) == model.contains_key(&id)));
                prop_assert_eq!(wheel.len(), model.len());
                prop_assert_eq!(wheel.next_event().is_none(), model.is_empty());
            }
        }
    }
}
