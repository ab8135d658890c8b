//! Single values: numbers, durations, sizes, choices, names.
//!
//! A reader that refuses a text says that it "is not" what may be written there, range included, and after a
//! semicolon what to write instead. The words between are the column "value" of docs/CONFIGURATION.md; a test
//! compares them.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::hints;
use super::model::{
    AccessFilter, AccessFormat, ByteRate, CoreSelection, HashKey, LogFormat, LogTarget, OpenSessions,
    SourcePorts,
};
use super::report::quote;
use super::section::{Read, nearest};
use super::text::{AUTO, BYTES, MILLIS, OFF, duration_text, size_text};
use super::tree::{Node, Value};
use crate::balance::{self, Registered};
use crate::base::limits;

/// Returns the text of a single value.
pub(super) fn text(node: &Node) -> Read<&str> {
    match &node.value {
        Value::Scalar { text, .. } => Ok(text),
        Value::List(_) => Err("a list where a single value belongs".to_owned()),
        Value::Map(_) => Err("a section where a single value belongs".to_owned()),
        Value::Null => Err("no value; write one".to_owned()),
    }
}

/// Reads with `read`; `off` is `None`.
pub(super) fn off_or<T>(read: impl Fn(&Node) -> Read<T>) -> impl Fn(&Node) -> Read<Option<T>> {
    move |node| {
        if node.is_off() {
            return Ok(None);
        }
        let text = text(node).unwrap_or_default();
        read(node).map(Some).map_err(|message| match hints::switch(text) {
            Some(false) => format!("{} is not possible here; write `off`", quote(text)),
            _ => or(&message, text, OFF),
        })
    }
}

/// Adds a word to what a reader says of `text`: behind what may be written, or else at the end.
fn or(message: &str, text: &str, word: &str) -> String {
    let shown = quote(text);
    let rule = message.strip_prefix(&shown).filter(|rule| rule.starts_with(" is not "));
    let remedy = rule.and_then(|rule| rule.find("; ")).map_or(message.len(), |at| shown.len() + at);
    format!("{}, or `{word}`{}", &message[..remedy], &message[remedy..])
}

/// Lists words as alternatives: "`a`, `b` or `c`".
fn any_of<'w>(words: impl IntoIterator<Item = &'w str>) -> String {
    let quoted: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// Reads a switch: `true`, or `false` and `off`.
pub(super) fn boolean(node: &Node) -> Read<bool> {
    if node.is_off() {
        return Ok(false);
    }
    match text(node)? {
        "true" | "True" | "TRUE" => Ok(true),
        other => {
            let remedy = hints::switch(other).map_or_else(String::new, |on| format!("; write `{on}`"));
            Err(format!("{} is not `true`, `false` or `off`{remedy}", quote(other)))
        }
    }
}

/// Reads a whole number within `range`.
pub(super) fn number(range: RangeInclusive<u32>) -> impl Fn(&Node) -> Read<u32> {
    move |node| {
        let text = text(node)?;
        decimal(text).filter(|number| range.contains(number)).ok_or_else(|| {
            let rule =
                format!("{} is not a whole number from {} to {}", quote(text), range.start(), range.end());
            with_hint(rule, text)
        })
    }
}

/// Reads a whole number within `range`; `off` is 0.
pub(super) fn count(range: RangeInclusive<u32>) -> impl Fn(&Node) -> Read<u32> {
    move |node| off_or(number(range.clone()))(node).map(Option::unwrap_or_default)
}

/// Returns the rule, and why this text, which was meant as a number, breaks it.
fn with_hint(rule: String, text: &str) -> String {
    hints::of_number(text).map_or_else(|| rule.clone(), |hint| format!("{rule}; {hint}"))
}

/// Reads digits without the leading zero that YAML 1.1 takes for octal.
pub(super) fn decimal(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number: &u32| number.to_string() == text)
}

/// Reads a TCP port.
pub(super) fn port(node: &Node) -> Read<u16> {
    port_text(text(node)?)
}

/// Reads a TCP port from the text of a value or a part of it.
pub(super) fn port_text(text: &str) -> Read<u16> {
    let port = decimal(text).and_then(|number| u16::try_from(number).ok()).filter(|port| *port > 0);
    port.ok_or_else(|| {
        let rule = format!("{} is not a port from 1 to 65535", quote(text));
        let is_range =
            text.split_once('-').is_some_and(|(first, last)| decimal(first).and(decimal(last)).is_some());
        if is_range { format!("{rule}; a range needs an entry for each") } else { with_hint(rule, text) }
    })
}

/// Reads a number; 0 and `off` set no limit.
pub(super) fn limit(node: &Node) -> Read<Option<NonZeroU32>> {
    count(0..=u32::MAX)(node).map(NonZeroU32::new)
}

