//! Changes that operators make at run time, beside the file.
//!
//! An [`Overlay`] holds the edits in force, and makes of the file's configuration the one that runs. It outlives
//! the file that it was made for: of each value it knows what the file said then, so that a later word of the
//! file wins.
//!
//! Invariants: what [`Overlay::apply`] returns is as valid as a file; an edit that would break that is refused
//! whole.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::changes::{self, Change};
use super::model::{AdminState, Backend, Config, Upstream};
use super::report::{Location, Problems, Report, Severity, quote};
use super::section::nearest;
use super::{parse_printed, schema, tree, within_size};
use crate::base::limits;

/// A change at run time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Edit {
    /// Sets values of a backend; the others stay.
    Set {
        /// The upstream.
        upstream: String,
        /// The backend.
        backend: String,
        /// Share of new sessions; 0 takes none.
        weight: Option<u32>,
        /// What is wanted of it.
        state: Option<AdminState>,
        /// Sessions at a time; 0 sets no limit.
        max_connections: Option<u32>,
    },
    /// Adds a backend.
    Add {
        /// The upstream.
        upstream: String,
        /// The backend as YAML or JSON, as an entry of `backends:`.
        entry: String,
    },
    /// Removes a backend; its open sessions are drained.
    Remove {
        /// The upstream.
        upstream: String,
        /// The backend.
        backend: String,
    },
}

impl Edit {
    /// Returns the upstream whose backends it changes.
    #[must_use]
    pub fn upstream(&self) -> &str {
        match self {
            Self::Set { upstream, .. } | Self::Add { upstream, .. } | Self::Remove { upstream, .. } => {
                upstream
            }
        }
    }
}

/// The edits in force. As JSON it goes from a process to its successor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overlay {
    upstreams: BTreeMap<String, Edits>,
}

impl Overlay {
    /// Adds an edit to those in force for the configuration of the file.
    ///
    /// # Errors
    ///
    /// Fails with a sentence for each reason; then nothing is changed.
    pub fn edit(&mut self, file: &Config, edit: Edit) -> Result<(), Vec<String>> {
        let mut next = self.clone();
        let running = next.apply(file);
        let upstream = found("upstream", edit.upstream(), &file.upstreams, |upstream| &upstream.name)?;
        let now = running.upstreams.iter().find(|running| running.name == upstream.name);
        let now = now.map_or(&upstream.backends[..], |upstream| &upstream.backends);
        let edits = next.upstreams.entry(upstream.name.clone()).or_default();
        match edit {
            Edit::Set { backend, weight, state, max_connections, .. } => {
                let backend = backend_of(upstream, &backend, now)?;
                edits.set(upstream, backend, &Wanted { weight, state, max_connections })?;
            }
            Edit::Add { entry, .. } => edits.add(upstream, read(&upstream.name, &entry)?, now)?,
            Edit::Remove { backend, .. } => edits.remove(upstream, backend_of(upstream, &backend, now)?),
        }
        some_weight(upstream, &edits.over(upstream))?;
        if edits.is_empty() {
            next.upstreams.remove(&upstream.name);
        }
        valid(&next.over(file))
            .map_err(|report| reasons(&report, |_| format!("upstreams.{}", upstream.name)))?;
        *self = next;
        Ok(())
    }

    /// Returns the configuration that runs: the file's with the edits. Edits whose backend is gone from the
    /// file, or on which the file has had a later word, are no longer in force.
    pub fn apply(&mut self, file: &Config) -> Config {
        let of_file = |name: &str| file.upstreams.iter().find(|upstream| upstream.name == name);
        self.upstreams.retain(|name, edits| {
            of_file(name).is_some_and(|upstream| edits.keep_what_the_file_allows(upstream))
        });
        if self.upstreams.is_empty() {
            return file.clone();
        }
        let config = self.over(file);
        if valid(&config).is_ok() {
            return config;
        }
        // The file contradicts some edits, and wins: they are dropped by the upstream.
        let mut kept = Self::default();
        for (name, edits) in std::mem::take(&mut self.upstreams) {
            kept.upstreams.insert(name.clone(), edits);
            if valid(&kept.over(file)).is_err() {
                kept.upstreams.remove(&name);
            }
        }
        *self = kept;
        self.over(file)
    }

    /// Returns what a file would have to say so that it runs as it does with the edits. An added backend is
    /// its whole entry.
    #[must_use]
    pub fn differences(&self, file: &Config) -> Vec<Change> {
        let mut edits = self.clone();
        let mut differences = changes::changes(file, &edits.apply(file));
        for (name, edits) in &edits.upstreams {
            for added in &edits.added {
                let what = format!("upstreams.{name}.backends.{}", added.name);
                let entry = serde_yaml::from_str(&added.entry).unwrap_or_default();
                let known =
                    differences.iter_mut().find(|change| change.what == what && change.before.is_none());
                if let Some(change) = known {
                    change.after = Some(changes::text(&entry));
                }
            }
        }
        differences
    }

