//! What both kinds of figures are drawn with.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::report::Report;

pub(super) const INK: RGBColor = RGBColor(33, 37, 41);
pub(super) const FAINT: RGBColor = RGBColor(108, 117, 125);
pub(super) const GRID: RGBColor = RGBColor(226, 230, 234);

/// Width of a figure, in pixels.
pub(super) const WIDTH: i32 = 1000;

/// Above the first panel, and below the last one.
pub(super) const HEAD: i32 = 52;
pub(super) const FOOT: i32 = 58;

/// A subject looks the same in every figure.
pub(super) fn color(subject: &str) -> RGBColor {
    match subject {
        "ringway" => RGBColor(217, 72, 15),
        "haproxy" => RGBColor(24, 100, 171),
        "haproxy auto" => RGBColor(63, 140, 214),
        "haproxy tuned" => RGBColor(116, 184, 242),
        "nginx" => RGBColor(43, 122, 60),
        "nginx tuned" => RGBColor(130, 201, 140),
        "envoy" => RGBColor(132, 72, 168),
        "sozu" => RGBColor(0, 121, 121),
        "sozu tuned" => RGBColor(96, 188, 184),
        _ => RGBColor(150, 156, 162),
    }
}

/// Where in a figure, in pixels from its upper left corner.
pub(super) type Place = (i32, i32);

/// Size and color of a text, and which side of it its place is.
pub(super) struct Lettering {
    pub(super) size: i32,
    pub(super) color: RGBColor,
    pub(super) side: HPos,
}

pub(super) const fn letters(size: i32, color: RGBColor, side: HPos) -> Lettering {
    Lettering { size, color, side }
}

pub(super) struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
    height: i32,
}

impl<'a> Canvas<'a> {
    pub(super) fn new(file: &'a Path, height: i32) -> Result<Canvas<'a>, String> {
        let area = SVGBackend::new(file, (WIDTH as u32, height as u32)).into_drawing_area();
        area.fill(&WHITE).map_err(|error| error.to_string())?;
        Ok(Canvas { area, height })
    }

    pub(super) fn text(&self, text: &str, place: Place, letters: &Lettering) -> Result<(), String> {
        let style = TextStyle::from(("sans-serif", letters.size).into_font())
            .color(&letters.color)
            .pos(Pos::new(letters.side, VPos::Center));
        self.area.draw(&Text::new(text.to_owned(), place, style)).map_err(|error| error.to_string())
    }

    pub(super) fn line(&self, points: Vec<Place>, color: RGBColor, width: u32) -> Result<(), String> {
        let line = PathElement::new(points, color.stroke_width(width));
        self.area.draw(&line).map_err(|error| error.to_string())
    }

    pub(super) fn bar(&self, corners: [Place; 2], color: RGBColor) -> Result<(), String> {
        self.area.draw(&Rectangle::new(corners, color.filled())).map_err(|error| error.to_string())
    }

    /// Title above, and below what the figures cannot be read without: `notes` first.
    pub(super) fn frame(&self, title: &str, notes: &str, report: &Report) -> Result<(), String> {
        self.text(title, (20, 26), &letters(20, INK, HPos::Left))?;
        let small = letters(12, FAINT, HPos::Left);
        self.text(notes, (20, self.height - 44), &small)?;
        self.text(&report.caption(), (20, self.height - 28), &small)?;
        self.text(&report.machine.versions_line(), (20, self.height - 12), &small)
    }

    pub(super) fn end(self) -> Result<(), String> {
        self.area.present().map_err(|error| error.to_string())
    }
}

/// A number as people write it: three significant digits, thousands set apart.
pub(super) fn readable(value: f64) -> String {
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    let text = format!("{value:.digits$}");
    let whole = text.split('.').next().unwrap_or_default().len();
    let mut grouped = String::new();
    for (index, letter) in text.chars().enumerate() {
        if index > 0 && index < whole && (whole - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(letter);
    }
    grouped
}
