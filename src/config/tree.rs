//! The text of a file as a tree of nodes that know where they stand.
//!
//! Every quantity that a hostile file can grow is bounded while the file is read: the depth, the nodes (those
//! of an alias count at each use), and by the caller the text itself. An alias shares the node it names, so
//! memory does not grow with it.

use std::collections::BTreeMap;
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span as Marks};

use super::report::{Location, Problems, Span, lines, quote};
use crate::base::limits;

/// One value of the file.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) span: Span,
    pub(super) value: Value,
    /// Nodes of this subtree, itself included.
    nodes: usize,
    /// Levels of this subtree, itself included.
    levels: usize,
}

impl Node {
    /// Returns a text that no reader accepts: a control character, and one beyond ASCII.
    #[cfg(test)]
    pub(super) fn unfit() -> Self {
        let value = Value::Scalar { text: "\u{1}é".to_owned(), plain: true };
        Self { span: Span::default(), value, nodes: 1, levels: 1 }
    }

    /// Returns true if the value switches something off: `off` or `false`.
    pub(super) fn is_off(&self) -> bool {
        match &self.value {
            Value::Scalar { text, .. } if text == "off" => true,
            Value::Scalar { text, plain } => *plain && matches!(text.as_str(), "false" | "False" | "FALSE"),
            _ => false,
        }
    }
}

#[derive(Debug)]
pub(super) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    Scalar {
        text: String,
        /// Written without quotes, so that `false` is the boolean.
        plain: bool,
    },
    List(Vec<Rc<Node>>),
    Map(Map),
}

/// The keys of a mapping. Problems are sorted by location later, so the order of the file is not kept.
pub(super) type Map = BTreeMap<String, Entry>;

/// A key and its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Span,
    pub(super) node: Rc<Node>,
}

/// Returns the text without its byte order mark.
pub(super) fn decode(text: &[u8]) -> Result<&str, (Span, String)> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    std::str::from_utf8(text).map_err(|error| {
        let valid = String::from_utf8_lossy(&text[..error.valid_up_to()]);
        let (line, last) = lines(&valid).enumerate().last().unwrap_or_default();
        let byte = text[error.valid_up_to()];
        let remedy = if matches!(text, [0xff, 0xfe, ..] | [0xfe, 0xff, ..]) {
            "it looks like UTF-16; save the file as UTF-8"
        } else {
            "save the file as UTF-8"
        };
        (Span::at(line + 1, last.chars().count() + 1), format!("byte 0x{byte:02x} is not UTF-8; {remedy}"))
    })
}

/// Returns the one document in `text`, or reports why there is none.
pub(super) fn parse(text: &str, problems: &Problems) -> Option<Rc<Node>> {
    parse_within(limits::CONFIG_NODES_MAX, text, problems)
}

/// Like [`parse`], with at most so many nodes.
pub(super) fn parse_within(nodes_max: usize, text: &str, problems: &Problems) -> Option<Rc<Node>> {
    let before = problems.errors();
    report_unfit_characters(text, problems);
    if problems.errors() > before {
        return None;
    }
    let mut builder = Builder::new(nodes_max, problems);
    for event in Parser::new_from_str(text) {
        if let Err((span, message)) =
            event.map_err(|error| syntax(&error, text)).and_then(|e| builder.take(e))
        {
            problems.error(Location::of_text(span), message);
            return None;
        }
    }
    if builder.document.is_none() {
        problems.error(Location::of_text(Span::at(1, 1)), EMPTY);
    }
    builder.document
}

/// The message for an empty file.
pub(super) const EMPTY: &str =
    "the file is empty; it needs `loadbalancer` and `backends`, or `listeners` and `upstreams`";

fn syntax(error: &ScanError, text: &str) -> (Span, String) {
    let mark = error.marker();
    let line = mark.line().max(1);
    // The scanner notices a bad value at its end, or in the line after it.
    let mut before = lines(text).enumerate().take(line).skip(line.saturating_sub(2));
    if let Some((index, (column, message))) = before.find_map(|(at, line)| Some((at, needs_quotes(line)?))) {
        return (Span::at(index + 1, column), message);
    }
    // The scanner's message repeats characters of the file.
    let info: String = error.info().chars().flat_map(char::escape_debug).collect();
    (Span::at(line, mark.col() + 1), format!("not YAML: {info}"))
}

