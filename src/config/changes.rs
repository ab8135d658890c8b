//! What is different between two configurations, in the words of the file, and which of it a running process
//! cannot take over.
//!
//! Both are compared as the trees of values that `ringway config` prints, key by key, so a new key needs no
//! line here. Lists whose entries have names are compared by the names.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_yaml::{Mapping, Value};

use super::model::{AccessEntry, Certificate, Config, ListenerTls, Upstream, UpstreamTls};
use crate::base::counted;

/// One difference between two configurations. Objects go by their names, so their order in the file is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What has changed, such as `listeners.web` or `upstreams.web.backends.a.weight`.
    pub what: String,
    /// The value before, as the file would say it; `None` if the object or value was added.
    pub before: Option<String>,
    /// The value now; `None` if the object or value was removed.
    pub after: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = &self.what;
        match (&self.before, &self.after) {
            (None, Some(after)) => write!(f, "+ {what}: {after}"),
            (Some(before), None) => write!(f, "- {what}: {before}"),
            (Some(before), Some(after)) => write!(f, "~ {what}: {before} -> {after}"),
            (None, None) => write!(f, "~ {what}"),
        }
    }
}

/// Returns every difference, in the order of the long form.
#[must_use]
pub fn changes(before: &Config, after: &Config) -> Vec<Change> {
    let mut found = Vec::new();
    compare("", &tree(before), &tree(after), &mut found);
    found.extend(orders(before, after));
    found
}

/// Returns a difference for each upstream whose backends have another order, where the order means something.
fn orders(before: &Config, after: &Config) -> Vec<Change> {
    let mut found = Vec::new();
    for upstream in after.upstreams.iter().filter(|upstream| upstream.algorithm.goes_by_order) {
        let Some(known) = before.upstreams.iter().find(|known| known.name == upstream.name) else { continue };
        let stays = |one: &Upstream, other: &Upstream| {
            let is_there = |name: &&str| other.backends.iter().any(|backend| backend.name == *name);
            one.backends.iter().map(|backend| &*backend.name).filter(is_there).collect::<Vec<_>>().join(", ")
        };
        let (old, new) = (stays(known, upstream), stays(upstream, known));
        if old != new {
            let what = format!("upstreams.{}.backends", upstream.name);
            found.push(Change { what, before: Some(old), after: Some(new) });
        }
    }
    found
}

/// Returns a sentence for each key that is different and that a running process cannot change.
#[must_use]
pub fn not_live(before: &Config, after: &Config) -> Vec<String> {
    let fixed = changes(before, after).into_iter().filter(|change| !is_live(&change.what));
    let sentence = |Change { what, before, after }: Change| {
        let value = |value: Option<String>| value.unwrap_or_else(|| "not set".to_owned());
        let (before, after) = (value(before), value(after));
        format!(
            "`{what}` is {before} and would become {after}, which a running process cannot change; restart it, or \
             run `ringway ctl upgrade`"
        )
    };
    fixed.map(sentence).collect()
}

/// Returns whether a running process can change the value of a key.
fn is_live(what: &str) -> bool {
    match what.split_once('.') {
        Some(("runtime", key)) => key != "cores" && !key.starts_with("relay"),
        Some(("logging", key)) => key == "level",
        Some(("admin", _)) => false,
        _ => true,
    }
}

/// Returns the tree of a configuration in which objects go by their names, with what operators want of the
/// backends beside their keys, and what the files say that it names.
fn tree(config: &Config) -> Value {
    let mut tree = config.to_tree();
    let listeners = tree.get_mut("listeners").and_then(Value::as_sequence_mut);
    for (written, listener) in listeners.into_iter().flatten().zip(&config.listeners) {
        if let (Some(tls), Some(written)) = (&listener.tls, written.get_mut("tls")) {
            contents_of_listener(tls, written);
        }
        for (key, list) in [("allow", &listener.allow), ("deny", &listener.deny)] {
            if let (Value::Mapping(written), false) = (&mut *written, list.is_empty()) {
                let entry = |entry: &AccessEntry| (entry.to_string().into(), content(entry).into());
                written.insert(key.into(), Value::Mapping(list.0.iter().map(entry).collect()));
            }
        }
    }
    let upstreams = tree.get_mut("upstreams").and_then(Value::as_sequence_mut);
    for (written, upstream) in upstreams.into_iter().flatten().zip(&config.upstreams) {
        if let (Some(tls), Some(written)) = (&upstream.tls, written.get_mut("tls")) {
            contents_of_upstream(tls, written);
        }
        let backends = written.get_mut("backends").and_then(Value::as_sequence_mut);
        for (entry, backend) in backends.into_iter().flatten().zip(&upstream.backends) {
            if let (Value::Mapping(entry), Ok(state)) = (entry, serde_yaml::to_value(backend.admin_state)) {
                entry.insert("state".into(), state);
            }
        }
    }
    by_name(tree)
}

