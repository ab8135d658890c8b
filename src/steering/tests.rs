use proptest::prelude::*;

use super::*;

fn place(shard: usize, shards: usize, seed: u64) -> ShardPlace {
    ShardPlace { shard: id(shard), shards, seed }
}

fn id(shard: usize) -> ShardId {
    ShardId(shard as u16)
}

/// The loads of the cores, and the steering of each core, as in a real process.
struct Process {
    cores: std::sync::Arc<CoreLoads>,
    steering: Vec<Steering>,
    now: Tick,
}

impl Process {
    /// All cores share one cache.
    fn new(shards: usize, seed: u64) -> Self {
        Self::laid_out(shards, seed, |_, _| Distance::SameCache)
    }

    fn laid_out(shards: usize, seed: u64, distance: impl Fn(usize, usize) -> Distance) -> Self {
        let steering = |shard| {
            let distances: Vec<_> = (0..shards).map(|other| distance(shard, other)).collect();
            Steering::new(place(shard, shards, seed), &distances)
        };
        let steering = (0..shards).map(steering).collect();
        Self { cores: CoreLoads::new(shards), steering, now: Tick(0) }
    }

    /// Two nodes, each with two caches.
    fn of_two_nodes(shards: usize, seed: u64) -> Self {
        Self::laid_out(shards, seed, |one, other| apart(shards, one, other))
    }

    fn begin(&self, shard: usize, sessions: usize) {
        (0..sessions).for_each(|_| self.cores.begin_session(id(shard)));
    }

    /// Accepts a connection on `shard`; returns the shard that serves it. A handed-off connection arrives at
    /// once.
    fn connect(&mut self, shard: usize) -> usize {
        let target = self.steering[shard].choose(self.now, &self.cores);
        let serving = target.unwrap_or(id(shard));
        self.cores.begin_session(serving);
        if target.is_some() {
            self.cores.note_handed_off(id(shard));
            self.cores.note_received(serving);
        }
        serving.index()
    }

    fn sessions(&self) -> Vec<u32> {
        (0..self.cores.len()).map(|shard| self.cores.status(id(shard)).active).collect()
    }
}

/// How far two cores are apart where the first half of them is of one node and each quarter of one cache.
fn apart(shards: usize, one: usize, other: usize) -> Distance {
    let quarter = |shard| 4 * shard / shards;
    match (quarter(one), quarter(other)) {
        (one, other) if one == other => Distance::SameCache,
        (one, other) if one / 2 == other / 2 => Distance::SameNode,
        _ => Distance::OtherNode,
    }
}

fn load(sessions: u32, busy: u32) -> CoreLoad {
    CoreLoad { sessions, busy }
}

#[test]
fn connection_stays_unless_the_imbalance_is_clear() {
    let better = |own, other| is_better_off(own, other, SessionLength::Long);
    assert!(!better(load(0, 0), load(0, 0)) && better(load(1, 0), load(0, 0)));
    assert!(!better(load(8, 0), load(7, 0)) && better(load(9, 0), load(7, 0)));
    assert!(!better(load(124, 0), load(100, 0)) && better(load(126, 0), load(100, 0)));
    // The sessions are alike, the cores are not.
    assert!(better(load(10, 900), load(10, 500)) && !better(load(10, 900), load(10, 700)));
    assert!(!better(load(10, 650), load(10, 0)), "a core that is not busy keeps what comes");
    // The core has fewer sessions, but they keep it busy.
    assert!(!better(load(9, 100), load(2, 900)));
}

#[test]
fn number_of_short_sessions_says_nothing() {
    let better = |own, other| is_better_off(own, other, SessionLength::Short);
    assert!(!better(load(60, 0), load(4, 0)) && better(load(60, 900), load(60, 500)));
    let mut turnover = Turnover::default();
    assert_eq!(turnover.look(Tick(10), 0, 0), SessionLength::Long);
    assert_eq!(turnover.look(Tick(20), 33, 32), SessionLength::Short, "more have ended than are open");
    assert_eq!(turnover.look(Tick(120), 400, 32), SessionLength::Short);
    assert_eq!(turnover.look(Tick(121), 400, 32), SessionLength::Short, "as in the window before");
    assert_eq!(turnover.look(Tick(60_000), 500, 32), SessionLength::Long, "100 in a minute");
    assert_eq!(turnover.look(Tick(60_100), 510, 1), SessionLength::Long, "few short ones beside a long one");
}

#[test]
fn single_core_keeps_everything() {
    let mut process = Process::new(1, 0);
    (0..100).for_each(|_| assert_eq!(process.connect(0), 0));
}

#[test]
fn sixteen_sessions_that_all_come_by_one_of_two_cores_are_nine_and_seven() {
    let mut process = Process::new(2, 0);
    for _ in 0..16 {
        process.connect(0);
    }
    assert_eq!(process.sessions(), [9, 7]);
}

