//! The parameters of a request: queries, bodies and accepted types.

use std::borrow::Cow;
use std::net::IpAddr;

use log::LevelFilter;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Number, Value};

use super::super::process::{ExplainQuery, SessionQuery};
use crate::base::limits::{SESSIONS_LISTED, SESSIONS_LISTED_MAX};
use crate::config::AdminState;

/// The levels, as a request writes them.
const LEVELS: [(&str, LevelFilter); 5] = [
    ("error", LevelFilter::Error),
    ("warn", LevelFilter::Warn),
    ("info", LevelFilter::Info),
    ("debug", LevelFilter::Debug),
    ("trace", LevelFilter::Trace),
];

/// Reads the query of `/v1/sessions`. Fails with the answer to the operator.
pub(super) fn sessions(query: &str) -> Result<SessionQuery, String> {
    let mut wanted = SessionQuery::default();
    let known = "`limit`, `after`, `listener`, `backend` and `client`";
    each(query, known, |key, value| {
        match key {
            "limit" => set(&mut wanted.limit, limit(value)?),
            "after" => set(&mut wanted.after, number(value)?),
            "listener" => set(&mut wanted.listener, value.to_owned()),
            "backend" => set(&mut wanted.backend, value.to_owned()),
            "client" => set(&mut wanted.client, address(value)?),
            _ => return Ok(false),
        }?;
        Ok(true)
    })?;
    wanted.limit.get_or_insert(SESSIONS_LISTED);
    Ok(wanted)
}

/// Reads the query of `/v1/explain`. Fails with the answer to the operator.
pub(super) fn explain(query: &str) -> Result<ExplainQuery, String> {
    let (mut client, mut listener, mut sni) = (None, None, None);
    each(query, "`client`, `listener` and `sni`", |key, value| {
        match key {
            "client" => set(&mut client, value.to_owned()),
            "listener" => set(&mut listener, value.to_owned()),
            "sni" => set(&mut sni, value.to_owned()),
            _ => return Ok(false),
        }?;
        Ok(true)
    })?;
    let client = client.ok_or("`client` is missing; write `?client=ADDRESS` or `?client=ADDRESS:PORT`")?;
    Ok(ExplainQuery { client, listener, sni })
}

/// Reads the body of `/v1/log-level`. Fails with the answer to the operator.
pub(super) fn level(body: &[u8]) -> Result<LevelFilter, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        level: String,
    }
    let remedy = "write {\"level\": \"debug\"}, or error, warn, info or trace";
    let body: Body = serde_json::from_slice(body)
        .map_err(|error| format!("the body is not as wanted: {error}; {remedy}"))?;
    let level = LEVELS.iter().find(|(name, _)| *name == body.level).map(|(_, level)| *level);
    level.ok_or_else(|| format!("`level` is {}; {remedy}", quote(&body.level)))
}

/// Values of a backend that a request sets, at least one of them.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Values {
    #[serde(default, deserialize_with = "whole")]
    pub(super) weight: Option<u32>,
    #[serde(default, deserialize_with = "given")]
    pub(super) state: Option<AdminState>,
    #[serde(default, deserialize_with = "whole")]
    pub(super) max_connections: Option<u32>,
}

/// Reads a state that is written; `null` is none.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<AdminState>, D::Error> {
    AdminState::deserialize(deserializer).map(Some)
}

/// Reads a number that is written; to JSON, 3.0 is a whole number, too.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let written = Number::deserialize(deserializer)?;
    let bounds = 0.0..=f64::from(u32::MAX);
    match written.as_f64().filter(|number| number.fract() == 0.0 && bounds.contains(number)) {
        Some(number) => Ok(Some(number as u32)),
        None => Err(D::Error::custom(format!("{written} is not a whole number from 0 to {}", u32::MAX))),
    }
}

