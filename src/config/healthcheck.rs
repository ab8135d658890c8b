//! The section `healthcheck`: its keys, and which of them belong to which type of check.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::address;
use super::model::{Backend, CheckKind, HealthCheck, HttpCheck, PostgresCheck, Statuses, Step};
use super::relations;
use super::report::quote;
use super::section::{Read, Section};
use super::tree::Node;
use super::values::{decimal, duration, fraction, number, off_or, one_of, port, text};
use crate::base::limits;

/// The word in `type`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Tcp,
    Http,
    Tls,
    SendExpect,
    Redis,
    Postgres,
    Mysql,
    Smtp,
}

const TYPES: &[(&str, Type)] = &[
    ("tcp", Type::Tcp),
    ("http", Type::Http),
    ("tls", Type::Tls),
    ("send_expect", Type::SendExpect),
    ("redis", Type::Redis),
    ("postgres", Type::Postgres),
    ("mysql", Type::Mysql),
    ("smtp", Type::Smtp),
];

/// The keys that only some types have, with those types.
const KEYS: [(&str, &[Type]); 6] = [
    ("path", &[Type::Http]),
    ("host", &[Type::Http, Type::Tls, Type::Smtp]),
    ("expect_status", &[Type::Http]),
    ("steps", &[Type::SendExpect]),
    ("user", &[Type::Postgres, Type::Mysql]),
    ("database", &[Type::Postgres]),
];

/// Statuses that a response can have, RFC 9110, 15.
const STATUSES: RangeInclusive<u16> = 100..=599;

/// Reads the check of an upstream with these backends; `None` if it is off.
pub(super) fn healthcheck(s: &mut Section<'_>, backends: &[Backend]) -> Option<HealthCheck> {
    if s.is_off("healthcheck") {
        return None;
    }
    s.section("healthcheck", |s| {
        let kind = kind(s);
        let interval = s.value("interval", Duration::from_secs(30), duration);
        let check = HealthCheck {
            // A check that is off is read to its end, and left out below.
            kind: kind.clone().unwrap_or(CheckKind::Tcp),
            interval,
            // To check a changing backend less often than a steady one is never meant.
            fast_interval: s.value("fast_interval", interval.min(Duration::from_secs(2)), duration),
            timeout: s.value("timeout", Duration::from_secs(5), duration),
            rise: s.value("rise", 2, number(1..=limits::CONSECUTIVE_CHECKS_MAX)),
            fall: s.value("fall", 3, number(1..=limits::CONSECUTIVE_CHECKS_MAX)),
            jitter: s.value("jitter", 0.1, fraction),
            port: s.optional("port", port),
        };
        relations::check_times(s, &check);
        relations::check_port(s, &check, backends);
        kind.map(|_| check)
    })
}

/// Reads the type and the keys that belong to it; `None` if it is off, or unknown, which was reported.
fn kind(s: &mut Section<'_>) -> Option<CheckKind> {
    let written = s.optional("type", off_or(one_of(TYPES)));
    let Some(on) = (if s.has("type") { written.flatten() } else { Some(Type::Tcp) }) else {
        // A check that is switched off keeps its settings, of whatever type they are.
        http(s);
        postgres(s);
        if s.has("steps") {
            steps(s);
        }
        return None;
    };
    forbid_keys_of_others(s, on);
    Some(match on {
        Type::Tcp => CheckKind::Tcp,
        Type::Http => CheckKind::Http(http(s)),
        Type::Tls => CheckKind::Tls { host: s.optional("host", address::server_name) },
        Type::SendExpect => CheckKind::SendExpect { steps: steps(s) },
        Type::Redis => CheckKind::Redis,
        Type::Postgres => CheckKind::Postgres(postgres(s)),
        Type::Mysql => CheckKind::Mysql { user: s.optional("user", login_name) },
        Type::Smtp => CheckKind::Smtp { host: s.value("host", "localhost".to_owned(), address::server_name) },
    })
}

