//! Sends of which the kernel tells nothing if everything goes out (`IOSQE_CQE_SKIP_SUCCESS`): no completion ends the sleep of the
//! shard, and no task is woken for it.
//!
//! A send does not wait (`MSG_DONTWAIT`), so it has ended when the kernel has taken its entry. With `MSG_WAITALL`, one that went
//! out in part counts as failed, and posts its completion like one that failed. So once all entries were taken, and all
//! completions that were there then, the sends that are left went out as a whole.

use super::slot::Key;

/// The quiet sends of a ring that have not ended.
#[derive(Default)]
pub(super) struct QuietSends {
    /// In the order of their entries.
    sends: Vec<Key>,
    /// How many of them the kernel has taken.
    taken: usize,
    /// Whether a task waits for one of them: then the shard must not sleep, because no completion would wake it.
    pub(super) is_awaited: bool,
}

impl QuietSends {
    pub(super) fn push(&mut self, key: Key) {
        self.sends.push(key);
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
        }
    }

    /// Takes the sends that went out as a whole, given that there are no completions left.
    pub(super) fn take_ended(&mut self) -> Vec<Key> {
        let rest = self.sends.split_off(std::mem::take(&mut self.taken));
        self.is_awaited &= !rest.is_empty();
        std::mem::replace(&mut self.sends, rest)
    }

    /// Returns whether [`Self::take_ended`] would return any.
    pub(super) fn has_taken(&self) -> bool {
        self.taken > 0
    }

    /// Gives the list back, so that it is not allocated anew.
    pub(super) fn reuse(&mut self, mut ended: Vec<Key>) {
        if self.sends.is_empty() {
            ended.clear();
            self.sends = ended;
        }
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
        assert!(!quiet.has_taken());
        quiet.note_taken();
        // One of them fails, ends otherwise, and its socket sends again, quietly.
        quiet.remove(key(2));
        quiet.push(key(2));
        quiet.is_awaited = true;
        assert_eq!(quiet.take_ended(), [key(1), key(3)]);
        assert!(quiet.is_awaited && !quiet.has_taken());
        quiet.note_taken();
        let ended = quiet.take_ended();
        assert_eq!(ended, [key(2)]);
        assert!(!quiet.is_awaited);
        quiet.reuse(ended);
        quiet.note_taken();
        assert!(quiet.take_ended().is_empty());
        quiet.remove(key(9));
    }
}
