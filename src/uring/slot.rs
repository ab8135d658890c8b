//! One slot for each descriptor of a ring, and the table of them.
//!
//! Every operation in flight names a slot by index and generation, and is recorded in the slot. So a
//! descriptor is closed only after the last completion of every operation that names it: `close(2)` takes
//! effect at once and a queued entry is submitted later, so a queued send of a closed session would otherwise
//! reach the next owner of the descriptor number. And the memory that an operation uses belongs to the slot,
//! not to a future that may be dropped.

use std::os::fd::RawFd;
use std::task::Waker;

use super::buffers::Chain;
use super::errno::{Errno, is_silence};
use super::knock::Knock;

/// What can be in flight on one descriptor, each at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Op {
    Recv,
    Send,
    Connect,
    /// A poll for the death of the connection.
    Watch,
    /// A read of eight bytes from an eventfd.
    Count,
    /// A poll for something to read.
    Readable,
    /// A lasting poll for room to write.
    Writable,
}

impl Op {
    pub(super) const ALL: [Self; 7] =
        [Self::Recv, Self::Send, Self::Connect, Self::Watch, Self::Count, Self::Readable, Self::Writable];

    pub(super) fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Names a slot; a key whose descriptor is gone names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) index: u32,
    pub(super) generation: u32,
}

const GENERATION_BITS: u32 = 24;
const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;

/// `user_data` of entries whose completion is ignored; no operation has this kind.
pub(super) const NOBODY: u64 = u64::MAX;

impl Key {
    /// Packs kind (8 bits), generation (24 bits) and index (32 bits).
    pub(super) fn user_data(self, op: Op) -> u64 {
        u64::from(op as u8) << 56 | u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(super) fn from_user_data(data: u64) -> Option<(Self, Op)> {
        let op = *Op::ALL.get((data >> 56) as usize)?;
        Some((Self { index: data as u32, generation: (data >> 32) as u32 & GENERATION_MASK }, op))
    }
}

/// How much a receive brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receive {
    /// One buffer.
    One,
    /// Several buffers, until the receive is paused or reaches a bound on its bytes. Kernels without the
    /// bound bring one buffer.
    Many,
    /// One buffer with at most this many bytes, not 0; a receive that had to wait for a buffer, or was parked, may fill it.
    AtMost(u32),
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The peer sent FIN; everything before it was received.
    Clean,
    /// The connection failed with this error number.
    Failed(Errno),
}

/// Memory that one kind of operation needs, owned by the slot for as long as the kernel may touch it.
pub(super) enum Extra {
    /// The address of a connect; only the kernel reads it.
    Address(socket2::SockAddr),
    /// A connect to a Unix socket.
    Knock(Knock),
    /// Bytes to send that are not in provided buffers, and how many of them are already sent.
    Bytes(Vec<u8>, usize),
    /// The counter read from an eventfd.
    Count(u64),
}

/// What only few slots have, and only for a short time.
#[derive(Default)]
pub(super) struct Rare {
    pub(super) extra: Option<Extra>,
    /// Bytes that were received before everything in the queue, moved out of the provided buffers.
    pub(super) spilled: Vec<u8>,
}

/// Flags of a slot, one bit each.
#[derive(Clone, Copy, Debug)]
#[repr(u16)]
pub(super) enum Mark {
    /// The handle is gone: completions are discarded, and the last one closes the descriptor.
    Orphan = 1 << 0,
    /// The close sends a reset.
    Reset = 1 << 1,
    /// A call or the watch found the connection dead.
    Dead = 1 << 2,
    /// The peer took less than it was sent, and has not reported since that it takes more.
    AwaitsRoom = 1 << 3,
    /// The receive in flight is a multishot.
    Multi = 1 << 4,
    /// A cancel of the receive in flight is on its way.
    Cancelled = 1 << 5,
    /// The receive waits for buffers.
    Starved = 1 << 6,
    /// A send was started, and its end was not reported yet.
    Sending = 1 << 7,
    /// The last send did not complete at once.
    Blocked = 1 << 8,
    /// The connection died because its peer did not answer.
    Silent = 1 << 9,
    /// With the last piece, the kernel reported that there is more.
    More = 1 << 10,
    /// The connection ends when the handle is dropped, not when the descriptor is closed.
    EndsAtDrop = 1 << 11,
    /// The send in flight completes without a completion if everything goes out.
    Quiet = 1 << 12,
    /// The task is woken at the end of a quiet send.
    Awaited = 1 << 13,
    /// The receive was armed or brought something since it was last looked at (`parking`).
    Fresh = 1 << 14,
    /// A poll waits in the place of the receive, or will once the receive is cancelled (`parking`).
    Parked = 1 << 15,
}

