//! docs/CONFIGURATION.md has a row for each key, and every cell of it is what the code does.
//!
//! Set-up: a file that makes the schema ask for every key is read while each key that is asked for is
//! recorded, with what its reader says of a text that it refuses. Claim: the value of a row is what the
//! reader says may be written, the default is the one in force, and the sentence is the comment of the field
//! in the model.

use std::collections::BTreeMap;

use serde_yaml::Value;

use super::*;

/// Every key of the long form is asked for; the first upstream writes what is required and nothing else.
const FILE: &str = "
listeners:
  - {name: a, address: ':1', upstream: a}
  - {name: b, address: ':2', upstream: a, tcp: {keepalive: {}}, rate_limit: {rate: 1/s}, per_source: {rate: 1/s},
     sni: {routes: [{match: x.y, upstream: b}]}, tls: {certificates: [{certificate: c, key: k}]}}
upstreams:
  - {name: a, backends: [{address: h, port: 1}]}
  - {name: b, backends: [{address: h, port: 1}], healthcheck: {type: http}, tcp: {keepalive: {}}}
  - {name: c, backends: [{address: h, port: 1}], healthcheck: {type: tls}}
  - name: d
    backends: [{address: h, port: 1}]
    healthcheck: {type: send_expect, steps: [{send: a, expect: b}]}
    pool: {size: 1, reuse: reset, clients: trusted, reset: {send: a, expect: b}}
  - {name: e, backends: [{address: h, port: 1}], healthcheck: {type: postgres}}
  - {name: f, backends: [{address: h, port: 1}], healthcheck: {type: mysql}}
  - {name: g, backends: [{address: h, port: 1}], healthcheck: {type: smtp}, tls: {}}
";

/// Defaults that are no value, or follow other keys: `{}` stands for the value in force.
const DEFAULTS: [(&str, &str); 29] = [
    ("listeners[].allow", "`off`"),
    ("listeners[].deny", "`off`"),
    ("listeners[].per_source.burst", "what `rate` gives in a second"),
    ("listeners[].per_source.ipv4_prefix", "`32`"),
    ("listeners[].per_source.ipv6_prefix", "`64`"),
    ("listeners[].per_source.max_connections", "`0`"),
    ("listeners[].per_source.rate", "`off`"),
    ("listeners[].proxy_protocol.trusted", "`off`"),
    ("listeners[].rate_limit.burst", "what `rate` gives in a second"),
    ("listeners[].rate_limit.rate", "required in a section"),
    ("listeners[].tcp.keepalive.interval", "the least of `{}`, `idle` and a third of `user_timeout`"),
    ("listeners[].tls.alpn", "`off`"),
    ("listeners[].tls.client_crl", "`off`"),
    ("listeners[].timeouts.client_idle", "that of `backend_idle`, else `{}`"),
    ("upstreams[].backends[].name", "`ADDRESS:PORT`"),
    ("upstreams[].backends[].port", "required, unless in `address`"),
    ("upstreams[].healthcheck.fast_interval", "`{}`, or `interval` if that is shorter"),
    (
        "upstreams[].healthcheck.host",
        "the backend's host name or address; for `http` with its port unless that is the usual one, and `localhost` for \
         `unix:`; the name of the backend's certificate where the upstream has `tls`; `localhost` for `smtp`",
    ),
    ("upstreams[].healthcheck.port", "the backend's"),
    ("upstreams[].healthcheck.steps", "required for `send_expect`"),
    ("upstreams[].healthcheck.steps[].expect", "none"),
    ("upstreams[].healthcheck.steps[].send", "none"),
    ("upstreams[].healthcheck.user", "none"),
    ("upstreams[].source", "`off`"),
    ("upstreams[].tcp.keepalive.interval", "the least of `{}`, `idle` and a third of `user_timeout`"),
    ("upstreams[].tls.certificate", "none"),
    ("upstreams[].tls.key", "none"),
    ("upstreams[].tls.server_name", "`off`"),
    ("upstreams[].timeouts.backend_idle", "that of `client_idle`, else `{}`"),
];