/// Reads the body of `/v1/upstreams/UPSTREAM/backends/BACKEND`. Fails with the answer to the operator.
pub(super) fn values(body: &[u8]) -> Result<Values, String> {
    let remedy = "write {\"weight\": 3, \"state\": \"drain\", \"max_connections\": 100}, or some of it; `state` is \
                  ready, drain or maint";
    let values: Values = serde_json::from_slice(body)
        .map_err(|error| format!("the body is not as wanted: {error}; {remedy}"))?;
    if values == (Values { weight: None, state: None, max_connections: None }) {
        return Err(format!("the body sets nothing; {remedy}"));
    }
    Ok(values)
}

/// Reads the body of `/v1/upstreams/UPSTREAM/backends`, and returns it as an entry of a file. Fails with the answer to
/// the operator.
pub(super) fn entry(body: &[u8]) -> Result<String, String> {
    let entry: Map<String, Value> = serde_json::from_slice(body).map_err(|error| {
        format!(
            "the body is not as wanted: {error}; write an entry of `backends` as JSON, such as {{\"address\": \
             \"10.0.0.1\", \"port\": 80}}"
        )
    })?;
    Ok(Value::from(entry).to_string())
}

/// Returns whether OpenMetrics is wanted at least as much as plain text, by the header `Accept`.
pub(super) fn wants_open_metrics(accept: &str) -> bool {
    let open = weight(accept, "application/openmetrics-text");
    open > 0.0 && open >= weight(accept, "text/plain")
}

/// Returns whether YAML is wanted more than JSON, by the header `Accept`.
pub(super) fn wants_yaml(accept: &str) -> bool {
    let yaml = ["application/yaml", "application/x-yaml", "text/yaml"].map(|kind| weight(accept, kind));
    let yaml = yaml.into_iter().fold(0.0, f32::max);
    yaml > 0.0 && yaml >= weight(accept, "application/json")
}

/// Returns the weight of a media type that the header names itself, RFC 9110, 12.5.1.
fn weight(accept: &str, kind: &str) -> f32 {
    let weights = accept.split(',').filter_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(kind));
        let q = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        is_named.then(|| q.map_or(1.0, |q| q.parse().unwrap_or(0.0)))
    });
    weights.fold(0.0, f32::max)
}

/// Hands each parameter to `take`, which says whether it knows it.
fn each(
    query: &str,
    known: &str,
    mut take: impl FnMut(&str, &str) -> Result<bool, String>,
) -> Result<(), String> {
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        let (key, value): (Cow<'_, str>, Cow<'_, str>) = (key, value);
        let is_known = take(&key, &value).map_err(|rule| format!("`{key}` {rule}"))?;
        if !is_known {
            return Err(format!("there is no parameter {} here; known are {known}", quote(&key)));
        }
    }
    Ok(())
}

fn set<T>(place: &mut Option<T>, value: T) -> Result<(), String> {
    if place.replace(value).is_some() {
        return Err("is given twice; give it once".to_owned());
    }
    Ok(())
}

fn limit(text: &str) -> Result<usize, String> {
    let limit = text.parse().ok().filter(|limit| (1..=SESSIONS_LISTED_MAX).contains(limit));
    limit.ok_or_else(|| format!("is {}; write a whole number from 1 to {SESSIONS_LISTED_MAX}", quote(text)))
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("is {}; write the `next` of the page before", quote(text)))
}

fn address(text: &str) -> Result<IpAddr, String> {
    let ip: Result<IpAddr, _> = text.parse();
    ip.map(|ip| ip.to_canonical())
        .map_err(|_| format!("is {}; write an IP address without a port", quote(text)))
}

