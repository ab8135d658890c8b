//! Provided buffers of one ring: a block of memory, a free list, and the ring that hands buffers to the
//! kernel.
//!
//! The kernel takes buffers in the order they were posted. If all of them were posted, every message would
//! touch the coldest memory of the block; so only `target` of them are posted at a time, refilled from the
//! top of a stack (warmest first). The target doubles whenever the kernel ran out, and falls when it did not.
//! Buffers that were not used for a while give their memory back: those at the bottom of the stack, and those
//! that were posted for a higher target and stay untouched until traffic has used up all before them.
//!
//! Invariant, checked in debug builds: posted + free + held = all. "Held" buffers are in a [`Chain`].

#![expect(unsafe_code, reason = "memory shared with the kernel")]

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

/// The buffer group that all receives of a ring select from.
pub(super) const GROUP: u16 = 0;
/// The number of buffers posted at first, and the minimum later.
const FIRST_TARGET: u32 = 32;
/// Ranges of memory that are given back at once. Each call makes every core on which a thread of this process runs forget its
/// translations (an interrupt), so neighbours go together, and what is left waits for the next time.
const RANGES_MAX: usize = 64;
/// Maximum number of entries of the ring that buffers are posted in, which is locked memory. This many
/// receives fit into a turn without waiting for the next refill; the number of buffers may be larger.
pub(super) const RING_ENTRIES: u32 = 1024;
/// A piece is appended to the buffer before it by copying, up to this fraction of a buffer; larger pieces
/// keep their own buffer. So two neighbours of a chain together hold more than this fraction.
const COPY_FRACTION: u32 = 4;
const NIL: u16 = u16::MAX;
const PAGE: usize = 4096;

/// Anonymous private memory; unmapped on drop.
struct Mapping {
    base: NonNull<u8>,
    length: usize,
}

impl Mapping {
    fn new(length: usize) -> io::Result<Self> {
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, length })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `new`; the owner drops it only after the kernel's last use.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.length) };
    }
}

/// The state of one buffer.
#[derive(Clone, Copy)]
struct Meta {
    /// The next buffer of the chain that this one is in.
    next: u16,
    /// Whether its memory may be resident.
    touched: bool,
    /// End of the filled bytes.
    filled: u32,
    /// Bytes at the start that are already consumed; only for the first buffer of a chain.
    consumed: u32,
}

/// Filled buffers in the order of their bytes, linked through [`Buffers`]; a chain allocates nothing itself.
///
/// A chain is not a guard: its holder gives it back with [`Buffers::release`].
#[derive(Debug)]
pub(super) struct Chain {
    /// [`NIL`] in an empty chain.
    head: u16,
    tail: u16,
    /// Bytes in all buffers, without the consumed bytes.
    pub(super) bytes: u32,
}

impl Chain {
    pub(super) const EMPTY: Self = Self { head: NIL, tail: NIL, bytes: 0 };

    pub(super) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::EMPTY)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.head == NIL
    }

    /// Returns whether the whole chain is one buffer.
    pub(super) fn is_single(&self) -> bool {
        !self.is_empty() && self.head == self.tail
    }
}

/// All provided buffers of one ring.
pub(super) struct Buffers {
    memory: Mapping,
    entries: Mapping,
    meta: Vec<Meta>,
    size: u32,
    mask: u16,
    tail: u16,
    free: Vec<u16>,
    posted: u32,
    target: u32,
    /// Buffers whose memory may be resident.
    touched: u32,
    /// The smallest number of free buffers since the last [`Self::shrink`].
    free_low: usize,
    /// Whether the kernel ran out since the last [`Self::shrink`].
    ran_out: bool,
    /// `tail` and `posted` at the last [`Self::shrink`]: they are unchanged if nothing was received since.
    last: (u16, u32),
}

