//! The rules and the state of sessions under thousands of small accidents: a process of one to four shards in
//! virtual time, on one thread, so that a seed is a run.
//!
//! Real are the rules: attempts, tables, permits, algorithms, limits, queue, retry budget, failures,
//! ejections, ramps, health, and the counters. Modelled is what calls them: `session` (`src/shard/session/`),
//! `shard` (`src/shard/run.rs`), `pool` (`src/shard/pool_task.rs`), `health` (`src/health/`). Sockets are an
//! answer that comes, late or never (`network`). Messages wait until the dice deliver them, so each shard
//! learns of states and of its permits at another time.
//!
//! After every step the shadow (`shadow`, `checks`) says what must hold, and says it anew: it looks at all
//! sessions, or keeps the whole history, where the rules keep a counter.
//!
//! A configuration does not change in a run, as the rules know no reload yet. When they do, an event of
//! `world` makes new tables, and a session keeps those it began with. A shard does not end before the run
//! does.
//!
//! `RINGWAY_SIMULATION_SEEDS=20000` runs that many seeds, `RINGWAY_SIMULATION_SEED=7` that one and prints its
//! events.

#![expect(unreachable_pub, reason = "a test binary has no outside; `pub` is what other modules use")]

mod checks;
mod health;
mod network;
mod pool;
mod session;
mod setup;
mod shadow;
mod shard;
mod trace;
mod world;

use std::any::Any;
use std::collections::BTreeMap;
use std::env;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use world::World;

/// Seeds of a plain `cargo test`.
const SEEDS: u64 = 800;
/// Threads that run seeds.
const WORKERS: usize = 2;
/// What all of them together must have come to, or the simulation would check less than it says.
const REACHED: [&str; 45] = [
    "normal",
    "client_left",
    "client_reset",
    "backend_reset",
    "connect_failed",
    "connect_timeout",
    "no_backend",
    "queue_full",
    "queue_timeout",
    "backend_down",
    "primary_up",
    "resource",
    "shutdown",
    "internal",
    "denied",
    "retry",
    "retry over the budget",
    "permit taken by a waiter",
    "permit without a waiter",
    "later tier",
    "spilled after waiting",
    "retry after a refusal",
    "empty answer",
    "too many failures",
    "too many empty answers",
    "deserted",
    "served again",
    "Unjudged",
    "LastResort",
    "returned elsewhere",
    "permit of no use any more",
    "permit given back by a waiter",
    "states skipped",
    "pooled",
    "pool gives way",
    "Primaries",
    "Backups",
    "Panic",
    "Nobody",
    "ejected",
    "spared",
    "returned",
    "returned by checks",
    "returned early",
    "ramp",
];

#[test]
fn rules_hold_under_a_random_order_of_events() {
    if let Some(seed) = number("RINGWAY_SIMULATION_SEED") {
        trace::print_all();
        return run(seed).unwrap_or_else(|message| panic!("{message}"));
    }
    let seeds = number("RINGWAY_SIMULATION_SEEDS").unwrap_or(SEEDS);
    let (next, failure) = (AtomicU64::new(0), Mutex::new(None));
    let counts = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= seeds {
                        break;
                    }
                    if let Err(message) = run(seed) {
                        next.store(seeds, Relaxed);
                        failure.lock().expect("no panic under it").get_or_insert(message);
                    }
                }
                let mut counts = counts.lock().expect("no panic under it");
                for (what, count) in trace::take_counts() {
                    *counts.entry(what).or_default() += count;
                }
            });
        }
    });
    if let Some(message) = failure.into_inner().expect("no panic under it") {
        panic!("{message}");
    }
    let counts: BTreeMap<&str, u64> = counts.into_inner().expect("no panic under it");
    println!("{seeds} seeds: {counts:#?}");
    let missing: Vec<_> = REACHED.iter().filter(|what| !counts.contains_key(*what)).collect();
    assert!(seeds < SEEDS || missing.is_empty(), "no run has come to {missing:?}");
}

#[test]
fn a_seed_is_a_run() {
    for seed in 0..5 {
        let [first, second] = [(); 2].map(|()| {
            run(seed).unwrap_or_else(|message| panic!("{message}"));
            (trace::last(), trace::take_counts())
        });
        assert_eq!(first, second, "two runs of seed {seed}");
    }
}

/// One run, or what went wrong in it.
fn run(seed: u64) -> Result<(), String> {
    trace::clear();
    let mut world = ManuallyDrop::new(World::new(seed));
    match catch_unwind(AssertUnwindSafe(|| world.run())) {
        Ok(()) => {
            drop(ManuallyDrop::into_inner(world));
            Ok(())
        }
        // The world is left as it is: to take it down could only hide what failed behind what follows from
        // it.
        Err(panic) => Err(format!(
            "seed {seed}: {what}\n\n{plan}\nlast events:\n{events}\n\
             again: RINGWAY_SIMULATION_SEED={seed} cargo test --test simulation -- --nocapture\n",
            what = text(&*panic),
            plan = world.plan,
            events = trace::last(),
        )),
    }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let literal = || panic.downcast_ref::<&str>().copied();
    panic.downcast_ref::<String>().map(String::as_str).or_else(literal).unwrap_or("a panic without words")
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}, not a number")))
}