/// Refuses keys of other types that are written here; in the defaults they are meant for other checks.
fn forbid_keys_of_others(s: &mut Section<'_>, on: Type) {
    let word = |wanted: Type| TYPES.iter().find(|(_, of)| *of == wanted).map_or("", |(word, _)| word);
    for (key, owners) in KEYS.iter().filter(|(_, owners)| !owners.contains(&on)) {
        let owners: Vec<_> = owners.iter().map(|&owner| format!("`type: {}`", word(owner))).collect();
        let (owners, on) = (owners.join(" or "), word(on));
        s.forbid(key, &format!("this check is of type {on}; remove the key, or write {owners}"));
    }
}

fn http(s: &mut Section<'_>) -> HttpCheck {
    HttpCheck {
        path: s.value("path", "/healthz".to_owned(), path),
        host: s.optional("host", address::host_header),
        expect_status: s.value("expect_status", Statuses::new(vec![200..=399]), statuses),
    }
}

fn postgres(s: &mut Section<'_>) -> PostgresCheck {
    PostgresCheck {
        user: s.optional("user", login_name),
        database: s.value("database", "postgres".to_owned(), login_name),
    }
}

fn steps(s: &mut Section<'_>) -> Arc<[Step]> {
    let step = |mut s: Section<'_>| {
        let step = Step { send: s.optional("send", bytes), expect: s.optional("expect", bytes) };
        if !s.has("send") && !s.has("expect") {
            s.error("a step that does nothing; it needs `send` or `expect`, or both");
        }
        s.finish();
        step
    };
    s.entries("steps", limits::CHECK_STEPS_MAX, None).into_iter().map(step).collect()
}

/// Reads the name of a user or a database, which a zero ends where it is sent.
fn login_name(node: &Node) -> Read<String> {
    let text = text(node)?;
    let most = limits::CHECK_NAME_BYTES_MAX;
    if (1..=most).contains(&text.len()) && !text.contains(char::is_control) {
        return Ok(text.to_owned());
    }
    Err(format!("{} is not a name of 1 to {most} bytes without control characters", quote(text)))
}

/// Reads path and query by RFC 3986, so that every client and every server understands the same.
fn path(node: &Node) -> Read<String> {
    let text = text(node)?;
    let most = limits::CHECK_PATH_BYTES_MAX;
    if text.len() > most {
        return Err(format!("{} is {} bytes long; a path has at most {most}", quote(text), text.len()));
    }
    if !text.starts_with('/') {
        return Err(format!("{} is not a path of at most {most} bytes that begins with `/`", quote(text)));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:@?".contains(c);
    match text.chars().find(|c| !plain(*c)) {
        None => Ok(text.to_owned()),
        Some(c) => Err(format!(
            "{} is not allowed in a path; write its bytes as `%` and two hexadecimal digits",
            quote(&c.to_string())
        )),
    }
}

/// Reads statuses and ranges of them, such as `200, 204, 300-399`.
fn statuses(node: &Node) -> Read<Statuses> {
    let text = text(node)?;
    let mut ranges = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let status = |text: &str| u16::try_from(decimal(text.trim())?).ok().filter(|n| STATUSES.contains(n));
        let Some((first, last)) = status(first).zip(status(last)).filter(|(first, last)| first <= last)
        else {
            let (least, most) = (STATUSES.start(), STATUSES.end());
            return Err(format!(
                "{} is not a status from {least} to {most} or a range such as `200-399`",
                quote(part)
            ));
        };
        ranges.push(first..=last);
        let most = limits::CHECK_STATUS_RANGES_MAX;
        if ranges.len() > most {
            return Err(format!("more than {most} statuses and ranges; at most {most} fit"));
        }
    }
    Ok(Statuses::new(ranges))
}

/// Reads bytes, as ASCII with escapes. Between double quotes YAML has escapes of its own, and those for
/// control characters mean the same; but its `"\xff"` is a character of two bytes in UTF-8, so characters
/// beyond ASCII are refused: they could mean either.
pub(super) fn bytes(node: &Node) -> Read<Vec<u8>> {
    let text = text(node)?;
    let most = limits::CHECK_STEP_BYTES_MAX;
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let (byte, length) = match character {
            '\\' => escape(rest)?,
            _ if character.is_ascii() => (character as u8, 1),
            _ => {
                return Err(format!(
                    "{} is not 1 to {most} bytes in ASCII; write those of `{character}` as `\\xHH` between \
                     single quotes",
                    quote(text)
                ));
            }
        };
        bytes.push(byte);
        rest = &rest[length..];
    }
    match bytes.len() {
        0 => Err("no bytes; write at least one, or remove the key".to_owned()),
        length if length > most => Err(format!("{length} bytes; at most {most} fit")),
        _ => Ok(bytes),
    }
}

