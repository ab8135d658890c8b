//! Lines of an `haproxy.cfg` as words: quotes, escapes, comments, continued lines.

use crate::import::report::{Origin, shown};

/// A line with its words.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Number of the line, or of the first one if it is continued.
    pub(super) number: usize,
    pub(super) words: Vec<Word>,
}

/// A word without its quotes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    /// The same as it is, which need not be UTF-8.
    pub(super) bytes: Vec<u8>,
    /// Whether it has an environment variable.
    pub(super) variable: bool,
}

impl Line {
    pub(super) fn word(&self, at: usize) -> &str {
        self.words.get(at).map_or("", |word| &word.text)
    }

    /// Returns the texts of the words from one on.
    pub(super) fn from(&self, at: usize) -> impl Iterator<Item = &str> {
        self.words.iter().skip(at).map(|word| word.text.as_str())
    }

    pub(super) fn origin(&self) -> Origin {
        let words: Vec<&str> = self.from(0).collect();
        Origin::new(self.number, &shown(&words.join(" ")))
    }

    pub(super) fn has_variable(&self) -> bool {
        self.words.iter().any(|word| word.variable)
    }
}

/// Returns the lines that have words.
pub(super) fn lines(text: &[u8]) -> Vec<Line> {
    let mut lines = Vec::new();
    let (mut number, mut rest) = (1, text);
    while !rest.is_empty() {
        let mut reader = Reader { rest, words: Vec::new(), word: None, newlines: 0 };
        reader.line();
        if !reader.words.is_empty() {
            lines.push(Line { number, words: reader.words });
        }
        number += reader.newlines;
        rest = reader.rest;
    }
    lines
}

struct Reader<'t> {
    rest: &'t [u8],
    words: Vec<Word>,
    word: Option<Word>,
    newlines: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        self.newlines += usize::from(*first == b'\n');
        Some(*first)
    }

    fn push(&mut self, byte: u8) {
        self.word.get_or_insert_default().bytes.push(byte);
    }

    fn end_word(&mut self) {
        if let Some(mut word) = self.word.take() {
            word.text = String::from_utf8_lossy(&word.bytes).into_owned();
            self.words.push(word);
        }
    }

    /// Reads up to the end of the line, which a backslash continues.
    fn line(&mut self) {
        while let Some(byte) = self.next() {
            match byte {
                b'\n' => break,
                b' ' | b'\t' | b'\r' => self.end_word(),
                b'#' => {
                    while self.next().is_some_and(|byte| byte != b'\n') {}
                    break;
                }
                b'\\' => self.escape(),
                b'"' => self.weakly_quoted(),
                b'\'' => self.strongly_quoted(),
                byte => self.push(byte),
            }
        }
        self.end_word();
    }

    fn escape(&mut self) {
        match self.next() {
            // The line goes on.
            Some(b'\n') => self.end_word(),
            Some(b'\r') if self.rest.first() == Some(&b'\n') => {
                self.next();
                self.end_word();
            }
            Some(b'n') => self.push(b'\n'),
            Some(b'r') => self.push(b'\r'),
            Some(b't') => self.push(b'\t'),
            Some(b'x') => match self.rest.get(..2).and_then(hexadecimal) {
                Some(byte) => {
                    self.rest = &self.rest[2..];
                    self.push(byte);
                }
                None => self.push(b'x'),
            },
            Some(byte @ (b' ' | b'#' | b'\\' | b'"' | b'\'' | b'$')) => self.push(byte),
            Some(byte) => {
                self.push(b'\\');
                self.push(byte);
            }
            None => {}
        }
    }

    /// Reads up to the closing quote; variables are expanded here only.
    fn weakly_quoted(&mut self) {
        self.word.get_or_insert_default();
        while let Some(byte) = self.next() {
            match byte {
                b'"' => return,
                b'\\' => self.escape(),
                b'$' => {
                    self.word.get_or_insert_default().variable = true;
                    self.push(byte);
                }
                byte => self.push(byte),
            }
        }
    }

    fn strongly_quoted(&mut self) {
        self.word.get_or_insert_default();
        while let Some(byte) = self.next() {
            if byte == b'\'' {
                return;
            }
            self.push(byte);
        }
    }
}

/// Returns the byte that two hexadecimal digits stand for.
pub(super) fn hexadecimal(digits: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u8::from_str_radix(text, 16).ok()
}
