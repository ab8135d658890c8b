//! One slot for each descriptor of a ring, and the table of them.
//!
//! Every operation in flight names a slot by index and generation, and is noted in the slot. So a descriptor is
//! closed only after the last completion of every operation that names it (`close(2)` is immediate, a queued
//! entry is submitted later: a queued send of a closed session would reach whoever got its number), and the
//! memory an operation uses belongs to the slot, not to a future that may be dropped.

use std::os::fd::RawFd;
use std::task::Waker;

use super::buffers::Chain;

/// What can be in flight on one descriptor, each at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Op {
    Recv,
    Send,
    Connect,
    /// A poll for the end of both directions.
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

/// Names a slot; a key of a descriptor that is gone names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) index: u32,
    pub(super) generation: u32,
}

const GENERATION_BITS: u32 = 24;
const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;

/// `user_data` of entries whose completion nobody waits for; no operation has this kind.
pub(super) const NOBODY: u64 = u64::MAX;

impl Key {
    /// Kind (8 bits), generation (24 bits) and index (32 bits).
    pub(super) fn user_data(self, op: Op) -> u64 {
        u64::from(op as u8) << 56 | u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(super) fn from_user_data(data: u64) -> Option<(Self, Op)> {
        let op = *Op::ALL.get((data >> 56) as usize)?;
        Some((Self { index: data as u32, generation: (data >> 32) as u32 & GENERATION_MASK }, op))
    }
}

/// An error number, errno(3): positive, and small enough to be kept in two bytes of every slot.
pub type Errno = std::num::NonZeroU16;

/// The error number of a negative result.
pub(super) fn errno(result: i32) -> Errno {
    // The kernel's numbers end at 4,095 (MAX_ERRNO in linux/err.h).
    u16::try_from(-result).ok().and_then(Errno::new).unwrap_or(Errno::MAX)
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
    /// Bytes to send that are not in provided buffers, and how many of them are gone.
    Bytes(Vec<u8>, usize),
    /// The counter read from an eventfd.
    Count(u64),
}

/// Receiving half of a slot.
pub(super) struct Receive {
    /// Received and not yet taken.
    pub(super) queue: Chain,
    /// Received before everything in `queue`, moved out of the provided buffers.
    #[expect(clippy::box_collection, reason = "every slot pays for it, hardly any uses it")]
    pub(super) spilled: Option<Box<Vec<u8>>>,
    pub(super) end: Option<End>,
    /// The receive in flight is a multishot.
    pub(super) multi: bool,
    /// A cancel of the receive in flight is on its way.
    pub(super) cancelled: bool,
    /// Waits for buffers.
    pub(super) starved: bool,
}

/// Sending half of a slot.
pub(super) struct Send {
    /// Not yet sent, where it is not `Extra::Bytes`.
    pub(super) chain: Chain,
    /// Bytes sent and not yet reported.
    pub(super) sent: u32,
    /// Of a send or of the connect.
    pub(super) error: Option<Errno>,
    /// Something was started and its end is not yet reported.
    pub(super) busy: bool,
    /// The last send did not complete at once.
    pub(super) blocked: bool,
}

pub(super) struct Slot {
    pub(super) fd: RawFd,
    pub(super) generation: u32,
    /// [`Op::bit`]s of what is in flight.
    pub(super) in_flight: u8,
    /// The handle is gone: what completes is thrown away, and the last completion closes.
    pub(super) orphan: bool,
    /// Close with a reset.
    pub(super) reset: bool,
    /// A call or the watch found the connection dead.
    pub(super) dead: bool,
    /// The watch found both streams of the connection ended.
    pub(super) hung_up: bool,
    /// The peer took less than it was sent, and has not said since that it takes more.
    pub(super) full: bool,
    pub(super) waker: Option<Waker>,
    pub(super) receive: Receive,
    pub(super) send: Send,
    pub(super) extra: Option<Box<Extra>>,
}

impl Slot {
    fn new(fd: RawFd, generation: u32) -> Self {
        Self {
            fd,
            generation,
            in_flight: 0,
            orphan: false,
            reset: false,
            dead: false,
            hung_up: false,
            full: false,
            waker: None,
            receive: Receive {
                queue: Chain::EMPTY,
                spilled: None,
                end: None,
                multi: false,
                cancelled: false,
                starved: false,
            },
            send: Send { chain: Chain::EMPTY, sent: 0, error: None, busy: false, blocked: false },
            extra: None,
        }
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

/// All slots of one ring.
pub(super) struct Slots {
    entries: Vec<Entry>,
    free: Option<u32>,
    used: usize,
}

impl Slots {
    pub(super) fn new() -> Self {
        Self { entries: Vec::new(), free: None, used: 0 }
    }

    pub(super) fn insert(&mut self, fd: RawFd) -> Key {
        self.used += 1;
        let Some(index) = self.free else {
            let index = u32::try_from(self.entries.len()).expect("fewer slots than descriptors");
            self.entries.push(Entry::Used(Slot::new(fd, 0)));
            return Key { index, generation: 0 };
        };
        let entry = &mut self.entries[index as usize];
        let Entry::Free { next, generation } = *entry else { unreachable!("a used slot on the free list") };
        self.free = next;
        *entry = Entry::Used(Slot::new(fd, generation));
        Key { index, generation }
    }

    /// The slot a key names; `None` when its descriptor is gone.
    pub(super) fn find(&mut self, key: Key) -> Option<&mut Slot> {
        match self.entries.get_mut(key.index as usize) {
            Some(Entry::Used(slot)) if slot.generation == key.generation => Some(slot),
            _ => None,
        }
    }

    /// The slot of a handle, which keeps it in place.
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
        match entry {
            Entry::Used(slot) => slot,
            Entry::Free { .. } => unreachable!("a slot is removed once"),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.used
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
}
