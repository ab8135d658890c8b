//! A connection that was let in, on its way to becoming a session.

use crate::admission::SourceSlot;
use crate::uring::Accepted;

/// A connection that has its place in the limits.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) accepted: Accepted,
    pub(super) admission: Admission,
}

/// What a session has taken of the limits, besides one of the sessions of the process: the place of its source, whether it
/// counts in the limit of its listener, and whether the rules on clients were asked. One word, because each idle session
/// keeps it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admission(u32);

impl Admission {
    const COUNTS: u32 = SourceSlot::SPARE[0];
    const ASKED: u32 = SourceSlot::SPARE[1];

    pub(super) fn new(counts: bool) -> Self {
        Self(if counts { Self::COUNTS } else { 0 })
    }

    pub(super) fn counts(self) -> bool {
        self.0 & Self::COUNTS != 0
    }

    pub(super) fn source(self) -> Option<SourceSlot> {
        SourceSlot::of_number(self.0 & !(Self::COUNTS | Self::ASKED))
    }

    /// Returns whether the rules on clients were asked, and have let the client in.
    pub(super) fn is_asked(self) -> bool {
        self.0 & Self::ASKED != 0
    }

    /// After the rules on clients have let the client in, and have taken this place of its source.
    pub(super) fn asked(self, slot: Option<SourceSlot>) -> Self {
        Self(self.0 & Self::COUNTS | Self::ASKED | slot.map_or(0, SourceSlot::number))
    }
}