/// Returns the byte that the escape at the start of `text` stands for, and the length of the escape.
fn escape(text: &str) -> Read<(u8, usize)> {
    let mut characters = text.chars().skip(1);
    let byte = match characters.next() {
        Some('r') => b'\r',
        Some('n') => b'\n',
        Some('t') => b'\t',
        Some('0') => 0,
        Some(quoted @ ('\\' | '"' | '\'')) => quoted as u8,
        Some('x') => {
            let digit = |digit: Option<char>| digit.and_then(|digit| digit.to_digit(16));
            let (high, low) = (digit(characters.next()), digit(characters.next()));
            return match high.zip(low) {
                Some((high, low)) => Ok(((high * 16 + low) as u8, 4)),
                None => Err(bad_escape(text, 4)),
            };
        }
        _ => return Err(bad_escape(text, 2)),
    };
    Ok((byte, 2))
}

fn bad_escape(text: &str, length: usize) -> String {
    let shown: String = text.chars().take(length).collect();
    format!("{} is not an escape; write \\r, \\n, \\t, \\0, \\\\, \\\", \\' or \\xHH", quote(&shown))
}

#[cfg(test)]
mod tests {
    use super::super::{Parsed, Report, parse};
    use super::*;

    /// The section begins in line 4.
    fn read(check: &str) -> Result<Parsed, Report> {
        let text = format!(
            "loadbalancer: {{listen_address: ':1'}}\nbackends: [{{address: a, port: \
             2}}]\nhealthcheck:\n{check}"
        );
        parse("f", text.as_bytes())
    }

    #[track_caller]
    fn accepted(check: &str) -> CheckKind {
        let parsed = read(check).unwrap_or_else(|report| panic!("{report}"));
        parsed.config.upstreams[0].healthcheck.clone().expect("it is on").kind
    }

    /// The only problem, without the name of the file.
    #[track_caller]
    fn refused(check: &str) -> String {
        let report = read(check).expect_err(check);
        assert_eq!(report.problems().len(), 1, "{report}");
        report.problems()[0].headline().replacen("f:", "", 1)
    }

    #[track_caller]
    fn sent(written: &str) -> Vec<u8> {
        let kind = accepted(&format!("  type: send_expect\n  steps: [{{send: {written}}}]\n"));
        let CheckKind::SendExpect { steps } = kind else { panic!("{kind:?}") };
        steps[0].send.clone().expect("it is written")
    }

    #[test]
    fn defaults_of_each_type() {
        assert!(matches!(accepted("  rise: 1\n"), CheckKind::Tcp));
        let kind = accepted("  type: http\n");
        let CheckKind::Http(http) = &kind else { panic!("{kind:?}") };
        assert_eq!((&*http.path, &http.host), ("/healthz", &None));
        assert_eq!(http.expect_status.to_string(), "200-399");
        assert!(matches!(accepted("  type: tls\n"), CheckKind::Tls { host: None }));
        assert_eq!(accepted("  type: redis\n"), CheckKind::Redis);
        let postgres = PostgresCheck { user: None, database: "postgres".to_owned() };
        assert_eq!(accepted("  type: postgres\n"), CheckKind::Postgres(postgres));
        assert_eq!(accepted("  type: mysql\n"), CheckKind::Mysql { user: None });
        assert_eq!(accepted("  type: smtp\n"), CheckKind::Smtp { host: "localhost".to_owned() });
    }

