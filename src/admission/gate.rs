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
    use std::sync::Mutex;
    use std::sync::atomic::AtomicU32;
    use std::thread::{self, Thread};
    use std::time::{Duration, Instant};

    use super::*;

    const SHARDS: u16 = 4;
    /// A round takes microseconds.
    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn no_shard_waits_while_the_only_place_is_free() {
        race(1, 5_000);
    }

    /// Around the number from which four shards keep credits, which is 128.
    #[test]
    fn no_shard_waits_while_a_place_is_free_of_a_limit_with_credits() {
        [127, 128, 129, 150, 250].iter().for_each(|limit| race(*limit, 400));
    }

    /// One shard gives all places back, once, and another one wants all of them; then the other way round. A place that the
    /// second one does not see, or of which it is not told, is missing for ever. Two shards keep credits from 64 on.
    #[test]
    fn shard_that_waits_gets_every_place_that_another_one_gives_back() {
        for (limit, rounds) in [(1, 20_000), (63, 200), (64, 200), (65, 200), (100, 200)] {
            let gate = Gate::new(limit, 2);
            assert!((0..limit).all(|_| gate.sessions.take(ShardId(0))));
            let (arrived, threads) = (AtomicU32::new(0), Mutex::new(vec![None; 2]));
            thread::scope(|scope| {
                for number in 0..2_u16 {
                    let (gate, arrived, threads) = (&gate, &arrived, &threads);
                    scope.spawn(move || {
                        threads.lock().unwrap()[usize::from(number)] = Some(thread::current());
                        for round in 0..rounds {
                            await_both(arrived, 2 * u32::from(round + 1));
                            let gives = round % 2 == number;
                            // Sooner or later, so that in some round it falls between a look and a note.
                            (0..round % 100).filter(|_| gives).for_each(|_| std::hint::spin_loop());
                            for _ in 0..limit {
                                if gives {
                                    give_back(gate, ShardId(number), threads);
                                } else {
                                    wait_for_place(gate, ShardId(number));
                                }
                            }
                        }
                    });
                }
            });
        }
    }

    /// Threads that find no place wait until they are woken. None waits for ever, and never is one place too many taken. In
    /// each round a thread takes as many as it gets, up to three quarters of all, so two of them come up to the limit.
    #[track_caller]
    fn race(limit: u32, rounds: u32) {
        let gate = Gate::new(limit, usize::from(SHARDS));
        let open = AtomicU32::new(0);
        let threads: Mutex<Vec<Option<Thread>>> = Mutex::new(vec![None; usize::from(SHARDS)]);
        thread::scope(|scope| {
            for number in 0..SHARDS {
                let (gate, threads, open) = (&gate, &threads, &open);
                scope.spawn(move || {
                    threads.lock().unwrap()[usize::from(number)] = Some(thread::current());
                    let shard = ShardId(number);
                    for round in 0..rounds {
                        wait_for_place(gate, shard);
                        let more = (limit * 3 / 4).saturating_sub(round % 7);
                        let places = 1 + (1..more).take_while(|_| gate.sessions.take(shard)).count() as u32;
                        let sessions = open.fetch_add(places, SeqCst) + places;
                        assert!(sessions <= limit, "{sessions} of {limit}");
                        for _ in 0..places {
                            open.fetch_sub(1, SeqCst);
                            give_back(gate, shard, threads);
                        }
                    }
                });
            }
        });
        let places = (0..=limit).filter(|_| gate.sessions.take(ShardId(0))).count();
        assert_eq!(places as u32, limit, "each is there once");
    }

    /// Waits until both threads have come here, as often as makes `arrivals`; unlike at a barrier, not for one that has failed.
    fn await_both(arrived: &AtomicU32, arrivals: u32) {
        let began = Instant::now();
        arrived.fetch_add(1, SeqCst);
        while arrived.load(SeqCst) < arrivals {
            assert!(began.elapsed() < PATIENCE, "the other thread has failed");
            thread::yield_now();
        }
    }

    /// Gives a place back, and wakes the threads of the shards that wait.
    fn give_back(gate: &Gate, shard: ShardId, threads: &Mutex<Vec<Option<Thread>>>) {
        gate.sessions.give_back(shard);
        gate.wake_waiting(|shard| threads.lock().unwrap()[shard.index()].iter().for_each(Thread::unpark));
    }

    /// Takes a place, and waits for one if there is none.
    fn wait_for_place(gate: &Gate, shard: ShardId) {
        let began = Instant::now();
        while !gate.sessions.take(shard) {
            gate.wait(shard);
            if gate.sessions.take(shard) {
                return;
            }
            while gate.is_waiting(shard) {
                thread::park_timeout(PATIENCE);
                assert!(began.elapsed() < PATIENCE, "a place comes free");
            }
        }
    }
}
