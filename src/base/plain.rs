//! System errors as text for the operator.

use std::fmt;
use std::io;

/// A system error without its number: `Connection refused`, not `Connection refused (os error 111)`.
pub struct Plain<'a>(pub &'a io::Error);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        // The number may also be in the middle, where one error wraps another.
        let Some((before, rest)) = text.split_once(" (os error ") else { return formatter.write_str(&text) };
        let after = rest.trim_start_matches(|c: char| c == '-' || c.is_ascii_digit());
        write!(formatter, "{before}{}", after.strip_prefix(')').unwrap_or(after))
    }
}

/// Formats a count with its noun: `1 backend`, `2 backends`.
#[must_use]
pub fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_no_numbers() {
        let refused = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        assert_eq!(Plain(&refused).to_string(), "Connection refused");
        let wrapped = io::Error::other(format!("asking: {refused}, given up"));
        assert_eq!(Plain(&wrapped).to_string(), "asking: Connection refused, given up");
        assert_eq!(Plain(&io::Error::other("no (os error")).to_string(), "no (os error");
    }

    #[test]
    fn one_is_no_plural() {
        assert_eq!(counted(1, "session"), "1 session");
        assert_eq!((counted(0, "session"), counted(2, "core")), ("0 sessions".into(), "2 cores".into()));
    }
}