    /// Returns the configuration of the file with all edits.
    fn over(&self, file: &Config) -> Config {
        let mut config = file.clone();
        for upstream in &mut config.upstreams {
            if let Some(edits) = self.upstreams.get(&upstream.name) {
                upstream.backends = edits.over(upstream);
            }
        }
        config
    }
}

/// The edits of one upstream. No backend that is removed has values here, and no name is added twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Edits {
    /// Of backends of the file.
    set: BTreeMap<String, Values>,
    /// Backends of the file.
    removed: BTreeSet<String>,
    /// In the order in which they were added, which is theirs in the upstream, behind those of the file.
    added: Vec<Added>,
}

/// The values that were set of a backend of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Values {
    weight: Option<SetNumber>,
    max_connections: Option<SetNumber>,
    state: AdminState,
}

/// A number that was set, and what the file said then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SetNumber {
    set: u32,
    file: u32,
}

/// What [`Edit::Set`] sets.
struct Wanted {
    weight: Option<u32>,
    state: Option<AdminState>,
    max_connections: Option<u32>,
}

/// A backend that was added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Added {
    name: String,
    /// It is read as an entry of `backends:`, so that no other form has to be understood by a later version.
    entry: String,
    #[serde(default)]
    state: AdminState,
}

impl Edits {
    fn set(&mut self, upstream: &Upstream, backend: &Backend, wanted: &Wanted) -> Result<(), Vec<String>> {
        let Wanted { weight, state, max_connections } = *wanted;
        let place = format!("upstreams.{}.backends.{}", upstream.name, backend.name);
        if weight.is_none() && state.is_none() && max_connections.is_none() {
            return Err(vec![format!("{place}: no value; give `weight`, `state` or `max_connections`")]);
        }
        if let Some(weight) = weight.filter(|weight| *weight > limits::WEIGHT_MAX) {
            let most = limits::WEIGHT_MAX;
            return Err(vec![format!("{place}.weight: `{weight}` is not a whole number from 0 to {most}")]);
        }
        if let Some(added) = self.added.iter_mut().find(|added| added.name == backend.name) {
            let mut backend = backend.clone();
            backend.weight = weight.unwrap_or(backend.weight);
            backend.max_connections = max_connections.map_or(backend.max_connections, NonZeroU32::new);
            backend.admin_state = state.unwrap_or(backend.admin_state);
            *added = Added::of(&backend);
            return Ok(());
        }
        let Some(of_file) = upstream.backends.iter().find(|of_file| of_file.name == backend.name) else {
            return Ok(());
        };
        let values = self.set.entry(backend.name.clone()).or_default();
        if let Some(weight) = weight {
            values.weight = SetNumber::unlike(weight, of_file.weight);
        }
        if let Some(most) = max_connections {
            values.max_connections = SetNumber::unlike(most, number(of_file.max_connections));
        }
        values.state = state.unwrap_or(values.state);
        self.set.retain(|_, values| *values != Values::default());
        Ok(())
    }

    fn add(&mut self, upstream: &Upstream, backend: Backend, now: &[Backend]) -> Result<(), Vec<String>> {
        let place = format!("upstreams.{}.backends.{}", upstream.name, backend.name);
        if now.iter().any(|other| other.name == backend.name) {
            return Err(vec![format!(
                "{place}: the name is already taken; give another `name`, or change that backend with `ringway ctl \
                 set`"
            )]);
        }
        let most = limits::BACKENDS_PER_UPSTREAM_MAX;
        if now.len() >= most {
            return Err(vec![format!(
                "{place}: the upstream has {most} backends, the most that fit; remove one"
            )]);
        }
        // What was removed comes back.
        if upstream.backends.contains(&backend) {
            self.removed.remove(&backend.name);
        } else {
            self.added.push(Added::of(&backend));
        }
        Ok(())
    }

    fn remove(&mut self, upstream: &Upstream, backend: &Backend) {
        self.added.retain(|added| added.name != backend.name);
        self.set.remove(&backend.name);
        if upstream.backends.iter().any(|of_file| of_file.name == backend.name) {
            self.removed.insert(backend.name.clone());
        }
    }

    /// Drops what the file has had a later word on. Returns whether anything is left.
    fn keep_what_the_file_allows(&mut self, upstream: &Upstream) -> bool {
        let of_file = |name: &str| upstream.backends.iter().find(|backend| backend.name == name);
        self.removed.retain(|name| of_file(name).is_some());
        self.set.retain(|name, values| {
            let Some(backend) = of_file(name) else { return false };
            values.weight = values.weight.filter(|weight| weight.is_over(backend.weight));
            values.max_connections =
                values.max_connections.filter(|most| most.is_over(number(backend.max_connections)));
            *values != Values::default()
        });
        let (set, removed) = (&mut self.set, &self.removed);
        self.added.retain(|added| {
            if of_file(&added.name).is_none() || removed.contains(&added.name) {
                return added.backend().is_some();
            }
            // Now it is the file's, which cannot say its state.
            if added.state != AdminState::Ready {
                set.entry(added.name.clone()).or_default().state = added.state;
            }
            false
        });
        !self.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.set.is_empty() && self.removed.is_empty() && self.added.is_empty()
    }

