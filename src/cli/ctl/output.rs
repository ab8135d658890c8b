//! What `ctl` prints, and in which form. Every write may fail, because a pipe may be closed.

use std::env;
use std::io::{self, IsTerminal, Write};

use ratatui::crossterm::terminal;
use serde_json::Value;

use super::super::grid::{self, Cell, Grid};

/// The standard output.
pub(super) struct Output {
    /// Whether scripts read it.
    pub(super) json: bool,
    is_terminal: bool,
    colour: bool,
}

impl Output {
    /// Looks at the standard output and the environment: there is colour on a terminal only, and none where `NO_COLOR`
    /// is set, <https://no-color.org>.
    pub(super) fn new(json: bool) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let wanted = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && env::var_os("TERM").is_none_or(|name| name != "dumb");
        let colour = is_terminal && wanted;
        Self { json, is_terminal, colour }
    }

    /// Prints a document as it is, with a line end at its end.
    pub(super) fn document(&self, document: &str) -> io::Result<()> {
        write(&format!("{}\n", document.trim_end()))
    }

    /// Prints a document in one line.
    pub(super) fn one_line(&self, document: &str) -> io::Result<()> {
        self.document(&compact(document))
    }

    /// Prints the answer for scripts, or what it means for people.
    pub(super) fn answer(&self, document: &str, words: &str) -> io::Result<()> {
        self.document(if self.json { document } else { words })
    }

    /// Prints lines.
    pub(super) fn lines(&self, lines: &[String]) -> io::Result<()> {
        write(&(lines.join("\n") + "\n"))
    }

    /// Prints lines in place of the ones before on a terminal, as many as it has; else below them.
    pub(super) fn again(&self, lines: &[String]) -> io::Result<()> {
        if !self.is_terminal {
            return write(&(lines.join("\n") + "\n\n"));
        }
        let shown = lines.iter().take(size().1.saturating_sub(1));
        let text: String = shown.map(|line| format!("{line}\x1b[K\n")).collect();
        write(&format!("\x1b[H{text}\x1b[J"))
    }

    /// Returns cells in one line.
    pub(super) fn joined(&self, cells: &[Cell]) -> String {
        let text = |cell: &Cell| match self.colour {
            true => grid::coloured(&cell.text, cell.tone),
            false => cell.text.clone(),
        };
        cells.iter().map(text).collect::<Vec<_>>().join("  ")
    }

    /// Returns the lines of a table; on a terminal, as wide as it is.
    pub(super) fn table(&self, grid: &Grid) -> Vec<String> {
        grid.lines(self.colour, if self.is_terminal { size().0 } else { usize::MAX })
    }
}

/// Returns columns and lines of the terminal. One that does not say is as wide as need be.
fn size() -> (usize, usize) {
    match terminal::size() {
        Ok((width, height)) if width > 0 && height > 0 => (width.into(), height.into()),
        _ => (usize::MAX, usize::MAX),
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Returns a document without line ends in it.
fn compact(document: &str) -> String {
    if !document.trim_end().contains('\n') {
        return document.trim_end().to_owned();
    }
    serde_json::from_str::<Value>(document)
        .map_or_else(|_| document.replace('\n', " "), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_becomes_one_line() {
        assert_eq!(compact("{\n \"a\": 1\n}\n"), "{\"a\":1}");
        assert_eq!(compact("{\"b\": 1, \"a\": 2}\n"), "{\"b\": 1, \"a\": 2}");
        assert_eq!(compact("no\njson"), "no json");
    }
}
