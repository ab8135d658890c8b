//! The limit on locked memory, `RLIMIT_MEMLOCK`, and what this process needs of it.

#![expect(unsafe_code, reason = "getrlimit(2) and setrlimit(2) have no safe wrapper in the crates we use")]

use std::sync::atomic::AtomicU64;

/// glommio refuses to start below, whatever it needs.
pub(super) const EXECUTOR_LEAST: u64 = 512 * 1024;

/// What the shards of this process need, bytes, 0 where nothing is counted; for messages, so `Relaxed`.
/// Written by `locked::reserve`.
pub(super) static NEEDED: AtomicU64 = AtomicU64::new(0);

/// What this process may lock, bytes: the limit, once the soft one is raised to the hard one, and what so
/// many shards need of it here.
#[derive(Clone, Copy, Debug)]
pub struct LockedMemory {
    /// The limit, of this user's processes together.
    pub limit: u64,
    /// What the shards need of it.
    pub needed: u64,
    /// What one of them needs; 0 where nothing is counted.
    pub per_shard: u64,
}

impl LockedMemory {
    /// How many shards the limit allows.
    #[must_use]
    pub fn shards(&self) -> u64 {
        if self.limit < EXECUTOR_LEAST {
            0
        } else {
            self.limit.checked_div(self.per_shard).unwrap_or(u64::MAX)
        }
    }
}

/// The limit as it is.
pub(super) fn limit() -> libc::rlimit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills the struct that outlives the call; getrlimit(2) with a known resource cannot
    // fail.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    limit
}

/// A soft limit up to the hard one is never refused.
pub(super) fn set_limit(limit: libc::rlimit) {
    // SAFETY: the kernel reads the struct, which outlives the call.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
}

/// Raises the soft limit to the hard one, and returns it.
pub(super) fn raise() -> u64 {
    let limit = limit();
    if limit.rlim_cur < limit.rlim_max {
        set_limit(libc::rlimit { rlim_cur: limit.rlim_max, ..limit });
    }
    limit.rlim_max
}

/// Bytes for a message.
pub(super) fn shown(bytes: u64) -> String {
    match bytes {
        libc::RLIM_INFINITY => "no limit".to_owned(),
        bytes => format!("{} KiB", bytes.div_ceil(1024)),
    }
}