/// Three of the four others have got clients since they were looked at, in the same millisecond.
#[test]
fn outdated_looks_do_not_keep_a_connection() {
    for seed in 0..20 {
        let mut process = Process::new(5, seed);
        assert_eq!(process.connect(0), 0);
        let first = process.connect(0);
        for other in (1..5).filter(|other| *other != first).take(3) {
            (0..10).for_each(|_| process.cores.begin_session(id(other)));
        }
        (0..10).for_each(|_| process.cores.begin_session(id(0)));
        let least = *process.sessions().iter().min().expect("five");
        let serving = process.connect(0);
        assert_eq!(process.sessions()[serving], least + 1, "seed {seed}");
    }
}

/// A sample is 100 ms old. Until the next one, a core hands off no more than closes the gap.
#[test]
fn busy_core_hands_off_its_share_and_not_everything() {
    let mut process = Process::new(2, 0);
    // Both cores get one session after the other, and one of the first core's is heavy.
    for _ in 0..20 {
        process.cores.begin_session(id(0));
        process.cores.begin_session(id(1));
    }
    process.cores.note_busy(id(0), 1_000, std::time::Duration::from_secs(1));
    process.cores.note_busy(id(1), 400, std::time::Duration::from_secs(1));
    process.now = Tick(1_000);
    let first =
        (0..100).filter(|_| process.steering[0].choose(process.now, &process.cores).is_some()).count();
    assert!((1..=4).contains(&first), "{first}");
    process.now = process.now.after(WINDOW);
    assert!(
        process.steering[0].choose(process.now, &process.cores).is_some(),
        "the next sample says the same"
    );
}

/// Cores 0 and 1 share a cache, 2 and 3 are of the same node, and the others of another one.
#[test]
fn near_core_is_chosen_although_a_far_one_has_fewer_sessions() {
    for seed in 0..20 {
        let process = |sessions: [usize; 8]| {
            let process = Process::of_two_nodes(8, seed);
            sessions.into_iter().enumerate().for_each(|(shard, count)| process.begin(shard, count));
            process
        };
        assert_eq!(process([10, 7, 6, 6, 0, 0, 0, 0]).connect(0), 1, "of the same cache");
        assert!([2, 3].contains(&process([10, 8, 7, 7, 0, 0, 0, 0]).connect(0)), "of the same node");
        assert!((4..8).contains(&process([10, 8, 8, 8, 0, 0, 0, 0]).connect(0)), "none nearer is better off");
        assert_eq!(process([10, 8, 8, 8, 8, 8, 8, 8]).connect(0), 0, "none is");
    }
}

/// A near core that was better off a moment ago does not keep the connection from a far one.
#[test]
fn outdated_look_at_a_near_core_ends_at_a_far_one() {
    let mut process = Process::of_two_nodes(4, 0);
    process.begin(0, 10);
    process.begin(1, 7);
    process.begin(2, 7);
    assert_eq!(process.connect(0), 1);
    process.begin(1, 1);
    assert_eq!(process.connect(0), 3, "core 1 has 9 now");
}

#[test]
fn busy_core_hands_off_to_a_near_core_that_is_less_busy() {
    let mut process = Process::of_two_nodes(4, 0);
    let busy = |shard: usize, per_mille| {
        process.cores.note_busy(id(shard), per_mille, Duration::from_secs(1));
    };
    [900, 500, 100, 0].into_iter().enumerate().for_each(|(shard, per_mille)| busy(shard, per_mille));
    (0..4).for_each(|shard| process.begin(shard, 20));
    assert_eq!(process.steering[0].choose(Tick(1_000), &process.cores), Some(id(1)));
    process.cores.note_busy(id(1), 800, Duration::from_secs(1));
    assert_eq!(process.steering[0].choose(Tick(1_100), &process.cores), Some(id(2)));
}

/// More near cores than are looked at in a millisecond, all of them full.
#[test]
fn far_core_is_found_behind_any_number_of_near_ones() {
    let near = 2 * LOOKED_AT;
    let is_near = |shard: usize| shard < near;
    let mut process = Process::laid_out(near + 2, 0, |one, other| match is_near(one) == is_near(other) {
        true => Distance::SameCache,
        false => Distance::OtherNode,
    });
    (0..near).for_each(|shard| process.begin(shard, 10));
    let serving = process.connect(0);
    assert!(!is_near(serving), "{serving}");
}

/// Sixteen shards see the same idle core at the same moment, before anything they send has arrived.
#[test]
fn herd_does_not_choose_the_same_core() {
    let mut process = Process::new(17, 3);
    for shard in 0..16 {
        (0..10).for_each(|_| process.cores.begin_session(id(shard)));
    }
    let chosen =
        (0..160).filter(|round| process.steering[round % 16].choose(Tick(5), &process.cores).is_some());
    let count = chosen.count();
    // 10 < 8 + 1 + 8/4: with 8 connections on their way, no further one is clearly better off there.
    assert_eq!(count, 8);
}

