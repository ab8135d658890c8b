//! Locked memory: what part of a ring the kernel counts as locked, how much that is, and what to do while
//! none is left.
//!
//! All processes of a user share one limit (`RLIMIT_MEMLOCK`), and kernels count different things: registered
//! buffers always, but the rings themselves and the rings of provided buffers only in some kernels (6.18
//! does, 6.1 does not). The kernel does not report how much is in use. So a test at the start finds out what
//! this kernel counts, and the rest is arithmetic.
//!
//! A process with `CAP_IPC_LOCK` is exempt from the limit.

#![expect(unsafe_code, reason = "io_uring_register(2) on rings that are not ours")]

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use io_uring::IoUring;

use super::buffers::{Buffers, RING_ENTRIES};
use super::limit::{EXECUTOR_LEAST, LockedMemory, NEEDED, limit, raise, set_limit};
use super::missing::Missing;

/// Entries of the submission queue; further ones wait in `Queues`. Both queues are locked memory.
pub(super) const SUBMISSION_ENTRIES: u32 = 512;
/// Entries of the completion queue; when it is full, the kernel keeps completions back (NODROP), and nothing
/// is lost.
pub(super) const COMPLETION_ENTRIES: u32 = 2048;

const PAGE: u64 = 4096;
/// The three rings of an executor at `ring_depth` 8, each a page of rings and a page of entries.
const EXECUTOR_RINGS: u64 = 3 * 2 * PAGE;
/// The kernel gives back locked memory some milliseconds after the end of a process or ring.
const PATIENCE: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(10);

/// What the kernel counts of a shard for this user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counted {
    rings: bool,
    buffer_rings: bool,
}

impl Counted {
    /// Returns the locked bytes of one shard with this number of provided buffers.
    fn bytes(self, buffers: u32) -> u64 {
        let pages = |bytes: u64| bytes.next_multiple_of(PAGE);
        let (submissions, completions) = (u64::from(SUBMISSION_ENTRIES), u64::from(COMPLETION_ENTRIES));
        // A header, completions of 16 bytes, an index for each submission; and submissions of 64 bytes.
        let ring = pages(64 + 16 * completions + 4 * submissions) + pages(64 * submissions) + EXECUTOR_RINGS;
        let buffer_ring = pages(16 * u64::from(buffers.min(RING_ENTRIES)));
        u64::from(self.rings) * ring + u64::from(self.buffer_rings) * buffer_ring
    }
}

/// For tests: locked memory that a process of so many shards needs where the kernel counts everything; as the
/// documentation has it.
#[doc(hidden)]
#[must_use]
pub fn locked_memory(shards: usize, buffers_per_core: u32) -> u64 {
    let all = Counted { rings: true, buffer_rings: true };
    (shards as u64 * all.bytes(buffers_per_core)).max(EXECUTOR_LEAST)
}

impl LockedMemory {
    /// Finds the limit and the need. Once per process, the limit is lowered for the duration of two system
    /// calls to see what is counted.
    #[must_use]
    pub fn of(shards: usize, buffers_per_core: u32) -> Self {
        static COUNTED: OnceLock<Counted> = OnceLock::new();
        let limit = raise();
        let counted = *COUNTED.get_or_init(try_what_counts);
        let per_shard = counted.bytes(buffers_per_core);
        Self { limit, needed: (shards as u64 * per_shard).max(EXECUTOR_LEAST), per_shard }
    }
}

/// Checks that this number of shards can have the memory that they need.
pub(super) fn reserve(shards: usize, buffers_per_core: u32) -> Result<(), Missing> {
    let memory = LockedMemory::of(shards, buffers_per_core);
    NEEDED.store(if memory.per_shard > 0 { memory.needed } else { 0 }, Relaxed);
    if memory.limit < memory.needed {
        return Err(Missing::LimitOfLockedMemory { shards, memory });
    }
    Ok(())
}

