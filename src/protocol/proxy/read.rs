//! Which version a header is of.

use super::header::Progress;
use super::invalid::Invalid;
use super::{v1, v2};

/// Reads a header at the begin of these bytes, which are all that have come so far.
///
/// The answer depends on the bytes alone, not on how they came: more bytes never change an answer that is not
/// [`Progress::Incomplete`]. At most 16 + [`super::V2_REST_MAX`] bytes are ever asked for.
#[must_use]
pub fn read(bytes: &[u8]) -> Progress<'_> {
    if begins(bytes, &v2::SIGNATURE) {
        return v2::read(bytes).unwrap_or_else(Progress::Invalid);
    }
    if begins(bytes, v1::WORD) {
        return v1::read(bytes).unwrap_or_else(Progress::Invalid);
    }
    Progress::Invalid(Invalid::NoHeader)
}

/// Returns whether the bytes begin with `word`, as far as there are bytes.
fn begins(bytes: &[u8], word: &[u8]) -> bool {
    bytes.iter().zip(word).all(|(byte, expected)| byte == expected)
}
