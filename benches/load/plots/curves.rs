//! Latency distributions: a panel a workload, a curve a subject.
//!
//! Both axes are logarithmic: up in microseconds, to the right in nines, so that the slowest tenth, hundredth
//! and thousandth of the messages get as much room as all the others.

use std::path::Path;

use plotters::style::text_anchor::HPos;

use super::canvas::{Canvas, FAINT, FOOT, GRID, HEAD, INK, Place, WIDTH, color, letters};
use crate::figures::{AGAIN, OWN, Outcome, Row};
use crate::histogram::Point;
use crate::report::Report;

const COLUMNS: usize = 2;
const PANEL_HEIGHT: i32 = 300;

/// Of the area of the curves within a panel.
const LEFT: i32 = 58;
const TOP: i32 = 30;
const BOTTOM: i32 = 48;

/// The legend, above the panels.
const LEGEND: i32 = 30;

pub(super) fn draw(report: &Report, workloads: &[&str], file: &Path) -> Result<(), String> {
    let panels = report.outcomes(workloads);
    let height = HEAD + LEGEND + PANEL_HEIGHT * panels.len().div_ceil(COLUMNS) as i32 + FOOT;
    let canvas = Canvas::new(file, height)?;
    if let Some(outcome) = panels.first() {
        legend(&canvas, outcome)?;
    }
    for (index, outcome) in panels.iter().enumerate() {
        let column = WIDTH / COLUMNS as i32;
        let place =
            ((index % COLUMNS) as i32 * column + 20, HEAD + LEGEND + (index / COLUMNS) as i32 * PANEL_HEIGHT);
        panel(&canvas, outcome, place, column - 40)?;
    }
    let notes = "All rounds together. At a fixed rate (the 30000/s and the 64 open sessions), a latency counts from \
                 when its message was due.";
    canvas.frame("Latency of an echo by percentile: lower is better", notes, report)?;
    canvas.end()
}

/// One curve for a build.
fn shown(outcome: &Outcome) -> impl Iterator<Item = &Row> {
    outcome.rows.iter().filter(|row| row.subject != AGAIN)
}

fn legend(canvas: &Canvas, outcome: &Outcome) -> Result<(), String> {
    let y = HEAD + 4;
    for (index, row) in shown(outcome).enumerate() {
        let x = 24 + 119 * index as i32;
        canvas.line(vec![(x, y), (x + 20, y)], color(&row.subject), stroke(row))?;
        canvas.text(&row.subject, (x + 26, y), &letters(13, INK, HPos::Left))?;
    }
    Ok(())
}

fn stroke(row: &Row) -> u32 {
    if row.subject == OWN { 3 } else { 2 }
}

/// From percentiles and microseconds to pixels.
struct Axes {
    left: i32,
    bottom: i32,
    width: i32,
    height: i32,
    /// To the right, nines: p90 is one, p99 two.
    nines: f64,
    /// Upwards, powers of ten of microseconds.
    lowest: f64,
    highest: f64,
}

impl Axes {
    fn x(&self, percentile: f64) -> i32 {
        let nines = -(1.0 - percentile / 100.0).log10();
        self.left + (nines / self.nines * f64::from(self.width)).round() as i32
    }

    fn y(&self, micros: f64) -> i32 {
        let share = (micros.log10() - self.lowest) / (self.highest - self.lowest);
        self.bottom - (share * f64::from(self.height)).round() as i32
    }
}

fn panel(canvas: &Canvas, outcome: &Outcome, (left, top): Place, width: i32) -> Result<(), String> {
    let points = || outcome.rows.iter().flat_map(|row| &row.distribution);
    let most = |of: fn(&Point) -> f64| points().map(of).fold(f64::MIN_POSITIVE, f64::max);
    let least = points().map(|point| point.micros).filter(|micros| *micros > 0.0).fold(f64::MAX, f64::min);
    canvas.text(&outcome.workload, (left, top + 8), &letters(15, INK, HPos::Left))?;
    if least == f64::MAX {
        return Ok(());
    }
    let axes = Axes {
        left: left + LEFT,
        bottom: top + PANEL_HEIGHT - BOTTOM,
        width: width - LEFT,
        height: PANEL_HEIGHT - BOTTOM - TOP,
        nines: (-(1.0 - most(|point| point.percentile) / 100.0).log10()).max(1.0),
        lowest: least.log10().floor(),
        highest: most(|point| point.micros).log10().ceil(),
    };
    grid(canvas, &axes)?;
    // Ringway last, so that no other curve hides it.
    let (own, others): (Vec<&Row>, Vec<&Row>) = shown(outcome).partition(|row| row.subject == OWN);
    for row in others.into_iter().chain(own) {
        let seen = row.distribution.iter().filter(|point| point.micros > 0.0);
        let curve: Vec<Place> = seen.map(|point| (axes.x(point.percentile), axes.y(point.micros))).collect();
        canvas.line(curve, color(&row.subject), stroke(row))?;
    }
    Ok(())
}

fn grid(canvas: &Canvas, axes: &Axes) -> Result<(), String> {
    let small = |side| letters(12, FAINT, side);
    let right = axes.left + axes.width;
    for power in axes.lowest as i32..=axes.highest as i32 {
        let micros = 10_f64.powi(power);
        let y = axes.y(micros);
        canvas.line(vec![(axes.left, y), (right, y)], GRID, 1)?;
        let label = match power {
            6.. => format!("{} s", 10_i64.pow(power as u32 - 6)),
            3..6 => format!("{} ms", 10_i64.pow(power as u32 - 3)),
            _ => format!("{micros} us"),
        };
        canvas.text(&label, (axes.left - 8, y), &small(HPos::Right))?;
    }
    let top = axes.bottom - axes.height;
    for (percentile, label) in [
        (0.0, "0"),
        (50.0, "50"),
        (90.0, "90"),
        (99.0, "99"),
        (99.9, "99.9"),
        (99.99, "99.99"),
        (99.999, "99.999"),
    ] {
        let x = axes.x(percentile);
        if x > right {
            break;
        }
        canvas.line(vec![(x, axes.bottom), (x, top)], GRID, 1)?;
        canvas.text(label, (x, axes.bottom + 14), &small(HPos::Center))?;
    }
    canvas.line(vec![(axes.left, axes.bottom), (right, axes.bottom)], FAINT, 1)?;
    canvas.text("percentile of the messages", (right, axes.bottom + 32), &small(HPos::Right))
}
