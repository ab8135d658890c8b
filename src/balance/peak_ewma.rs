//! Peak EWMA: of two candidates drawn at random, the one whose latency, times the sessions it would have, is
//! lower.
//!
//! The latency is a moving average that follows a rise at once and a fall slowly, as in Finagle and
//! linkerd2-proxy: a sample above the average replaces it, one below pulls it down as the time between the
//! two says. What is sampled are the time of a connect and the time from then to the first byte; a session
//! that got no byte counts as slow as the others are on average, at least.

use std::time::Duration;

use super::random::Draw;
use super::{Algorithm, Candidate, Demand, Registered, Sample, Wants};
use crate::base::{BackendId, Tick};

pub(super) const REGISTERED: Registered = Registered {
    name: "peak_ewma",
    aliases: &[],
    wants: Wants { loads: true, key: false, latency: true },
    weighted: true,
    slow_start: true,
    goes_by_order: false,
    build: |start| Box::new(PeakEwma { draw: Draw::new(start), averages: Vec::new() }),
};

/// After so long without a sample, `1 / e` of an average is left.
const DECAY: Duration = Duration::from_secs(10);
/// A backend without a sample is as good as one that answers at once, but not free: so the sessions it has
/// count.
const UNKNOWN_MICROS: f64 = 1.0;

#[derive(Clone)]
struct PeakEwma {
    draw: Draw,
    /// Indexed by `BackendId`, backends that are away included.
    averages: Vec<Average>,
}

#[derive(Clone, Copy, Default)]
struct Average {
    micros: f64,
    /// When `micros` was right.
    as_of: Tick,
}

impl Average {
    /// The average now: without samples it falls, so that a backend that was slow once gets another chance.
    fn at(self, now: Tick) -> f64 {
        self.micros * self.kept(now)
    }

    /// The part of the average that is left.
    fn kept(self, now: Tick) -> f64 {
        let age = now.since(self.as_of).as_millis() as f64;
        (-age / DECAY.as_millis() as f64).exp()
    }

    fn add(&mut self, sample_micros: f64, now: Tick) {
        let kept = self.kept(now);
        let left = self.micros * kept;
        self.micros = if sample_micros > left { sample_micros } else { left + sample_micros * (1.0 - kept) };
        self.as_of = now;
    }
}

impl PeakEwma {
    /// The mean of what is known of all others.
    fn average_but_for(&self, backend: BackendId, now: Tick) -> f64 {
        let others = self.averages.iter().enumerate().filter(|(index, _)| *index != backend.index());
        let known = others.map(|(_, average)| average.at(now)).filter(|micros| *micros > UNKNOWN_MICROS);
        let (sum, count) = known.fold((0.0, 0.0), |(sum, count), micros| (sum + micros, count + 1.0));
        if count > 0.0 { sum / count } else { 0.0 }
    }

    /// What one more session on a candidate would cost.
    fn cost(&self, candidate: &Candidate, demand: &Demand<'_>) -> f64 {
        let average = self.averages.get(candidate.id.index()).copied().unwrap_or_default();
        let load = demand.loads.get(candidate.id.index()).copied().unwrap_or(0);
        let latency = average.at(demand.now).max(UNKNOWN_MICROS);
        latency * (f64::from(load) + 1.0) / f64::from(candidate.weight)
    }
}

impl Algorithm for PeakEwma {
    fn copy(&self) -> Box<dyn Algorithm> {
        Box::new(self.clone())
    }

    fn update(&mut self, candidates: &[Candidate]) {
        self.draw.update(candidates);
        let known = candidates.last().map_or(0, |last| last.id.index() + 1);
        self.averages.resize(known.max(self.averages.len()), Average::default());
    }

    fn pick(&mut self, demand: &Demand<'_>) -> Option<BackendId> {
        let (first, second) = self.draw.two(demand.tried)?;
        Some(if self.cost(&second, demand) < self.cost(&first, demand) { second.id } else { first.id })
    }