/// Reads with `read`; `auto` is `None`.
pub(super) fn auto_or<T>(read: impl Fn(&Node) -> Read<T>) -> impl Fn(&Node) -> Read<Option<T>> {
    move |node| {
        let text = text(node)?;
        if text == AUTO {
            return Ok(None);
        }
        read(node).map(Some).map_err(|message| or(&message, text, AUTO))
    }
}

/// Reads a power of two within `limits::BUFFERS_PER_CORE`.
pub(super) fn buffers(node: &Node) -> Read<u32> {
    let (text, range) = (text(node)?, limits::BUFFERS_PER_CORE);
    let rule = format!("{} is not a power of two from {} to {}", quote(text), range.start(), range.end());
    match decimal(text).filter(|count| range.contains(count)) {
        None => Err(with_hint(rule, text)),
        Some(count) if count.is_power_of_two() => Ok(count),
        Some(count) => Err(format!("{rule}; write {} or {}", 1 << count.ilog2(), count.next_power_of_two())),
    }
}

/// Reads a duration within the bounds of all durations.
pub(super) fn duration(node: &Node) -> Read<Duration> {
    duration_within(limits::DURATION_MIN..=limits::DURATION_MAX)(node)
}

/// Reads a duration within `range`, such as `250ms`, `30s`, `5m`, `1h` or `1h30m`.
pub(super) fn duration_within(range: RangeInclusive<Duration>) -> impl Fn(&Node) -> Read<Duration> {
    move |node| {
        let text = text(node)?;
        let shown = quote(text);
        if node.is_off() {
            return Err(format!("{shown} is not possible here; write a duration such as `30s`"));
        }
        let (shortest, longest) = (duration_text(*range.start()), duration_text(*range.end()));
        match parse_duration(text) {
            None => Err(format!("{shown} {}", no_duration(text, &range))),
            Some(value) if value < *range.start() => {
                Err(format!("{shown} is too short; write at least `{shortest}`"))
            }
            Some(value) if value > *range.end() => {
                Err(format!("{shown} is too long; write at most `{longest}`"))
            }
            Some(value) => Ok(value),
        }
    }
}

/// Says what is wrong with a text that is no duration, and what to write.
fn no_duration(text: &str, range: &RangeInclusive<Duration>) -> String {
    let (shortest, longest) = (duration_text(*range.start()), duration_text(*range.end()));
    let such = match range.contains(&Duration::from_millis(250)) {
        true => "such as `250ms`, `30s`, `5m` or `1h`".to_owned(),
        false => format!("of at least `{shortest}`, such as `30s` or `5m`"),
    };
    if text.starts_with('-') && text[1..].starts_with(|c: char| c.is_ascii_digit()) {
        return format!("is negative; write a duration {such}");
    }
    if let Some(ours) = hints::duration(text) {
        return format!(
            "is not a duration of whole numbers with units (h, m, s, ms) and no spaces; write `{ours}`"
        );
    }
    match text.parse::<f64>() {
        Ok(_) => format!("has no unit; write a duration {such}"),
        Err(_) => format!("is not a duration from {shortest} to {longest}; write one {such}"),
    }
}

/// Reads a time of keepalive, which the kernel counts in whole seconds.
pub(super) fn whole_seconds(node: &Node) -> Read<Duration> {
    let value = duration_within(Duration::from_secs(1)..=limits::KEEPALIVE_MAX)(node)?;
    if value.subsec_nanos() > 0 {
        return Err(format!(
            "`{}` is not a whole number of seconds; the kernel counts in seconds",
            duration_text(value)
        ));
    }
    Ok(value)
}

/// Reads numbers with units, each unit once and the largest first. A number that does not fit becomes the
/// longest duration there is, which every range refuses.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut units = MILLIS.iter();
    let (mut rest, mut millis) = (text, 0_u64);
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let letters =
            rest.len() - digits - rest[digits..].trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (number, unit) = (&rest[..digits], &rest[digits..digits + letters]);
        let (_, factor) = units.find(|(name, _)| *name == unit).filter(|_| digits > 0)?;
        let number = number.parse().unwrap_or(u64::MAX);
        millis = millis.saturating_add(number.saturating_mul(*factor));
        rest = &rest[digits + letters..];
    }
    (!text.is_empty()).then(|| Duration::from_millis(millis))
}

