//! What a text that is no value looks like, and which of our words other programs' words stand for: a message
//! names the mistake that was made before the rule that it breaks.
//!
//! Nothing here decides whether something is valid; callers ask once they know that it is not.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::report::quote;
use super::text::duration_text;
use super::tree::{Node, Value};

/// Returns the mistake in a value of any kind: something that the file was expected to do with it, and does
/// not.
pub(super) fn of_value(node: &Node) -> Option<String> {
    match &node.value {
        Value::Scalar { text, .. } => of_text(text),
        Value::List(items) => items.iter().find_map(|item| of_value(item)),
        Value::Null | Value::Map(_) => None,
    }
}

/// Returns the mistake in a text, which may be a key.
pub(super) fn of_text(text: &str) -> Option<String> {
    let shown = quote(text);
    if text.contains(TYPOGRAPHIC) {
        return Some(format!("{shown} has typographic quotes; type plain ones, `\"` or `'`"));
    }
    has_variable(text).then(|| {
        format!(
            "{shown} holds a variable, which is not expanded; fill it in first, for instance with envsubst"
        )
    })
}

/// Returns what to write instead of a single value where a section of this path belongs.
pub(super) fn of_section(path: &str) -> String {
    let example = match path.rsplit('.').next().unwrap_or_default() {
        "proxy_protocol" => ", such as `{accept: required, trusted: [10.0.0.0/8]}`",
        "tls" if path.contains("upstream") => ", such as `{ca: FILE}`",
        "tls" => ", such as `{certificates: [{certificate: FILE, key: FILE}]}`",
        "bandwidth" => ", such as `{to_client: 10MiB/s}`",
        "per_source" => ", such as `{max_connections: 10}`",
        _ => "",
    };
    format!("not a section; write keys with values below it{example}")
}

/// Quotes that a word processor or a web page makes of plain ones.
const TYPOGRAPHIC: [char; 10] = [
    '\u{2018}', '\u{2019}', '\u{201a}', '\u{201b}', '\u{201c}', '\u{201d}', '\u{201e}', '\u{201f}', '\u{ab}',
    '\u{bb}',
];

/// Returns true for `${NAME}`, `$(command)`, `{{ name }}`, and for a whole text `$NAME` or `%NAME%`.
pub(super) fn has_variable(text: &str) -> bool {
    let word = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    text.contains("${")
        || text.contains("$(")
        || text.contains("{{")
        || text.strip_prefix('$').is_some_and(word)
        || text.strip_prefix('%').and_then(|text| text.strip_suffix('%')).is_some_and(word)
}

/// Returns why a text that was meant as a whole number is none.
pub(super) fn of_number(text: &str) -> Option<&'static str> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    if hexadecimal.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_hexdigit())) {
        return Some("it is hexadecimal; write it with decimal digits");
    }
    if text.strip_prefix("0o").or_else(|| text.strip_prefix("0b")).is_some_and(digits) {
        return Some("write it with decimal digits");
    }
    if text.len() > 1 && text.starts_with('0') && digits(text) {
        return Some("write it without the leading zero");
    }
    if text.strip_prefix('-').is_some_and(digits) {
        return Some("it is negative");
    }
    let groups = |separator: char| text.contains(separator) && text.split(separator).all(digits);
    match () {
        () if groups('_') => Some("write the digits alone, without `_`"),
        () if groups(',') => Some("write the digits alone, without `,`"),
        () if groups(' ') => Some("write the digits alone, without spaces"),
        () if text.strip_prefix('+').is_some_and(digits) => Some("write it without `+`"),
        () if groups('.') => Some("write it without a point"),
        () => None,
    }
}

/// Returns what stands before `://`, if anything does.
pub(super) fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once("://")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    (!scheme.is_empty() && scheme.chars().all(plain)).then_some(scheme)
}

/// Returns true for an abstract socket name as HAProxy, systemd and others write it.
pub(super) fn is_abstract_name(text: &str) -> bool {
    text.strip_prefix("unix:").unwrap_or(text).starts_with('@') || text.starts_with("abns@")
}

