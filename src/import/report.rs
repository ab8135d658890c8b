//! What was not taken over, each with its place, its reason and what to do.

use std::collections::BTreeSet;
use std::fmt;

/// Characters that are shown of a directive, and of a reason.
const SHOWN_MAX: usize = 100;
const REASON_MAX: usize = 400;

/// Something of the file that the translation does not have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeftOut {
    /// Line of the file, from 1 on.
    pub line: usize,
    /// The directive, shortened.
    pub directive: String,
    /// Why it is left out, and what to do.
    pub why: String,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.line, self.directive, self.why)
    }
}

/// A place in the file: where something of the translation comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) line: usize,
    pub(super) directive: String,
}

impl Origin {
    pub(super) fn new(line: usize, directive: &str) -> Self {
        Self { line, directive: shown(directive) }
    }
}

/// Everything that is left out, in the order of the file and each once.
#[derive(Debug, Default)]
pub(super) struct Findings(BTreeSet<LeftOut>);

impl Findings {
    pub(super) fn add(&mut self, origin: &Origin, why: impl Into<String>) {
        let Origin { line, directive } = origin.clone();
        self.0.insert(LeftOut { line, directive, why: one_line(&why.into(), REASON_MAX) });
    }

    pub(super) fn into_list(self) -> Vec<LeftOut> {
        self.0.into_iter().collect()
    }
}

/// Returns a directive as it is shown.
pub(super) fn shown(text: &str) -> String {
    one_line(text, SHOWN_MAX)
}

/// Returns a text that fits on a line: control characters escaped, and shortened.
pub(super) fn one_line(text: &str, most: usize) -> String {
    let plain = |c: char| c == ' ' || c.is_ascii_graphic();
    let one = |c: char| if plain(c) { c.to_string() } else { c.escape_debug().to_string() };
    let line: String = text.chars().take(most).map(one).collect();
    if text.chars().nth(most).is_some() { format!("{line}...") } else { line }
}
