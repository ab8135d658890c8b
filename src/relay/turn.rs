//! What both ways of moving bytes, copying and splicing, say of a turn.

use crate::uring::End;

/// Bytes that a turn has moved.
#[derive(Default)]
pub(super) struct TurnBytes {
    /// Taken from the source.
    pub(super) received: u32,
    /// Taken by the destination.
    pub(super) delivered: u32,
}

/// What follows a turn.
pub(super) enum Turn {
    /// Another turn of the same kind, when the task is woken.
    Waits,
    /// Copying, because splicing does not pay, is not possible, or has met an end that only a receive can
    /// judge.
    Copies,
    /// Splicing, because the source brings bulk; the socket belongs to no receive any more.
    Splices,
    /// The end of the source; everything before it was delivered.
    SourceEnded(End),
    /// Nothing more can be delivered: a receive of the other direction has found the destination reset.
    DestinationReset,
    /// Nothing more can be delivered: a send or a splice of this direction has failed.
    DestinationFailed,
}