const MODEL: [&str; 9] = [
    include_str!("../model/mod.rs"),
    include_str!("../model/admission.rs"),
    include_str!("../model/process.rs"),
    include_str!("../model/listener.rs"),
    include_str!("../model/proxy.rs"),
    include_str!("../model/sni.rs"),
    include_str!("../model/tls.rs"),
    include_str!("../model/upstream.rs"),
    include_str!("../model/healthcheck.rs"),
];

#[test]
fn reference_says_what_the_code_does_in_every_cell() {
    let (parsed, keys) = recorded(|| parse("f", FILE.as_bytes()).unwrap_or_else(|report| panic!("{report}")));
    let config: Value = serde_yaml::from_str(&parsed.config.to_yaml()).expect("YAML");
    let (rows, sentences) = (rows(), sentences());
    let mut wrong = Vec::new();
    for (path, key) in &keys {
        let value = &key.value;
        if !path.contains('.') {
            let sentence = format!("## `{path}[]`\n\n`{path}` is {value}.");
            assert!(REFERENCE.contains(&sentence), "docs/CONFIGURATION.md; write {sentence}");
            continue;
        }
        let in_force = default_of(&config, path).unwrap_or_default();
        let default = match DEFAULTS.iter().find(|(known, _)| known == path) {
            Some((_, words)) => words.replace("{}", &in_force),
            None if key.is_required => "required".to_owned(),
            None => format!("`{in_force}`"),
        };
        let name = section_of(path).map_or("", |section| &path[section.len() + 1..]);
        let sentence = sentences.get(path).unwrap_or_else(|| panic!("no comment in the model for {path}"));
        let expected = [format!("`{name}`"), value.clone(), default, sentence.clone()];
        if rows.get(path).is_none_or(|row| row[..] != expected) {
            wrong.push(format!("{path}:\n| {} |", expected.join(" | ")));
        }
    }
    let gone: Vec<_> = rows.keys().filter(|path| !keys.contains_key(*path)).collect();
    assert!(
        wrong.is_empty() && gone.is_empty(),
        "docs/CONFIGURATION.md; write\n{}\nno such keys: {gone:?}",
        wrong.join("\n")
    );
}

