//! What all shards share of the admission to the process: the limit on its sessions, the sources of all listeners, and
//! the shards whose clients wait for the end of a session.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use super::limit::Limit;
use super::sources::Sources;
use crate::base::{ShardId, Shared};

/// See the module documentation.
pub struct Gate {
    /// The limit on sessions.
    pub sessions: Limit,
    /// The sources of all listeners.
    pub sources: Sources,
    waiting: Waiting,
}

/// The shards with clients in a backlog that wait for the end of a session of any shard.
// Sequentially consistent: a session that ends gives its place back and looks here then, and a shard that finds no place
// notes itself here and looks for one again then. One of both has to see the other.
struct Waiting {
    shards: Box<[Shared<AtomicBool>]>,
    /// How many are set, so that a session that ends reads one number.
    count: Shared<AtomicUsize>,
}

impl Gate {
    /// Creates the gate of a process that may have `sessions` at a time.
    #[must_use]
    pub fn new(sessions: u32, shards: usize) -> Self {
        let waiting =
            Waiting { shards: (0..shards).map(|_| Shared::default()).collect(), count: Shared::default() };
        Self { sessions: Limit::new(sessions, shards), sources: Sources::default(), waiting }
    }

    /// Notes that clients of a shard wait. It must look for a place once more afterwards.
    pub fn wait(&self, shard: ShardId) {
        if !self.waiting.shards[shard.index()].write().swap(true, SeqCst) {
            self.waiting.count.write().fetch_add(1, SeqCst);
        }
    }

    /// Returns whether a shard has noted that its clients wait, and nobody has told it to look again.
    #[must_use]
    pub fn is_waiting(&self, shard: ShardId) -> bool {
        self.waiting.shards[shard.index()].get().load(SeqCst)
    }

    /// Calls `wake` for each shard with clients that wait, because a place may be free. They all look: a place of one
    /// listener is none of another.
    pub fn wake_waiting(&self, wake: impl Fn(ShardId)) {
        if self.waiting.count.get().load(SeqCst) == 0 {
            return;
        }
        for (number, shard) in self.waiting.shards.iter().enumerate() {
            if shard.write().swap(false, SeqCst) {
                self.waiting.count.write().fetch_sub(1, SeqCst);
                wake(ShardId(number as u16));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Threads that find no place wait until they are woken. None waits for ever.
    #[test]
    fn no_shard_waits_while_a_place_is_free() {
        const SHARDS: u16 = 4;
        let gate = Gate::new(1, usize::from(SHARDS));
        let threads: std::sync::Mutex<Vec<Option<std::thread::Thread>>> =
            std::sync::Mutex::new(vec![None; usize::from(SHARDS)]);
        std::thread::scope(|scope| {
            for number in 0..SHARDS {
                let (gate, threads) = (&gate, &threads);
                scope.spawn(move || {
                    threads.lock().unwrap()[usize::from(number)] = Some(std::thread::current());
                    for _ in 0..5_000 {
                        while !gate.sessions.take(ShardId(number)) {
                            gate.wait(ShardId(number));
                            if gate.sessions.take(ShardId(number)) {
                                break;
                            }
                            while gate.is_waiting(ShardId(number)) {
                                std::thread::park();
                            }
                        }
                        gate.sessions.give_back(ShardId(number));
                        gate.wake_waiting(|shard| {
                            let threads = threads.lock().unwrap();
                            threads[shard.index()].iter().for_each(std::thread::Thread::unpark);
                        });
                    }
                });
            }
        });
        assert_eq!(gate.sessions.taken(), 0);
    }
}