/// Returns the column of a value that YAML reads otherwise without quotes, and what to write.
fn needs_quotes(line: &str) -> Option<(usize, String)> {
    if let Some((at, pattern)) = wildcard(line) {
        let message = format!("a value that begins with `*` needs quotes: `\"{pattern}\"`");
        return Some((line[..at].chars().count() + 1, message));
    }
    let (at, value) = plain_value(line).filter(|_| !is_comment(line))?;
    let address = value.split([' ', ',', '}']).next().unwrap_or_default();
    let is_port = |port: &&str| port.starts_with(|c: char| c.is_ascii_digit());
    let first = value.chars().next()?;
    let message = match first {
        '*' if let Some(port) = address.strip_prefix("*:").filter(is_port) => {
            format!("a value that begins with `*` needs quotes; all addresses are `\":{port}\"`")
        }
        '[' if address.split_once("]:").is_some_and(|(_, port)| is_port(&port)) => {
            format!("a value that begins with `[` needs quotes: `\"{address}\"`")
        }
        '%' | '@' | '`' => format!("a value that begins with {} needs quotes", quote(&first.to_string())),
        _ => return None,
    };
    Some((line[..at].chars().count() + 1, message))
}

/// Returns the first wildcard of a line, as `*.example.com`, that stands where a value begins, and where that is.
fn wildcard(line: &str) -> Option<(usize, &str)> {
    let is_begun = |before: &str| {
        let word = before.trim_end();
        let is_value = word.len() < before.len() && word.ends_with([':', '-', ',']) || word.ends_with('[');
        let is_quoted = |mark: char| before.matches(mark).count() % 2 == 1;
        is_value && !before.contains('#') && !is_quoted('"') && !is_quoted('\'')
    };
    let (at, _) = line.match_indices("*.").find(|(at, _)| is_begun(&line[..*at]))?;
    let end = line[at..].find([' ', ',', '}', ']', '#']).map_or(line.len(), |length| at + length);
    Some((at, line[at..end].trim_end()))
}

/// Returns where the value of a line begins, and the value.
fn plain_value(line: &str) -> Option<(usize, &str)> {
    let indentation = line.len() - line.trim_start_matches([' ', '-']).len();
    let at = line.find(": ").map_or(indentation, |colon| colon + 2);
    let value = line[at..].trim_start();
    (!value.is_empty()).then(|| (line.len() - value.len(), value))
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// Returns where the value of a line begins if it is the beginning of a template that was not filled in.
fn template(content: &str) -> Option<usize> {
    let (at, value) = plain_value(content).filter(|_| !is_comment(content))?;
    (value.starts_with("{{") || value.starts_with("{%")).then_some(at)
}

/// Returns where a space stands, outside of a comment, that looks like a plain one and is none to YAML.
fn odd_space(content: &str) -> Option<usize> {
    let odd =
        |c: char| matches!(c, '\u{a0}' | '\u{2000}'..='\u{200b}' | '\u{202f}' | '\u{205f}' | '\u{3000}');
    let at = content.find(odd)?;
    let comment = content.starts_with('#') || content[..at].contains(" #");
    (!comment).then_some(at)
}

/// Reports characters before the scanner sees them: it takes NUL for the end of the file, tabs for spaces in
/// some places, and odd spaces for letters. One problem a line is enough.
fn report_unfit_characters(text: &str, problems: &Problems) {
    for (line, content) in lines(text).enumerate() {
        let unfit = |c: char| (c.is_control() && c != '\t') || c == '\u{feff}';
        let indentation = content.len() - content.trim_start_matches([' ', '\t']).len();
        let blank = matches!(content[indentation..].chars().next(), None | Some('#'));
        let (at, message) = if let Some(at) = content.find(unfit) {
            let code = content[at..].chars().next().map_or(0, u32::from);
            (at, format!("control character U+{code:04X} is not allowed; remove it"))
        } else if let (Some(at), false) = (content[..indentation].find('\t'), blank) {
            (at, "a tab in the indentation; YAML is indented with spaces".to_owned())
        } else if let Some(at) = odd_space(content) {
            let code = content[at..].chars().next().map_or(0, u32::from);
            let what = if code == 0xa0 { "no-break space" } else { "space" };
            (at, format!("{what} U+{code:04X} instead of a plain one; type a plain one"))
        } else if let Some(at) = template(content) {
            (at, "a template is not expanded here; fill it in first".to_owned())
        } else {
            continue;
        };
        let column = content[..at].chars().count() + 1;
        problems.error(Location::of_text(Span::at(line + 1, column)), message);
    }
}

/// A list or mapping that has begun and not yet ended.
struct Open {
    span: Span,
    anchor: usize,
    nodes: usize,
    levels: usize,
    parts: Parts,
}

enum Parts {
    List(Vec<Rc<Node>>),
    Map { map: Map, key: Option<(String, Span)> },
}

struct Builder<'a> {
    problems: &'a Problems,
    open: Vec<Open>,
    /// The nodes that anchors name, by the numbers of the anchors.
    anchors: BTreeMap<usize, Rc<Node>>,
    nodes: usize,
    nodes_max: usize,
    document: Option<Rc<Node>>,
}

