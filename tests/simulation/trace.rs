//! The last events of the run on this thread, and how often what is worth a count has happened in all its
//! runs.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;

/// Events that a failure shows.
const KEPT: usize = 24;

thread_local! {
    static EVENTS: RefCell<VecDeque<String>> = const { RefCell::new(VecDeque::new()) };
    static COUNTS: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
    static PRINTS: Cell<bool> = const { Cell::new(false) };
}

/// HealthLog an event at a time in milliseconds.
pub fn note(now: u64, event: fmt::Arguments<'_>) {
    let line = format!("{now:>8} ms  {event}");
    if PRINTS.get() {
        println!("{line}");
    }
    EVENTS.with_borrow_mut(|events| {
        if events.len() == KEPT {
            events.pop_front();
        }
        events.push_back(line);
    });
}

/// From now on events are printed as they come.
pub fn print_all() {
    PRINTS.set(true);
}

pub fn clear() {
    EVENTS.with_borrow_mut(VecDeque::clear);
}

/// The last events, one a line.
pub fn last() -> String {
    EVENTS.with_borrow(|events| events.iter().map(|line| format!("  {line}\n")).collect())
}

pub fn count(what: &'static str) {
    COUNTS.with_borrow_mut(|counts| *counts.entry(what).or_default() += 1);
}

pub fn take_counts() -> BTreeMap<&'static str, u64> {
    COUNTS.take()
}