/// Reads a size within `range`, such as `16KiB` or `1MiB`, as bytes.
pub(super) fn size(range: RangeInclusive<u32>) -> impl Fn(&Node) -> Read<u32> {
    move |node| {
        let text = text(node)?;
        let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = BYTES.iter().find(|(name, _)| *name == &text[number.len()..]);
        let (least, most) = (size_text(*range.start()), size_text(*range.end()));
        let rule = format!("{} is not a size from {least} to {most}", quote(text));
        let (Some((_, factor)), Some(count)) = (unit, decimal(number)) else {
            let rule = format!("{rule}; write a number and B, KiB, MiB or GiB");
            return Err(with_hint(rule, number));
        };
        let bytes = u32::try_from(u64::from(count).saturating_mul(*factor)).unwrap_or(u32::MAX);
        if range.contains(&bytes) { Ok(bytes) } else { Err(rule) }
    }
}

/// Reads a rate of bytes, such as `10MiB/s`.
pub(super) fn byte_rate(node: &Node) -> Read<ByteRate> {
    let (text, range) = (text(node)?, limits::BYTE_RATE);
    let (least, most) = (size_text(*range.start()), size_text(*range.end()));
    let rule = format!("{} is not a rate of bytes from {least}/s to {most}/s", quote(text));
    let size = text.strip_suffix("/s").unwrap_or_default();
    let number = size.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = BYTES.iter().find(|(name, _)| *name == &size[number.len()..]);
    let (Some((_, factor)), Some(count)) = (unit, decimal(number)) else {
        return Err(format!("{rule}; write a number and B/s, KiB/s, MiB/s or GiB/s, such as `10MiB/s`"));
    };
    let bytes = u64::from(count).saturating_mul(*factor);
    ByteRate::new(bytes).filter(|_| range.contains(&bytes)).ok_or(rule)
}

/// Reads a whole percentage from 1 to 100 as a fraction; `off` is 0.
pub(super) fn fraction(node: &Node) -> Read<f64> {
    off_or(percent)(node).map(|percent| f64::from(percent.unwrap_or_default()) / 100.0)
}

/// Reads a whole percentage from 1 to 100.
pub(super) fn percent(node: &Node) -> Read<u32> {
    let text = text(node)?;
    let percent = text.strip_suffix('%').and_then(decimal).filter(|percent| (1..=100).contains(percent));
    percent.ok_or_else(|| format!("{} is not a percentage from 1% to 100%", quote(text)))
}

/// Reads one of a few words.
pub(super) fn one_of<T: Copy>(choices: &'static [(&'static str, T)]) -> impl Fn(&Node) -> Read<T> {
    move |node| {
        let text = text(node)?;
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == text) {
            return Ok(*choice);
        }
        Err(format!("{} is not {}", quote(text), any_of(choices.iter().map(|(name, _)| *name))))
    }
}

/// Words of `logging.level`.
pub(super) const LEVELS: &[(&str, log::LevelFilter)] = &[
    ("error", log::LevelFilter::Error),
    ("warn", log::LevelFilter::Warn),
    ("info", log::LevelFilter::Info),
    ("debug", log::LevelFilter::Debug),
    ("trace", log::LevelFilter::Trace),
];

/// Words of `hash_key`.
pub(super) const HASH_KEYS: &[(&str, HashKey)] =
    &[("source", HashKey::Source), ("source_port", HashKey::SourcePort), ("sni", HashKey::Sni)];

/// Words of `source_ports`.
pub(super) const SOURCE_PORTS: &[(&str, SourcePorts)] =
    &[("any", SourcePorts::Any), ("per_core", SourcePorts::PerCore)];

/// Words of `on_down` and `on_up`.
pub(super) const OPEN_SESSIONS: &[(&str, OpenSessions)] =
    &[("keep", OpenSessions::Keep), ("close", OpenSessions::Close)];

/// Words of `logging.format`.
pub(super) const FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];

pub(super) const ACCESS_FORMATS: &[(&str, AccessFormat)] =
    &[("tcplog", AccessFormat::Tcplog), ("json", AccessFormat::Json)];

pub(super) const ACCESS_FILTERS: &[(&str, AccessFilter)] =
    &[("all", AccessFilter::All), ("errors", AccessFilter::Errors)];

/// Reads `stderr` or the path of a file.
pub(super) fn log_target(node: &Node) -> Read<LogTarget> {
    match text(node)? {
        "stderr" => Ok(LogTarget::Stderr),
        text @ ("stdout" | "off" | "false" | "syslog" | "journald") => {
            Err(format!("`{text}` is not possible here; write `stderr` or the path of a file"))
        }
        text if text.is_empty() || text.contains(char::is_control) => {
            Err(format!("{} is not `stderr` or the path of a file", quote(text)))
        }
        text => hints::of_text(text).map_or_else(|| Ok(LogTarget::File(PathBuf::from(text))), Err),
    }
}

