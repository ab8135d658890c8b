//! Reading a mapping key by key: a key that is asked for is a known key, so each is named once.
//!
//! A section looks at what the operator wrote there first, and at `defaults` second. A value that does not
//! fit is reported and read as its default, so that reading goes on to the next problem; once there is an
//! error, no value that was read is used.

use std::rc::Rc;

use super::files::Files;
use super::hints;
use super::report::{Location, Problems, Span, quote};
#[cfg(test)]
use super::tests::Asked;
use super::tree::{Entry, Map, Node, Value};

/// What reading a value gives: the value, or why the text does not fit.
pub(super) type Read<T> = Result<T, String>;

/// A mapping that is being read.
#[derive(Clone)]
pub(super) struct Section<'a> {
    problems: &'a Problems,
    files: &'a Files,
    location: Location,
    /// The mapping that the operator wrote here, if any.
    own: Option<&'a Map>,
    /// The mappings to look at, in this order: the operator's, then the defaults.
    layers: Vec<Layer<'a>>,
    known: Vec<&'static str>,
    /// A single value was written instead, which is reported: nothing else is wrong with the section.
    is_unfit: bool,
}

/// One mapping a section looks at.
#[derive(Clone)]
struct Layer<'a> {
    path: Location,
    map: &'a Map,
}

impl<'a> Section<'a> {
    /// Returns the section that is the whole file.
    pub(super) fn root(map: &'a Map, problems: &'a Problems, files: &'a Files) -> Self {
        let location = Location::of_text(Span::at(1, 1));
        let layers = vec![Layer { path: location.clone(), map }];
        Self { problems, files, location, own: Some(map), layers, known: Vec::new(), is_unfit: false }
    }

    /// Returns a section that is not in the file, so that every key has its default.
    pub(super) fn absent(&self) -> Self {
        let (problems, files, location) = (self.problems, self.files, self.location.clone());
        Self { problems, files, location, own: None, layers: Vec::new(), known: Vec::new(), is_unfit: false }
    }