/// Quotes what a request says, shortened and without control characters.
pub(super) fn quote(text: &str) -> String {
    const SHOWN: usize = 64;
    let mut shown: String =
        text.chars().take(SHOWN).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_filtered_by_what_the_query_says() {
        let read = sessions("limit=5&after=9&listener=w%5B1%5D&backend=u/b&client=::ffff:10.0.0.1").unwrap();
        let wanted = SessionQuery {
            limit: Some(5),
            after: Some(9),
            listener: Some("w[1]".into()),
            backend: Some("u/b".into()),
            client: Some(IpAddr::from([10, 0, 0, 1])),
        };
        assert_eq!(read, wanted);
        assert_eq!(
            sessions("").unwrap(),
            SessionQuery { limit: Some(SESSIONS_LISTED), ..SessionQuery::default() }
        );
    }

    #[test]
    fn parameters_that_do_not_fit_are_named_with_a_remedy() {
        for (query, words) in [
            ("limit=0", "`limit` is `0`; write a whole number from 1 to 1000"),
            ("limit=1001", "write a whole number from 1 to 1000"),
            ("limit=", "`limit` is ``"),
            ("after=x", "`after` is `x`; write the `next` of the page before"),
            ("client=10.0.0.1:80", "write an IP address without a port"),
            ("limit=1&limit=2", "`limit` is given twice; give it once"),
            ("limits=1", "there is no parameter `limits` here; known are `limit`, `after`"),
            ("=", "there is no parameter ``"),
        ] {
            let error = sessions(query).unwrap_err();
            assert!(error.contains(words), "{query}: {error}");
        }
        assert!(explain("listener=a").unwrap_err().contains("`client` is missing; write `?client=ADDRESS`"));
        assert_eq!(explain("client=%5B::1%5D:5").unwrap().client, "[::1]:5");
        assert_eq!(explain("client=::1&sni=a.b").unwrap().sni.as_deref(), Some("a.b"));
        let long = sessions(&format!("{}=1", "x\u{7}".repeat(100))).unwrap_err();
        assert!(long.contains('…') && !long.contains('\u{7}'), "{long}");
    }

    #[test]
    fn level_is_one_of_five() {
        assert_eq!(level(br#"{"level": "warn"}"#), Ok(LevelFilter::Warn));
        for body in
            ["", "{}", "warn", r#"{"level": "off"}"#, r#"{"level": 3}"#, r#"{"level": "warn", "for": 1}"#]
        {
            assert!(level(body.as_bytes()).unwrap_err().contains("write {\"level\": \"debug\"}"), "{body}");
        }
    }

    #[test]
    fn values_of_a_backend_are_any_of_three() {
        let set = |weight, state, max_connections| Ok(Values { weight, state, max_connections });
        assert_eq!(values(br#"{"weight": 3}"#), set(Some(3), None, None));
        assert_eq!(values(br#"{"max_connections": 4294967295.0}"#), set(None, None, Some(u32::MAX)));
        let all = br#"{"state": "maint", "max_connections": 0, "weight": 0}"#;
        assert_eq!(values(all), set(Some(0), Some(AdminState::Maint), Some(0)));
        for body in [
            "",
            "{}",
            "[]",
            "null",
            r#"{"weight": null}"#,
            r#"{"weight": "3"}"#,
            r#"{"weight": -1}"#,
            r#"{"weight": 1.5}"#,
            r#"{"weight": 3, "backup": true}"#,
            r#"{"state": "down"}"#,
            r#"{"max_connections": 4294967296}"#,
        ] {
            let error = values(body.as_bytes()).unwrap_err();
            assert!(error.contains("`state` is ready, drain or maint"), "{body}: {error}");
        }
    }

    #[test]
    fn an_entry_is_an_object() {
        assert_eq!(
            entry(
                br#" {"address": "::1",
            "port": 80} "#
            ),
            Ok(r#"{"address":"::1","port":80}"#.to_owned())
        );
        for body in ["", "[]", "\"10.0.0.1:80\"", "{\"a\": 1} x", "address: a"] {
            assert!(
                entry(body.as_bytes()).unwrap_err().contains("write an entry of `backends` as JSON"),
                "{body}"
            );
        }
    }

    #[test]
    fn formats_are_chosen_by_name_and_weight() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        assert!(wants_open_metrics(prometheus));
        assert!(wants_open_metrics("Application/OpenMetrics-Text"));
        for accept in [
            "",
            "*/*",
            "text/plain",
            "application/openmetrics-text;q=0",
            "text/plain, application/openmetrics-text;q=0.5",
        ] {
            assert!(!wants_open_metrics(accept), "{accept}");
        }
        assert!(wants_yaml("application/yaml") && wants_yaml("text/yaml, application/json;q=0.9"));
        assert!(
            !wants_yaml("") && !wants_yaml("*/*") && !wants_yaml("application/json, application/yaml;q=0.5")
        );
    }
}
