//! Samples how busy the cores are, so that no shard has to read a clock for that.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use crate::base::ShardId;
use crate::steering::CoreLoads;
use crate::telemetry::thread_clock::ThreadClock;

/// Time between two samples; the busy share is that of the time between them.
const INTERVAL: Duration = Duration::from_millis(100);

/// The clock of each shard's thread, set by the thread itself when it starts.
pub type Clocks = Arc<[OnceLock<ThreadClock>]>;

/// Samples without end.
pub(super) async fn run(cores: Arc<CoreLoads>, clocks: Clocks) {
    let mut samples = vec![None; clocks.len()];
    let mut ticks = interval(INTERVAL);
    // After a stop of the process, the next sample covers one long interval.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for (index, (clock, before)) in clocks.iter().zip(&mut samples).enumerate() {
            let Some(used) = clock.get().and_then(|clock| clock.elapsed()) else { continue };
            let now = Instant::now();
            let (used_before, at) = before.replace((used, now)).unwrap_or((Duration::ZERO, now));
            let shard = ShardId(u16::try_from(index).expect("limits::SHARDS_MAX fits"));
            cores.note_busy(shard, per_mille(used.saturating_sub(used_before), now - at), used);
        }
    }
}

/// Returns 0 if no time has passed.
fn per_mille(part: Duration, whole: Duration) -> u32 {
    let share = part.as_nanos().saturating_mul(1_000).checked_div(whole.as_nanos()).unwrap_or(0);
    u32::try_from(share).unwrap_or(u32::MAX).min(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_per_mille_and_bounded() {
        let millis = Duration::from_millis;
        assert_eq!(per_mille(millis(25), millis(100)), 250);
        // Two clocks never agree to the nanosecond.
        assert_eq!(per_mille(millis(101), millis(100)), 1_000);
        assert_eq!(per_mille(millis(5), Duration::ZERO), 0);
    }
}
