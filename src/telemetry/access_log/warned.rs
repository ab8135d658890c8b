//! What was said about lost records.

use std::time::{Duration, Instant};

/// Time between two warnings.
const INTERVAL: Duration = Duration::from_secs(10);

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Warned {
    at: Option<Instant>,
    dropped: u64,
}

impl Warned {
    /// Returns how many of `dropped` records are to be spoken of now, if any are.
    pub(super) fn due(&mut self, dropped: u64, now: Instant) -> Option<u64> {
        let is_time = self.at.is_none_or(|at| now.duration_since(at) >= INTERVAL);
        let count = dropped.saturating_sub(self.dropped);
        if count == 0 || !is_time {
            return None;
        }
        *self = Self { at: Some(now), dropped };
        Some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lost_record_is_spoken_of_once_and_not_too_often() {
        let (mut warned, start) = (Warned::default(), Instant::now());
        let said = [(0, 0), (1, 3), (2, 5), (10, 7), (11, 7), (12, 7), (60, 7), (61, 9)]
            .map(|(second, dropped)| warned.due(dropped, start + Duration::from_secs(second)));
        assert_eq!(said, [None, Some(3), None, None, Some(4), None, None, Some(2)]);
    }
}