/// Puts what the files hold beside their names, so that a renewed certificate is a change.
fn contents_of_listener(tls: &ListenerTls, written: &mut Value) {
    let Value::Mapping(written) = written else { return };
    let certificates = tls.certificates.iter().map(|one| (path(&one.certificate), contents(one)));
    written.insert("certificates".into(), Value::Mapping(certificates.collect()));
    if let Some(ca) = &tls.client_ca {
        written.insert("client_ca".into(), format!("{ca}, {}", ca.summary()).into());
    }
    if !tls.client_crl.is_empty() {
        let lists = tls.client_crl.iter().map(|file| (path(&file.path), file.summary().into()));
        written.insert("client_crl".into(), Value::Mapping(lists.collect()));
    }
}

/// As [`contents_of_listener`], for the files of an upstream.
fn contents_of_upstream(tls: &UpstreamTls, written: &mut Value) {
    let Value::Mapping(written) = written else { return };
    written.insert("ca".into(), format!("{}, {}", tls.ca, tls.ca.summary()).into());
    if let Some(one) = &tls.identity {
        written.insert(
            "certificate".into(),
            Value::Mapping([(path(&one.certificate), contents(one))].into_iter().collect()),
        );
    }
}

fn path(path: &Path) -> Value {
    path.display().to_string().into()
}

fn contents(certificate: &Certificate) -> Value {
    let key = certificate.key.display();
    match &certificate.identity {
        Some(identity) => format!("{}, key {key}", identity.summary()).into(),
        None => format!("key {key}").into(),
    }
}

/// Returns what an entry of a list of clients stands for, where that is not the entry itself.
fn content(entry: &AccessEntry) -> String {
    let AccessEntry::File { prefixes, .. } = entry else { return "listed".to_owned() };
    let mut hasher = DefaultHasher::new();
    prefixes.hash(&mut hasher);
    let print = hasher.finish() >> 32;
    format!("{} ({print:08x})", counted(prefixes.len() as u64, "address range"))
}

/// Returns the value with each list of named entries as the mapping of the names to the entries.
fn by_name(value: Value) -> Value {
    match value {
        Value::Sequence(entries) if entries.first().is_some_and(|entry| entry.get("name").is_some()) => {
            let named = entries.into_iter().map(|entry| {
                let name = entry.get("name").cloned().unwrap_or_default();
                (name, by_name(entry))
            });
            Value::Mapping(named.collect())
        }
        Value::Mapping(keys) => {
            Value::Mapping(keys.into_iter().map(|(key, value)| (key, by_name(value))).collect())
        }
        other => other,
    }
}

fn compare(what: &str, before: &Value, after: &Value, found: &mut Vec<Change>) {
    let (Value::Mapping(old), Value::Mapping(new)) = (before, after) else {
        if before != after {
            found.push(Change {
                what: what.to_owned(),
                before: Some(text(before)),
                after: Some(text(after)),
            });
        }
        return;
    };
    let below = |key: &Value| if what.is_empty() { text(key) } else { format!("{what}.{}", text(key)) };
    for (key, value) in old {
        match new.get(key) {
            Some(now) => compare(&below(key), value, now, found),
            None => found.push(Change { what: below(key), before: Some(summary(value)), after: None }),
        }
    }
    for (key, value) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
        found.push(Change { what: below(key), before: None, after: Some(summary(value)) });
    }
}

/// Returns what tells most about a value that was added or removed: of a listener the address and the upstream,
/// of an upstream the number of backends and the algorithm, of a backend the address; all of any other.
fn summary(value: &Value) -> String {
    let Value::Mapping(keys) = value else { return text(value) };
    let word = |key: &str| keys.get(key).map(text).unwrap_or_default();
    if let Some(Value::Mapping(backends)) = keys.get("backends") {
        let plural = if backends.len() == 1 { "" } else { "s" };
        return format!("{} backend{plural}, {}", backends.len(), word("algorithm"));
    }
    match (keys.contains_key("address"), keys.contains_key("upstream"), keys.get("port").map(text)) {
        (false, _, _) => text(value),
        (true, true, _) => format!("{}, upstream {}", word("address"), word("upstream")),
        (true, false, None) => word("address"),
        (true, false, Some(port)) => format!("{}:{port}", word("address")),
    }
}

/// Returns a value in one line: a word as it is, anything else as a file can say it.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(value) => value.clone(),
        other => written(other),
    }
}

/// Returns a value as a part of one line of the file.
fn written(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(value) if is_plain(value) => value.clone(),
        // What JSON quotes, YAML reads.
        Value::String(value) => quoted(value),
        Value::Sequence(values) => format!("[{}]", values.iter().map(written).collect::<Vec<_>>().join(", ")),
        Value::Mapping(keys) => format!("{{{}}}", pairs(keys).collect::<Vec<_>>().join(", ")),
        Value::Tagged(tagged) => written(&tagged.value),
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Returns whether YAML reads a word without quotes as itself, also inside of brackets.
fn is_plain(word: &str) -> bool {
    let is_harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    let in_brackets = |word: &str| serde_yaml::from_str::<Value>(word).is_ok_and(|read| read == word);
    // A colon is one only before a space or the end, but for a port behind an address.
    let parts = word.split(':').collect::<Vec<_>>();
    parts.iter().all(|part| !part.is_empty() && part.bytes().all(is_harmless)) && in_brackets(word)
}

fn pairs(keys: &Mapping) -> impl Iterator<Item = String> {
    keys.iter().map(|(key, value)| format!("{}: {}", written(key), written(value)))
}