#[test]
fn example_has_every_key_and_ranges_of_the_code() {
    let (_, keys) = recorded(|| parse("f", FILE.as_bytes()).is_ok());
    let commented = EXAMPLE.replace("# ", "");
    for path in keys.keys() {
        let key = path.rsplit('.').next().unwrap_or_default();
        let is_written = |text: &str| {
            let before = |at| text[..at].chars().next_back().is_none_or(|c| " {\n#".contains(c));
            text.match_indices(&format!("{key}:")).any(|(at, _)| before(at))
        };
        assert!(is_written(&commented), "configs/example.yaml does not show {path}");
    }
    for line in EXAMPLE.lines() {
        let words: Vec<&str> = line.split([' ', ',', ';']).collect();
        let numbers = |range: &&[&str]| {
            [range[0], range[2]].iter().all(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        };
        for range in words.windows(3).filter(|range| range[1] == "to").filter(numbers) {
            let key = format!(
                ".{}",
                line.trim_start_matches([' ', '#', '-']).split(':').next().unwrap_or_default()
            );
            let values = keys.iter().filter(|(path, _)| path.ends_with(&key)).map(|(_, key)| &key.value);
            let is_in_force = values.into_iter().any(|value| value.contains(&range.join(" ")));
            assert!(is_in_force, "configs/example.yaml: {}", range.join(" "));
        }
    }
}

/// What a section is asked about a key.
pub(in super::super) enum Asked {
    /// A value, of which this is said where it does not fit.
    Value(String),
    /// A value that must be there.
    Required,
}

impl Asked {
    /// A value, of which a reader said this; a reader that takes the text is noticed while keys are recorded.
    pub(in super::super) fn refused<T>(read: Result<T, String>) -> Self {
        Self::Value(read.err().unwrap_or_default())
    }
}

/// A key that was asked for.
#[derive(Default)]
struct Key {
    /// What may be written.
    value: String,
    is_required: bool,
}

/// A hint that sends an operator to another section names one that has the key.
#[test]
fn hints_know_where_keys_are() {
    let (_, keys) = recorded(|| parse("f", FILE.as_bytes()).is_ok());
    let is_key = |path: &str| keys.keys().any(|key| key == path || key.starts_with(&format!("{path}.")));
    for (_, long, names) in hints::HOMES.iter().filter(|(_, _, names)| *names != "listen_address") {
        for name in names.split(' ') {
            let sections = long.split('`').skip(1).step_by(2).map(|section| format!("{section}.{name}"));
            let sections: Vec<_> =
                if long.contains('`') { sections.collect() } else { vec![name.to_owned()] };
            assert!(sections.iter().all(|path| is_key(path)), "{sections:?}");
        }
    }
    let top = hints::TOP_KEYS.replace(' ', "` `");
    assert!(
        REFERENCE.contains(&format!("| short | `loadbalancer` `{top}` `runtime` `logging` `admin` |")),
        "{top}"
    );
    for path in keys.keys() {
        let name = path.rsplit('.').next().unwrap_or_default();
        assert!(!hints::NOT_YET.split(' ').any(|key| key == name), "{path}");
    }
}

thread_local! {
    static RECORD: RefCell<Option<BTreeMap<String, Key>>> = const { RefCell::new(None) };
}

/// Notes a key that is asked for, if anybody records them.
pub(in super::super) fn record(path: String, asked: Asked) {
    RECORD.with_borrow_mut(|record| {
        // The defaults have the same keys as the entries behind which they stand.
        let Some(record) = record.as_mut().filter(|_| !path.starts_with("defaults")) else { return };
        let key = record.entry(without_positions(&path)).or_default();
        let Asked::Value(rule) = asked else {
            key.is_required = true;
            return;
        };
        let (_, rule) = rule.split_once(" is not ").unwrap_or_else(|| panic!("{path}: {rule}"));
        let rule = rule.split("; ").next().unwrap_or_default();
        if !key.value.split("; ").any(|known| known == rule) {
            let separator = if key.value.is_empty() { "" } else { "; " };
            key.value = format!("{}{separator}{rule}", key.value);
        }
    });
}

/// Returns a path with `[]` for each position in a list.
fn without_positions(path: &str) -> String {
    let parts = path.split('[').enumerate();
    let part = |(number, part): (usize, &str)| match part.split_once(']') {
        Some((_, rest)) if number > 0 => format!("[]{rest}"),
        _ => part.to_owned(),
    };
    parts.map(part).collect()
}

/// Runs `read`, and returns the keys that were asked for meanwhile with what may be written there.
fn recorded<T>(read: impl FnOnce() -> T) -> (T, BTreeMap<String, Key>) {
    RECORD.set(Some(BTreeMap::new()));
    let value = read();
    (value, RECORD.take().expect("recording"))
}

/// Returns the default in force as the file would write it, where it is a value.
fn default_of(config: &Value, path: &str) -> Option<String> {
    let (first, rest) = path.split_once('.')?;
    let entries = match config.get(first.trim_end_matches("[]"))? {
        Value::Sequence(entries) => entries.clone(),
        section => vec![section.clone()],
    };
    let find = |entry: &Value| {
        let at = |node: Value, key: &str| {
            let node = node.get(key.trim_end_matches("[]"))?;
            Some(if key.ends_with("[]") { node.get(0)?.clone() } else { node.clone() })
        };
        rest.split('.').try_fold(entry.clone(), at)
    };
    Some(match entries.iter().find_map(find)? {
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(value) => value,
        // The time alone, which is the same; or a section, which is off if its first value is 0 or off.
        Value::Mapping(section) => match section.get("idle") {
            Some(idle) => idle.as_str()?.to_owned(),
            None if section.values().next()?.as_u64() == Some(0) => "off".to_owned(),
            None if section.values().next()?.as_str() == Some("off") => "off".to_owned(),
            None => "on".to_owned(),
        },
        _ => return None,
    })
}

/// Returns the path of the section of the page that has the key: the longest heading that it begins with.
fn section_of(path: &str) -> Option<&'static str> {
    let is_above = |section: &&str| path.strip_prefix(*section).is_some_and(|rest| rest.starts_with('.'));
    headings().filter(is_above).max_by_key(|section| section.len())
}

