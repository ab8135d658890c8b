//! A limit that is exact for the whole process, even while shards race for the last permit.
//!
//! The number of permits taken is one for all shards, and a session that takes one and gives it back writes to it
//! twice: on many cores the line with that number would be what the cores wait for. So a shard takes several
//! permits at a time and keeps those that it does not use, its credits, in a line of its own. It does so only
//! far from the maximum. Near the maximum each permit is taken and given back by itself, and a shard that finds
//! none takes back the credits of all shards first.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crossbeam_utils::CachePadded;

use crate::base::{ShardId, Shared};

/// Permits that a shard takes and gives back at a time.
const CREDITS: u32 = 16;
/// Credits that a shard keeps at most.
const CREDITS_MAX: u32 = 2 * CREDITS;

/// A counter with a maximum.
///
/// The permits of sessions and the credits of all shards together are never more than the maximum, unless it was
/// lowered or somebody took one [anyhow](Self::take_anyhow). A permit is refused only while sessions have all of them.
#[derive(Debug)]
pub struct Limit {
    maximum: AtomicU32,
    /// Permits of sessions, and credits.
    taken: CachePadded<Shared<AtomicU32>>,
    shards: u32,
    /// By shard; made when the first shard takes several permits.
    credits: OnceLock<Box<[CachePadded<AtomicU32>]>>,
    /// Held while permits move between `taken` and the credits: whoever finds none looks again with this lock, and so finds
    /// those that were on their way.
    moves: CachePadded<Shared<Mutex<()>>>,
}

// Sequentially consistent: a shard that gives a permit back looks for waiters then, and one whose client
// begins to wait looks for a permit then (`queue`). One of both has to see the other. On x86-64 it costs what
// relaxed operations cost.
impl Limit {
    /// A limit with all permits free, for so many shards.
    #[must_use]
    pub fn new(maximum: u32, shards: usize) -> Self {
        let shards = u32::try_from(shards).unwrap_or(u32::MAX);
        Self {
            maximum: AtomicU32::new(maximum),
            taken: CachePadded::default(),
            shards,
            credits: OnceLock::new(),
            moves: CachePadded::default(),
        }
    }

    /// Takes a permit unless all are taken, and returns whether it did. The caller has to give the permit
    /// back.
    #[must_use]
    pub fn take(&self, shard: ShardId) -> bool {
        self.take_credit(shard)
            || (self.is_far() && self.take_many(shard))
            || self.take_free(1)
            || self.take_last()
    }

    /// Takes a permit, also if all are taken. The caller has to give it back.
    pub fn take_anyhow(&self, shard: ShardId) {
        // The credits of all shards come first: beside them, it would be one too many.
        if !self.take(shard) {
            self.taken.write().fetch_add(1, SeqCst);
        }
    }

    /// Gives back a permit that was taken.
    pub fn give_back(&self, shard: ShardId) {
        if !self.is_far() {
            return self.free(1);
        }
        if self.credit(shard).fetch_add(1, SeqCst) + 1 == CREDITS_MAX {
            self.give_back_many(shard);
        }
    }

    /// Returns the number of permits taken now, which is exact while no shard takes one or gives one back.
    #[must_use]
    pub fn taken(&self) -> u32 {
        let _moves = self.lock();
        let credits: u32 = self.credits().iter().map(|credits| credits.load(SeqCst)).sum();
        self.taken.get().load(SeqCst).saturating_sub(credits)
    }

    /// Returns whether a permit is left.
    #[must_use]
    pub fn has_free(&self) -> bool {
        let _moves = self.lock();
        self.taken.get().load(SeqCst) < self.maximum()
            || self.credits().iter().any(|credits| credits.load(SeqCst) > 0)
    }

    /// Returns the number of all permits.
    #[must_use]
    pub fn maximum(&self) -> u32 {
        self.maximum.load(Relaxed)
    }

    /// Changes the number of permits. If more than that are taken, none is given until enough have come back, but for one that
    /// a shard gives back at this very moment.
    pub fn set_maximum(&self, maximum: u32) {
        let _moves = self.lock();
        self.maximum.store(maximum, Relaxed);
        if !self.is_far() {
            self.take_back_credits();
        }
    }
}

impl Limit {
    /// Returns whether so many permits are free that shards may keep credits.
    fn is_far(&self) -> bool {
        let room = self.maximum().saturating_sub(self.taken.get().load(SeqCst));
        room / CREDITS_MAX >= self.shards
    }

    /// Takes so many permits, if they are free.
    fn take_free(&self, count: u32) -> bool {
        let with = |taken: u32| taken.checked_add(count).filter(|taken| *taken <= self.maximum());
        self.taken.get().load(SeqCst) < self.maximum()
            && self.taken.write().fetch_update(SeqCst, SeqCst, with).is_ok()
    }

