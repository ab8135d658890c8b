//! What is sent.

/// Bytes that say where in a stream they belong; the period is no power of two, so that a lost,
/// doubled or moved buffer shows.
pub(crate) struct Pattern {
    bytes: Vec<u8>,
}

impl Pattern {
    const PERIOD: usize = 65_521;
    pub(crate) const WINDOW: usize = 256 << 10;

    pub(crate) fn new() -> Pattern {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut bytes: Vec<u8> = (0..Pattern::PERIOD)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        for index in 0..Pattern::WINDOW {
            bytes.push(bytes[index]);
        }
        Pattern { bytes }
    }

    /// The window of the stream that begins at `offset`.
    pub(crate) fn at(&self, offset: u64) -> &[u8] {
        let start = (offset % Pattern::PERIOD as u64) as usize;
        &self.bytes[start..start + Pattern::WINDOW]
    }

    /// Whether `read` can be the stream at `offset`; both ends of it are compared, which finds a
    /// displacement and costs nothing.
    pub(crate) fn agrees(&self, offset: u64, read: &[u8]) -> bool {
        let expected = &self.at(offset)[..read.len()];
        let edge = read.len().min(64);
        read[..edge] == expected[..edge] && read[read.len() - edge..] == expected[read.len() - edge..]
    }
}
