//! The translation before it is written: entries of keys, each of which knows where it comes from.

use std::collections::{BTreeMap, BTreeSet};

use super::listen::Accept;
use super::report::Origin;

/// A key of the configuration with its value.
#[derive(Clone, Debug)]
pub(super) struct Key {
    /// The path within the entry, such as `timeouts.connect`.
    pub(super) path: &'static str,
    /// The value as YAML.
    pub(super) value: String,
    pub(super) origin: Origin,
    /// What differs from the file.
    pub(super) comment: Option<String>,
}

/// An entry of a list, or the keys of the process.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) origin: Origin,
    /// What differs from the file.
    pub(super) comments: Vec<String>,
    pub(super) keys: Vec<Key>,
}

/// A listener, whose address depends on all others.
#[derive(Clone, Debug)]
pub(super) struct Listener {
    pub(super) entry: Entry,
    pub(super) accept: Accept,
    pub(super) upstream: String,
}

/// An upstream with its backends.
#[derive(Clone, Debug)]
pub(super) struct Upstream {
    pub(super) name: String,
    pub(super) entry: Entry,
    pub(super) backends: Vec<Entry>,
}

/// The whole translation.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) process: Entry,
    pub(super) listeners: Vec<Listener>,
    pub(super) upstreams: Vec<Upstream>,
    pub(super) listener_names: Names,
    pub(super) upstream_names: Names,
}

impl Entry {
    pub(super) fn new(origin: Origin) -> Self {
        Self { origin, comments: Vec::new(), keys: Vec::new() }
    }

    /// Sets a key whose value needs no quotes; a second value replaces the first.
    pub(super) fn set(&mut self, path: &'static str, value: impl ToString, origin: &Origin) -> &mut Key {
        self.keys.retain(|key| key.path != path);
        self.keys.push(Key { path, value: value.to_string(), origin: origin.clone(), comment: None });
        self.keys.last_mut().expect("a key was pushed")
    }

    /// Sets a key to a text, in quotes if it needs them.
    pub(super) fn set_text(&mut self, path: &'static str, value: &str, origin: &Origin) -> &mut Key {
        self.set(path, scalar(value), origin)
    }

    /// Has a listener take PROXY headers: from whoever sends them, as the other program did.
    pub(super) fn accept_proxy(&mut self, origin: &Origin) {
        self.set("proxy_protocol.accept", "required", origin);
        self.set("proxy_protocol.trusted", "[any]", origin)
            .differs("whoever reaches the listener is believed; write the addresses of the proxies in front");
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.keys.iter().any(|key| key.path == path)
    }

    pub(super) fn comment(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.comments.contains(&text) {
            self.comments.push(text);
        }
    }
}

impl Key {
    /// Says what differs from the file.
    pub(super) fn differs(&mut self, text: impl Into<String>) {
        self.comment = Some(text.into());
    }
}

impl Plan {
    pub(super) fn new() -> Self {
        Self {
            process: Entry::new(Origin::new(1, "")),
            listeners: Vec::new(),
            upstreams: Vec::new(),
            listener_names: Names::default(),
            upstream_names: Names::default(),
        }
    }
}

/// The names of a list, each of which is unique.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    taken: BTreeSet<String>,
    /// The last number behind a name.
    numbers: BTreeMap<String, usize>,
}

impl Names {
    /// Returns the name by the rules of the configuration, with a number behind it if it is taken.
    pub(super) fn claim(&mut self, wanted: &str) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._-:[]%".contains(c) { c } else { '_' };
        let mut name: String = wanted.chars().take(200).map(plain).collect();
        if name.is_empty() {
            name = "default".to_owned();
        }
        let number = self.numbers.entry(name.clone()).or_insert(1);
        let mut free = name.clone();
        while !self.taken.insert(free.clone()) {
            *number += 1;
            free = format!("{name}-{number}");
        }
        free
    }
}

/// Returns a text as a YAML scalar: plain where YAML reads it as it stands, else in double quotes.
pub(super) fn scalar(text: &str) -> String {
    const WORDS: [&str; 9] = ["null", "true", "false", "on", "off", "yes", "no", "y", "n"];
    let plain = |c: char| c.is_ascii_alphanumeric() || "._/-%".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/');
    if begins && text.chars().all(plain) && !WORDS.contains(&text.to_ascii_lowercase().as_str()) {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            ' ' => quoted.push(c),
            c if c.is_ascii_graphic() => quoted.push(c),
            c => quoted.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    quoted.push('"');
    quoted
}

/// Returns a list of texts on one line.
pub(super) fn flow_list<'t>(texts: impl IntoIterator<Item = &'t str>) -> String {
    format!("[{}]", texts.into_iter().map(scalar).collect::<Vec<_>>().join(", "))
}
