//! The translation as YAML that `config::parse` accepts: what it refuses is taken out, and reported with its
//! words, until it has nothing to say.

use super::plan::{Entry, Key, Plan};
use super::report::{Findings, Origin, one_line, shown};
use crate::base::limits;
use crate::config::{self, Problem, Severity};

/// How often the configuration is asked; each time everything it complains of is taken out.
const ROUNDS_MAX: usize = 40;

/// Longest comment; texts of the file are in it.
const COMMENT_MAX: usize = 200;

/// The order in which keys are written.
const ORDER: [&str; 20] = [
    "runtime",
    "logging",
    "admin",
    "name",
    "address",
    "upstream",
    "port",
    "weight",
    "max_connections",
    "backup",
    "backlog",
    "algorithm",
    "hash_key",
    "healthcheck",
    "outlier",
    "slow_start",
    "on_down",
    "on_up",
    "retries",
    "queue",
];

/// What a line of the output belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Nothing,
    Process(&'static str),
    Listener(usize, &'static str),
    Upstream(usize, &'static str),
    Backend(usize, usize),
}

/// Returns the valid YAML of as much of the plan as the configuration accepts, and `None` if nothing is left.
/// The plan is what was written.
pub(super) fn valid_yaml(header: &[String], plan: &mut Plan, findings: &mut Findings) -> Option<String> {
    within_limits(plan, findings);
    for _ in 0..ROUNDS_MAX {
        if plan.listeners.is_empty() || plan.upstreams.is_empty() {
            return None;
        }
        let written = Writer::plan(header, plan);
        let Err(report) = config::parse("import", written.text.as_bytes()) else { return Some(written.text) };
        let errors = report.problems().iter().filter(|problem| problem.severity == Severity::Error);
        let mut faults: Vec<(Owner, &Problem)> =
            errors.map(|problem| (written.owner(problem.line), problem)).collect();
        if faults.iter().all(|(owner, _)| *owner == Owner::Nothing) {
            let message = faults.first().map_or_else(String::new, |(_, problem)| problem.message.clone());
            findings.add(&plan.process.origin, format!("the translation is not valid: {message}"));
            return None;
        }
        // From the end on, so that positions stay right.
        faults.sort_by_key(|(owner, _)| std::cmp::Reverse(position(*owner)));
        faults.dedup_by_key(|(owner, _)| position(*owner));
        for (owner, problem) in faults {
            remove(plan, owner, &problem.message, findings);
        }
        drop_the_lonely(plan, findings);
    }
    findings.add(&plan.process.origin, "the file has too many faults to translate; repair some of them");
    None
}

/// Returns where an owner stands among those of its kind, entries before their keys.
fn position(owner: Owner) -> (u8, usize, usize, &'static str) {
    match owner {
        Owner::Nothing => (0, 0, 0, ""),
        Owner::Process(path) => (1, 0, 0, path),
        Owner::Listener(at, path) => (2, at, 0, if is_required(path) { "" } else { path }),
        Owner::Upstream(at, path) => (3, at, 0, if is_required(path) { "" } else { path }),
        Owner::Backend(at, backend) => (3, at, backend + 1, ""),
    }
}

/// Returns whether an entry is left out if the configuration does not take this key of it. Without one of TLS, the others
/// would mean something else: bytes might go out plainly.
fn is_required(path: &str) -> bool {
    matches!(path, "name" | "address" | "upstream" | "backends") || path.starts_with("tls.")
}

/// Takes out what the configuration complains of.
fn remove(plan: &mut Plan, owner: Owner, message: &str, findings: &mut Findings) {
    match owner {
        Owner::Nothing => {}
        Owner::Process(path) => remove_key(&mut plan.process, path, message, findings),
        Owner::Listener(at, path) if is_required(path) => {
            findings.add(&plan.listeners.remove(at).entry.origin, message);
        }
        Owner::Listener(at, path) => remove_key(&mut plan.listeners[at].entry, path, message, findings),
        Owner::Upstream(at, path) if is_required(path) => {
            findings.add(&plan.upstreams.remove(at).entry.origin, message);
        }
        Owner::Upstream(at, path) => remove_key(&mut plan.upstreams[at].entry, path, message, findings),
        Owner::Backend(at, backend) => {
            findings.add(&plan.upstreams[at].backends.remove(backend).origin, message);
        }
    }
}

fn remove_key(entry: &mut Entry, path: &str, message: &str, findings: &mut Findings) {
    for key in entry.keys.iter().filter(|key| key.path == path) {
        findings.add(&key.origin, message);
    }
    entry.keys.retain(|key| key.path != path);
}

/// Takes out upstreams without backends and listeners without an upstream.
fn drop_the_lonely(plan: &mut Plan, findings: &mut Findings) {
    plan.upstreams.retain(|upstream| {
        let stays = !upstream.backends.is_empty();
        if !stays {
            findings.add(
                &upstream.entry.origin,
                "no server of it is taken over, so it cannot serve; write its backends",
            );
        }
        stays
    });
    let names: Vec<&str> = plan.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    plan.listeners.retain(|listener| {
        let stays = names.contains(&listener.upstream.as_str());
        if !stays {
            let why = format!("nobody would serve it: {} is not taken over; see there", listener.upstream);
            findings.add(&listener.entry.origin, why);
        }
        stays
    });
}

/// Takes out what is more than the configuration can hold.
fn within_limits(plan: &mut Plan, findings: &mut Findings) {
    let mut cut = |origin: &Origin, most: usize, what: &str| {
        findings.add(origin, format!("there are at most {most} {what}; run a second process for the others"));
    };
    for upstream in &mut plan.upstreams {
        let most = limits::BACKENDS_PER_UPSTREAM_MAX;
        let backends = &mut upstream.backends;
        backends.iter().skip(most).for_each(|backend| cut(&backend.origin, most, "backends in an upstream"));
        backends.truncate(most);
    }
    let most = limits::UPSTREAMS_MAX;
    plan.upstreams.iter().skip(most).for_each(|upstream| cut(&upstream.entry.origin, most, "upstreams"));
    plan.upstreams.truncate(most);
    let most = limits::LISTENERS_MAX;
    plan.listeners.iter().skip(most).for_each(|listener| cut(&listener.entry.origin, most, "listeners"));
    plan.listeners.truncate(most);
    drop_the_lonely(plan, findings);
}

/// Text with the owner of each line.
#[derive(Default)]
struct Writer {
    text: String,
    owners: Vec<Owner>,
}

impl Writer {
    fn plan(header: &[String], plan: &Plan) -> Self {
        let mut writer = Self::default();
        header.iter().for_each(|line| writer.comment(0, line, Owner::Nothing));
        writer.keys(&plan.process.keys, 0, Owner::Process);
        writer.line("", Owner::Nothing);
        writer.line("listeners:", Owner::Nothing);
        let all: Vec<_> = plan.listeners.iter().map(|listener| listener.accept.clone()).collect();
        for (at, listener) in plan.listeners.iter().enumerate() {
            let mut entry = listener.entry.clone();
            let (address, differs) = listener.accept.written(&all);
            let origin = entry.origin.clone();
            entry.set_text("address", &address, &origin).comment = differs;
            entry.set_text("upstream", &listener.upstream, &origin);
            writer.entry(&entry, |path| Owner::Listener(at, path));
        }
        writer.line("", Owner::Nothing);
        writer.line("upstreams:", Owner::Nothing);
        for (at, upstream) in plan.upstreams.iter().enumerate() {
            writer.entry(&upstream.entry, |path| Owner::Upstream(at, path));
            writer.line("    backends:", Owner::Upstream(at, "backends"));
            for (position, backend) in upstream.backends.iter().enumerate() {
                writer.backend(backend, Owner::Backend(at, position));
            }
        }
        writer
    }

    fn owner(&self, line: usize) -> Owner {
        line.checked_sub(1).and_then(|at| self.owners.get(at)).copied().unwrap_or(Owner::Nothing)
    }

    fn line(&mut self, text: &str, owner: Owner) {
        self.text.push_str(text);
        self.text.push('\n');
        self.owners.push(owner);
    }

    fn comment(&mut self, indent: usize, text: &str, owner: Owner) {
        let line =
            if text.is_empty() { "#".to_owned() } else { format!("# {}", one_line(text, COMMENT_MAX)) };
        self.line(&format!("{:indent$}{line}", ""), owner);
    }

    /// Writes an entry of a list, whose `name` comes first.
    fn entry(&mut self, entry: &Entry, owner: impl Fn(&'static str) -> Owner) {
        entry.comments.iter().for_each(|text| self.comment(2, text, owner("name")));
        let begin = self.text.len();
        self.keys(&entry.keys, 4, owner);
        // `name` has no comment, so the first line is its own.
        if self.text[begin..].starts_with("    ") {
            self.text.replace_range(begin..begin + 4, "  - ");
        }
    }

    /// Writes a backend on one line.
    fn backend(&mut self, entry: &Entry, owner: Owner) {
        entry.comments.iter().for_each(|text| self.comment(6, text, owner));
        entry
            .keys
            .iter()
            .filter_map(|key| key.comment.as_ref())
            .for_each(|text| self.comment(6, text, owner));
        let keys: Vec<String> =
            sorted(&entry.keys).iter().map(|key| format!("{}: {}", key.path, key.value)).collect();
        self.line(&format!("      - {{{}}}", keys.join(", ")), owner);
    }

    /// Writes keys, with a line for each section that a path goes through.
    fn keys(&mut self, keys: &[Key], indent: usize, owner: impl Fn(&'static str) -> Owner) {
        let mut open: Vec<&str> = Vec::new();
        for key in sorted(keys) {
            let parts: Vec<&str> = key.path.split('.').collect();
            let (last, sections) = parts.split_last().expect("a split has a part");
            let same = open.iter().zip(sections).take_while(|(one, two)| one == two).count();
            open.truncate(same);
            for section in &sections[same..] {
                let pad = indent + 2 * open.len();
                self.line(&format!("{:pad$}{section}:", ""), owner(key.path));
                open.push(section);
            }
            let pad = indent + 2 * open.len();
            if let Some(comment) = &key.comment {
                self.comment(pad, comment, owner(key.path));
            }
            self.line(&format!("{:pad$}{last}: {}", "", key.value), owner(key.path));
        }
    }
}

/// Returns the keys in the order in which they are written; those of one section stand together.
fn sorted(keys: &[Key]) -> Vec<&Key> {
    let mut sorted: Vec<&Key> = keys.iter().collect();
    let place = |key: &Key| {
        let first = key.path.split('.').next().unwrap_or_default();
        ORDER.iter().position(|name| *name == first).unwrap_or(ORDER.len())
    };
    sorted.sort_by_key(|key| (place(key), !key.path.ends_with(".type"), key.path));
    sorted
}

/// Returns the lines on top of the output.
pub(super) fn header(file: &str, program: &str, differs: &[&str]) -> Vec<String> {
    let mut lines = vec![
        format!("Translated from {} by `ringway import`. Read it before you use it.", shown(file)),
        format!("Where Ringway differs from {program} in general:"),
    ];
    lines.extend(differs.iter().map(|line| format!("* {line}")));
    lines
}
