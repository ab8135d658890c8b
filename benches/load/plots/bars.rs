//! Bars: a panel a workload, a bar a subject.

use std::path::Path;

use plotters::style::text_anchor::HPos;

use super::canvas::{Canvas, FAINT, FOOT, GRID, HEAD, INK, Place, WIDTH, color, letters, readable};
use crate::figures::{Measure, OWN, Outcome, Row};
use crate::report::Report;
use crate::workloads::{
    CONNECT, ECHO_16K, ECHO_64, ECHO_1000, PACED_16K, PACED_64, PACED_64K, TO_BACKEND_1, TO_BACKEND_16,
    TO_CLIENT_1, TO_CLIENT_16,
};

/// A figure of bars: a panel a workload, a bar a subject.
pub(super) struct Bars {
    pub(super) name: &'static str,
    title: &'static str,
    measure: Measure,
    pub(super) workloads: &'static [&'static str],
}

pub(super) const THROUGHPUT: Bars = Bars {
    name: "throughput",
    title: "Throughput: longer is better",
    measure: Measure::Rate,
    workloads: &[
        ECHO_64,
        ECHO_1000,
        ECHO_16K,
        CONNECT,
        TO_BACKEND_1,
        TO_CLIENT_1,
        TO_BACKEND_16,
        TO_CLIENT_16,
    ],
};

pub(super) const CPU: Bars = Bars {
    name: "cpu",
    title: "CPU time of the balancer for the same work: shorter is better",
    measure: Measure::Cpu,
    workloads: &[
        TO_BACKEND_1,
        TO_CLIENT_1,
        TO_BACKEND_16,
        TO_CLIENT_16,
        PACED_64,
        CONNECT,
        PACED_16K,
        PACED_64K,
    ],
};

const COLUMNS: usize = 2;

/// Height of a bar with the gap below it, and of what is above the first one in a panel.
const BAR: i32 = 22;
const PANEL_HEAD: i32 = 42;
const PANEL_GAP: i32 = 16;

/// Left of the bars are the names, right of them the values.
const NAMES: i32 = 112;
const VALUES: i32 = 96;

pub(super) fn draw(report: &Report, bars: &Bars, file: &Path) -> Result<(), String> {
    let panels = report.outcomes(bars.workloads);
    let subjects = panels.iter().map(|outcome| shown(outcome, bars.measure).count()).max().unwrap_or(0);
    let panel_height = PANEL_HEAD + BAR * subjects as i32 + PANEL_GAP;
    let height = HEAD + panel_height * panels.len().div_ceil(COLUMNS) as i32 + FOOT;
    let canvas = Canvas::new(file, height)?;
    for (index, outcome) in panels.iter().enumerate() {
        let column = WIDTH / COLUMNS as i32;
        let place = ((index % COLUMNS) as i32 * column + 20, HEAD + (index / COLUMNS) as i32 * panel_height);
        panel(&canvas, outcome, bars.measure, place, column - 40)?;
    }
    let notes = match bars.measure {
        Measure::Rate => {
            "Medians; whiskers: worst and best round. g: generator and backend were busy all the time, so that \
             the balancer may have had more to give."
        }
        _ => "Medians; whiskers: best and worst round. User and system time of the balancer's process.",
    };
    canvas.frame(bars.title, notes, report)?;
    canvas.end()
}

/// The rows that have something to show.
fn shown(outcome: &Outcome, measure: Measure) -> impl Iterator<Item = &Row> {
    outcome.rows.iter().filter(move |row| row.median(measure).is_some())
}

fn panel(
    canvas: &Canvas,
    outcome: &Outcome,
    measure: Measure,
    (left, top): Place,
    width: i32,
) -> Result<(), String> {
    let unit = match measure {
        Measure::Rate => outcome.unit.rate_label(),
        _ => outcome.unit.cpu_label(),
    };
    canvas.text(&outcome.workload, (left, top + 10), &letters(15, INK, HPos::Left))?;
    canvas.text(unit, (left + width, top + 10), &letters(12, FAINT, HPos::Right))?;
    canvas.line(vec![(left, top + 24), (left + width, top + 24)], GRID, 1)?;
    let most = shown(outcome, measure).filter_map(|row| row.spread(measure)).map(|spread| spread.max);
    let most = most.fold(f64::MIN_POSITIVE, f64::max);
    let (zero, room) = (left + NAMES, width - NAMES - VALUES);
    let at = |value: f64| zero + (value / most * f64::from(room)).round() as i32;
    for (index, row) in shown(outcome, measure).enumerate() {
        let Some(spread) = row.spread(measure) else { continue };
        let middle = top + PANEL_HEAD + BAR * index as i32;
        let ink = if row.subject == OWN { color(OWN) } else { INK };
        canvas.text(&row.subject, (zero - 8, middle), &letters(13, ink, HPos::Right))?;
        canvas.bar([(zero, middle - 7), (at(spread.median), middle + 7)], color(&row.subject))?;
        whisker(canvas, [at(spread.min), at(spread.max)], middle)?;
        let limited = measure == Measure::Rate && row.generator_is_the_limit();
        let value = format!("{}{}", readable(spread.median), if limited { "  g" } else { "" });
        let end = at(spread.max.max(spread.median));
        canvas.text(&value, (end + 8, middle), &letters(13, ink, HPos::Left))?;
    }
    canvas.line(
        vec![
            (zero, top + PANEL_HEAD - 11),
            (zero, top + PANEL_HEAD + BAR * shown(outcome, measure).count() as i32 - 11),
        ],
        FAINT,
        1,
    )
}

fn whisker(canvas: &Canvas, [from, to]: [i32; 2], middle: i32) -> Result<(), String> {
    canvas.line(vec![(from, middle), (to, middle)], INK, 1)?;
    for end in [from, to] {
        canvas.line(vec![(end, middle - 3), (end, middle + 3)], INK, 1)?;
    }
    Ok(())
}
