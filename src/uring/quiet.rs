//! Sends of which the kernel tells nothing if everything goes out (`IOSQE_CQE_SKIP_SUCCESS`): no completion ends the sleep of the
//! shard, and no task is woken for it.
//!
//! A send does not wait (`MSG_DONTWAIT`), so it has ended when the kernel has taken its entry. With `MSG_WAITALL`, one that went
//! out in part counts as failed, and posts its completion like one that failed. So once all entries were taken, and all
//! completions that were there then, the sends that are left went out as a whole.

use std::collections::VecDeque;

use super::slot::Key;

/// The quiet sends of a ring that have not ended.
#[derive(Default)]
pub(super) struct QuietSends {
    /// In the order of their entries.
    sends: VecDeque<Key>,
    /// How many of them the kernel has taken.
    taken: usize,
    /// Whether a task waits for one of them: then the shard must not sleep, because no completion would wake it.
    pub(super) is_awaited: bool,
}

impl QuietSends {
    pub(super) fn push(&mut self, key: Key) {
        self.sends.push_back(key);
    }

    /// Notes that the kernel has taken all entries.
    pub(super) fn note_taken(&mut self) {
        self.taken = self.sends.len();
    }

    /// Notes that the send has posted a completion after all. The next send of the same socket is another one.
    pub(super) fn remove(&mut self, key: Key) {
        // Failures are rare.
        if let Some(index) = self.sends.iter().position(|other| *other == key) {
            self.sends.remove(index);
            self.taken -= usize::from(index < self.taken);
            self.note_rest();
        }
    }

    /// Takes the next send that went out as a whole, given that there are no completions left.
    pub(super) fn take_ended(&mut self) -> Option<Key> {
        self.taken = self.taken.checked_sub(1)?;
        let ended = self.sends.pop_front();
        self.note_rest();
        ended
    }

    /// Nobody waits where nothing is left; or the shard would never sleep again.
    fn note_rest(&mut self) {
        self.is_awaited &= !self.sends.is_empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sends_end_once_taken_unless_they_told() {
        let key = |index| Key { index, generation: 1 };
        let mut quiet = QuietSends::default();
        [1, 2, 3].map(key).into_iter().for_each(|key| quiet.push(key));
        assert_eq!(quiet.take_ended(), None);
        quiet.note_taken();
        // One of them fails, ends otherwise, and its socket sends again, quietly.
        quiet.remove(key(2));
        quiet.push(key(2));
        quiet.is_awaited = true;
        let all = |quiet: &mut QuietSends| Vec::from_iter(std::iter::from_fn(|| quiet.take_ended()));
        assert_eq!(all(&mut quiet), [key(1), key(3)]);
        assert!(quiet.is_awaited);
        quiet.note_taken();
        assert_eq!(all(&mut quiet), [key(2)]);
        assert!(!quiet.is_awaited);
        quiet.note_taken();
        assert!(all(&mut quiet).is_empty());
        quiet.remove(key(9));
        // The only one that somebody waits for tells of itself.
        quiet.push(key(4));
        quiet.is_awaited = true;
        quiet.remove(key(4));
        assert!(!quiet.is_awaited);
    }
}
