//! How much work on TLS the connections of a shard do in one turn, all together, so that others wait little.

use std::cell::Cell;
use std::time::Duration;

use super::stream::Taken;

/// Time for handshakes in a turn, for which a plain session may wait twice on the way there, and twice on the way back. A step
/// that has begun is finished: a signature with RSA takes up to a few milliseconds.
const HANDSHAKES: Duration = Duration::from_micros(250);
/// What is encrypted or decrypted in a turn, bytes: less than a millisecond with AES-GCM.
const BYTES: u32 = 1 << 20;
/// What a record costs beside its bytes, in bytes: 0.35 us (measured with AES-GCM and records of one byte).
const RECORD: usize = 512;

/// See the module documentation.
#[derive(Default)]
pub struct Pace {
    /// The turn that the other numbers are of.
    turn: Cell<u64>,
    handshakes: Cell<Duration>,
    bytes: Cell<u32>,
}

impl Pace {
    fn begin(&self, turn: u64) {
        if self.turn.replace(turn) != turn {
            self.handshakes.set(Duration::ZERO);
            self.bytes.set(0);
        }
    }

    /// Returns whether a handshake may go on in this turn.
    #[must_use]
    pub fn may_shake_hands(&self, turn: u64) -> bool {
        self.begin(turn);
        self.handshakes.get() < HANDSHAKES
    }

    /// Notes how long a step of a handshake took.
    pub fn note_handshake(&self, turn: u64, took: Duration) {
        self.begin(turn);
        self.handshakes.set(self.handshakes.get().saturating_add(took));
    }

    /// Returns whether bytes may be encrypted and decrypted in this turn.
    #[must_use]
    pub fn may_move(&self, turn: u64) -> bool {
        self.begin(turn);
        self.bytes.get() < BYTES
    }

    /// Notes records that were decrypted.
    pub fn note_taken(&self, turn: u64, taken: Taken) {
        self.note_bytes(turn, taken.bytes + RECORD * taken.records);
    }

    /// Notes bytes that were encrypted.
    pub fn note_bytes(&self, turn: u64, bytes: usize) {
        self.begin(turn);
        self.bytes.set(self.bytes.get().saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_turn_has_its_own_budget() {
        let pace = Pace::default();
        pace.note_handshake(1, Duration::from_micros(249));
        assert!(pace.may_shake_hands(1));
        pace.note_handshake(1, Duration::from_micros(1));
        assert!(!pace.may_shake_hands(1) && pace.may_move(1));
        assert!(pace.may_shake_hands(2));
        pace.note_bytes(2, 1 << 20);
        assert!(pace.may_shake_hands(2) && !pace.may_move(2));
        assert!(pace.may_move(3));
        // Bulk, and a twentieth as many bytes in records of one byte.
        pace.note_taken(3, Taken { bytes: 60 * (22 + (1 << 14)), records: 60 });
        assert!(pace.may_move(3));
        pace.note_taken(4, Taken { bytes: 2_000 * 23, records: 2_000 });
        assert!(!pace.may_move(4));
    }
}