    #[test]
    fn users_and_databases_have_names_that_can_be_sent() {
        let postgres = PostgresCheck { user: Some("lb check".to_owned()), database: "größe".to_owned() };
        let written = "  type: postgres\n  user: lb check\n  database: größe\n";
        assert_eq!(accepted(written), CheckKind::Postgres(postgres));
        assert_eq!(accepted("  type: mysql\n  user: '1'\n"), CheckKind::Mysql { user: Some("1".to_owned()) });
        for name in ["''".to_owned(), "\"a\\0b\"".to_owned(), "x".repeat(limits::CHECK_NAME_BYTES_MAX + 1)] {
            let problem = refused(&format!("  type: mysql\n  user: {name}\n"));
            let words = "is not a name of 1 to 128 bytes without control characters";
            assert!(problem.starts_with("5:9: ") && problem.contains(words), "{problem}");
        }
    }

    #[test]
    fn keys_of_other_types_are_refused_with_a_remedy() {
        assert_eq!(
            refused("  type: tcp\n  path: /\n"),
            "5:3: `path` does not belong here; this check is of type tcp; remove the key, or write `type: \
             http`"
        );
        for (kind, key, remedy) in [
            (
                "tcp",
                "host: a",
                "type tcp; remove the key, or write `type: http` or `type: tls` or `type: smtp`",
            ),
            ("redis", "user: a", "type redis; remove the key, or write `type: postgres` or `type: mysql`"),
            ("mysql", "database: a", "type mysql; remove the key, or write `type: postgres`"),
            ("tls", "expect_status: 200", "type tls; remove the key, or write `type: http`"),
            ("http", "steps: []", "type http; remove the key, or write `type: send_expect`"),
            ("send_expect\n  steps: [{send: a}]", "path: /", "type send_expect; remove"),
        ] {
            let problem = refused(&format!("  type: {kind}\n  {key}\n"));
            assert!(problem.contains(remedy), "{problem}");
        }
        // Of an unknown type no key is known to be foreign.
        assert!(refused("  type: https\n  path: /\n").starts_with("4:9: `https` is not `tcp`"));
    }

    #[test]
    fn statuses_are_numbers_and_ranges() {
        let statuses = |written: &str| {
            let kind = accepted(&format!("  type: http\n  expect_status: {written}\n"));
            let CheckKind::Http(http) = kind else { panic!("{kind:?}") };
            http.expect_status
        };
        let some = statuses("200, 204,300 - 399");
        assert_eq!(some.to_string(), "200, 204, 300-399");
        let among: Vec<u16> = (0..=999).filter(|&status| some.contains(status)).collect();
        assert_eq!(among, [200, 204].into_iter().chain(300..=399).collect::<Vec<u16>>());
        assert_eq!(statuses("599").to_string(), "599");
        for written in ["99", "600", "20x", "300-200", "200-", "'200,'", "''", "2xx", "0200", "-200"] {
            let problem = refused(&format!("  type: http\n  expect_status: {written}\n"));
            let words = "is not a status from 100 to 599 or a range such as `200-399`";
            assert!(problem.contains(words), "{problem}");
        }
        let many = vec!["200"; limits::CHECK_STATUS_RANGES_MAX + 1].join(",");
        assert!(refused(&format!("  type: http\n  expect_status: '{many}'\n")).contains("at most 32 fit"));
    }

    #[test]
    fn paths_are_those_of_a_uri() {
        accepted("  type: http\n  path: '/a/%20?b=c&d'\n");
        for (path, words) in [
            ("healthz", "`healthz` is not a path of at most 2048 bytes that begins with `/`"),
            ("'http://a/'", "begins with `/`"),
            ("'/a b'", "` ` is not allowed in a path; write its bytes as `%` and two hexadecimal digits"),
            ("\"/a\\r\\nX: y\"", "`\\r` is not allowed in a path"),
            ("'/a#b'", "`#` is not allowed in a path"),
            ("/é", "`é` is not allowed in a path"),
        ] {
            let problem = refused(&format!("  type: http\n  path: {path}\n"));
            assert!(problem.starts_with("5:9: ") && problem.contains(words), "{problem}");
        }
        let long = "x".repeat(limits::CHECK_PATH_BYTES_MAX);
        let problem = refused(&format!("  type: http\n  path: /{long}\n"));
        assert!(problem.ends_with("is 2049 bytes long; a path has at most 2048"), "{problem}");
    }

