//! The limit on locked memory, `RLIMIT_MEMLOCK`, and how much of it this process needs.

#![expect(unsafe_code, reason = "getrlimit(2) and setrlimit(2) have no safe wrapper in the crates we use")]

use std::sync::atomic::AtomicU64;

/// glommio refuses to start below this limit, whatever it needs.
pub(super) const EXECUTOR_LEAST: u64 = 512 * 1024;

/// What the shards of this process need, bytes; 0 if the kernel counts nothing. Used for messages only, so
/// `Relaxed`. Written by `locked::reserve`.
pub(super) static NEEDED: AtomicU64 = AtomicU64::new(0);

/// How much memory this process may lock, bytes, once the soft limit is raised to the hard one; and how much
/// its shards need here.
#[derive(Clone, Copy, Debug)]
pub struct LockedMemory {
    /// The limit for all processes of this user together.
    pub limit: u64,
    /// What all shards need.
    pub needed: u64,
    /// What one shard needs; 0 if the kernel counts nothing.
    pub per_shard: u64,
}

impl LockedMemory {
    /// Returns how many shards the limit allows.
    #[must_use]
    pub fn shards(&self) -> u64 {
        if self.limit < EXECUTOR_LEAST {
            0
        } else {
            self.limit.checked_div(self.per_shard).unwrap_or(u64::MAX)
        }
    }
}

/// Returns the current limit.
pub(super) fn limit() -> libc::rlimit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills the struct, which outlives the call; getrlimit(2) with a known resource cannot
    // fail.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    limit
}

/// Sets the limit. A soft limit up to the hard one is never refused.
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

/// Formats bytes for a message.
pub(super) fn shown(bytes: u64) -> String {
    match bytes {
        libc::RLIM_INFINITY => "no limit".to_owned(),
        bytes => format!("{} KiB", bytes.div_ceil(1024)),
    }
}
