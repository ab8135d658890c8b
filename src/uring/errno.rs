//! Error numbers.

use std::io;

/// An error number, errno(3): positive, and small enough to be kept in two bytes of every slot.
pub type Errno = std::num::NonZeroU16;

/// Returns the error number of a negative result.
pub(super) fn errno(result: i32) -> Errno {
    // The kernel's numbers end at 4,095 (MAX_ERRNO in linux/err.h).
    u16::try_from(-result).ok().and_then(Errno::new).unwrap_or(Errno::MAX)
}

/// Returns the error number of an error, or the greatest one if it has none.
pub(crate) fn errno_of(error: &io::Error) -> Errno {
    let number = error.raw_os_error().and_then(|number| u16::try_from(number).ok());
    number.and_then(Errno::new).unwrap_or(Errno::MAX)
}

/// Returns whether a connection with this error ended because no answer came. If the kernel knows why a host
/// is unreachable, it reports that instead of the time-out.
pub(super) fn is_silence(error: Errno) -> bool {
    let unreachable = [libc::EHOSTUNREACH, libc::ENETUNREACH, libc::EHOSTDOWN, libc::ENETDOWN];
    let error = i32::from(error.get());
    error == libc::ETIMEDOUT || unreachable.contains(&error)
}