    #[test]
    fn hosts_are_names_and_addresses() {
        for (kind, hosts) in [
            ("http", ["a.b", "a:80", "10.0.0.1", "10.0.0.1:80", "'[::1]'", "'[::1]:80'"]),
            ("tls", ["a.b", "a_b.c.", "10.0.0.1", "'::1'", "localhost", "xn--a"]),
        ] {
            for host in hosts {
                accepted(&format!("  type: {kind}\n  host: {host}\n"));
            }
        }
        for (kind, host, words) in [
            ("http", "'::1'", "`::1` is not a host such as"),
            ("http", "a/b", "is not a host"),
            ("http", "\"a\\r\\nX\"", "`a\\r\\nX` is not a host"),
            ("http", "a:0", "`0` is not a port"),
            ("http", "1.2.3", "is not a host"),
            ("tls", "a:443", "`a:443` is not a host name or an IP address"),
            ("tls", "'[::1]'", "is not a host name"),
        ] {
            let problem = refused(&format!("  type: {kind}\n  host: {host}\n"));
            assert!(problem.starts_with("5:9: ") && problem.contains(words), "{problem}");
        }
    }

    #[test]
    fn bytes_are_ascii_with_escapes_in_every_kind_of_quotes() {
        assert_eq!(sent("PING"), b"PING");
        assert_eq!(sent("PING\\r\\n"), b"PING\r\n");
        assert_eq!(sent("'PING\\r\\n'"), b"PING\r\n");
        assert_eq!(sent("\"PING\\r\\n\""), b"PING\r\n");
        assert_eq!(sent("'\\t\\0\\\\\\x00\\xfF\\\"'"), b"\t\0\\\0\xff\"");
        // Between double quotes a backslash is written twice.
        assert_eq!(sent("\"\\\\xff\\\\\\\\\""), b"\xff\\");
        assert_eq!(sent("'  '"), b"  ");
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(sent(&format!("'{}'", all.escape_ascii().to_string().replace('\'', "''"))), all);
    }

    #[test]
    fn steps_that_mean_nothing_are_refused() {
        assert_eq!(refused("  type: send_expect\n"), "3:1: `steps` is missing; add it");
        let escapes = "`\\b` is not an escape; write \\r, \\n, \\t, \\0, \\\\, \\\", \\' or \\xHH";
        let no_ascii =
            "`ÿ` is not 1 to 4096 bytes in ASCII; write those of `ÿ` as `\\xHH` between single quotes";
        for (steps, location, words) in [
            ("[]", "5:10", "the list is empty; it needs at least one entry"),
            ("[{}]", "5:11", "a step that does nothing; it needs `send` or `expect`, or both"),
            ("[{sned: a, expect: b}]", "5:12", "unknown key `sned`; did you mean `send`?"),
            ("[a]", "5:11", "not an entry"),
            ("[{send: ''}]", "5:18", "no bytes; write at least one, or remove the key"),
            ("[{send: 'a\\b'}]", "5:18", escapes),
            ("[{send: 'a\\'}]", "5:18", "`\\` is not an escape"),
            ("[{expect: '\\x4'}]", "5:20", "`\\x4` is not an escape"),
            ("[{expect: '\\x4g5'}]", "5:20", "`\\x4g` is not an escape"),
            ("[{expect: '\\xé5'}]", "5:20", "`\\xé5` is not an escape"),
            ("[{expect: \"\\xff\"}]", "5:20", no_ascii),
        ] {
            let problem = refused(&format!("  type: send_expect\n  steps: {steps}\n"));
            assert!(
                problem.starts_with(&format!("{location}: ")) && problem.contains(words),
                "{steps}: {problem}"
            );
        }
        let long = "x".repeat(limits::CHECK_STEP_BYTES_MAX + 1);
        let problem = refused(&format!("  type: send_expect\n  steps: [{{send: {long}}}]\n"));
        assert!(problem.ends_with("4097 bytes; at most 4096 fit"), "{problem}");
        let many = "{send: a}, ".repeat(limits::CHECK_STEPS_MAX + 1);
        let problem = refused(&format!("  type: send_expect\n  steps: [{many}]\n"));
        assert!(problem.ends_with("33 entries; at most 32 fit"), "{problem}");
    }
}
