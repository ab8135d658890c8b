//! Tables for people: the same for `ctl`, which prints them, and `top`, which draws them.

use std::cmp::Ordering;
use std::time::Duration;

use super::units;

/// A table: a title for each column, and as many cells in each row.
#[derive(Clone, Debug, Default)]
pub(super) struct Grid {
    /// The titles of the columns.
    pub(super) titles: Vec<&'static str>,
    /// The rows; the first cell of a row names it.
    pub(super) rows: Vec<Vec<Cell>>,
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

impl Cell {
    /// Makes a cell of words. Control characters, which a peer may have sent, are escaped.
    pub(super) fn words(text: impl AsRef<str>) -> Self {
        let text = text.as_ref();
        let escape = |character: char| match character.is_control() {
            true => character.escape_default().to_string(),
            false => character.to_string(),
        };
        Self { text: text.chars().map(escape).collect(), tone: Tone::Plain, number: None }
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
    pub(super) fn is_numeric(&self, column: usize) -> bool {
        self.rows.iter().any(|row| row.get(column).is_some_and(|cell| cell.number.is_some()))
    }

    /// Returns the width of a column in characters.
    pub(super) fn width(&self, column: usize) -> usize {
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

    /// Returns the lines to print: columns two blanks apart, numbers to the right.
    pub(super) fn lines(&self, colour: bool) -> Vec<String> {
        let columns: Vec<_> =
            (0..self.titles.len()).map(|at| (self.width(at), self.is_numeric(at))).collect();
        let titles = self.titles.iter().map(|title| Cell::words(title.to_uppercase())).collect();
        let all = std::iter::once(&titles).chain(&self.rows);
        all.map(|row| line(row, &columns, colour)).collect()
    }
}

fn line(row: &[Cell], columns: &[(usize, bool)], colour: bool) -> String {
    let mut line = String::new();
    for (cell, (width, numeric)) in row.iter().zip(columns) {
        let blanks = " ".repeat(width.saturating_sub(cell.text.chars().count()));
        let text = if colour { coloured(&cell.text, cell.tone) } else { cell.text.clone() };
        line.push_str(&if *numeric { format!("{blanks}{text}  ") } else { format!("{text}{blanks}  ") });
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
            grid().lines(false),
            ["NAME  SESSIONS", "b            7", "a        1,234", "ab           7"]
        );
        assert_eq!(grid().lines(true)[1], "b            \x1b[31m7\x1b[0m");
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
