//! A fixed rate: what falls due when, whether or not what came before is done.

use std::time::{Duration, Instant};

pub(super) struct Pace {
    start: Instant,
    per_second: f64,
    issued: u64,
}

impl Pace {
    /// So many a second from now on; `None` for 0, which is no pace at all.
    pub(super) fn new(per_second: f64) -> Option<Pace> {
        (per_second > 0.0).then(|| Pace { start: Instant::now(), per_second, issued: 0 })
    }

    fn next(&self) -> Instant {
        self.start + Duration::from_secs_f64(self.issued as f64 / self.per_second)
    }

    /// Takes the next that has fallen due by `now`: its number, from 0, and when it was due.
    pub(super) fn take(&mut self, now: Instant) -> Option<(u64, Instant)> {
        let due = self.next();
        (due <= now).then(|| {
            self.issued += 1;
            (self.issued - 1, due)
        })
    }

    /// For how long nothing falls due.
    pub(super) fn rest(&self) -> Duration {
        self.next().saturating_duration_since(Instant::now())
    }
}