/// Makes a ring, or something with rings. While memory for it is missing, this waits for a process that has
/// just ended.
///
/// # Errors
///
/// The errors of `make`, and that there is still no memory.
pub(super) fn patiently<T>(mut make: impl FnMut() -> Result<T, Missing>) -> Result<T, Missing> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match make() {
            Err(Missing::LockedMemoryInUse { .. } | Missing::Memory) if Instant::now() < deadline => {
                std::thread::sleep(STEP);
            }
            result => return result,
        }
    }
}

/// Whether glommio's probe can be made, or has been made.
static IS_PROBED: AtomicBool = AtomicBool::new(false);
/// At least as large as the ring of glommio's probe.
const PROBE_ENTRIES: u32 = 8;
/// How long the kernel takes to give back what a ring has locked.
const RELEASE: Duration = Duration::from_millis(20);

/// Makes an executor, and gives back the buffers that it registers with its rings: three times 64 KiB, which
/// a shard never uses and which count as locked memory. Executors are made one at a time, so that the rings
/// of a half-made one are never touched.
///
/// # Errors
///
/// The errors of `make`.
pub fn make_executor<T>(make: impl FnMut() -> Result<T, Missing>) -> Result<T, Missing> {
    static ONE: Mutex<()> = Mutex::new(());
    let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut make = make;
    let executor = patiently(|| {
        if !IS_PROBED.load(Relaxed) {
            // The first executor of a process asks the kernel for its features on a ring of its own, and
            // glommio panics if there is no memory for that ring. The memory of that ring comes back some
            // milliseconds after its end.
            drop(IoUring::new(PROBE_ENTRIES).map_err(Missing::from_setup)?);
            std::thread::sleep(RELEASE);
            IS_PROBED.store(true, Relaxed);
        }
        make()
    })?;
    unregister_buffers();
    drop(one);
    Ok(executor)
}

/// Gives back the registered buffers of every ring of the process; Ringway itself registers none.
fn unregister_buffers() {
    /// `IORING_UNREGISTER_BUFFERS`, io_uring_register(2).
    const UNREGISTER_BUFFERS: libc::c_long = 1;
    for number in descriptors() {
        // SAFETY: the call takes numbers only and touches no memory of ours. A descriptor that is no ring, or
        // a ring without buffers or of another single thread, answers with an error.
        unsafe { libc::syscall(libc::SYS_io_uring_register, number, UNREGISTER_BUFFERS, 0_usize, 0) };
    }
}

/// Returns numbers that include the descriptors of all rings. /proc hides descriptors from a process that got
/// capabilities with its binary.
fn descriptors() -> Vec<libc::c_long> {
    /// More than any process known to us has at the start; a shard tries them all in 10 ms.
    const MOST: libc::c_long = 1 << 16;
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return (0..MOST).collect() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Makes a small ring, and a ring of provided buffers in it, while nothing may be locked.
fn try_what_counts() -> Counted {
    let before = limit();
    set_limit(libc::rlimit { rlim_cur: 0, ..before });
    let without = IoUring::new(1);
    let is_memory = |error: &io::Error| error.raw_os_error() == Some(libc::ENOMEM);
    let rings = without.as_ref().is_err_and(is_memory);
    let buffer_rings = match &without {
        Ok(ring) => Buffers::new(ring, 4096, 1).is_err_and(|error| is_memory(&error)),
        // A kernel that counts rings counts these, too, because the same function makes both.
        Err(_) => rings,
    };
    set_limit(before);
    Counted { rings, buffer_rings }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_comes_back_is_waited_for() {
        let mut tries = 0;
        let made = patiently(|| {
            tries += 1;
            if tries < 5 { Err(Missing::Memory) } else { Ok(tries) }
        });
        assert!(matches!(made, Ok(5)));
        let mut tries = 0;
        let other = patiently(|| {
            tries += 1;
            Err::<(), _>(Missing::NoSystemCall)
        });
        assert!(matches!(other, Err(Missing::NoSystemCall)) && tries == 1);
    }
}
