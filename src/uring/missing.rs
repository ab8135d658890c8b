//! Why there is no ring, and what an operator can do about it.

use std::io;
use std::sync::atomic::Ordering::Relaxed;

use super::limit::{self, LockedMemory};
use crate::base::{Plain, counted};

/// Why no ring can be made here, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// The system call does not exist.
    #[error(
        "this kernel has no io_uring, or the sandbox hides it; run Linux 6.1 or later and allow \
         io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile"
    )]
    NoSystemCall,
    /// The system call is forbidden.
    #[error(
        "io_uring is forbidden here; set the sysctl kernel.io_uring_disabled to 0 (or add this user's group \
         to kernel.io_uring_group), and allow io_uring_setup, io_uring_enter and io_uring_register in the \
         seccomp profile of the container"
    )]
    Forbidden,
    /// The kernel lacks a feature that Ringway needs.
    #[error("io_uring of this kernel is too old: {what} is missing; run Linux 6.1 or later")]
    TooOld {
        /// The feature that is missing.
        what: &'static str,
    },
    /// The process needs more than the limit allows.
    #[error(
        "{} of locked memory are needed for io_uring on {}, but this user may lock {}; raise the limit \
         (`ulimit -l`, or LimitMEMLOCK=infinity in the systemd unit){}",
        limit::shown(memory.needed), counted(*shards as u64, "core"), limit::shown(memory.limit),
        fewer_cores(memory)
    )]
    LimitOfLockedMemory {
        /// The number of configured cores.
        shards: usize,
        /// Limit and need.
        memory: LockedMemory,
    },
    /// The limit would suffice, but nothing is left.
    #[error(
        "no locked memory is left for io_uring: this user may lock {}, of which this process needs {}, and \
         other processes of this user hold the rest; stop them, or raise the limit (`ulimit -l`, or \
         LimitMEMLOCK=infinity in the systemd unit)",
        limit::shown(*limit), limit::shown(*needed)
    )]
    LockedMemoryInUse {
        /// The limit, bytes.
        limit: u64,
        /// What the shards of this process need, bytes.
        needed: u64,
    },
    /// There is no limit, but nothing is left.
    #[error(
        "the system has no memory for io_uring; check the memory limit of the container or service, and the \
         free memory"
    )]
    Memory,
    /// Any other error.
    #[error("cannot set up io_uring: {}", Plain(.0))]
    Other(io::Error),
}

/// Returns the last part of the sentence, if fewer cores would work.
fn fewer_cores(memory: &LockedMemory) -> String {
    match memory.shards() {
        0 => String::new(),
        possible => format!(", or set runtime.cores to {possible} or less"),
    }
}

impl From<io::Error> for Missing {
    /// `ENOMEM` of any call on a ring has the same cause.
    fn from(error: io::Error) -> Self {
        if error.raw_os_error() == Some(libc::ENOMEM) { out_of_memory() } else { Self::Other(error) }
    }
}

impl Missing {
    pub(super) fn from_setup(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSYS) => Self::NoSystemCall,
            Some(libc::EPERM | libc::EACCES) => Self::Forbidden,
            Some(libc::EINVAL) => {
                Self::TooOld { what: "a ring for a single thread with deferred completions" }
            }
            _ => Self::from(error),
        }
    }
}

/// Returns what `ENOMEM` of a ring call means; the limit was found sufficient for this process before.
fn out_of_memory() -> Missing {
    let (limit, needed) = (limit::limit().rlim_cur, limit::NEEDED.load(Relaxed));
    if limit == libc::RLIM_INFINITY || needed == 0 {
        // No limit applies, so memory itself is missing.
        return Missing::Memory;
    }
    Missing::LockedMemoryInUse { limit, needed }
}
