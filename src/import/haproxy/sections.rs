//! The sections of an `haproxy.cfg`, and which directives count in each: its own and those of its defaults.

use std::collections::BTreeMap;

use super::words::{Line, lines};
use crate::import::report::{Findings, Origin};

/// What kind of section a line begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Global,
    Defaults,
    Listen,
    Frontend,
    Backend,
    /// One without a counterpart.
    Other,
}

const SECTIONS: [(&str, Kind); 21] = [
    ("global", Kind::Global),
    ("defaults", Kind::Defaults),
    ("listen", Kind::Listen),
    ("frontend", Kind::Frontend),
    ("backend", Kind::Backend),
    ("peers", Kind::Other),
    ("userlist", Kind::Other),
    ("resolvers", Kind::Other),
    ("mailers", Kind::Other),
    ("program", Kind::Other),
    ("http-errors", Kind::Other),
    ("ring", Kind::Other),
    ("cache", Kind::Other),
    ("log-forward", Kind::Other),
    ("log-profile", Kind::Other),
    ("fcgi-app", Kind::Other),
    ("crt-store", Kind::Other),
    ("traces", Kind::Other),
    ("acme", Kind::Other),
    ("ruleset", Kind::Other),
    ("healthcheck", Kind::Other),
];

/// A section with its directives.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) kind: Kind,
    pub(super) name: String,
    /// The name of its defaults, if it says so.
    from: Option<String>,
    /// Position of its defaults among the sections.
    defaults: Option<usize>,
    pub(super) origin: Origin,
    pub(super) directives: Vec<Line>,
}

impl Section {
    /// Returns "; its lines 3 to 9 are left out".
    pub(super) fn extent(&self) -> String {
        match (self.directives.first(), self.directives.last()) {
            (Some(first), Some(last)) if first.number < last.number => {
                format!("; its lines {} to {} are left out", first.number, last.number)
            }
            (Some(line), _) => format!("; its line {} is left out", line.number),
            (None, _) => String::new(),
        }
    }
}

/// Reads the sections. Lines that depend on variables or conditions are reported here.
pub(super) fn sections(text: &[u8], findings: &mut Findings) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    // How deep in `.if`, and whether the section began there, so that what follows belongs to nobody.
    let (mut depth, mut lost) = (0_usize, false);
    for line in lines(text) {
        let first = line.word(0);
        let kind = SECTIONS.iter().find(|(name, _)| *name == first).map(|(_, kind)| *kind);
        if first.starts_with('.') {
            depth = conditional(first, depth);
            let why = "decided when HAProxy starts: keep the lines that apply, and import again";
            findings.add(&line.origin(), why);
        } else if depth > 0 {
            lost |= kind.is_some();
            findings.add(&line.origin(), "stands in a condition: keep it without `.if`, and import again");
        } else if line.has_variable() {
            lost |= kind.is_some();
            let why = "has an environment variable: write its value, and import again";
            findings.add(&line.origin(), why);
        } else if let Some(kind) = kind {
            lost = false;
            begin(&mut sections, kind, &line, findings);
        } else if lost {
            findings.add(&line.origin(), "its section is not taken over; see the line where that begins");
        } else if let Some(section) = sections.last_mut() {
            section.directives.push(line);
        } else {
            findings.add(&line.origin(), "stands in no section; HAProxy refuses it too");
        }
    }
    sections
}

fn conditional(word: &str, depth: usize) -> usize {
    match word {
        ".if" => depth + 1,
        ".endif" => depth.saturating_sub(1),
        _ => depth,
    }
}

fn begin(sections: &mut Vec<Section>, kind: Kind, line: &Line, findings: &mut Findings) {
    let has_name = line.words.len() > 1 && line.word(1) != "from";
    let name = if has_name { line.word(1).to_owned() } else { String::new() };
    let rest = if has_name { 2 } else { 1 };
    let from = (line.word(rest) == "from").then(|| line.word(rest + 1).to_owned());
    if matches!(kind, Kind::Listen | Kind::Frontend | Kind::Backend) && from.is_none() && line.words.len() > 2
    {
        findings.add(&line.origin(), "what stands behind the name is of very old versions; write a `bind`");
    }
    let defaults = match &from {
        Some(from) => sections
            .iter()
            .rposition(|section| section.kind == Kind::Defaults && !from.is_empty() && section.name == *from),
        // Only proxies take the defaults before them.
        None if kind == Kind::Defaults => None,
        None => sections.iter().rposition(|section| section.kind == Kind::Defaults),
    };
    if let (Some(from), None) = (&from, defaults) {
        findings.add(&line.origin(), format!("no defaults section before it is called {from}; repair that"));
    }
    sections.push(Section { kind, name, from, defaults, origin: line.origin(), directives: Vec::new() });
}

