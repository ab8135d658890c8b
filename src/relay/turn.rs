//! What copying and splicing, the two ways of moving bytes, report about a turn.

use crate::uring::End;

/// Bytes that a turn has moved.
#[derive(Default)]
pub(super) struct TurnBytes {
    /// Taken from the source.
    pub(super) received: u32,
    /// Taken by the destination, and not counted before.
    pub(super) delivered: u32,
    /// Bytes of the send under way that have been counted as delivered.
    pub(super) ahead: u32,
    /// Whether the destination has taken bytes that it had not taken at once.
    pub(super) late: bool,
    /// Whether nobody has to be told when the bytes of this turn have gone out.
    pub(super) may_be_quiet: bool,
}

/// What follows a turn.
pub(super) enum Turn {
    /// Another turn of the same kind follows, when the task is woken.
    Waits,
    /// Copying follows, because splicing does not pay or is impossible, or has met an end that only a receive
    /// can judge.
    Copies,
    /// Splicing follows, because the source brings bulk; no receive uses the socket any more.
    Splices,
    /// The source has ended, and everything before its end was delivered.
    SourceEnded(End),
    /// Nothing more can be delivered: a receive of the other direction has found the destination reset.
    DestinationReset,
    /// Nothing more can be delivered: a send or a splice of this direction has failed.
    DestinationFailed,
}
