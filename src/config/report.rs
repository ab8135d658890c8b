//! Problems of a configuration file: collected while it is read, shown together at the end.
//!
//! A file may be hostile: everything that a message quotes is escaped and shortened, and
//! `limits::CONFIG_PROBLEMS_MAX` bounds the number of problems that are kept.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use crate::base::limits;

/// Characters that are shown of the offending line, and of a value inside a message.
const LINE_SHOWN: usize = 120;
const VALUE_SHOWN: usize = 48;

/// Every problem of a configuration file. As text: each problem, then the summary line.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Report {
    file: String,
    problems: Vec<Problem>,
    errors: usize,
    warnings: usize,
}

impl Report {
    /// Returns the problems in the order of the file, at most `limits::CONFIG_PROBLEMS_MAX`.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Returns the number of errors, including those not kept; with one or more there is no configuration.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.errors
    }

    /// Returns the number of warnings, including those not kept.
    #[must_use]
    pub fn warnings(&self) -> usize {
        self.warnings
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        let hidden = (self.errors + self.warnings).saturating_sub(self.problems.len());
        if hidden > 0 {
            writeln!(f, "{}: {hidden} more not shown", self.file)?;
        }
        let plural =
            |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
        match (self.errors, self.warnings) {
            (0, _) => write!(f, "{}: configuration is valid", self.file),
            (errors, 0) => write!(f, "{}: {}", self.file, plural(errors, "error")),
            (errors, warnings) => {
                write!(f, "{}: {}, {}", self.file, plural(errors, "error"), plural(warnings, "warning"))
            }
        }
    }
}

/// Whether a problem stops the configuration from being used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is not used.
    Error,
    /// The configuration is used, and is probably not what was meant.
    Warning,
}

/// One problem. As text: `FILE:LINE:COLUMN: message`, the line, a caret and the path of the key.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Problem {
    /// Error or warning.
    pub severity: Severity,
    /// The file as it was named on the command line.
    pub file: String,
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// Value, rule and remedy in one line.
    pub message: String,
    /// Path of the key, such as `upstreams[0].backends[2].port`; empty for the file as a whole.
    pub path: String,
    excerpt: Excerpt,
}

impl Problem {
    /// Returns the first line of the text: `FILE:LINE:COLUMN: message`.
    #[must_use]
    pub fn headline(&self) -> String {
        let kind = match self.severity {
            Severity::Error => "",
            Severity::Warning => "warning: ",
        };
        format!("{}:{}:{}: {kind}{}", self.file, self.line, self.column, self.message)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Excerpt { text, indent, width } = &self.excerpt;
        writeln!(f, "{}", self.headline())?;
        writeln!(f, "{:>5} | {text}", self.line)?;
        let carets = "^".repeat(*width);
        write!(f, "      | {:indent$}{carets}", "")?;
        if !self.path.is_empty() {
            write!(f, " {}", self.path)?;
        }
        Ok(())
    }
}

/// A piece of the text on one line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Span {
    /// Counted from 1.
    pub(super) line: usize,
    /// In characters, counted from 1.
    pub(super) column: usize,
    /// In characters of the first line.
    pub(super) width: usize,
}

impl Span {
    /// Returns the span of one character.
    pub(super) fn at(line: usize, column: usize) -> Self {
        Self { line, column, width: 1 }
    }
}

/// A span and the path of the key it belongs to.
#[derive(Clone, Debug, Default)]
pub(super) struct Location {
    pub(super) path: String,
    pub(super) span: Span,
}

impl Location {
    /// Returns a location that belongs to no key.
    pub(super) fn of_text(span: Span) -> Self {
        Self { path: String::new(), span }
    }

    /// Returns the path of a key below this location.
    pub(super) fn path_of(&self, key: &str) -> String {
        let key = visible(key, VALUE_SHOWN);
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }
}

/// Collects problems while a file is read.
#[derive(Default)]
pub(super) struct Problems(RefCell<Collected>);

#[derive(Default)]
struct Collected {
    kept: Vec<(Severity, Location, String)>,
    /// What was reported: a value in `defaults` is read once for each entry, and its problem counts once.
    seen: HashSet<(Span, String)>,
    errors: usize,
    warnings: usize,
}

impl Problems {
    pub(super) fn error(&self, location: Location, message: impl Into<String>) {
        self.push(Severity::Error, location, message.into());
    }

    pub(super) fn warning(&self, location: Location, message: impl Into<String>) {
        self.push(Severity::Warning, location, message.into());
    }

