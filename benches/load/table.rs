//! The table of one workload.

use std::fmt::Write as _;

use crate::clock::{SATURATED, Usage};
use crate::figures::{DIRECT, Measure, OWN, Outcome, Row, Spread};
use crate::generator::Unit;

impl Unit {
    pub(crate) fn rate_label(self) -> &'static str {
        match self {
            Unit::Message => "messages/s",
            Unit::Session => "sessions/s",
            Unit::Client => "clients/s",
            Unit::Gigabyte => "Gbit/s",
            Unit::IdleSession => "bytes/session",
        }
    }

    pub(crate) fn cpu_label(self) -> &'static str {
        match self {
            // The same number as milliseconds for a thousand.
            Unit::Message => "CPU s/1M messages",
            Unit::Session => "CPU ms/1000 sessions",
            Unit::Gigabyte => "CPU ms/GB",
            Unit::Client | Unit::IdleSession => "",
        }
    }

    fn segments_label(self) -> &'static str {
        match self {
            Unit::Message => "segments/message",
            Unit::Session => "segments/session",
            Unit::Client => "segments/client",
            Unit::Gigabyte => "segments/GB",
            Unit::IdleSession => "",
        }
    }

    fn rate_digits(self) -> usize {
        if self == Unit::Gigabyte { 1 } else { 0 }
    }

    fn cpu_digits(self) -> usize {
        if self == Unit::Gigabyte { 0 } else { 2 }
    }
}

pub(crate) fn table(outcome: &Outcome) -> String {
    let mut text = format!("{}\n", outcome.workload);
    if outcome.unit == Unit::IdleSession {
        memory(&mut text, outcome);
        return text;
    }
    speeds(&mut text, outcome);
    surroundings(&mut text, outcome);
    counters(&mut text, outcome);
    beside(&mut text, outcome);
    ratios(&mut text, outcome);
    text
}

/// What is left of the kernel's memory without that of the same sessions without a balancer is the balancer's.
fn memory(text: &mut String, outcome: &Outcome) {
    let direct = outcome.row(DIRECT).and_then(|row| row.median(Measure::Kernel));
    let _ = writeln!(
        text,
        "  {:<14} {:>14} {:>20} {:>20}",
        "", "bytes/session", "kernel bytes/session", "without direct's"
    );
    for row in &outcome.rows {
        let kernel = row.median(Measure::Kernel);
        let _ = writeln!(
            text,
            "  {:<14} {:>14} {:>20} {:>20}",
            row.subject,
            cell(row.median(Measure::Rate), 0),
            cell(kernel, 0),
            cell(kernel.zip(direct).filter(|_| row.subject != DIRECT).map(|(all, direct)| all - direct), 0)
        );
    }
}

/// Medians over the rounds.
fn speeds(text: &mut String, outcome: &Outcome) {
    let unit = outcome.unit;
    let _ = writeln!(
        text,
        "  {:<14} {:>13} {:>20} {:>8} {:>8} {:>8} {:>8} {:>6}  limit",
        "",
        unit.rate_label(),
        unit.cpu_label(),
        "p50 us",
        "p99 us",
        "p99.9 us",
        "max us",
        "errors"
    );
    for row in &outcome.rows {
        let _ = write!(
            text,
            "  {:<14} {:>13} {:>20}",
            row.subject,
            cell(row.median(Measure::Rate), unit.rate_digits()),
            cell(row.median(Measure::Cpu), unit.cpu_digits())
        );
        for measure in [Measure::P50, Measure::P99, Measure::P999, Measure::Max] {
            let _ = write!(text, " {:>8}", cell(row.median(measure), 0));
        }
        let _ = writeln!(text, " {:>6}  {}", row.errors(), limit(outcome, row));
    }
}

/// Who was busy meanwhile, and what TCP did.
fn surroundings(text: &mut String, outcome: &Outcome) {
    let _ = writeln!(
        text,
        "  {:<14} {:>9} {:>9} {:>8} {:>6} {:>9} {:>18} {:>10} {:>13}",
        "",
        "balancer",
        "generator",
        "backend",
        "cores",
        "strangers",
        outcome.unit.segments_label(),
        "sent again",
        "TW overflows"
    );
    for row in &outcome.rows {
        let _ = writeln!(
            text,
            "  {:<14} {:>9} {:>9} {:>8} {:>6} {:>9} {:>18} {:>10} {:>13}{}",
            row.subject,
            percent(row.usage(Usage::balancer_share)),
            percent(row.usage(|usage| Some(usage.generator / usage.seconds))),
            percent(row.usage(|usage| Some(usage.backend? / usage.seconds))),
            percent(row.usage(|usage| usage.other_cores_busy)),
            percent(row.usage(|usage| usage.strangers)),
            cell(row.median(Measure::Segments), 1),
            count(row.counted(|network| network.retransmissions)),
            count(row.counted(|network| network.time_wait_overflows)),
            left_out(row)
        );
    }
}

/// Rounds that no ratio is formed of.
fn left_out(row: &Row) -> String {
    match row.disturbed_rounds() {
        0 => String::new(),
        rounds => format!("  not quoted: {rounds} of {}", row.rounds.len()),
    }
}