    /// Returns the backends of the upstream of the file with the edits.
    fn over(&self, upstream: &Upstream) -> Vec<Backend> {
        let of_file = upstream.backends.iter().filter(|backend| !self.removed.contains(&backend.name));
        let edited = of_file.map(|backend| {
            let mut backend = backend.clone();
            if let Some(values) = self.set.get(&backend.name) {
                backend.weight = values.weight.map_or(backend.weight, |weight| weight.set);
                backend.max_connections =
                    values.max_connections.map_or(backend.max_connections, |most| NonZeroU32::new(most.set));
                backend.admin_state = values.state;
            }
            backend
        });
        edited.chain(self.added.iter().filter_map(Added::backend)).collect()
    }
}

impl SetNumber {
    /// Returns a number that is not the file's; `None` if it is.
    fn unlike(set: u32, file: u32) -> Option<Self> {
        (set != file).then_some(Self { set, file })
    }

    /// Returns whether it is in force over what the file says now.
    fn is_over(&self, file: u32) -> bool {
        self.file == file
    }
}

impl Added {
    fn of(backend: &Backend) -> Self {
        // Text and numbers with text as keys can be written.
        let entry = serde_yaml::to_string(backend).unwrap_or_default();
        Self { name: backend.name.clone(), entry, state: backend.admin_state }
    }

    fn backend(&self) -> Option<Backend> {
        let mut backend = parse_entry(&self.entry).ok()?;
        backend.admin_state = self.state;
        Some(backend)
    }
}

/// Returns a limit as the file says it.
fn number(limit: Option<NonZeroU32>) -> u32 {
    limit.map_or(0, NonZeroU32::get)
}

/// Returns the object with this name, or a sentence about the name.
fn found<'o, T>(
    kind: &str,
    name: &str,
    objects: &'o [T],
    name_of: impl Fn(&T) -> &String,
) -> Result<&'o T, Vec<String>> {
    objects.iter().find(|object| name_of(object) == name).ok_or_else(|| {
        let remedy = match nearest(name, objects.iter().map(|object| name_of(object).as_str())) {
            Some(near) => format!("did you mean {}?", quote(near)),
            None => "`ringway ctl backends` lists them".to_owned(),
        };
        vec![format!("no {kind} is called {}; {remedy}", quote(name))]
    })
}

fn backend_of<'b>(upstream: &Upstream, name: &str, now: &'b [Backend]) -> Result<&'b Backend, Vec<String>> {
    let kind = format!("backend of the upstream {}", quote(&upstream.name));
    found(&kind, name, now, |backend| &backend.name)
}

/// Reads an entry that an operator gave.
fn read(upstream: &str, entry: &str) -> Result<Backend, Vec<String>> {
    parse_entry(entry).map_err(|report| {
        let place = |key: &str| match key {
            "" => format!("upstreams.{upstream}.backends[]"),
            key => format!("upstreams.{upstream}.backends[].{key}"),
        };
        reasons(&report, place)
    })
}

fn parse_entry(entry: &str) -> Result<Backend, Report> {
    let problems = Problems::default();
    let backend = match within_size(entry.as_bytes()).and_then(tree::decode) {
        Ok(text) => {
            let document = tree::parse(text, &problems);
            document.and_then(|document| schema::lone_backend(&document, &problems))
        }
        Err((span, message)) => {
            problems.error(Location::of_text(span), message);
            None
        }
    };
    let report = problems.into_report("entry", entry);
    match backend {
        Some(backend) if report.errors() == 0 => Ok(backend),
        _ => Err(report),
    }
}

/// Returns the errors of a report as sentences, each with its place by the path of its key.
fn reasons(report: &Report, place: impl Fn(&str) -> String) -> Vec<String> {
    let errors = report.problems().iter().filter(|problem| problem.severity == Severity::Error);
    errors.map(|problem| format!("{}: {}", place(&problem.path), problem.message)).collect()
}

/// Refuses backends of which none takes sessions.
fn some_weight(upstream: &Upstream, backends: &[Backend]) -> Result<(), Vec<String>> {
    if backends.iter().any(|backend| backend.weight > 0) {
        return Ok(());
    }
    let name = &upstream.name;
    Err(vec![format!(
        "upstreams.{name}: no backend with a weight above 0 would be left; raise the weight of another one first, \
         or add one; `state=drain` takes a backend out of service, too"
    )])
}

/// Reads a configuration as a file would be read: the rules between the keys hold for edits, too.
fn valid(config: &Config) -> Result<(), Report> {
    parse_printed(&config.to_yaml()).map(drop)
}