/// Reads an address that connections can come from.
fn source(node: &Node) -> Read<IpAddr> {
    let (text, shown) = (text(node)?, quote(text(node)?));
    let ip: IpAddr = text.parse().map_err(|_| format!("{shown} is not an IP address"))?;
    let ip = ip.to_canonical();
    if ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::from([255; 4]) {
        return Err(format!("{shown} is not an address of this host; write one that `ip address` shows"));
    }
    Ok(ip)
}

/// Reads a list of local addresses; `off` is an empty one.
pub(super) fn sources(node: &Node) -> Read<Vec<IpAddr>> {
    let most = limits::LOCAL_ADDRESSES_MAX;
    match &node.value {
        _ if node.is_off() => Ok(Vec::new()),
        Value::List(nodes) if nodes.len() > most => {
            Err(format!("{} addresses; at most {most} fit", nodes.len()))
        }
        Value::List(nodes) => nodes.iter().map(|node| source(node)).collect(),
        _ => {
            let shown = quote(text(node)?);
            Err(format!("{shown} is not a list of at most {most} IP addresses, or `off`; write `[...]`"))
        }
    }
}

/// Reads the path of a file.
pub(super) fn file_path(node: &Node) -> Read<PathBuf> {
    let text = text(node)?;
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(format!("{} is not the path of a file", quote(text)));
    }
    Ok(PathBuf::from(text))
}

/// Reads the name of an algorithm.
pub(super) fn algorithm(node: &Node) -> Read<&'static Registered> {
    let text = text(node)?;
    balance::find(text).ok_or_else(|| {
        let names: Vec<&str> = balance::names().collect();
        let near = balance::meant_by(text).or_else(|| nearest(text, names.iter().copied()));
        match near {
            Some(near) => format!("{} is not an algorithm; did you mean `{near}`?", quote(text)),
            None => format!("{} is not {}", quote(text), any_of(names)),
        }
    })
}

/// Reads a name. Metrics use it as a label and the admin API as a part of paths, so it is kept plain; it may
/// have the characters of addresses, because a backend without a name is called by its address.
pub(super) fn name(node: &Node) -> Read<String> {
    let text = text(node)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-:[]%".contains(c);
    if text.is_empty() || text.len() > limits::NAME_BYTES_MAX || !text.chars().all(plain) {
        let most = limits::NAME_BYTES_MAX;
        return Err(format!(
            "{} is not a name of 1 to {most} letters, digits or any of . _ - : [ ] %",
            quote(text)
        ));
    }
    Ok(text.to_owned())
}

/// Reads the name of a congestion control, which the kernel knows or does not know.
pub(super) fn congestion_control(node: &Node) -> Read<String> {
    short_name(node, "the name of a congestion control, such as `cubic` or `bbr`")
}

/// Reads the name of an interface.
pub(super) fn interface(node: &Node) -> Read<String> {
    short_name(node, "the name of an interface, such as `eth0`")
}

/// Reads a name as the kernel has them, of at most 15 bytes (`TCP_CA_NAME_MAX`, `IFNAMSIZ`).
fn short_name(node: &Node, what: &str) -> Read<String> {
    let text = text(node)?;
    let is_plain = |c: char| c.is_ascii_graphic() && c != '/';
    if text.is_empty() || text.len() > 15 || !text.chars().all(is_plain) {
        return Err(format!("{} is not {what}", quote(text)));
    }
    Ok(text.to_owned())
}

/// Reads `auto`, a number of cores, or a list of CPU numbers such as `0-3,8`.
pub(super) fn cores(node: &Node) -> Read<CoreSelection> {
    let text = text(node)?;
    if text == "auto" {
        return Ok(CoreSelection::Auto);
    }
    let most = u32::try_from(limits::SHARDS_MAX).unwrap_or(u32::MAX);
    if !text.contains([',', '-']) {
        let count = decimal(text).filter(|count| *count <= most).and_then(NonZeroU32::new);
        return count.map(CoreSelection::Count).ok_or_else(|| {
            format!(
                "{} is not `auto`, a number of cores from 1 to {most}, or a list such as `0-3,8`",
                quote(text)
            )
        });
    }
    let mut list = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let ends = decimal(first.trim()).zip(decimal(last.trim()));
        let Some((first, last)) = ends.filter(|(first, last)| first <= last && *last <= limits::CPU_MAX)
        else {
            let most = limits::CPU_MAX;
            return Err(format!("{} is not a CPU number up to {most} or a range such as `0-3`", quote(part)));
        };
        list.extend(first..=last);
        if list.len() > limits::SHARDS_MAX {
            return Err(format!("more than {most} CPU numbers; at most {most} fit"));
        }
    }
    list.sort_unstable();
    if let Some(twice) = list.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("CPU {} is listed twice; name each once", twice[0]));
    }
    Ok(CoreSelection::List(list))
}
