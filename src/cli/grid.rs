//! Tables for people: the same for `ctl`, which prints them, and `top`, which draws them.

use std::cmp::Ordering;
use std::time::Duration;

use super::units;
use crate::base::Escaped;

/// Blanks between two columns.
const GAP: usize = 2;
/// The least width of a column that is cut off.
const CUT_MIN: usize = 8;
/// Stands in place of what is cut off.
const CUT: char = '…';

/// A table: a title for each column, and as many cells in each row.
#[derive(Clone, Debug, Default)]
pub(super) struct Grid {
    /// The titles of the columns.
    pub(super) titles: Vec<&'static str>,
    /// The rows; the first cell of a row names it.
    pub(super) rows: Vec<Vec<Cell>>,
}

/// A column as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    /// Its place among the titles.
    pub(super) index: usize,
    /// Characters to the left of it.
    pub(super) at: usize,
    /// Its width in characters.
    pub(super) width: usize,
    numeric: bool,
}

impl Column {
    /// Returns a text as wide as the column. What is too long has a `…` in place of its end; a name, in the first column,
    /// in place of its beginning, because names differ in their ends.
    pub(super) fn padded(&self, text: &str) -> String {
        let length = text.chars().count();
        if length > self.width {
            let kept = self.width.saturating_sub(1);
            return match self.index {
                0 => [CUT].into_iter().chain(text.chars().skip(length - kept)).collect(),
                _ => text.chars().take(kept).chain([CUT]).collect(),
            };
        }
        let blanks = " ".repeat(self.width - length);
        if self.numeric { blanks + text } else { text.to_owned() + &blanks }
    }
}

/// A cell.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cell {
    /// What it says.
    pub(super) text: String,
    /// How it looks.
    pub(super) tone: Tone,
    /// The number by which rows are sorted; `None` for words.
    pub(super) number: Option<f64>,
}

/// How a text looks where there is colour. The words say it all without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    /// As the terminal shows text.
    #[default]
    Plain,
    /// All is well.
    Good,
    /// Worth a look.
    Doubtful,
    /// Something fails.
    Bad,
}

/// Returns a text in which everything that would mean something to a terminal is escaped.
pub(super) fn harmless(text: &str) -> String {
    Escaped(text).to_string()
}

impl Cell {
    /// Makes a cell of words. Control characters, which a peer may have sent, are escaped.
    pub(super) fn words(text: impl AsRef<str>) -> Self {
        Self { text: harmless(text.as_ref()), tone: Tone::Plain, number: None }
    }

    /// Makes a cell of a number that is shown as `text`.
    pub(super) fn number(number: f64, text: String) -> Self {
        Self { text, tone: Tone::Plain, number: Some(number) }
    }

    /// Makes a cell of a count.
    pub(super) fn count(count: u64) -> Self {
        Self::number(count as f64, units::count(count))
    }

    /// Makes a cell of a measured duration, `-` if nothing was measured.
    pub(super) fn duration(duration: Option<Duration>) -> Self {
        let text = duration.map_or_else(|| "-".to_owned(), units::duration);
        Self::number(duration.map_or(-1.0, |duration| duration.as_secs_f64()), text)
    }

    /// Gives the cell a tone.
    pub(super) fn toned(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }

    /// Gives the cell a tone if the number in it is not zero.
    pub(super) fn if_any(self, tone: Tone) -> Self {
        if self.number.is_some_and(|number| number > 0.0) { self.toned(tone) } else { self }
    }
}

impl Grid {
    /// Creates a table without rows.
    pub(super) fn new(titles: impl Into<Vec<&'static str>>) -> Self {
        Self { titles: titles.into(), rows: Vec::new() }
    }

    /// Adds a row.
    pub(super) fn push(&mut self, row: Vec<Cell>) {
        debug_assert_eq!(row.len(), self.titles.len(), "a row has a cell for each column: {row:?}");
        self.rows.push(row);
    }

    /// Returns whether a column holds numbers, which are set to the right.
    fn is_numeric(&self, column: usize) -> bool {
        self.rows.iter().any(|row| row.get(column).is_some_and(|cell| cell.number.is_some()))
    }

