//! Limits of the system: open descriptors, pages in pipes; and permissions.

#![expect(
    unsafe_code,
    reason = "getrlimit(2), setrlimit(2), fcntl(2), access(2), sysconf(3): no safe wrapper in our crates"
)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Raises the soft limit on open descriptors to the hard one, and returns it.
///
/// # Errors
///
/// getrlimit(2), setrlimit(2).
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills the struct, which outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the kernel reads the struct, which outlives the call.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

/// Number of descriptors whose table is allocated at the start: 2 MiB.
const RESERVED: u64 = 1 << 18;

/// Makes the descriptor table as large as `limit` needs, up to a bound.
///
/// The table doubles when it is full, and in a process with threads the kernel waits for an RCU grace period
/// each time (`expand_fdtable`): the first burst of 4,000 clients cost the open sessions 150 ms
/// (docs/maintainers/PERFORMANCE.md).
///
/// A part that cannot be allocated now is allocated when it is needed, as it would be without this function.
pub fn reserve_descriptors(limit: u64) {
    let highest = limit.min(RESERVED).saturating_sub(1);
    let Ok(any) = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None) else { return };
    // SAFETY: the call takes numbers only, and the descriptor is open.
    let copy = unsafe { libc::fcntl(any.as_raw_fd(), libc::F_DUPFD_CLOEXEC, highest) };
    if copy >= 0 {
        // SAFETY: the descriptor is new and no other code knows it; dropping it closes it, and the table
        // keeps its size.
        drop(unsafe { OwnedFd::from_raw_fd(copy) });
    }
}

/// Sees to it that no program which this process starts gets any of the descriptors that are open now, apart from the standard
/// streams. Those of this process are like that already; others may have come from whoever has started it.
pub fn keep_descriptors() {
    // Linux 5.11. Where a sandbox forbids it, what came from outside is passed on.
    // SAFETY: the call takes numbers only, and closes nothing.
    let _ =
        unsafe { libc::syscall(libc::SYS_close_range, 3_u32, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Bits of `CapEff` in /proc/PID/status: `CAP_SYS_ADMIN` and `CAP_SYS_RESOURCE`; a process with one of them
/// is exempt from the quota.
const EXEMPT: u64 = 1 << 21 | 1 << 24;

/// Returns how many bytes all pipes of this user may hold before the kernel refuses larger ones, pipe(7);
/// `None` without a bound.
#[must_use]
pub fn pipe_quota() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft");
    // The kernel's default is 16,384 pages; 0 means no bound.
    let pages = pages.ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(16_384);
    // SAFETY: sysconf(3) takes a number and touches no memory of ours.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let page = u64::try_from(page).unwrap_or(4_096);
    (capabilities() & EXEMPT == 0 && pages > 0).then_some(pages * page)
}

/// Returns whether this process may listen on every port: `CAP_NET_BIND_SERVICE`, bit 10 of `CapEff`.
#[must_use]
pub fn may_bind_all_ports() -> bool {
    capabilities() & 1 << 10 != 0
}

/// Returns whether this user may write to a file, or create files in a directory, access(2).
#[must_use]
pub fn may_write(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: the path ends with NUL and outlives the call, which only reads it.
    unsafe { libc::access(path.as_ptr(), libc::W_OK) == 0 }
}

/// Returns `CapEff` of this process; no capability if /proc does not tell.
fn capabilities() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    capabilities.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0)
}
