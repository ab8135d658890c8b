//! The watchdog: reports a thread that stalls, with what it was doing, and asks for the end of the process when that
//! lasts. The service manager gets signs of life only while no thread is stalled.
//!
//! It counts its own looks instead of time: whoever stops the whole process, or its machine, stops the watchdog too.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use super::service_manager::SignsOfLife;
use super::{Clocks, Source};
use crate::base::{Activity, ShardId};
use crate::uring::Beat;

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// A thread that has not moved in so many looks, 1 s, is stalled.
const STALLED: u32 = 4;
/// After so many looks, 30 s, only a new process helps.
const FATAL: u32 = 120;

/// What the watchdog looks at.
pub struct Watch {
    /// The heartbeats of the shards, and the beats of the health thread.
    pub source: Arc<Source>,
    /// How much CPU time the shards used.
    pub clocks: Clocks,
    /// Wakes a shard, so that it shows that it lives.
    pub knock: Box<dyn Fn(ShardId) + Send>,
    /// Takes what the watchdog finds.
    pub report: Box<dyn FnMut(&Report) + Send>,
}

/// What the watchdog has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The thread.
    pub thread: Thread,
    /// What happened.
    pub finding: Finding,
    /// How long the thread has not moved, or had not.
    pub lasted: Duration,
    /// What it was doing; `None` for waiting in the kernel, and for the health thread.
    pub activity: Option<Activity>,
    /// The CPU time that it used meanwhile: about none if it waits, about all if it works.
    pub used: Option<Duration>,
}

/// A thread that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thread {
    /// A shard, and its CPU.
    Shard(ShardId, usize),
    /// The health thread.
    Health,
}

/// What happens to a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It does not move.
    Stalled,
    /// It moves again.
    Resumed,
    /// It has not moved for so long that it never will.
    Lost,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.thread {
            Thread::Shard(shard, cpu) => write!(f, "shard {} on CPU {cpu}", shard.0)?,
            Thread::Health => f.write_str("the health thread")?,
        }
        let lasted = self.lasted;
        if self.finding == Finding::Resumed {
            return write!(f, " goes on after {lasted:?}");
        }
        write!(f, " has not moved for {lasted:?}")?;
        match (self.activity, self.thread) {
            (Some(activity), _) => write!(f, " while {activity}")?,
            (None, Thread::Shard(..)) => f.write_str(" and does not wake up")?,
            (None, Thread::Health) => {}
        }
        self.used.map_or(Ok(()), |used| write!(f, "; it used {used:.1?} of CPU time meanwhile"))
    }
}

impl Report {
    /// Logs the report.
    pub fn log(&self) {
        let (thread, session) = match self.thread {
            Thread::Shard(shard, _) => {
                (format!("shard-{}", shard.0), self.activity.and_then(Activity::session))
            }
            Thread::Health => ("health".to_owned(), None),
        };
        let (thread, seconds) = (&*thread, self.lasted.as_secs_f64());
        match (self.finding, session) {
            (Finding::Resumed, _) => log::warn!(event = "thread_resumed", thread, seconds; "{self}"),
            (_, Some(session)) => log::error!(event = "thread_stalled", thread, seconds, session; "{self}"),
            (_, None) => log::error!(event = "thread_stalled", thread, seconds; "{self}"),
        }
    }
}

/// One thread, as the watchdog saw it last.
#[derive(Default)]
struct Watched {
    beats: u64,
    /// Looks in which it has not moved.
    looks: u32,
    /// The CPU time that it had used at the first of these.
    used: Option<Duration>,
}

impl Watched {
    fn look(&mut self, beats: u64) -> Option<Finding> {
        if beats != self.beats {
            let stood = self.looks;
            self.beats = beats;
            self.looks = 0;
            return (stood >= STALLED).then_some(Finding::Resumed);
        }
        self.looks = self.looks.saturating_add(1);
        // After 1, 2, 4, 8 and 16 s.
        let is_due = self.looks.is_multiple_of(STALLED) && (self.looks / STALLED).is_power_of_two();
        match self.looks {
            FATAL => Some(Finding::Lost),
            looks if looks < FATAL && is_due => Some(Finding::Stalled),
            _ => None,
        }
    }

    fn is_stalled(&self) -> bool {
        self.looks >= STALLED
    }
}

/// Looks without end.
pub(super) async fn run(mut watch: Watch) {
    let mut shards: Vec<_> = watch.source.heartbeats.iter().map(|_| Watched::default()).collect();
    let mut health = Watched::default();
    let mut signs = SignsOfLife::wanted();
    let mut looks = interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for look in 0_u64.. {
        looks.tick().await;
        for (index, watched) in shards.iter_mut().enumerate() {
            watch.look_at_shard(index, watched);
        }
        watch.look_at_health(&mut health);
        if !health.is_stalled() && !shards.iter().any(Watched::is_stalled) {
            signs.give(Instant::now());
        }
        if look.is_multiple_of(u64::from(STALLED)) {
            watch.source.look();
        }
    }
}

impl Watch {
    fn look_at_shard(&mut self, index: usize, watched: &mut Watched) {
        let shard = ShardId(u16::try_from(index).expect("limits::SHARDS_MAX fits"));
        let (heartbeat, stood) = (&self.source.heartbeats[index], watched.looks);
        let (turns, beat) = (heartbeat.turns().turns, heartbeat.beat());
        if beat == Beat::Ended {
            *watched = Watched::default();
            return;
        }
        let found = watched.look(turns);
        let used = || self.clocks[index].get().and_then(|clock| clock.elapsed());
        if watched.looks == 1 {
            watched.used = used();
        }
        if watched.looks > 0 && beat == Beat::Waiting {
            (self.knock)(shard);
        }
        let Some(finding) = found else { return };
        let report = Report {
            thread: Thread::Shard(shard, self.source.cpus[index]),
            finding,
            lasted: LOOK_INTERVAL * stood.max(watched.looks),
            activity: match beat {
                Beat::Turn(activity) => Some(activity),
                Beat::Waiting | Beat::Ended => None,
            },
            used: used().zip(watched.used).map(|(now, then)| now.saturating_sub(then)),
        };
        (self.report)(&report);
    }

    fn look_at_health(&mut self, watched: &mut Watched) {
        let stood = watched.looks;
        let Some(finding) = watched.look(self.source.health.beats()) else { return };
        let lasted = LOOK_INTERVAL * stood.max(watched.looks);
        (self.report)(&Report { thread: Thread::Health, finding, lasted, activity: None, used: None });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_that_stands_still_is_reported_ever_less_often_and_given_up() {
        let mut watched = Watched::default();
        assert_eq!(watched.look(1), None);
        let found: Vec<_> = (1..=200).filter_map(|look| watched.look(1).map(|found| (look, found))).collect();
        let stalled = [4, 8, 16, 32, 64].map(|look| (look, Finding::Stalled));
        assert_eq!(found, [&stalled[..], &[(120, Finding::Lost)]].concat());
        assert!(watched.is_stalled());
        assert_eq!(watched.look(2), Some(Finding::Resumed));
        assert!(!watched.is_stalled());
    }

    #[test]
    fn thread_that_moves_now_and_then_is_not_reported() {
        let mut watched = Watched::default();
        assert!((0..1_000).all(|look| watched.look(look / 3).is_none()));
    }
}