    /// Returns the files that the configuration names.
    pub(super) fn files(&self) -> &'a Files {
        self.files
    }

    /// Returns the value of `key`, or `default` where it is not written.
    pub(super) fn value<T>(&mut self, key: &'static str, default: T, read: impl Fn(&Node) -> Read<T>) -> T {
        self.optional(key, read).unwrap_or(default)
    }

    /// Returns the value of `key`, if it is written.
    pub(super) fn optional<T>(&mut self, key: &'static str, read: impl Fn(&Node) -> Read<T>) -> Option<T> {
        #[cfg(test)]
        super::tests::record(self.location.path_of(key), Asked::refused(read(&Node::unfit())));
        let (entry, location) = self.find(key)?;
        let value = match &entry.node.value {
            Value::Null => Err("no value; write one or remove the key".to_owned()),
            _ => read(&entry.node).map_err(|rule| hints::of_value(&entry.node).unwrap_or(rule)),
        };
        value.map_err(|message| self.problems.error(location, message)).ok()
    }

    /// Returns the value of `key`, or reports that it is missing.
    pub(super) fn required<T>(&mut self, key: &'static str, read: impl Fn(&Node) -> Read<T>) -> Option<T> {
        #[cfg(test)]
        super::tests::record(self.location.path_of(key), Asked::Required);
        if !self.has(key) {
            self.know(key);
            self.error(format!("`{key}` is missing; add it"));
            return None;
        }
        self.optional(key, read)
    }

    /// Reads the section under `key` to its end with `read`; an absent or empty one has its defaults.
    pub(super) fn section<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Self) -> T) -> T {
        let mut part = self.part(key);
        let value = read(&mut part);
        part.finish();
        value
    }

    /// Reads the section under `key`; `off` stands for an empty section, whose defaults switch it off.
    pub(super) fn section_or_off<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Self) -> T) -> T {
        if self.is_off(key) { read(&mut self.absent()) } else { self.section(key, read) }
    }

    /// Returns the section under `key`. A layer that is not a mapping hides those behind it.
    pub(super) fn part(&mut self, key: &'static str) -> Self {
        self.know(key);
        let mut part = self.absent();
        part.location.path = self.location.path_of(key);
        part.own = match self.own.and_then(|own| own.get(key)).map(|entry| &entry.node.value) {
            Some(Value::Map(map)) => Some(map),
            _ => None,
        };
        for layer in &self.layers {
            let Some(entry) = layer.map.get(key) else { continue };
            let path = Location { path: layer.path.path_of(key), span: entry.key };
            if part.layers.is_empty() {
                part.location = path.clone();
            }
            match &entry.node.value {
                Value::Map(map) => part.layers.push(Layer { path, map }),
                Value::Null => {}
                _ => {
                    let location = Location { span: entry.node.span, ..path };
                    if part.layers.is_empty() {
                        let rule = || hints::of_section(&location.path);
                        let message = hints::of_value(&entry.node).unwrap_or_else(rule);
                        self.problems.error(location, message);
                        part.is_unfit = true;
                    }
                    break;
                }
            }
        }
        part
    }

    /// Returns the sections in the list under `key`, at most `most`, each with `defaults` behind it.
    pub(super) fn entries(&mut self, key: &'static str, most: usize, defaults: Option<&Self>) -> Vec<Self> {
        let behind = defaults.map_or(&[][..], |section| &section.layers);
        let items = self.items(key, most);
        let entry = |(location, node): (Location, &'a Node)| {
            let Value::Map(map) = &node.value else {
                let rule = || "not an entry; write it as `key: value` pairs".to_owned();
                self.problems.error(location, hints::of_value(node).unwrap_or_else(rule));
                return None;
            };
            Some(self.entry_of(location, map, behind))
        };
        items.into_iter().filter_map(entry).collect()
    }

    /// Returns the sections in the list under `key`, without defaults. An entry may be the text of its most
    /// important key alone.
    pub(super) fn entries_or_texts(
        &mut self,
        key: &'static str,
        most: usize,
    ) -> Vec<(Self, Option<&'a Node>)> {
        let items = self.items(key, most);
        let entry = |(location, node): (Location, &'a Node)| match &node.value {
            Value::Map(map) => (self.entry_of(location, map, &[]), None),
            _ => (Self { location, ..self.absent() }, Some(node)),
        };
        items.into_iter().map(entry).collect()
    }

    /// Returns what `read` makes of the nodes in the list under `key`, which is `what`, of at most `most`; an absent one, or
    /// `off`, is empty.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        (what, most): (&str, usize),
        read: impl Fn(&Node, &Files) -> Read<T>,
    ) -> Vec<T> {
        let rule = format!("is not a list of at most {most} {what}, or `off`");
        #[cfg(test)]
        super::tests::record(self.location.path_of(key), Asked::Value(format!("this {rule}")));
        let Some((entry, location)) = self.find(key) else { return Vec::new() };
        let items = match &entry.node.value {
            _ if entry.node.is_off() => return Vec::new(),
            Value::List(items) => items,
            _ => {
                let rule = || format!("this {rule}; write `[...]`");
                self.problems.error(location, hints::of_value(&entry.node).unwrap_or_else(rule));
                return Vec::new();
            }
        };
        if items.len() > most {
            self.problems.error(location, format!("{} entries; at most {most} fit", items.len()));
            return Vec::new();
        }
        let item = |(index, node): (usize, &Rc<Node>)| {
            let location = Location { path: format!("{}[{index}]", location.path), span: node.span };
            let value = read(node, self.files).map_err(|rule| hints::of_value(node).unwrap_or(rule));
            value.map_err(|message| self.problems.error(location, message)).ok()
        };
        items.iter().enumerate().filter_map(item).collect()
    }

    /// Returns the nodes in the list under `key`, at most `most`, and where they stand.
    fn items(&mut self, key: &'static str, most: usize) -> Vec<(Location, &'a Node)> {
        let rule = format!("is not a list of 1 to {most} entries");
        #[cfg(test)]
        for asked in [Asked::Required, Asked::Value(format!("this {rule}"))] {
            super::tests::record(self.location.path_of(key), asked);
        }
        let Some((entry, location)) = self.find(key) else {
            self.error(format!("`{key}` is missing; add it"));
            return Vec::new();
        };
        let items: &'a [Rc<Node>] = match &entry.node.value {
            Value::List(items) => items,
            Value::Null => &[],
            _ => {
                let rule = || format!("this {rule}; start each with `-`");
                self.problems.error(location, hints::of_value(&entry.node).unwrap_or_else(rule));
                return Vec::new();
            }
        };
        if items.is_empty() {
            self.problems.error(location.clone(), "the list is empty; it needs at least one entry");
        } else if items.len() > most {
            self.problems.error(location.clone(), format!("{} entries; at most {most} fit", items.len()));
        }
        let item = |(index, node): (usize, &'a Rc<Node>)| {
            (Location { path: format!("{}[{index}]", location.path), span: node.span }, &**node)
        };
        items.iter().take(most).enumerate().map(item).collect()
    }

    fn entry_of(&self, location: Location, map: &'a Map, behind: &[Layer<'a>]) -> Self {
        let own = Layer { path: location.clone(), map };
        let layers = std::iter::once(own).chain(behind.iter().cloned()).collect();
        let (problems, files) = (self.problems, self.files);
        Self { problems, files, location, own: Some(map), layers, known: Vec::new(), is_unfit: false }
    }

    /// Reports `key` if it is written here, because it belongs elsewhere.
    pub(super) fn forbid(&mut self, key: &'static str, why: &str) {
        if let Some(entry) = self.own.and_then(|own| own.get(key)) {
            self.know(key);
            let location = Location { path: self.location.path_of(key), span: entry.key };
            self.problems.error(location, format!("`{key}` does not belong here; {why}"));
        }
    }

    /// Returns true if `key` is written here or in the defaults.
    pub(super) fn has(&self, key: &str) -> bool {
        self.layers.iter().any(|layer| layer.map.contains_key(key))
    }

    /// Returns true if the value of `key` switches it off.
    pub(super) fn is_off(&mut self, key: &'static str) -> bool {
        #[cfg(test)]
        super::tests::record(
            self.location.path_of(key),
            Asked::Value("this is not a section, or `off`".to_owned()),
        );
        self.find(key).is_some_and(|(entry, _)| entry.node.is_off())
    }

    /// Returns true if the value of `key` is a section.
    pub(super) fn is_section(&mut self, key: &'static str) -> bool {
        self.find(key).is_some_and(|(entry, _)| matches!(entry.node.value, Value::Map(_)))
    }

    /// Returns true if the value of `key` is a list without entries, or `off`.
    pub(super) fn is_empty_list(&mut self, key: &'static str) -> bool {
        let is_empty = |node: &Node| matches!(&node.value, Value::List(items) if items.is_empty());
        self.find(key).is_some_and(|(entry, _)| entry.node.is_off() || is_empty(&entry.node))
    }

    /// Returns true if the value of `key` is a list without entries.
    pub(super) fn is_bare_list(&mut self, key: &'static str) -> bool {
        let is_bare = |node: &Node| matches!(&node.value, Value::List(items) if items.is_empty());
        self.find(key).is_some_and(|(entry, _)| is_bare(&entry.node))
    }

    /// Returns where the value of `key` stands, or this section where it is not written.
    pub(super) fn location(&self, key: &str) -> Location {
        self.entry(key).map_or_else(|| self.location.clone(), |(_, location)| location)
    }

    /// Returns where `key` stands in the section under `section`, if it is written there.
    pub(super) fn location_within(&self, section: &str, key: &str) -> Option<Location> {
        self.layers.iter().find_map(|layer| {
            let Value::Map(map) = &layer.map.get(section)?.node.value else { return None };
            let entry = map.get(key)?;
            let path = Location { path: layer.path.path_of(section), span: entry.node.span };
            Some(Location { path: path.path_of(key), ..path })
        })
    }

    /// Reports an error at a location that was found before.
    pub(super) fn error_in(&self, location: Location, message: impl Into<String>) {
        self.problems.error(location, message);
    }

    /// Reports a warning at a location that was found before.
    pub(super) fn warn_in(&self, location: Location, message: impl Into<String>) {
        self.problems.warning(location, message);
    }

    /// Reports an error of this section as a whole.
    pub(super) fn error(&self, message: impl Into<String>) {
        if !self.is_unfit {
            self.problems.error(self.location.clone(), message);
        }
    }

    /// Reports a warning about this section as a whole.
    pub(super) fn warn(&self, message: impl Into<String>) {
        if !self.is_unfit {
            self.problems.warning(self.location.clone(), message);
        }
    }

    /// Reports an error of the value of `key`.
    pub(super) fn error_at(&self, key: &str, message: impl Into<String>) {
        self.problems.error(self.location(key), message);
    }

    /// Reports a warning about the value of `key`.
    pub(super) fn warn_at(&self, key: &str, message: impl Into<String>) {
        self.problems.warning(self.location(key), message);
    }

    /// Reports a warning about the value of `key` if it is written here. A default may be meant for other
    /// entries.
    pub(super) fn warn_own(&self, key: &str, message: impl Into<String>) {
        if self.own.is_some_and(|own| own.contains_key(key)) {
            self.warn_at(key, message);
        }
    }

    /// Reports every key of this section that was not asked for. Unknown keys of the defaults are reported
    /// where the defaults themselves are read.
    pub(super) fn finish(self) {
        for (key, entry) in self.own.into_iter().flatten().filter(|(key, _)| !key.is_empty()) {
            if self.known.contains(&key.as_str()) {
                continue;
            }
            let near =
                || nearest(key, self.known.iter().copied()).map(|near| format!("did you mean `{near}`?"));
            let remedy = hints::of_key(key, &self.known)
                .or_else(near)
                .unwrap_or_else(|| format!("known here: {}", self.known.join(", ")));
            let location = Location { path: self.location.path_of(key), span: entry.key };
            self.problems.error(location, format!("unknown key {}; {remedy}", quote(key)));
        }
    }

    fn know(&mut self, key: &'static str) {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
    }

    fn find(&mut self, key: &'static str) -> Option<(&'a Entry, Location)> {
        self.know(key);
        self.entry(key)
    }

    fn entry(&self, key: &str) -> Option<(&'a Entry, Location)> {
        self.layers.iter().find_map(|layer| {
            let entry = layer.map.get(key)?;
            let span = if matches!(entry.node.value, Value::Null) { entry.key } else { entry.node.span };
            Some((entry, Location { path: layer.path.path_of(key), span }))
        })
    }
}

/// Returns the name most like `word`, if one is near enough to be meant.
pub(super) fn nearest<'n>(word: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    /// No name is longer, and the cost grows with the length.
    const LONGEST: usize = 64;
    if word.len() > LONGEST {
        return None;
    }
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&word.to_lowercase(), name), name))
        .filter(|(distance, name)| *distance <= name.len().max(word.len()) / 3)
        .min()
        .map(|(_, name)| name)
}