    /// Returns the width of a column in characters.
    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count());
        let title = self.titles.get(column).map_or(0, |title| title.chars().count());
        cells.max().unwrap_or(0).max(title)
    }

    /// Sorts the rows by a column: numbers downwards, words upwards. Equal rows keep their order.
    pub(super) fn sort(&mut self, column: usize) {
        self.rows.sort_by(|a, b| match (a.get(column), b.get(column)) {
            (Some(Cell { number: Some(a), .. }), Some(Cell { number: Some(b), .. })) => b.total_cmp(a),
            (Some(a), Some(b)) => a.text.cmp(&b.text),
            _ => Ordering::Equal,
        });
    }

    /// Keeps the rows that hold a text in any cell, whatever its case.
    pub(super) fn filter(&mut self, text: &str) {
        let wanted = text.to_lowercase();
        self.rows.retain(|row| row.iter().any(|cell| cell.text.to_lowercase().contains(&wanted)));
    }

    /// Returns the columns that fit into a width: the first one, then those behind the skipped ones. The last one may be
    /// cut off, and the first one where it would leave less than half of the width to the others.
    pub(super) fn columns(&self, skipped: usize, width: usize) -> Vec<Column> {
        let mut columns = Vec::new();
        let mut at = 0;
        let skipped = skipped.min(self.titles.len().saturating_sub(2));
        for index in (0..self.titles.len()).filter(|index| *index == 0 || *index > skipped) {
            let (mut wanted, numeric) = (self.width(index), self.is_numeric(index));
            let room = width.saturating_sub(at);
            if index == 0 && self.titles.len() > 1 {
                wanted = wanted.min((width / 2).max(CUT_MIN));
            }
            if wanted > room && (numeric || room < CUT_MIN) && index > 0 {
                break;
            }
            columns.push(Column { index, at, width: wanted.min(room), numeric });
            at += wanted + GAP;
        }
        columns
    }

    /// Returns the lines to print into a width, and in the last one the titles of the columns that have no room.
    pub(super) fn lines(&self, colour: bool, width: usize) -> Vec<String> {
        let columns = self.columns(0, width);
        let titles = self.titles.iter().map(|title| Cell::words(title.to_uppercase())).collect();
        let all = std::iter::once(&titles).chain(&self.rows);
        let mut lines: Vec<_> = all.map(|row| line(row, &columns, colour)).collect();
        if let Some(left_out) = self.titles.get(columns.len()..).filter(|titles| !titles.is_empty()) {
            lines.push(format!("(no room for: {})", left_out.join(", ")));
        }
        lines
    }
}

fn line(row: &[Cell], columns: &[Column], colour: bool) -> String {
    let mut line = String::new();
    for column in columns {
        let Some(cell) = row.get(column.index) else { continue };
        let text = column.padded(&cell.text);
        let (before, bare) = text.split_at(text.len() - text.trim_start().len());
        let (bare, behind) = bare.split_at(bare.trim_end().len());
        let bare = if colour { coloured(bare, cell.tone) } else { bare.to_owned() };
        line.push_str(&format!("{before}{bare}{behind}{:GAP$}", ""));
    }
    line.truncate(line.trim_end().len());
    line
}

/// Returns a text in the colour of its tone, as ECMA-48 writes it.
pub(super) fn coloured(text: &str, tone: Tone) -> String {
    match tone {
        Tone::Plain => text.to_owned(),
        Tone::Good => format!("\x1b[32m{text}\x1b[0m"),
        Tone::Doubtful => format!("\x1b[33m{text}\x1b[0m"),
        Tone::Bad => format!("\x1b[31m{text}\x1b[0m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Grid {
        let mut grid = Grid::new(["name", "sessions"]);
        for (name, sessions) in [("b", 7), ("a", 1_234), ("ab", 7)] {
            grid.push(vec![Cell::words(name), Cell::count(sessions).if_any(Tone::Bad)]);
        }
        grid
    }

    fn names(grid: &Grid) -> Vec<&str> {
        grid.rows.iter().map(|row| &*row[0].text).collect()
    }

    #[test]
    fn columns_are_aligned_and_numbers_stand_to_the_right() {
        assert_eq!(
            grid().lines(false, 80),
            ["NAME  SESSIONS", "b            7", "a        1,234", "ab           7"]
        );
        assert_eq!(grid().lines(true, 80)[1], "b            \x1b[31m7\x1b[0m");
    }

    #[test]
    fn what_has_no_room_is_named_or_ends_with_a_mark() {
        assert_eq!(grid().lines(false, 13), ["NAME", "b", "a", "ab", "(no room for: sessions)"]);
        let mut grid = Grid::new(["name", "address"]);
        grid.push(vec![Cell::words("a"), Cell::words("192.0.2.1:8080")]);
        assert_eq!(grid.lines(false, 20), ["NAME  ADDRESS", "a     192.0.2.1:8080"]);
        assert_eq!(grid.lines(false, 19), ["NAME  ADDRESS", "a     192.0.2.1:80…"]);
        assert_eq!(grid.lines(true, 3), ["…ME", "a", "(no room for: address)"]);
        grid.rows[0][0] = Cell::words("a-long-name-1");
        assert_eq!(grid.lines(false, 20), ["NAME        ADDRESS", "…ng-name-1  192.0.2…"]);
    }

    #[test]
    fn numbers_sort_downwards_and_words_upwards() {
        let mut grid = grid();
        grid.sort(1);
        assert_eq!(names(&grid), ["a", "b", "ab"]);
        grid.sort(0);
        assert_eq!(names(&grid), ["a", "ab", "b"]);
        grid.sort(9);
        assert_eq!(names(&grid), ["a", "ab", "b"]);
    }

    #[test]
    fn filter_looks_at_every_cell() {
        let mut some = grid();
        some.filter("B");
        assert_eq!(names(&some), ["b", "ab"]);
        some.filter("7");
        assert_eq!(names(&some), ["b", "ab"]);
        some.filter("x");
        assert!(some.rows.is_empty());
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        assert_eq!(Cell::words("a\x1b[31m\nb").text, "a\\u{1b}[31m\\nb");
    }
}
