//! The budget of a direction at work: it is asked before bytes are taken from the source, and wakes the task at the end
//! of a rest.
//!
//! What may not be moved stays in the kernel, so that the source feels back-pressure. Meanwhile a watch reports its
//! reset.

use super::budget::Budget;
use crate::base::Moment;
use crate::config::ByteRate;
use crate::net::Peer;

/// A direction whose pieces have fewer bytes copies, because small pieces are not worth the two calls of splicing.
const LEAST_SPLICED: u64 = 64 << 10;

/// See the module documentation.
pub(super) struct Throttle {
    budget: Budget,
    /// The end of the last rest, for which a wake-up was set.
    woken_at: Moment,
    /// Whether bytes may have had to wait since this flag was last read.
    has_rested: bool,
}

impl Throttle {
    pub(super) fn new(rate: ByteRate) -> Self {
        Self { budget: Budget::new(rate, Moment::read_clock()), woken_at: Moment(0), has_rested: false }
    }

    /// Returns how many bytes may be taken from the source now. If none, the task is woken when some may.
    pub(super) fn allowance(&mut self, from: &Peer) -> u32 {
        let bytes = self.budget.allowance(Moment::read_clock());
        if bytes == 0 {
            self.has_rested = true;
            let until = self.budget.rests_until();
            if self.woken_at != until {
                self.woken_at = until;
                from.wake_at(until.tick());
            }
            // Nothing is received meanwhile, so nothing else would report a reset.
            from.watch();
        }
        bytes
    }

    /// Counts bytes that were taken from the source.
    pub(super) fn spend(&mut self, bytes: u32) {
        self.budget.spend(bytes);
    }

    /// Returns whether splicing is worth it at this rate.
    pub(super) fn may_splice(&self) -> bool {
        self.budget.piece() >= LEAST_SPLICED
    }

    /// Returns whether bytes may have had to wait since the last call.
    pub(super) fn take_rested(&mut self) -> bool {
        std::mem::take(&mut self.has_rested)
    }
}