impl Buffers {
    /// Maps `count` buffers of `size` bytes and registers their ring; `count` is a power of two up to 32,768.
    pub(super) fn new(ring: &IoUring, size: u32, count: u32) -> io::Result<Self> {
        assert!(count.is_power_of_two() && count <= 32_768, "number of buffers: {count}");
        let entry_count = count.min(RING_ENTRIES);
        let count = count as usize;
        let memory = Mapping::new(size as usize * count)?;
        let entries = Mapping::new(size_of::<BufRingEntry>() * entry_count as usize)?;
        // SAFETY: the entries are page-aligned, hold `entry_count` elements, and outlive the ring: `Core`
        // declares the ring first, so it is closed first.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                entries.base.as_ptr() as u64,
                entry_count as u16,
                GROUP,
                0,
            )?;
        }
        Ok(Self {
            memory,
            entries,
            meta: vec![Meta { next: NIL, touched: false, filled: 0, consumed: 0 }; count],
            size,
            mask: (entry_count - 1) as u16,
            tail: 0,
            // Popped from the back, so buffer 0 comes first.
            free: (0..count as u16).rev().collect(),
            posted: 0,
            target: FIRST_TARGET.min(count as u32),
            touched: 0,
            free_low: count,
            ran_out: false,
            last: (0, 0),
        })
    }

    /// Posts free buffers until the target is reached.
    pub(super) fn refill(&mut self) {
        if self.posted >= self.target || self.free.is_empty() {
            return;
        }
        while self.posted < self.target {
            let Some(id) = self.free.pop() else { break };
            let position = usize::from(self.tail & self.mask);
            // SAFETY: `position` is below the number of entries; the kernel reads entries only below the tail
            // published further down, and only this thread writes them. Entry 0 overlaps the tail in its
            // `resv` field, which the setters leave alone.
            let entry = unsafe { &mut *self.entries.base.as_ptr().cast::<BufRingEntry>().add(position) };
            entry.set_addr(self.address(id) as u64);
            entry.set_len(self.size);
            entry.set_bid(id);
            self.touch(id);
            self.tail = self.tail.wrapping_add(1);
            self.posted += 1;
        }
        self.free_low = self.free_low.min(self.free.len());
        // SAFETY: the tail is an aligned u16 inside the mapping, which the kernel reads concurrently; only
        // this thread writes it. Release publishes the entries above.
        let tail =
            unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.base.as_ptr().cast()).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// Notes that the kernel found no buffer: more are posted from now on.
    pub(super) fn ran_out(&mut self) {
        self.ran_out = true;
        self.target = (self.target * 2).min(u32::from(self.mask) + 1);
    }

    /// Takes over a buffer that the kernel filled and appends it to a chain.
    ///
    /// Small pieces are copied into the room of the last buffer, so that a sender of single bytes cannot hold
    /// a whole buffer with each.
    pub(super) fn append(&mut self, chain: &mut Chain, id: u16, filled: u32) {
        debug_assert!(filled > 0 && filled <= self.size, "{filled} bytes in a buffer of {}", self.size);
        self.posted -= 1;
        self.touch(id);
        chain.bytes += filled;
        if !chain.is_empty() {
            let last = usize::from(chain.tail);
            let used = self.meta[last].filled;
            if filled <= self.size / COPY_FRACTION && filled <= self.size - used {
                // SAFETY: both ranges lie inside their own buffers (`used + filled <= size`), which differ,
                // and neither is in the kernel's hands: one was just delivered, the other waits in this
                // chain.
                unsafe {
                    let room = self.address(chain.tail).add(used as usize);
                    std::ptr::copy_nonoverlapping(self.address(id), room, filled as usize);
                }
                self.meta[last].filled += filled;
                self.free.push(id);
                return;
            }
            self.meta[last].next = id;
        } else {
            chain.head = id;
        }
        chain.tail = id;
        let meta = &mut self.meta[usize::from(id)];
        meta.filled = filled;
        meta.consumed = 0;
        meta.next = NIL;
    }

    /// Takes back a buffer that the kernel returned without useful content.
    pub(super) fn recycle(&mut self, id: u16) {
        self.posted -= 1;
        self.touch(id);
        self.free.push(id);
    }

    /// Splits off the first buffers of a chain, at most `limit` of them.
    pub(super) fn split(&mut self, chain: &mut Chain, limit: usize) -> Chain {
        let (mut bytes, mut last) = (0, NIL);
        for id in self.ids(chain).take(limit) {
            bytes += self.left(id);
            last = id;
        }
        if last == chain.tail {
            return chain.take();
        }
        let rest = std::mem::replace(&mut self.meta[usize::from(last)].next, NIL);
        let first = Chain { head: chain.head, tail: last, bytes };
        *chain = Chain { head: rest, tail: chain.tail, bytes: chain.bytes - bytes };
        first
    }

    /// Drops the first `bytes` of a chain and frees the buffers that they filled.
    pub(super) fn consume(&mut self, chain: &mut Chain, mut bytes: u32) {
        debug_assert!(bytes <= chain.bytes, "{bytes} of {} bytes", chain.bytes);
        chain.bytes -= bytes;
        while !chain.is_empty() {
            let left = self.left(chain.head);
            if bytes < left {
                self.meta[usize::from(chain.head)].consumed += bytes;
                return;
            }
            bytes -= left;
            self.free.push(chain.head);
            chain.head = self.meta[usize::from(chain.head)].next;
        }
        *chain = Chain::EMPTY;
    }

    /// Frees all buffers of a chain.
    pub(super) fn release(&mut self, chain: &mut Chain) {
        let bytes = chain.bytes;
        self.consume(chain, bytes);
    }

    /// Iterates over address and length of the unconsumed bytes of each buffer of a chain, first to last.
    pub(super) fn pieces(&self, chain: &Chain) -> impl Iterator<Item = (*mut u8, u32)> {
        self.ids(chain).map(|id| {
            let consumed = self.meta[usize::from(id)].consumed as usize;
            (self.address(id).wrapping_add(consumed), self.left(id))
        })
    }

    fn ids(&self, chain: &Chain) -> impl Iterator<Item = u16> {
        let buffer = |id: u16| (id != NIL).then_some(id);
        std::iter::successors(buffer(chain.head), move |&id| buffer(self.meta[usize::from(id)].next))
    }

    /// Returns a copy of the bytes of a chain.
    pub(super) fn copy(&self, chain: &Chain) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(chain.bytes as usize);
        self.copy_first(chain, chain.bytes as usize, &mut bytes);
        bytes
    }

    /// Appends a copy of the first bytes of a chain, at most `most` of them.
    pub(super) fn copy_first(&self, chain: &Chain, most: usize, bytes: &mut Vec<u8>) {
        self.each(chain, most, |piece| bytes.extend_from_slice(piece));
    }

    /// Calls `see` with the first bytes of a chain, at most `most` of them, piece by piece.
    pub(super) fn each(&self, chain: &Chain, mut most: usize, mut see: impl FnMut(&[u8])) {
        for (address, length) in self.pieces(chain) {
            let length = most.min(length as usize);
            if length == 0 {
                return;
            }
            // SAFETY: the piece is filled memory of a buffer this chain holds; the kernel at most reads it.
            see(unsafe { std::slice::from_raw_parts(address, length) });
            most -= length;
        }
    }

    /// Returns the size of a buffer, bytes.
    pub(super) fn size(&self) -> u32 {
        self.size
    }

    /// Returns the number of buffers that are neither posted nor held.
    pub(super) fn free(&self) -> u32 {
        self.free.len() as u32
    }

    /// Returns the number of buffers in the kernel's hands.
    pub(super) fn posted(&self) -> u32 {
        self.posted
    }

    /// Returns whether so many buffers are in use that sessions which cannot send must give theirs back: less
    /// than a quarter is left for those that can.
    pub(super) fn scarce(&self) -> bool {
        (self.free() + self.posted) * 4 < self.meta.len() as u32
    }

    /// Returns the number of buffers in chains.
    pub(super) fn held(&self) -> u32 {
        self.meta.len() as u32 - self.free() - self.posted
    }

    /// Returns whether [`Self::shrink`] could give memory back at some point.
    pub(super) fn can_shrink(&self) -> bool {
        let size = self.size as usize;
        let shrinks = size.is_multiple_of(PAGE) || PAGE.is_multiple_of(size);
        shrinks && self.touched > self.held() + 2 * FIRST_TARGET
    }

    fn touch(&mut self, id: u16) {
        self.touched += u32::from(!std::mem::replace(&mut self.meta[usize::from(id)].touched, true));
    }

    /// Gives back memory that was not used since the last call; meant to be called every few seconds. Returns the number of calls
    /// for it.
    pub(super) fn shrink(&mut self) -> usize {
        let first = FIRST_TARGET.min(self.meta.len() as u32);
        let now = (self.tail, self.posted);
        let rests = std::mem::replace(&mut self.last, now) == now;
        let ran_out = std::mem::take(&mut self.ran_out);
        if rests {
            self.target = first;
        } else if !ran_out {
            self.target = (self.target / 2).max(first);
        }
        let idle = std::mem::replace(&mut self.free_low, self.free.len()).min(self.free.len());
        // The kernel takes posted buffers in the order of the ring, and faults in memory that is gone.
        let posted = (self.target..self.posted).map(|ahead| {
            let position = self.tail.wrapping_sub(self.posted as u16).wrapping_add(ahead as u16) & self.mask;
            // SAFETY: the position is in the ring and below its tail, so this thread has written the entry;
            // the kernel writes only the tail, which lies beside the number that is read.
            unsafe { (*self.entries.base.as_ptr().cast::<BufRingEntry>().add(usize::from(position))).bid() }
        });
        let spare: Vec<_> = self.free[..idle].iter().copied().chain(posted).collect();
        self.give_back(&spare)
    }

    /// Gives back the memory of buffers that hold nothing; if several buffers share a page, only of whole
    /// pages. Returns the number of calls for it.
    fn give_back(&mut self, spare: &[u16]) -> usize {
        let size = self.size as usize;
        let on_a_page = if PAGE.is_multiple_of(size) { PAGE / size } else { 1 };
        if !(size * on_a_page).is_multiple_of(PAGE) {
            return 0;
        }
        let mut spare_on = vec![0; self.meta.len().div_ceil(on_a_page)];
        spare.iter().for_each(|&id| spare_on[usize::from(id) / on_a_page] += 1);
        let (mut next, mut calls) = (0, 0);
        for run in spare_on.chunk_by(|one, other| (*one == on_a_page) == (*other == on_a_page)) {
            let first = next;
            next += run.len() * on_a_page;
            if run[0] != on_a_page {
                continue;
            }
            let metas = &mut self.meta[first..next];
            let touched: u32 =
                metas.iter_mut().map(|meta| u32::from(std::mem::take(&mut meta.touched))).sum();
            if touched == 0 {
                continue;
            }
            self.touched -= touched;
            // SAFETY: these buffers hold nothing, and nothing else is on their pages; they read as zero
            // afterwards. Those that are posted are empty, since every completion was taken (`Core::shrink`),
            // and the kernel fills them only in calls of this thread.
            unsafe {
                libc::madvise(self.address(first as u16).cast(), size * (next - first), libc::MADV_DONTNEED);
            }
            calls += 1;
            if calls == RANGES_MAX {
                break;
            }
        }
        calls
    }

    /// Returns the number of unconsumed bytes of a filled buffer.
    fn left(&self, id: u16) -> u32 {
        let meta = &self.meta[usize::from(id)];
        meta.filled - meta.consumed
    }

    fn address(&self, id: u16) -> *mut u8 {
        debug_assert!(usize::from(id) < self.meta.len(), "buffer {id}");
        self.memory.base.as_ptr().wrapping_add(usize::from(id) * self.size as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Buffers {
        /// Returns the number of pages of the block that are in memory.
        fn resident(&self) -> usize {
            let mut pages = vec![0_u8; self.memory.length / PAGE];
            // SAFETY: the kernel writes one byte for each page of the mapping, and there is room for them.
            let told = unsafe {
                libc::mincore(self.memory.base.as_ptr().cast(), self.memory.length, pages.as_mut_ptr())
            };
            assert_eq!(told, 0, "mincore(2) on a mapping");
            pages.iter().filter(|&&page| page & 1 == 1).count()
        }

        /// Returns the ids of the next buffers that the kernel would take, and fills these buffers.
        fn fill(&mut self, count: u32) -> Vec<u16> {
            (0..count.min(self.posted))
                .map(|ahead| {
                    let position =
                        self.tail.wrapping_sub(self.posted as u16).wrapping_add(ahead as u16) & self.mask;
                    // SAFETY: as in `shrink`.
                    let entry =
                        unsafe { &*self.entries.base.as_ptr().cast::<BufRingEntry>().add(position.into()) };
                    let id = entry.bid();
                    // SAFETY: a posted buffer may be written by the kernel, and this test plays the kernel.
                    unsafe { self.address(id).write_bytes(7, self.size as usize) };
                    id
                })
                .collect()
        }
    }

    /// After a burst that has touched all buffers: some were posted and never used, the others came back.
    #[test]
    fn memory_of_a_burst_comes_back_at_rest() {
        for size in [1_u32 << 10, 2 << 10, 4 << 10, 16 << 10] {
            let ring = IoUring::new(4).expect("a ring");
            let mut buffers = Buffers::new(&ring, size, 1024).expect("memory");
            (0..6).for_each(|_| buffers.ran_out());
            buffers.refill();
            assert_eq!(buffers.posted(), 1024);
            let mut chain = Chain::EMPTY;
            for id in buffers.fill(1024) {
                buffers.append(&mut chain, id, size);
            }
            buffers.release(&mut chain);
            buffers.refill();
            let all = 1024 * size as usize / PAGE;
            assert_eq!(buffers.resident(), all, "the burst");
            // The first call ends the period in which there was traffic.
            let calls: usize = (0..2).map(|_| buffers.shrink()).sum();
            assert!((1..=4).contains(&calls), "{calls} calls for neighbours");
            let most = (FIRST_TARGET * size) as usize / PAGE + 1;
            assert!(buffers.resident() <= most, "{} pages with {size} bytes each", buffers.resident());
            assert!(!buffers.can_shrink());
            // Buffers whose memory was given back work as before.
            for id in buffers.fill(100) {
                buffers.append(&mut chain, id, size);
            }
            assert!(buffers.copy(&chain) == vec![7; 100 * size as usize]);
            buffers.release(&mut chain);
        }
    }

    #[test]
    fn memory_of_buffers_in_use_stays() {
        let ring = IoUring::new(4).expect("a ring");
        let mut buffers = Buffers::new(&ring, 1024, 256).expect("memory");
        (0..3).for_each(|_| buffers.ran_out());
        buffers.refill();
        let mut chain = Chain::EMPTY;
        for (index, id) in buffers.fill(256).into_iter().enumerate() {
            if index % 5 == 0 {
                buffers.append(&mut chain, id, 1024);
            } else {
                buffers.recycle(id);
            }
        }
        for _ in 0..3 {
            buffers.shrink();
        }
        assert!(buffers.copy(&chain) == vec![7; 52 * 1024]);
        buffers.release(&mut chain);
    }
}
