//! Network interfaces by name.

#![expect(unsafe_code, reason = "if_nametoindex(3) has no safe wrapper in the crates we use")]

use std::ffi::CString;

/// Returns the number of an interface of this machine, if one has this name.
#[must_use]
pub fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name ends with NUL and outlives the call, which only reads it.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index > 0).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_a_number_and_what_is_not_there_has_none() {
        assert!(interface_index("lo").is_some());
        assert_eq!(interface_index("nosuch0"), None);
        assert_eq!(interface_index("l\0o"), None);
    }
}