/// The directives that count in a proxy. Whoever translates one takes it; the rest is reported.
#[derive(Debug)]
pub(super) struct Bag<'a> {
    /// Those of which the last one counts, by their names.
    single: BTreeMap<String, Given<'a>>,
    /// Those that add up, in order.
    many: Vec<Given<'a>>,
}

/// A directive, and whether it comes from the defaults.
#[derive(Clone, Copy, Debug)]
pub(super) struct Given<'a> {
    pub(super) line: &'a Line,
    pub(super) inherited: bool,
}

/// Options that choose the check, of which there is one.
const CHECKS: [&str; 11] = [
    "httpchk",
    "tcp-check",
    "ssl-hello-chk",
    "smtpchk",
    "mysql-check",
    "pgsql-check",
    "redis-check",
    "ldap-check",
    "external-check",
    "spop-check",
    "lb-agent-chk",
];

const SINGLE: [&str; 20] = [
    "mode",
    "balance",
    "maxconn",
    "retries",
    "backlog",
    "hash-type",
    "source",
    "default_backend",
    "fullconn",
    "disabled",
    "enabled",
    "nbthread",
    "hard-stop-after",
    "grace",
    "id",
    "description",
    "rate-limit",
    "daemon",
    "user",
    "group",
];

impl<'a> Bag<'a> {
    /// Returns the directives of a section after those of its defaults; the positions of these are added to
    /// `used`.
    pub(super) fn of(sections: &'a [Section], section: &'a Section, used: &mut Vec<usize>) -> Self {
        let mut chain = vec![section];
        let mut next = section.defaults;
        while let Some(position) = next {
            used.push(position);
            chain.push(&sections[position]);
            next = sections[position].defaults.filter(|_| sections[position].from.is_some());
        }
        let mut bag = Self { single: BTreeMap::new(), many: Vec::new() };
        for (depth, section) in chain.iter().enumerate().rev() {
            for line in &section.directives {
                bag.add(Given { line, inherited: depth > 0 });
            }
        }
        bag
    }

    fn add(&mut self, given: Given<'a>) {
        let (line, word) = (given.line, given.line.word(0));
        match word {
            "no" => {
                self.single.remove(&single_name(line, 1).unwrap_or_default());
            }
            // What HAProxy does without the option; there is nothing to take over.
            "default" => {}
            _ => match single_name(line, 0) {
                Some(name) => {
                    self.single.insert(name, given);
                }
                None => self.many.push(given),
            },
        }
    }

    /// Takes the directive with this name, such as `timeout client`.
    pub(super) fn take(&mut self, name: &str) -> Option<Given<'a>> {
        self.single.remove(name)
    }

    /// Takes all directives that begin with one of these words.
    pub(super) fn take_all(&mut self, words: &[&str]) -> Vec<Given<'a>> {
        let (taken, rest) =
            std::mem::take(&mut self.many).into_iter().partition(|given| words.contains(&given.line.word(0)));
        self.many = rest;
        taken
    }

    /// Returns what nobody took, with the names.
    pub(super) fn into_rest(self) -> impl Iterator<Item = (String, Given<'a>)> {
        let many = self.many.into_iter().map(|given| (given.line.word(0).to_owned(), given));
        self.single.into_iter().chain(many)
    }
}

/// Returns the name of a directive of which the last one counts.
fn single_name(line: &Line, at: usize) -> Option<String> {
    match line.word(at) {
        "option" if CHECKS.contains(&line.word(at + 1)) => Some("option CHECK".to_owned()),
        word @ ("timeout" | "option") => Some(format!("{word} {}", line.word(at + 1))),
        word if SINGLE.contains(&word) || word.starts_with("clitcpka-") || word.starts_with("srvtcpka-") => {
            Some(word.to_owned())
        }
        _ => None,
    }
}
