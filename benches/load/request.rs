//! What a client of the service `answer` sends: how many bytes it wants, and then the pattern, from where the
//! request stands in the client's stream.

use crate::pattern::Pattern;

/// Of each request.
pub(crate) const BYTES: usize = 256;

/// The length of the answer, little endian.
const HEAD: usize = 8;

/// Fills in the request that stands at `offset` of the stream and asks for `answer` bytes.
pub(crate) fn write(request: &mut [u8], offset: u64, answer: usize, pattern: &Pattern) {
    request.copy_from_slice(&pattern.at(offset)[..BYTES]);
    request[..HEAD].copy_from_slice(&(answer as u64).to_le_bytes());
}

/// How many bytes the request at `offset` of the stream asks for; `None` if it is not as it was sent.
pub(crate) fn parse(request: &[u8], offset: u64, pattern: &Pattern) -> Option<u64> {
    let (head, rest) = request.split_at_checked(HEAD)?;
    (rest == &pattern.at(offset)[HEAD..BYTES]).then_some(u64::from_le_bytes(head.try_into().ok()?))
}