type Step = Result<(), (Span, String)>;

impl<'a> Builder<'a> {
    fn new(nodes_max: usize, problems: &'a Problems) -> Self {
        Self { problems, open: Vec::new(), anchors: BTreeMap::new(), nodes: 0, nodes_max, document: None }
    }

    fn take(&mut self, (event, marks): (Event<'_>, Marks)) -> Step {
        let span = span(marks);
        match event {
            Event::DocumentStart(_) if self.document.is_some() => {
                return Err((span, "a second document; the file holds one, without `---` in between".into()));
            }
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, Some(_))
            | Event::MappingStart(_, Some(_)) => {
                return Err((span, "tags are not supported; remove the `!`".into()));
            }
            Event::Scalar(text, style, anchor, None) => {
                let plain = style == ScalarStyle::Plain;
                let value = match &*text {
                    "" | "~" | "null" | "Null" | "NULL" if plain => Value::Null,
                    _ => Value::Scalar { text: text.into_owned(), plain },
                };
                return self.close(Node { span, value, nodes: 1, levels: 1 }, anchor);
            }
            Event::SequenceStart(anchor, None) => return self.begin(span, anchor, Parts::List(Vec::new())),
            Event::MappingStart(anchor, None) => {
                return self.begin(span, anchor, Parts::Map { map: Map::new(), key: None });
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err((
                        span,
                        "an alias inside the value it stands for; write the value out".into(),
                    ));
                };
                self.count(span, node.nodes, node.levels)?;
                self.add(node, Some(span));
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Open { span, anchor, nodes, levels, parts }) = self.open.pop() else {
                    return Ok(());
                };
                let value = match parts {
                    Parts::List(items) => Value::List(items),
                    Parts::Map { map, .. } => Value::Map(map),
                };
                // The node itself was counted when it began.
                self.nodes -= 1;
                return self.close(Node { span, value, nodes, levels }, anchor);
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn begin(&mut self, span: Span, anchor: usize, parts: Parts) -> Step {
        self.count(span, 1, 1)?;
        self.open.push(Open { span, anchor, nodes: 1, levels: 1, parts });
        Ok(())
    }

    fn close(&mut self, node: Node, anchor: usize) -> Step {
        self.count(node.span, 1, node.levels)?;
        let node = Rc::new(node);
        if anchor > 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        self.add(node, None);
        Ok(())
    }

    /// Counts nodes that are about to be added, and refuses them beyond the bounds.
    fn count(&mut self, span: Span, nodes: usize, levels: usize) -> Step {
        self.nodes += nodes;
        if self.open.len() + levels > limits::CONFIG_DEPTH_MAX {
            return Err((span, format!("nested deeper than {} levels", limits::CONFIG_DEPTH_MAX)));
        }
        if self.nodes > self.nodes_max {
            return Err((span, format!("more than {} values, aliases counted", self.nodes_max)));
        }
        Ok(())
    }

    /// Adds a finished node to the list or mapping around it.
    fn add(&mut self, node: Rc<Node>, alias: Option<Span>) {
        let Some(open) = self.open.last_mut() else {
            self.document = Some(node);
            return;
        };
        open.nodes += node.nodes;
        open.levels = open.levels.max(node.levels + 1);
        let (map, key) = match &mut open.parts {
            Parts::List(items) => return items.push(node),
            Parts::Map { map, key } => (map, key),
        };
        let Some((text, span)) = key.take() else {
            let span = alias.unwrap_or(node.span);
            *key = Some((key_text(&node, span, self.problems), span));
            return;
        };
        if let Some(first) = map.get(&text).filter(|_| !text.is_empty()) {
            let Span { line, column, .. } = first.key;
            let text = quote(&text);
            let message = format!("key {text} is written twice, first at {line}:{column}; remove one");
            self.problems.error(Location::of_text(span), message);
        } else {
            map.insert(text, Entry { key: span, node });
        }
    }
}

fn key_text(node: &Node, span: Span, problems: &Problems) -> String {
    let message = match &node.value {
        Value::Scalar { text, plain: true } if text == "<<" => {
            "merge keys are not supported; use `defaults`, or write the keys out"
        }
        Value::Scalar { text, .. } => return text.clone(),
        Value::Map(_) => {
            "not a key; a key is a single word, and a template such as `{{ name }}` is not expanded"
        }
        _ => "not a key; a key is a single word",
    };
    problems.error(Location::of_text(span), message);
    // No known key is empty, and an empty one is skipped without another problem.
    String::new()
}

fn span(marks: Marks) -> Span {
    let (start, end) = (marks.start, marks.end);
    let width = if end.line() == start.line() { end.col().saturating_sub(start.col()) } else { 1 };
    Span { line: start.line().max(1), column: start.col() + 1, width: width.max(1) }
}