    fn push(&self, severity: Severity, location: Location, message: String) {
        let mut collected = self.0.borrow_mut();
        let id = (location.span, message);
        if collected.seen.contains(&id) {
            return;
        }
        match severity {
            Severity::Error => collected.errors += 1,
            Severity::Warning => collected.warnings += 1,
        }
        if collected.kept.len() < limits::CONFIG_PROBLEMS_MAX {
            collected.kept.push((severity, location, id.1.clone()));
            collected.seen.insert(id);
        }
    }

    pub(super) fn errors(&self) -> usize {
        self.0.borrow().errors
    }

    /// Returns the report on `text`, the content of `file`.
    pub(super) fn into_report(self, file: &str, text: &str) -> Report {
        let Collected { mut kept, errors, warnings, .. } = self.0.into_inner();
        kept.sort_by_key(|(_, location, _)| location.span);
        let file = visible(file, usize::MAX);
        let lines: Vec<&str> = lines(text).collect();
        let problems = kept
            .into_iter()
            .map(|(severity, Location { path, span }, message)| {
                let line = lines.get(span.line.saturating_sub(1)).copied().unwrap_or_default();
                let excerpt = Excerpt::new(line, span);
                let file = file.clone();
                Problem { severity, file, line: span.line, column: span.column, message, path, excerpt }
            })
            .collect();
        Report { file, problems, errors, warnings }
    }
}

/// The offending line as it is shown, and where the carets go.
#[derive(Clone, Debug)]
struct Excerpt {
    text: String,
    indent: usize,
    width: usize,
}

impl Excerpt {
    fn new(line: &str, span: Span) -> Self {
        let column = span.column.saturating_sub(1);
        // A span far to the right is shown with half a screen of the text before it.
        let start = if column < LINE_SHOWN { 0 } else { column - LINE_SHOWN / 2 };
        let mut excerpt = Self { text: String::new(), indent: 0, width: 0 };
        if start > 0 {
            excerpt.text.push('…');
            excerpt.indent = 1;
        }
        let mut rest = line.chars().enumerate().skip(start);
        for (position, character) in rest.by_ref().take(LINE_SHOWN) {
            let before = excerpt.text.len();
            push_visible(&mut excerpt.text, character);
            let shown = excerpt.text[before..].chars().count();
            if position < column {
                excerpt.indent += shown;
            } else if position < column + span.width {
                excerpt.width += shown;
            }
        }
        if rest.next().is_some() {
            excerpt.text.push('…');
        }
        excerpt.width = excerpt.width.max(1);
        excerpt
    }
}

/// Splits a text into lines as YAML 1.2 does: at LF, CR LF, and CR alone.
pub(super) fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
}

/// Returns a value of the file as a message shows it.
pub(super) fn quote(value: &str) -> String {
    format!("`{}`", visible(value, VALUE_SHOWN))
}

/// Returns `text` without anything that a terminal would act on, shortened to `most` characters.
fn visible(text: &str, most: usize) -> String {
    let mut shown = String::new();
    let mut rest = text.chars();
    for character in rest.by_ref().take(most) {
        push_visible(&mut shown, character);
    }
    if rest.next().is_some() {
        shown.push('…');
    }
    shown
}

fn push_visible(shown: &mut String, character: char) {
    match character {
        '\t' => shown.push(' '),
        '"' | '\'' | '\\' => shown.push(character),
        _ => shown.extend(character.escape_debug()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpt_escapes_and_keeps_the_caret_under_its_value() {
        let excerpt = Excerpt::new("a\u{1b}[2J: wrong", Span { line: 1, column: 8, width: 5 });
        assert_eq!(excerpt.text, "a\\u{1b}[2J: wrong");
        assert_eq!(&excerpt.text[excerpt.indent..][..excerpt.width], "wrong");
    }

    #[test]
    fn excerpt_of_a_long_line_is_cut_around_its_value() {
        let line = format!("{}wrong{}", "x".repeat(1_000_000), "y".repeat(1_000));
        let excerpt = Excerpt::new(&line, Span { line: 1, column: 1_000_001, width: 5 });
        assert!(excerpt.text.chars().count() <= LINE_SHOWN + 2, "{}", excerpt.text);
        let under: String = excerpt.text.chars().skip(excerpt.indent).take(excerpt.width).collect();
        assert_eq!(under, "wrong");
    }

    #[test]
    fn lines_break_as_in_yaml() {
        assert_eq!(lines("a\r\nb\rc\nd").collect::<Vec<_>>(), ["a", "b", "c", "d"]);
    }

    #[test]
    fn invisible_characters_are_escaped() {
        assert_eq!(quote("a\u{202e}\u{7f}\u{0}\n"), "`a\\u{202e}\\u{7f}\\0\\n`");
        assert_eq!(quote(&"x".repeat(100)), format!("`{}…`", "x".repeat(VALUE_SHOWN)));
    }
}