    fn observe(&mut self, backend: BackendId, sample: Sample, now: Tick) {
        let micros = match sample {
            Sample::Took(latency) => latency.as_secs_f64() * 1e6,
            // Who fails fastest must not look best; nor may a single session, whose client may have wished
            // for that end, make a backend look worse than the others are.
            Sample::InVain(latency) => (latency.as_secs_f64() * 1e6).max(self.average_but_for(backend, now)),
        };
        if let Some(average) = self.averages.get_mut(backend.index()) {
            average.add(micros, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Tried;
    use super::super::testing::*;
    use super::*;

    fn peak_ewma(candidates: &[Candidate]) -> Box<dyn Algorithm> {
        let mut algorithm = (REGISTERED.build)(FIRST);
        algorithm.update(candidates);
        algorithm
    }

    fn shares(algorithm: &mut dyn Algorithm, backends: usize, now: Tick) -> Vec<u32> {
        let (mut shares, tried) = (vec![0; backends], Tried::default());
        for _ in 0..10_000 {
            // Sessions that end at once: only latency decides.
            let id = algorithm.pick(&Demand { now, ..demand(&[], &tried) }).expect("a backend");
            shares[id.index()] += 1;
        }
        shares
    }

    #[test]
    fn slow_backend_is_picked_only_where_both_draws_name_it() {
        let mut algorithm = peak_ewma(&weights(&[1; 4]));
        for id in 0..4 {
            let latency = Duration::from_millis(if id == 2 { 100 } else { 1 });
            algorithm.observe(BackendId(id), Sample::Took(latency), Tick(0));
        }
        // Two different candidates are drawn, so the slowest of four always loses.
        assert_eq!(shares(&mut *algorithm, 4, Tick(0))[2], 0);
    }

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let mut average = Average::default();
        average.add(100.0, Tick(0));
        average.add(10_000.0, Tick(1));
        assert_eq!(average.at(Tick(1)), 10_000.0);
        average.add(100.0, Tick(2));
        assert!(average.at(Tick(2)) > 9_900.0, "one good sample right behind a peak says little");
        let later = Tick(2).after(3 * DECAY);
        assert!(average.at(later) < 600.0);
        average.add(100.0, later);
        assert!((100.0..700.0).contains(&average.at(later)));
    }

    #[test]
    fn sessions_in_flight_multiply_the_latency() {
        let mut algorithm = peak_ewma(&weights(&[1, 1]));
        algorithm.observe(BackendId(0), Sample::Took(Duration::from_millis(1)), Tick(0));
        algorithm.observe(BackendId(1), Sample::Took(Duration::from_millis(3)), Tick(0));
        let tried = Tried::default();
        let mut pick = |loads: &[u32]| algorithm.pick(&demand(loads, &tried)).expect("a backend").index();
        assert_eq!(pick(&[0, 0]), 0);
        assert_eq!(pick(&[1, 0]), 0);
        assert_eq!(pick(&[3, 0]), 1);
    }

    #[test]
    fn session_in_vain_makes_a_backend_look_no_better_and_little_worse() {
        let mut algorithm = peak_ewma(&weights(&[1; 3]));
        for (id, millis) in [(0, 1), (1, 4), (2, 6)] {
            algorithm.observe(BackendId(id), Sample::Took(Duration::from_millis(millis)), Tick(0));
        }
        algorithm.observe(BackendId(0), Sample::InVain(Duration::ZERO), Tick(0));
        let (tried, loads) = (Tried::default(), [0; 3]);
        let mut of_first = 0;
        for _ in 0..300 {
            let picked = algorithm.pick(&demand(&loads, &tried)).expect("a backend");
            of_first += u32::from(picked == BackendId(0));
        }
        // Now 5 ms: worse than the second, better than the third.
        assert!((60..140).contains(&of_first), "{of_first} of 300");
    }

    #[test]
    fn weights_divide_the_cost() {
        let mut algorithm = peak_ewma(&weights(&[1, 4]));
        let (mut loads, tried) = (vec![0; 2], Tried::default());
        for _ in 0..1_000 {
            let id = algorithm.pick(&demand(&loads, &tried)).expect("a backend");
            loads[id.index()] += 1;
        }
        assert!(loads[0].abs_diff(200) <= 2, "{loads:?}");
    }
}
