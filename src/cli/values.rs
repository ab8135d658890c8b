//! How values of the command line are read.

use std::str::FromStr;

/// Reads a log level.
///
/// # Errors
///
/// There is no such level.
pub(super) fn level<L: FromStr>(text: &str) -> Result<L, &'static str> {
    text.parse().map_err(|_| "write error, warn, info, debug or trace")
}

/// Reads a whole number between these bounds.
///
/// # Errors
///
/// It is none.
pub(super) fn whole<const MIN: u64, const MAX: u64>(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| (MIN..=MAX).contains(number));
    number.ok_or_else(|| match MAX {
        u64::MAX => format!("write a whole number from {MIN} on"),
        _ => format!("write a whole number from {MIN} to {MAX}"),
    })
}