/// One descriptor: the size of a cache line, so that an idle descriptor costs no more.
#[repr(align(64))]
pub(super) struct Slot {
    pub(super) waker: Option<Waker>,
    rare: Option<Box<Rare>>,
    /// Received and not yet taken.
    pub(super) received: Chain,
    /// Not yet sent, unless the bytes are in `Extra::Bytes`.
    pub(super) unsent: Chain,
    pub(super) fd: RawFd,
    pub(super) generation: u32,
    /// Bytes sent and not yet reported.
    pub(super) sent: u32,
    /// How the stream of the peer ended.
    pub(super) end: Option<End>,
    /// The error of a send or of the connect.
    pub(super) error: Option<Errno>,
    marks: u16,
    /// [`Op::bit`]s of what is in flight.
    pub(super) in_flight: u8,
    /// Pieces that the receive in flight has brought.
    pub(super) pieces: u8,
}

const _: () = assert!(size_of::<Slot>() == 64 && size_of::<Entry>() == 64);

impl Slot {
    fn new(fd: RawFd, generation: u32) -> Self {
        Self {
            waker: None,
            rare: None,
            received: Chain::EMPTY,
            unsent: Chain::EMPTY,
            fd,
            generation,
            sent: 0,
            end: None,
            error: None,
            marks: 0,
            in_flight: 0,
            pieces: 0,
        }
    }

    pub(super) fn is(&self, mark: Mark) -> bool {
        self.marks & mark as u16 != 0
    }

    pub(super) fn set(&mut self, mark: Mark, on: bool) {
        self.marks = if on { self.marks | mark as u16 } else { self.marks & !(mark as u16) };
    }

    /// Clears a flag. Returns whether it was set.
    pub(super) fn unset(&mut self, mark: Mark) -> bool {
        let before = self.is(mark);
        self.set(mark, false);
        before
    }

    /// Notes that the connection died of this error.
    pub(super) fn die(&mut self, error: Errno) {
        self.set(Mark::Dead, true);
        if is_silence(error) {
            self.set(Mark::Silent, true);
        }
    }

    pub(super) fn extra(&mut self) -> Option<&mut Extra> {
        self.rare.as_mut()?.extra.as_mut()
    }

    /// Puts the memory for an operation into its place, where it stays until it is taken.
    pub(super) fn put_extra(&mut self, extra: Extra) -> &mut Extra {
        self.rare.get_or_insert_default().extra.insert(extra)
    }

    pub(super) fn take_extra(&mut self) -> Option<Extra> {
        let extra = self.rare.as_mut()?.extra.take();
        self.tidy();
        extra
    }

    pub(super) fn spilled(&self) -> &[u8] {
        self.rare.as_ref().map_or(&[], |rare| &rare.spilled)
    }