fn headings() -> impl Iterator<Item = &'static str> {
    REFERENCE.lines().filter_map(heading)
}

fn heading(line: &'static str) -> Option<&'static str> {
    line.starts_with("##").then(|| line.split('`').nth(1)).flatten()
}

/// Returns the rows of all tables of keys by the paths of their keys.
fn rows() -> BTreeMap<String, Vec<String>> {
    let mut rows = BTreeMap::new();
    let (mut section, mut is_table) = ("", false);
    for line in REFERENCE.lines() {
        section = heading(line).unwrap_or(section);
        is_table = line.starts_with("| key |") || (is_table && line.starts_with('|'));
        let cells: Vec<String> = line.trim_matches(['|', ' ']).split(" | ").map(str::to_owned).collect();
        if is_table && cells[0].starts_with('`') {
            rows.insert(format!("{section}.{}", cells[0].trim_matches('`')), cells);
        }
    }
    rows
}

/// A field of the model: its key, the first paragraph of its comment, the name of its type and whether it is
/// a list.
struct Field {
    key: String,
    sentence: String,
    kind: String,
    is_list: bool,
    is_flat: bool,
}

/// Returns the sentences of all keys by their paths.
fn sentences() -> BTreeMap<String, String> {
    fn walk(types: &BTreeMap<&str, Vec<Field>>, kind: &str, at: &str, found: &mut BTreeMap<String, String>) {
        for field in types.get(kind).into_iter().flatten() {
            let path = if at.is_empty() { field.key.clone() } else { format!("{at}.{}", field.key) };
            found.entry(path.clone()).or_insert_with(|| field.sentence.clone());
            let below = if field.is_list { format!("{path}[]") } else { path };
            walk(types, &field.kind, if field.is_flat { at } else { &below }, found);
        }
    }
    let mut types = BTreeMap::new();
    for source in MODEL {
        read_types(source, &mut types);
    }
    let mut found = BTreeMap::new();
    walk(&types, "Config", "", &mut found);
    found
}

/// Reads the fields of all types in a file of the model, those of the variants of an enum with the others.
fn read_types(source: &'static str, types: &mut BTreeMap<&'static str, Vec<Field>>) {
    let (mut kind, mut sentence, mut is_over, mut attributes) = ("", String::new(), false, String::new());
    for line in source.lines().map(str::trim) {
        let item = line.trim_start_matches("pub ");
        if let Some(text) = line.strip_prefix("///") {
            is_over |= text.is_empty();
            if !is_over {
                sentence.push_str(if sentence.is_empty() { text.trim() } else { text });
            }
            continue;
        } else if line.starts_with("#[") {
            attributes.push_str(line);
            continue;
        } else if let Some(rest) = item.strip_prefix("struct ").or_else(|| item.strip_prefix("enum ")) {
            kind = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        } else if let Some((name, of)) = field(item) {
            let named =
                |attribute| attributes.split_once(attribute).and_then(|(_, rest)| rest.split('"').next());
            let key = named("rename = \"").unwrap_or(if name == "kind" { "type" } else { name });
            let mut words = of.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
            types.entry(kind).or_default().push(Field {
                key: key.to_owned(),
                sentence: std::mem::take(&mut sentence),
                is_list: of.contains("Vec<") || of.contains('['),
                is_flat: attributes.contains("flatten") || name.is_empty(),
                kind: words.next_back().unwrap_or_default().to_owned(),
            });
        }
        (sentence, is_over, attributes) = (String::new(), false, String::new());
    }
}

/// Returns name and type of a field, or of a variant that has the fields of a type.
fn field(item: &str) -> Option<(&str, &str)> {
    let item = item.strip_suffix(',')?;
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    match item.split_once(": ") {
        Some((name, kind)) if is_name(name) => Some((name, kind)),
        _ => item.strip_suffix(')')?.split_once('(').map(|(_, kind)| ("", kind)),
    }
}
