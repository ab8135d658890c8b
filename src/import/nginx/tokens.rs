//! The text of an `nginx.conf` as directives in blocks: quotes, escapes, comments.

use crate::import::report::{Findings, Origin};

/// Deepest nesting of blocks.
const DEPTH_MAX: usize = 32;

/// A directive with its arguments, and its block if it has one.
#[derive(Clone, Debug)]
pub(super) struct Directive {
    pub(super) line: usize,
    pub(super) name: String,
    pub(super) arguments: Vec<String>,
    pub(super) block: Option<Vec<Directive>>,
    /// Line on which the directive or its block ends.
    pub(super) last_line: usize,
}

impl Directive {
    pub(super) fn argument(&self, at: usize) -> &str {
        self.arguments.get(at).map_or("", String::as_str)
    }

    pub(super) fn origin(&self) -> Origin {
        let words: Vec<&str> =
            std::iter::once(&self.name).chain(&self.arguments).map(String::as_str).collect();
        Origin::new(self.line, &words.join(" "))
    }

    /// Returns "; its lines 3 to 9 are left out" for a block of several lines.
    pub(super) fn extent(&self) -> String {
        match self.block {
            Some(_) if self.last_line > self.line => {
                format!("; lines {} to {} are left out", self.line, self.last_line)
            }
            _ => String::new(),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Semicolon,
    Open,
    Close,
}

/// Reads the directives of a file. What is out of place is reported, and the rest is read all the same.
pub(super) fn directives(text: &str, findings: &mut Findings) -> Vec<Directive> {
    let tokens = tokens(text);
    let mut reader = Reader { tokens: tokens.into_iter().peekable(), line: 1, findings };
    let mut all = Vec::new();
    loop {
        all.append(&mut reader.block(0));
        let Some((line, _)) = reader.tokens.next() else { return all };
        reader.line = line;
        reader.complain("}", "closes no block; remove it");
    }
}

struct Reader<'f, I: Iterator<Item = (usize, Token)>> {
    tokens: std::iter::Peekable<I>,
    line: usize,
    findings: &'f mut Findings,
}

impl<I: Iterator<Item = (usize, Token)>> Reader<'_, I> {
    fn complain(&mut self, what: &str, why: &str) {
        self.findings.add(&Origin::new(self.line, what), why);
    }

    /// Reads up to a closing brace, which stays, or to the end.
    fn block(&mut self, depth: usize) -> Vec<Directive> {
        let mut directives = Vec::new();
        let mut words: Vec<(usize, String)> = Vec::new();
        while let Some((line, token)) = self.tokens.next_if(|(_, token)| *token != Token::Close) {
            self.line = line;
            match token {
                Token::Word(word) => words.push((line, word)),
                Token::Semicolon => directives.extend(directive(std::mem::take(&mut words), None, line)),
                Token::Open if depth == DEPTH_MAX => {
                    self.skip();
                    self.complain("{", "blocks are nested too deeply");
                    words.clear();
                }
                _ => {
                    let block = self.block(depth + 1);
                    match self.tokens.next() {
                        Some((line, _)) => self.line = line,
                        None => self.complain("{", "the file ends before the block does; add a `}`"),
                    }
                    directives.extend(directive(std::mem::take(&mut words), Some(block), self.line));
                }
            }
        }
        if let Some((line, word)) = words.first() {
            self.findings.add(&Origin::new(*line, word), "is not ended by `;` or a block; add one");
        }
        directives
    }

    /// Skips a block whose opening brace was read.
    fn skip(&mut self) {
        let mut depth = 1_usize;
        while depth > 0
            && let Some((line, token)) = self.tokens.next()
        {
            self.line = line;
            match token {
                Token::Open => depth += 1,
                Token::Close => depth -= 1,
                Token::Word(_) | Token::Semicolon => {}
            }
        }
    }
}

fn directive(
    words: Vec<(usize, String)>,
    block: Option<Vec<Directive>>,
    last_line: usize,
) -> Option<Directive> {
    let mut words = words.into_iter();
    let (line, name) = words.next()?;
    let arguments = words.map(|(_, word)| word).collect();
    Some(Directive { line, name, arguments, block, last_line })
}

fn tokens(text: &str) -> Vec<(usize, Token)> {
    let mut tokens = Vec::new();
    let mut characters = text.chars().peekable();
    let mut line = 1;
    while let Some(c) = characters.next() {
        match c {
            '\n' => line += 1,
            c if c.is_whitespace() => {}
            '#' => while characters.next_if(|c| *c != '\n').is_some() {},
            ';' => tokens.push((line, Token::Semicolon)),
            '{' => tokens.push((line, Token::Open)),
            '}' => tokens.push((line, Token::Close)),
            c => {
                let begin = line;
                let word = word(c, &mut characters, &mut line);
                tokens.push((begin, Token::Word(word)));
            }
        }
    }
    tokens
}

/// Reads a word whose first character is `first`. Quotes count at its begin only.
fn word(first: char, rest: &mut std::iter::Peekable<std::str::Chars<'_>>, line: &mut usize) -> String {
    let quote = (first == '"' || first == '\'').then_some(first);
    let mut word = String::new();
    let mut next = if quote.is_some() { rest.next() } else { Some(first) };
    while let Some(c) = next {
        *line += usize::from(c == '\n');
        if quote == Some(c) {
            return word;
        }
        if c == '\\' {
            match rest.next() {
                Some('t') => word.push('\t'),
                Some('r') => word.push('\r'),
                Some('n') => word.push('\n'),
                Some(c @ ('"' | '\'' | '\\' | ';' | '{' | '}' | ' ')) => word.push(c),
                Some(c) => {
                    *line += usize::from(c == '\n');
                    word.extend(['\\', c]);
                }
                None => {}
            }
        } else {
            word.push(c);
        }
        if c == '$' && quote.is_none() && rest.next_if_eq(&'{').is_some() {
            // `${name}` is a part of the word.
            word.push('{');
            while let Some(c) = rest.next_if(|c| c.is_alphanumeric() || *c == '_') {
                word.push(c);
            }
            word.extend(rest.next_if_eq(&'}'));
        }
        let ends = |c: &char| quote.is_none() && (c.is_whitespace() || matches!(c, ';' | '{' | '}'));
        next = match rest.peek() {
            Some(c) if ends(c) => None,
            _ => rest.next(),
        };
    }
    word
}
