//! The measured time of a run, and what was done in it.

use std::time::{Duration, Instant};

use crate::clock::{Snapshot, Usage, Watched};
use crate::histogram::Histogram;
use crate::network::Network;

use super::measurement::{Measurement, Unit};

/// This part of a run comes first and counts for neither rate, latency nor CPU.
pub(super) const WARM_UP: f64 = 0.2;

/// A client waits no longer than this for the last answers.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// The loops look at the clock at least this often.
pub(super) const TURN: Duration = Duration::from_millis(100);

/// What was done in the measured time.
///
/// A latency belongs to it if its message was due in it, even if the answer came after its end: answers that
/// are late are those that must not be left out. A rate counts the answers that came in it.
pub(super) struct Tally {
    watched: Watched,
    from: Option<(Snapshot, Network)>,
    until: Option<(Snapshot, Network)>,
    pub(super) began: Option<Instant>,
    pub(super) ended: Option<Instant>,
    measured: u64,
    pub(super) errors: u64,
    latencies: Histogram,
}

impl Tally {
    pub(super) fn new(watched: &Watched) -> Tally {
        Tally {
            watched: watched.clone(),
            from: None,
            until: None,
            began: None,
            ended: None,
            measured: 0,
            errors: 0,
            latencies: Histogram::new(),
        }
    }

    /// The measured time begins.
    pub(super) fn begin(&mut self) {
        self.from = Some((Snapshot::take(&self.watched), Network::so_far()));
        self.began = Some(Instant::now());
    }

    /// The measured time ends.
    pub(super) fn end(&mut self) {
        self.ended = Some(Instant::now());
        self.until = Some((Snapshot::take(&self.watched), Network::so_far()));
    }

    pub(super) fn is_measuring(&self) -> bool {
        self.began.is_some() && self.ended.is_none()
    }

    /// An answer came to a message that was due at `due`.
    pub(super) fn answered(&mut self, due: Instant, now: Instant) {
        self.measured += u64::from(self.is_measuring());
        let inside =
            self.began.is_some_and(|began| due >= began) && self.ended.is_none_or(|ended| due < ended);
        if inside {
            self.latencies.record(now - due);
        }
    }

    pub(super) fn seconds(&self) -> f64 {
        self.began.zip(self.ended).map_or(f64::NAN, |(began, ended)| (ended - began).as_secs_f64())
    }

    fn usage(&self) -> Option<Usage> {
        self.from.zip(self.until).map(|((from, _), (until, _))| from.until(&until))
    }

    fn network(&self) -> Option<Network> {
        self.from.zip(self.until).map(|((_, from), (_, until))| until.since(from))
    }

    pub(super) fn into_measurement(self, unit: Unit) -> Measurement {
        Measurement {
            unit,
            count: self.measured as f64,
            rate: self.measured as f64 / self.seconds(),
            errors: self.errors,
            usage: self.usage(),
            network: self.network(),
            latencies: Some(self.latencies),
        }
    }
}

/// The measured time of a run of fixed length.
pub(super) struct Schedule {
    pub(super) from: Instant,
    pub(super) until: Instant,
}

impl Schedule {
    pub(super) fn new(seconds: f64) -> Schedule {
        let now = Instant::now();
        let after = |seconds: f64| now + Duration::from_secs_f64(seconds);
        Schedule { from: after(seconds * WARM_UP), until: after(seconds) }
    }

    /// Begins and ends the measured time when it is due; whether more work may be begun.
    pub(super) fn turn(&self, now: Instant, tally: &mut Tally) -> bool {
        if tally.began.is_none() && now >= self.from {
            tally.begin();
        }
        if tally.is_measuring() && now >= self.until {
            tally.end();
        }
        tally.ended.is_none()
    }
}