/// Returns the IPv4 address that `inet_aton(3)`, and so the system's resolver, reads in a text with
/// hexadecimal, octal or missing parts.
pub(super) fn loose_ipv4(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<&str> = text.strip_suffix('.').unwrap_or(text).split('.').collect();
    let (last, first) = parts.split_last().filter(|(_, first)| first.len() < 4)?;
    let mut bits = number(last).filter(|rest| u64::from(*rest) < 1 << (8 * (4 - first.len())))?;
    for (index, part) in first.iter().enumerate() {
        bits |= u32::from(u8::try_from(number(part)?).ok()?) << (8 * (3 - index));
    }
    Some(Ipv4Addr::from(bits))
}

/// Reads a number as C writes it.
fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text, 10),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    u32::from_str_radix(digits, radix).ok()
}

/// Returns a duration in the units of other programs in ours.
pub(super) fn duration(text: &str) -> Option<String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|split| *split > 0)?;
    let (number, unit) = (&text[..split], text[split..].trim().to_lowercase());
    let millis = match unit.as_str() {
        "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" | "millis" => 1.0,
        "s" | "sec" | "secs" | "second" | "seconds" => 1e3,
        "m" | "min" | "mins" | "minute" | "minutes" => 6e4,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3.6e6,
        "d" | "day" | "days" => 8.64e7,
        "w" | "week" | "weeks" => 6.048e8,
        _ => return None,
    };
    let millis = (number.parse::<f64>().ok()? * millis).round();
    // Every whole number below this bound is exact.
    (1.0..1e12).contains(&millis).then(|| duration_text(Duration::from_millis(millis as u64)))
}

/// Returns what another program's word for a switch means.
pub(super) fn switch(text: &str) -> Option<bool> {
    match text.to_lowercase().as_str() {
        "on" | "yes" | "y" | "enable" | "enabled" | "1" => Some(true),
        "no" | "n" | "none" | "never" | "disable" | "disabled" | "0" => Some(false),
        _ => None,
    }
}

/// Keys of an entry of `upstreams`, which stand at the top of a short form.
pub(super) const TOP_KEYS: &str = "backends healthcheck outlier panic_threshold slow_start on_down on_up \
                                   retries retry_budget queue pool send_proxy source source_ports \
                                   resolve";

/// How a message names where keys without a section stand.
const TOP: &str = "the top of the file";

/// Sections of the short form and of the long one, with keys that are found elsewhere by mistake.
pub(super) const HOMES: [(&str, &str, &str); 21] = [
    ("`loadbalancer`", "`listeners[]`, as `address`", "listen_address"),
    (
        "`loadbalancer`",
        "`listeners[]`",
        "backlog over_limit rate_limit per_source allow deny client_first no_backend proxy_protocol \
         bandwidth",
    ),
    ("`loadbalancer`", "`listeners[]` and `upstreams[]`", "timeouts tcp"),
    ("`loadbalancer.timeouts`", "`listeners[].timeouts`", "handshake client_idle half_close session"),
    ("`loadbalancer.timeouts`", "`upstreams[].timeouts`", "connect establish backend_idle"),
    (
        "`loadbalancer.tcp`",
        "`listeners[].tcp` and `upstreams[].tcp`",
        "nodelay keepalive user_timeout congestion_control quick_ack fast_open",
    ),
    ("`loadbalancer.tcp`", "`listeners[].tcp`", "steer_by_cpu defer_accept freebind interface"),
    ("`loadbalancer`", "`upstreams[]`", "algorithm hash_key"),
    (TOP, "`upstreams[]`", TOP_KEYS),
    (
        "`runtime`, `loadbalancer` and `backends[]`",
        "`runtime`, `listeners[]` and `upstreams[].backends[]`",
        "max_connections",
    ),
    ("`backends[]`", "`upstreams[].backends[]`", "weight backup"),
    (
        "`healthcheck`",
        "`upstreams[].healthcheck`",
        "interval fast_interval rise fall jitter path host expect_status steps",
    ),
    ("`outlier`", "`upstreams[].outlier`", "consecutive_failures empty_answers ejection_time max_ejected"),
    ("`loadbalancer.bandwidth`", "`listeners[].bandwidth`", "to_backend to_client"),
    ("`loadbalancer.proxy_protocol`", "`listeners[].proxy_protocol`", "accept trusted"),
    ("`pool`", "`upstreams[].pool`", "size max_idle reuse clients"),
    ("`runtime`", "`runtime`", "cores shutdown_delay shutdown_timeout drain_timeout relay"),
    ("`runtime.relay`", "`runtime.relay`", "buffer_size buffers_per_core splice pipe_size pipes_per_core"),
    ("`logging`", "`logging`", "level format target"),
    ("`admin`", "`admin`", "socket socket_mode socket_group"),
    (TOP, TOP, "runtime logging admin"),
];

