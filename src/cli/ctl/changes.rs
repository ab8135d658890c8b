//! Changes of what runs: how they are ordered on the command line, and how they are shown.

use std::str::FromStr;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::super::api::encoded;
use super::super::grid::harmless;
use crate::config::{AdminState, Change};
use crate::control::command::Applied;

/// A backend by the name of its upstream and its own; the first slash is between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendName {
    upstream: String,
    backend: String,
}

impl FromStr for BackendName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((upstream, backend)) if !upstream.is_empty() && !backend.is_empty() => {
                Ok(Self { upstream: upstream.to_owned(), backend: backend.to_owned() })
            }
            _ => Err("write UPSTREAM/BACKEND, as `ringway ctl backends` shows it"),
        }
    }
}

impl BackendName {
    /// Returns its path in the admin API.
    pub(super) fn path(&self) -> String {
        format!("{}/{}", backends_path(&self.upstream), encoded(&self.backend))
    }
}

/// Returns the path of the backends of an upstream in the admin API.
pub(super) fn backends_path(upstream: &str) -> String {
    format!("/v1/upstreams/{}/backends", encoded(upstream))
}

/// A value of a backend and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    key: &'static str,
    value: Value,
}

/// Reads a value of a backend that runs.
///
/// # Errors
///
/// It has no such key, or the key no such value.
pub(super) fn of_running(text: &str) -> Result<Setting, String> {
    setting(text, &["weight", "state", "max_connections"])
}

/// Reads a value of a backend that is added.
///
/// # Errors
///
/// It has no such key, or the key no such value.
pub(super) fn of_entry(text: &str) -> Result<Setting, String> {
    setting(text, &["name", "weight", "max_connections", "backup"])
}

fn setting(text: &str, keys: &[&'static str]) -> Result<Setting, String> {
    let split = text.split_once('=').and_then(|(key, value)| {
        let key = keys.iter().find(|known| **known == key)?;
        Some((*key, value))
    });
    let (key, value) = split.ok_or_else(|| format!("write KEY=VALUE with one of {}", keys.join(", ")))?;
    let value = match key {
        "name" => Value::from(value),
        "state" if AdminState::ALL.iter().any(|(name, _)| *name == value) => Value::from(value),
        "state" => return Err("write ready, drain or maint".to_owned()),
        "backup" => Value::from(value.parse::<bool>().map_err(|_| "write true or false")?),
        _ => Value::from(value.parse::<u32>().map_err(|_| "write a whole number")?),
    };
    Ok(Setting { key, value })
}

/// Returns values as an object; fails with a key that is given twice.
pub(super) fn object(values: &[Setting]) -> Result<Map<String, Value>, &'static str> {
    let mut object = Map::new();
    for Setting { key, value } in values {
        if object.insert((*key).to_owned(), value.clone()).is_some() {
            return Err(key);
        }
    }
    Ok(object)
}

/// The answer of `/v1/diff`.
#[derive(Deserialize)]
pub(super) struct Differences {
    changes: Vec<Change>,
}

impl Differences {
    /// Returns the answer as lines.
    pub(super) fn lines(&self) -> Vec<String> {
        lines(&self.changes, "the file says what runs")
    }
}

/// Returns what was changed as lines, the last of which is the generation.
pub(super) fn applied(applied: &Applied) -> Vec<String> {
    let mut lines = lines(&applied.changes, "nothing has changed");
    lines.push(format!("generation {}", applied.generation));
    lines
}

fn lines(changes: &[Change], none: &str) -> Vec<String> {
    if changes.is_empty() {
        return vec![none.to_owned()];
    }
    changes.iter().map(|change| harmless(&change.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_slash_stands_between_upstream_and_backend() {
        for (text, path) in [
            ("web/a", "/v1/upstreams/web/backends/a"),
            ("web/[::1]:80", "/v1/upstreams/web/backends/%5B%3A%3A1%5D%3A80"),
            ("web/a/b", "/v1/upstreams/web/backends/a%2Fb"),
        ] {
            assert_eq!(text.parse::<BackendName>().unwrap().path(), path);
        }
        for text in ["", "web", "/a", "web/"] {
            assert!(text.parse::<BackendName>().unwrap_err().contains("UPSTREAM/BACKEND"), "{text}");
        }
    }

    #[test]
    fn values_have_their_types() {
        let read: Vec<_> =
            ["weight=3", "state=drain", "max_connections=0"].map(|text| of_running(text).unwrap()).into();
        assert_eq!(
            Value::from(object(&read).unwrap()),
            json!({"weight": 3, "state": "drain", "max_connections": 0})
        );
        let read: Vec<_> = ["name=a=b", "backup=true"].map(|text| of_entry(text).unwrap()).into();
        assert_eq!(Value::from(object(&read).unwrap()), json!({"name": "a=b", "backup": true}));
        assert_eq!(object(&[read[1].clone(), read[1].clone()]), Err("backup"));
        for (text, words) in [
            ("weight", "write KEY=VALUE with one of weight, state, max_connections"),
            ("backup=true", "write KEY=VALUE with one of weight, state"),
            ("weight=-1", "write a whole number"),
            ("weight=", "write a whole number"),
            ("state=up", "write ready, drain or maint"),
        ] {
            assert!(of_running(text).unwrap_err().contains(words), "{text}");
        }
        assert!(of_entry("backup=yes").unwrap_err().contains("write true or false"));
    }

    #[test]
    fn changes_are_a_line_each_and_the_generation_the_last() {
        let change = |what: &str, before: Option<&str>, after: Option<&str>| Change {
            what: what.to_owned(),
            before: before.map(str::to_owned),
            after: after.map(str::to_owned),
        };
        let changes = vec![
            change("listeners.web", None, Some(":80, upstream web")),
            change("upstreams.web.backends.a", Some("10.0.0.1:80"), None),
            change("upstreams.web.backends.b.weight", Some("1"), Some("3")),
            change("logging.target", Some("stderr"), Some("/\u{1b}[2J")),
        ];
        assert_eq!(
            applied(&Applied { generation: 2, changes }),
            [
                "+ listeners.web: :80, upstream web",
                "- upstreams.web.backends.a: 10.0.0.1:80",
                "~ upstreams.web.backends.b.weight: 1 -> 3",
                "~ logging.target: stderr -> /\\u{1b}[2J",
                "generation 2",
            ]
        );
        assert_eq!(
            applied(&Applied { generation: 2, changes: Vec::new() }),
            ["nothing has changed", "generation 2"]
        );
        assert_eq!(Differences { changes: Vec::new() }.lines(), ["the file says what runs"]);
    }
}