    pub(super) fn spill(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.rare.get_or_insert_default().spilled.extend_from_slice(bytes);
        }
    }

    pub(super) fn take_spilled(&mut self) -> Vec<u8> {
        let spilled = self.rare.as_mut().map_or_else(Vec::new, |rare| std::mem::take(&mut rare.spilled));
        self.tidy();
        spilled
    }

    /// Drops the first spilled bytes, at most `most` of them. Returns how many.
    pub(super) fn consume_spilled(&mut self, most: usize) -> usize {
        let Some(rare) = &mut self.rare else { return 0 };
        let count = most.min(rare.spilled.len());
        rare.spilled.drain(..count);
        self.tidy();
        count
    }

    fn tidy(&mut self) {
        self.rare.take_if(|rare| rare.extra.is_none() && rare.spilled.is_empty());
    }

    pub(super) fn is_in_flight(&self, op: Op) -> bool {
        self.in_flight & op.bit() != 0
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

enum Entry {
    Used(Slot),
    Free { next: Option<u32>, generation: u32 },
}

/// A table of so many entries is not worth shrinking.
const FEW: usize = 256;

/// All slots of one ring.
pub(super) struct Slots {
    entries: Vec<Entry>,
    free: Option<u32>,
    used: usize,
    /// Generation of an entry that is new: none before that of an entry that was forgotten.
    first: u32,
    /// Whether a slot was removed since the last [`Self::shrink`].
    has_shed: bool,
}

impl Slots {
    pub(super) fn new() -> Self {
        Self { entries: Vec::new(), free: None, used: 0, first: 0, has_shed: false }
    }

    pub(super) fn insert(&mut self, fd: RawFd) -> Key {
        self.used += 1;
        let Some(index) = self.free else {
            let index = u32::try_from(self.entries.len()).expect("fewer slots than descriptors");
            self.entries.push(Entry::Used(Slot::new(fd, self.first)));
            return Key { index, generation: self.first };
        };
        let entry = &mut self.entries[index as usize];
        let Entry::Free { next, generation } = *entry else { unreachable!("a used slot on the free list") };
        self.free = next;
        *entry = Entry::Used(Slot::new(fd, generation));
        Key { index, generation }
    }

    /// Returns the slot that a key names; `None` if its descriptor is gone.
    pub(super) fn find(&mut self, key: Key) -> Option<&mut Slot> {
        match self.entries.get_mut(key.index as usize) {
            Some(Entry::Used(slot)) if slot.generation == key.generation => Some(slot),
            _ => None,
        }
    }

    /// Returns the slot of a handle; the handle keeps the slot alive.
    pub(super) fn of(&mut self, key: Key) -> &mut Slot {
        self.find(key).expect("a handle keeps its slot")
    }

    pub(super) fn remove(&mut self, key: Key) -> Slot {
        let generation = key.generation.wrapping_add(1) & GENERATION_MASK;
        let entry = std::mem::replace(
            &mut self.entries[key.index as usize],
            Entry::Free { next: self.free, generation },
        );
        self.free = Some(key.index);
        self.used -= 1;
        self.has_shed = true;
        match entry {
            Entry::Used(slot) => slot,
            Entry::Free { .. } => unreachable!("a slot is removed once"),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.used
    }

    /// Returns whether [`Self::shrink`] could give memory back.
    pub(super) fn can_shrink(&self) -> bool {
        self.has_shed && self.entries.capacity() >= 2 * self.used.max(FEW)
    }

    /// Gives back the memory of the free entries behind the last used one, if that is at least half of it.
    /// Returns the number of bytes.
    pub(super) fn shrink(&mut self) -> usize {
        self.has_shed = false;
        let before = self.entries.capacity();
        let last = self.entries.iter().rposition(|entry| matches!(entry, Entry::Used(_)));
        let kept = last.map_or(0, |last| last + 1);
        if before < 2 * kept.max(FEW) {
            return 0;
        }
        for entry in self.entries.drain(kept..) {
            if let Entry::Free { generation, .. } = entry {
                // Generations wrap around.
                let is_later = generation.wrapping_sub(self.first) & GENERATION_MASK <= GENERATION_MASK / 2;
                self.first = if is_later { generation } else { self.first };
            }
        }
        self.entries.shrink_to(FEW);
        self.free = None;
        // The lowest come first, so that the next end of a crowd leaves the high ones free.
        for (index, entry) in self.entries.iter_mut().enumerate().rev() {
            if let Entry::Free { next, .. } = entry {
                *next = self.free.replace(index as u32);
            }
        }
        (before - self.entries.capacity()) * size_of::<Entry>()
    }

    /// Returns the number of indices that slots have had.
    pub(super) fn places(&self) -> usize {
        self.entries.len()
    }

    /// Returns the slot with this index, if there is one.
    pub(super) fn at(&mut self, index: u32) -> Option<(Key, &mut Slot)> {
        match self.entries.get_mut(index as usize) {
            Some(Entry::Used(slot)) => Some((Key { index, generation: slot.generation }, slot)),
            _ => None,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Used(slot) => Some(slot),
            Entry::Free { .. } => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_names_the_operation_and_nothing_else() {
        let key = Key { index: u32::MAX, generation: GENERATION_MASK };
        for op in Op::ALL {
            assert_eq!(Key::from_user_data(key.user_data(op)), Some((key, op)));
        }
        assert_eq!(Key::from_user_data(NOBODY), None);
    }

    #[test]
    fn late_key_names_no_stranger() {
        let mut slots = Slots::new();
        let old = slots.insert(5);
        slots.remove(old);
        let new = slots.insert(5);
        assert_eq!(new.index, old.index);
        assert!(slots.find(old).is_none());
        assert!(slots.find(new).is_some());
    }

    #[test]
    fn generations_wrap_around_where_entries_are_forgotten_too() {
        let mut slots = Slots::new();
        slots.first = GENERATION_MASK;
        for _ in 0..3 {
            let keys: Vec<_> = (0..10_000).map(|fd| slots.insert(fd)).collect();
            keys.iter().for_each(|&key| drop(slots.remove(key)));
            assert!(slots.shrink() > 0);
            let new: Vec<_> = (0..10_000).map(|fd| slots.insert(fd)).collect();
            assert!(keys.iter().all(|&key| slots.find(key).is_none()));
            new.iter().for_each(|&key| drop(slots.remove(key)));
        }
    }

    #[test]
    fn memory_of_a_crowd_is_given_back_and_its_keys_name_no_stranger() {
        let mut slots = Slots::new();
        let keys: Vec<_> = (0..10_000).map(|fd| slots.insert(fd)).collect();
        let (stays, goes) = keys.split_at(100);
        for &key in goes.iter().chain(&stays[..50]) {
            slots.remove(key);
        }
        assert!(slots.can_shrink());
        assert!(slots.shrink() > 9_000 * size_of::<Entry>());
        assert!(!slots.can_shrink());
        assert_eq!((slots.len(), slots.places()), (50, 100));
        assert!(slots.entries.capacity() <= 2 * FEW);
        assert!(stays[50..].iter().all(|&key| slots.find(key).is_some()));
        let fresh: Vec<_> = (0..10_000).map(|fd| slots.insert(fd)).collect();
        assert_eq!(fresh[0].index, 0, "the lowest free one");
        assert!(goes.iter().chain(&stays[..50]).all(|&key| slots.find(key).is_none()));
        assert!(fresh.iter().all(|&key| slots.find(key).is_some()));
        assert!(!slots.can_shrink());
        slots.remove(fresh[0]);
        assert_eq!((slots.shrink(), slots.places()), (0, 10_050), "the last are used");
    }
}