/// Keys that are planned, and that no version has yet.
pub(super) const NOT_YET: &str = "expand";

/// Our keys, and what other programs call them; the first row whose key is known there is meant.
const FOREIGN: [(&str, &str); 19] = [
    ("listen_address", "listen listener bind address addr"),
    ("address", "listen bind addr ip host server"),
    ("loadbalancer", "frontend"),
    ("listeners", "listen listener frontend frontends"),
    ("backends", "server servers endpoints targets nodes"),
    ("upstream", "pool default_backend"),
    ("algorithm", "balance lb_method lb_policy strategy method"),
    ("healthcheck", "health_checks check probe"),
    ("max_connections", "maxconn max_conns"),
    ("interval", "inter period"),
    ("rise", "healthy_threshold"),
    ("fall", "unhealthy_threshold"),
    ("cores", "threads workers nbthread"),
    ("logging", "log"),
    ("nodelay", "tcp_nodelay"),
    ("keepalive", "so_keepalive"),
    ("timeouts", "timeout"),
    ("proxy_protocol", "accept_proxy accept-proxy"),
    ("send_proxy", "send-proxy send-proxy-v2 send_proxy_protocol proxy_protocol"),
];

fn has_word(words: &str, word: &str) -> bool {
    words.split(' ').any(|known| known == word)
}

/// Returns what to do about an unknown key in a section that knows the keys `known`.
pub(super) fn of_key(key: &str, known: &[&'static str]) -> Option<String> {
    if let Some(mistake) = of_text(key) {
        return Some(mistake);
    }
    let of_listener = known.iter().any(|known| matches!(*known, "listen_address" | "backlog"));
    if key == "port" && of_listener {
        return Some("the port of a listener stands in its address, as in `\":8080\"`".to_owned());
    }
    let mut ours = FOREIGN.iter().filter(|(_, theirs)| has_word(theirs, key)).map(|(ours, _)| ours);
    if let Some(ours) = ours.find(|ours| known.contains(ours)) {
        return Some(format!("did you mean `{ours}`?"));
    }
    if has_word(NOT_YET, key) {
        return Some("it is not supported yet; remove it".to_owned());
    }
    let (short, long, _) = HOMES.iter().find(|(_, _, keys)| has_word(keys, key))?;
    let preposition = |home: &str| if home == TOP { "at" } else { "in" };
    let home = format!("it belongs {} {short}", preposition(short));
    Some(if short == long { home } else { format!("{home}, or in the long form in {long}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loose_addresses_are_read_as_the_system_reads_them() {
        for (text, expected) in [
            ("0x7f000001", Some([127, 0, 0, 1])),
            ("127.0.0.0x1", Some([127, 0, 0, 1])),
            ("127.0x1", Some([127, 0, 0, 1])),
            ("127.1", Some([127, 0, 0, 1])),
            ("2130706433", Some([127, 0, 0, 1])),
            ("010.0.0.1", Some([8, 0, 0, 1])),
            ("10.0.0.01", Some([10, 0, 0, 1])),
            ("1.2.65535", Some([1, 2, 255, 255])),
            ("127.0.0.0x1.", Some([127, 0, 0, 1])),
            ("4294967296", None),
            ("1.2.3.256", None),
            ("256.1", None),
            ("1.2.3.4.5", None),
            ("08.1", None),
            ("0x.1", None),
            ("1.+1", None),
            ("a.0x1", None),
            ("", None),
        ] {
            assert_eq!(loose_ipv4(text), expected.map(Ipv4Addr::from), "{text}");
        }
    }

    #[test]
    fn durations_of_others_are_written_in_our_units() {
        for (text, ours) in [
            ("1d", Some("24h")),
            ("30sec", Some("30s")),
            ("1.5s", Some("1500ms")),
            ("5 s", Some("5s")),
            ("2 Minutes", Some("2m")),
            ("500us", None),
            ("0.0001s", None),
            ("s", None),
            ("1e9h", None),
        ] {
            assert_eq!(duration(text).as_deref(), ours, "{text}");
        }
    }
}