/// 64 sessions at a time on two cores, each of about 4 ms: the counts keep differing by chance.
#[test]
fn short_sessions_stay_where_they_come() {
    let mut process = Process::new(2, 5);
    let mut random = Random::new(5);
    let mut open: Vec<_> = (0..64).map(|index| process.connect(index % 2)).collect();
    let passed =
        |process: &Process| process.cores.status(id(0)).handed_off + process.cores.status(id(1)).handed_off;
    for _ in 0..100_000 {
        process.now.0 += u64::from(random.below(16) == 0);
        let ends = random.below(64) as usize;
        process.cores.end_session(id(open[ends]));
        open[ends] = process.connect(random.below(2) as usize);
    }
    assert!(passed(&process) < 100, "{} of 100,000", passed(&process));
}

/// The spread of the load: sessions of the fullest core, and the number of cores without any.
fn spread(sessions: &[u32]) -> (u32, usize) {
    let most = sessions.iter().max().copied().unwrap_or(0);
    (most, sessions.iter().filter(|count| **count == 0).count())
}

/// Averages over many runs of `sessions` long sessions that arrive by a hash: the fullest core and the number
/// of idle cores, without steering and with it.
fn simulate(cores: usize, sessions: usize, process: fn(usize, u64) -> Process) -> [(f64, f64); 2] {
    const RUNS: u32 = 200;
    let mut sums = [(0, 0); 2];
    for seed in 0..u64::from(RUNS) {
        let mut random = Random::new(seed);
        let mut steered = process(cores, seed);
        let mut kept = vec![0; cores];
        for _ in 0..sessions {
            let by = random.below(cores as u32) as usize;
            kept[by] += 1;
            // About twenty connections come in a millisecond, so loads are often outdated when they are
            // looked at.
            steered.now.0 += u64::from(random.below(20) == 0);
            steered.connect(by);
        }
        for (sum, counts) in sums.iter_mut().zip([kept, steered.sessions()]) {
            let (most, idle) = spread(&counts);
            *sum = (sum.0 + most, sum.1 + idle);
        }
    }
    sums.map(|(most, idle)| (f64::from(most) / f64::from(RUNS), idle as f64 / f64::from(RUNS)))
}

/// `cargo test simulation_of_long -- --nocapture` prints the table of `docs/maintainers/ARCHITECTURE.md`.
#[test]
fn simulation_of_long_sessions_on_many_cores() {
    let processes = [("one cache", Process::new as fn(_, _) -> _), ("two nodes", Process::of_two_nodes)];
    let loads = [(16, 16), (16, 64), (16, 1_000), (64, 16), (64, 64), (64, 1_000)];
    let runs = processes.into_iter().flat_map(|process| loads.map(|load| (process, load)));
    for ((layout, process), (cores, sessions)) in runs {
        let [hash, steered] = simulate(cores, sessions, process);
        println!(
            "{layout}, {cores} cores, {sessions} sessions: fullest {:.2} -> {:.2}, idle {:.2} -> {:.2}",
            hash.0, steered.0, hash.1, steered.1
        );
        // The result of an even distribution.
        let (even, idle) = (sessions.div_ceil(cores) as f64, cores.saturating_sub(sessions) as f64);
        let what = format!("{layout}, {cores}, {sessions}: {hash:?} {steered:?}");
        assert!(steered.0 <= even * 1.25 + 1.0 && steered.0 < hash.0, "{what}");
        assert!(steered.1 <= idle + 0.05 * cores as f64, "{what}");
        assert!(hash.1 == 0.0 || steered.1 < hash.1, "{what}");
    }
}

proptest! {
    #[test]
    fn handing_off_never_makes_the_fullest_core_fuller(
        own in 0_u32..2_000, other in 0_u32..2_000, busy in 0_u32..600, short: bool,
    ) {
        let stay = if short { SessionLength::Short } else { SessionLength::Long };
        if is_better_off(load(own, busy), load(other, busy), stay) {
            prop_assert!(other < own);
        }
    }

    #[test]
    fn two_cores_are_never_both_better_off(
        a in (0_u32..50, 0_u32..=1_000), b in (0_u32..50, 0_u32..=1_000),
    ) {
        let (a, b) = (load(a.0, a.1), load(b.0, b.1));
        prop_assert!(!(is_better_off(a, b, SessionLength::Long) && is_better_off(b, a, SessionLength::Long)));
    }

    #[test]
    fn long_sessions_stay_within_the_rule_however_they_come(
        shards in 2_usize..9, seed: u64, arrivals in prop::collection::vec((0_usize..9, 0_u64..3), 1..200),
    ) {
        let mut process = Process::of_two_nodes(shards, seed);
        for (by, pause) in arrivals {
            process.now.0 += pause;
            let before = process.sessions();
            let serving = process.connect(by % shards);
            // The connection stays unless a core is better off, and moves only to such a core.
            let least = before.iter().min().copied().unwrap_or(0);
            prop_assert!(before[serving] <= least + least / 4 + 1 || serving != by % shards);
            if serving != by % shards {
                prop_assert!(before[by % shards] > before[serving]);
            }
        }
        let (most, least) = (process.sessions().into_iter().max(), process.sessions().into_iter().min());
        let (most, least) = (most.unwrap_or(0), least.unwrap_or(0));
        prop_assert!(most <= least + least / 4 + 1 + 1, "{:?}", process.sessions());
    }
}