    fn free(&self, count: u32) {
        let before = self.taken.write().fetch_sub(count, SeqCst);
        debug_assert!(before >= count, "more permits given back than taken");
    }

    /// Takes several permits: one, and credits.
    fn take_many(&self, shard: ShardId) -> bool {
        let _moves = self.lock();
        // Made before the permits leave: as long as no shard has a line for credits, nobody looks into one.
        let credit = self.credit(shard);
        let has_taken = self.is_far() && self.take_free(CREDITS);
        if has_taken {
            credit.fetch_add(CREDITS - 1, SeqCst);
        }
        has_taken
    }

    fn give_back_many(&self, shard: ShardId) {
        let _moves = self.lock();
        let less = |credits: u32| credits.checked_sub(CREDITS);
        if self.credit(shard).fetch_update(SeqCst, SeqCst, less).is_ok() {
            self.free(CREDITS);
        }
    }

    /// Takes a permit that was on its way, or one of the credits of all shards.
    fn take_last(&self) -> bool {
        if self.credits().is_empty() {
            return false;
        }
        let _moves = self.lock();
        self.take_back_credits();
        self.take_free(1)
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.moves.write().lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_credit(&self, shard: ShardId) -> bool {
        let less = |credits: u32| credits.checked_sub(1);
        self.credits
            .get()
            .is_some_and(|credits| credits[shard.index()].fetch_update(SeqCst, SeqCst, less).is_ok())
    }

    /// Takes the credits of all shards back.
    fn take_back_credits(&self) {
        // A line without any is not written.
        let held = self.credits().iter().filter(|credits| credits.load(SeqCst) > 0);
        let count = held.map(|credits| credits.swap(0, SeqCst)).sum();
        if count > 0 {
            self.free(count);
        }
    }

    fn credits(&self) -> &[CachePadded<AtomicU32>] {
        self.credits.get().map_or(&[], |credits| credits)
    }

    fn credit(&self, shard: ShardId) -> &AtomicU32 {
        let none = || (0..self.shards).map(|_| CachePadded::default()).collect();
        &self.credits.get_or_init(none)[shard.index()]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn last_permit_is_taken_once_while_threads_race() {
        let limit = Limit::new(7, 4);
        race(&limit);
    }

    /// From far below the maximum up to it and back, so that credits are taken, kept and taken back.
    #[test]
    fn credits_of_a_shard_are_permits_of_all() {
        const SHARDS: usize = 4;
        for maximum in [1, 100, SHARDS as u32 * CREDITS_MAX, 500] {
            let limit = Limit::new(maximum, SHARDS);
            let shards = (0..SHARDS as u16).map(ShardId).cycle();
            for round in 0..3 {
                let takers: Vec<_> = shards.clone().skip(round).take(maximum as usize).collect();
                takers.iter().for_each(|shard| assert!(limit.take(*shard)));
                assert_eq!((limit.taken(), limit.has_free()), (maximum, false));
                assert!(shards.clone().take(SHARDS).all(|shard| !limit.take(shard)));
                // Whoever comes to a full limit finds the one permit, wherever it was given back.
                limit.give_back(takers[0]);
                assert!(limit.has_free() && limit.take(ShardId(3)));
                // Each is given back by another shard.
                shards.clone().take(maximum as usize).for_each(|shard| limit.give_back(shard));
                assert_eq!((limit.taken(), limit.has_free()), (0, true));
            }
        }
    }

    #[test]
    fn permits_beyond_a_lowered_maximum_come_back_before_one_is_given() {
        let (limit, shard) = (Limit::new(10_000, 2), ShardId(1));
        (0..100).for_each(|_| assert!(limit.take(shard)));
        limit.set_maximum(40);
        assert_eq!((limit.taken(), limit.take(shard)), (100, false));
        limit.take_anyhow(shard);
        assert_eq!(limit.taken(), 101);
        (0..61).for_each(|_| limit.give_back(shard));
        assert_eq!((limit.taken(), limit.take(shard)), (40, false));
        limit.give_back(shard);
        assert!(limit.take(shard));
    }

    /// The last permits are the credits of a shard that does nothing. Several threads come for them at once.
    #[test]
    fn nobody_is_refused_while_another_one_takes_credits_back() {
        const SHARDS: usize = 64;
        for _ in 0..300 {
            let limit = Limit::new(SHARDS as u32 * CREDITS_MAX + 1_000, SHARDS);
            assert!(limit.take(ShardId(40)));
            let others = limit.maximum() - CREDITS;
            assert!(limit.take_free(others) && !limit.take_free(1) && limit.has_free());
            let (limit, barrier) = (&limit, &std::sync::Barrier::new(4));
            let refused: usize = std::thread::scope(|scope| {
                let taker = |shard| {
                    move || {
                        barrier.wait();
                        (0..3).filter(|_| !limit.take(ShardId(shard))).count()
                    }
                };
                let threads = [0, 1, 2, 3].map(|shard| scope.spawn(taker(shard)));
                threads.into_iter().map(|thread| thread.join().expect("it does not fail")).sum()
            });
            assert_eq!(refused, 0, "twelve of fifteen permits");
        }
    }

    /// Around the number from which four shards keep credits.
    #[test]
    fn large_limit_is_kept_while_threads_race_up_to_it() {
        const FAR: u32 = 4 * CREDITS_MAX;
        for maximum in [FAR - 1, FAR, FAR + 1, FAR + CREDITS, FAR + 40, 2 * FAR] {
            race(&Limit::new(maximum, 4));
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Take,
        TakeAnyhow,
        GiveBack,
        SetMaximum(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            100 => Just(Step::Take),
            1 => Just(Step::TakeAnyhow),
            80 => Just(Step::GiveBack),
            1 => (0..200_u32).prop_map(Step::SetMaximum),
        ]
    }

    proptest! {
        /// A permit is refused exactly if all are taken, whichever shards took and gave back the others.
        #[test]
        fn limit_with_credits_counts_as_a_number_does(
            maximum in 0..200_u32,
            shards in 1..5_u16,
            steps in prop::collection::vec((0..4_u16, 1..40_usize, step()), 1..100),
        ) {
            let limit = Limit::new(maximum, shards.into());
            let (mut maximum, mut taken) = (maximum, 0);
            for (shard, times, step) in steps {
                let shard = ShardId(shard % shards);
                for _ in 0..times {
                    match step {
                        Step::Take => {
                            let has_taken = limit.take(shard);
                            prop_assert_eq!(has_taken, taken < maximum, "{} of {}", taken, maximum);
                            taken += u32::from(has_taken);
                        }
                        Step::TakeAnyhow => {
                            limit.take_anyhow(shard);
                            taken += 1;
                        }
                        Step::GiveBack if taken > 0 => {
                            limit.give_back(shard);
                            taken -= 1;
                        }
                        Step::GiveBack => {}
                        Step::SetMaximum(now) => {
                            limit.set_maximum(now);
                            maximum = now;
                        }
                    }
                    prop_assert_eq!((limit.taken(), limit.has_free()), (taken, taken < maximum));
                }
            }
        }
    }

    /// One shard takes a few permits and gives them back, which are credits while there are enough permits, and another one
    /// comes for them when all others are taken.
    #[test]
    fn credits_are_used_once_while_another_shard_takes_them_back() {
        let limit = Limit::new(2 * CREDITS_MAX + 40, 2);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(SeqCst) {
                    let permits = (0..9).filter(|_| limit.take(ShardId(0))).count();
                    (0..permits).for_each(|_| limit.give_back(ShardId(0)));
                }
            });
            for _ in 0..20_000 {
                let rest = limit.maximum() - limit.taken.get().load(SeqCst).min(limit.maximum());
                let others = if limit.take_free(rest) { rest } else { 0 };
                let permits = (0..CREDITS_MAX).filter(|_| limit.take(ShardId(1))).count();
                limit.free(others);
                (0..permits).for_each(|_| limit.give_back(ShardId(1)));
            }
            is_over.store(true, SeqCst);
        });
        assert_each_permit_is_there_once(&limit);
    }

    #[track_caller]
    fn assert_each_permit_is_there_once(limit: &Limit) {
        assert_eq!((limit.taken(), limit.has_free()), (0, true));
        let permits = (0..=limit.maximum()).filter(|_| limit.take(ShardId(0))).count();
        assert_eq!((permits as u32, limit.has_free()), (limit.maximum(), false));
    }

    /// Each thread is a shard that takes and gives back as many permits as there are, in part with credits.
    #[track_caller]
    fn race(limit: &Limit) {
        let open = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for shard in 0..4 {
                let open = &open;
                scope.spawn(move || {
                    let shard = ShardId(shard);
                    for round in 0..2_000_u32 {
                        let wanted = (limit.maximum() / 2 + round % 7).min(round % 97 + 5);
                        let permits = (0..wanted).filter(|_| limit.take(shard)).count() as u32;
                        let sessions = open.fetch_add(permits, SeqCst) + permits;
                        assert!(sessions <= limit.maximum(), "{sessions}");
                        open.fetch_sub(permits, SeqCst);
                        (0..permits).for_each(|_| limit.give_back(shard));
                    }
                });
            }
        });
        assert_each_permit_is_there_once(limit);
    }
}