/// What a message or session costs beside CPU time.
fn counters(text: &mut String, outcome: &Outcome) {
    if outcome.rows.iter().all(|row| row.counter(|counters| Some(counters.calls)).is_none()) {
        return;
    }
    let _ = writeln!(
        text,
        "  {:<14} {:>11} {:>11} {:>11} {:>11} {:>11} {:>11}  each {}",
        "",
        "waits",
        "preempted",
        "contentions",
        "IPI wake-up",
        "IPI call",
        "IPI TLB",
        if outcome.unit == Unit::Message { "message" } else { "session" }
    );
    for row in &outcome.rows {
        let _ = writeln!(
            text,
            "  {:<14} {:>11} {:>11} {:>11} {:>11} {:>11} {:>11}",
            row.subject,
            cell(row.counter(|counters| Some(counters.voluntary)), 4),
            cell(row.counter(|counters| Some(counters.involuntary)), 4),
            cell(row.counter(|counters| counters.contentions), 4),
            cell(row.counter(|counters| Some(counters.wake_ups)), 4),
            cell(row.counter(|counters| Some(counters.calls)), 4),
            cell(row.counter(|counters| Some(counters.flushes)), 4)
        );
    }
}

/// What the bulk session beside got, because little latency is worth less if it was starved; and the memory that reloads
/// leave.
fn beside(text: &mut String, outcome: &Outcome) {
    line(text, outcome, "Gbit/s of the bulk session beside", |row| row.median(Measure::Beside));
    let mebibytes = |row: &Row| row.median(Measure::Family).map(|bytes| bytes / f64::from(1 << 20));
    line(text, outcome, "MiB of anonymous memory of all its processes at the end", mebibytes);
}

/// A figure that few workloads have.
fn line(text: &mut String, outcome: &Outcome, what: &str, of: impl Fn(&Row) -> Option<f64>) {
    let cell = |row: &Row| Some(format!("{} {:.1}", row.subject, of(row)?));
    let cells: Vec<String> = outcome.rows.iter().filter_map(cell).collect();
    if !cells.is_empty() {
        let _ = writeln!(text, "  {what}: {}", cells.join(", "));
    }
}

/// Who could not have done more.
fn limit(outcome: &Outcome, row: &Row) -> String {
    let balancer = row.usage(Usage::balancer_share).is_some_and(|share| share >= SATURATED);
    let generator = format!("generator in {} of {}", row.rounds_limited_by_generator(), row.rounds.len());
    let all = [
        (outcome.is_behind(row), "behind the pace"),
        (balancer, "balancer"),
        (row.rounds_limited_by_generator() > 0, generator.as_str()),
    ];
    let found: Vec<&str> = all.iter().filter(|(is_so, _)| *is_so).map(|(_, text)| *text).collect();
    if found.is_empty() { "-".to_owned() } else { found.join(", ") }
}

/// Median and 99th percentile of the latency at each load, of those that were measured.
pub(crate) fn load_curve(outcomes: &[&Outcome]) -> String {
    let Some(first) = outcomes.first() else { return String::new() };
    let mut text = "Latency under load, p50 and p99 in us (* behind the pace)\n".to_owned();
    let loads: Vec<String> =
        outcomes.iter().map(|outcome| format!("{:>18}", cell(outcome.pace, 0) + "/s")).collect();
    let _ = writeln!(text, "  {:<14}{}", "", loads.concat());
    for Row { subject, .. } in &first.rows {
        let cells: Vec<String> = outcomes.iter().map(|outcome| load_cell(outcome, subject)).collect();
        let _ = writeln!(text, "  {subject:<14}{}", cells.concat());
    }
    text
}

fn load_cell(outcome: &Outcome, subject: &str) -> String {
    let Some(row) = outcome.row(subject) else { return format!("{:>18}", "-") };
    let mark = if outcome.is_behind(row) { "*" } else { "" };
    let (p50, p99) = (cell(row.median(Measure::P50), 0), cell(row.median(Measure::P99), 0));
    format!("{:>18}", format!("{p50} {p99}{mark}"))
}

/// Ringway divided by each other subject.
fn ratios(text: &mut String, outcome: &Outcome) {
    if outcome.row(OWN).is_none() {
        return;
    }
    let _ = writeln!(text, "  {:<14} {:<22} {:<22} {:<22}", "ringway to", "rate", "CPU", "p99");
    for row in outcome.rows.iter().filter(|row| row.subject != OWN) {
        let ratio = |measure| ratio_cell(outcome.ratio(&row.subject, measure));
        let _ = writeln!(
            text,
            "  {:<14} {:<22} {:<22} {}",
            row.subject,
            ratio(Measure::Rate),
            ratio(Measure::Cpu),
            ratio(Measure::P99)
        );
    }
}

/// A median with its extremes.
pub(crate) fn ratio_cell(ratio: Option<Spread>) -> String {
    ratio
        .map_or("-".to_owned(), |ratio| format!("{:.2} ({:.2} to {:.2})", ratio.median, ratio.min, ratio.max))
}

fn cell(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
}

fn count(value: Option<u64>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

fn percent(share: Option<f64>) -> String {
    share.map_or("-".to_owned(), |share| format!("{:.0} %", share * 100.0))
}
