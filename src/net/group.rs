//! Groups of users by their names.

#![expect(unsafe_code, reason = "getgrnam_r(3): no safe wrapper in our crates")]

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// Largest entry of a group that is read, bytes; its members are part of it.
const ENTRY_BYTES_MAX: usize = 1 << 20;

/// Returns the number of a group; `None` if there is no such group.
///
/// # Errors
///
/// getgrnam_r(3): the files or services that know the groups cannot be read.
pub fn group_number(name: &str) -> io::Result<Option<u32>> {
    let name = CString::new(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut bytes = vec![0; 1 << 12];
    loop {
        let (mut entry, mut found) = (MaybeUninit::<libc::group>::uninit(), ptr::null_mut());
        // SAFETY: the name ends with NUL, the buffer has the length that is passed, and all outlive the call.
        let status = unsafe {
            libc::getgrnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                bytes.as_mut_ptr(),
                bytes.len(),
                &raw mut found,
            )
        };
        match status {
            // SAFETY: a pointer that is set points to `entry`, which the call has filled.
            0 => return Ok((!found.is_null()).then(|| unsafe { (*found).gr_gid })),
            libc::ERANGE if bytes.len() < ENTRY_BYTES_MAX => bytes.resize(bytes.len() * 2, 0),
            // Some services say so instead of leaving the result empty, getgrnam(3).
            libc::ENOENT | libc::ESRCH => return Ok(None),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_name() {
        assert_eq!(group_number("root").unwrap(), Some(0));
        assert_eq!(group_number("no-such-group").unwrap(), None);
        assert!(group_number("a\0b").is_err());
    }
}
