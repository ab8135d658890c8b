//! How an upstream is checked: the options of its servers, and the option that chooses what is asked.

use super::front::Timed;
use super::sections::{Bag, Given};
use super::servers::{Check, Server};
use super::words::{Line, hexadecimal};
use crate::import::plan::{Entry, scalar};
use crate::import::report::{Findings, Origin};
use crate::import::units::Millis;

/// Time between two checks if none is written.
const INTERVAL: Millis = Millis(2_000);

/// What is checked.
pub(super) struct Checked<'s> {
    /// `timeout check`.
    pub(super) time: Timed,
    pub(super) servers: &'s [Server],
}

/// Sets `healthcheck` and `outlier`.
pub(super) fn healthcheck(
    bag: &mut Bag<'_>,
    checked: &Checked<'_>,
    entry: &mut Entry,
    findings: &mut Findings,
) {
    let kind = bag.take("option CHECK");
    let rules = bag.take_all(&["http-check", "tcp-check"]);
    outlier(checked.servers, entry, findings);
    let all: Vec<(&Check, &Origin)> =
        checked.servers.iter().filter_map(|s| Some((s.check.as_ref()?, &s.entry.origin))).collect();
    let Some(&(check, origin)) = all.first() else {
        for given in kind.iter().chain(&rules).filter(|given| !given.inherited) {
            findings.add(&given.line.origin(), "no server has `check`, so HAProxy does not check either");
        }
        let origin = entry.origin.clone();
        entry
            .set("healthcheck", "off", &origin)
            .differs("no server has `check`; without this line all are checked");
        return;
    };
    if all.len() < checked.servers.len() {
        entry.comment("some servers have no `check`; here all backends are checked");
    }
    for (other, place) in &all[1..] {
        if *other != check {
            let why = "backends of an upstream are checked alike, here like the first; split the upstream";
            findings.add(place, format!("check: {why}"));
            entry.comment("the checks of the servers differed; here all are checked like the first");
        }
    }
    times(check, origin, &checked.time, entry, findings);
    if let Some(port) = &check.port {
        entry.set_text("healthcheck.port", port, origin);
    }
    let speaks_tls = checked.servers.first().is_some_and(|server| server.tls.is_some());
    if speaks_tls && !check.tls && check.port.is_some() {
        let why = "port: checks speak TLS where sessions do, and those of HAProxy at another port do not";
        findings.add(origin, why);
    }
    let secure = (check.tls || speaks_tls).then_some(origin);
    question(kind, (secure, speaks_tls), &rules, entry, findings);
}

fn times(check: &Check, origin: &Origin, time: &Timed, entry: &mut Entry, findings: &mut Findings) {
    let interval = check.interval.unwrap_or(INTERVAL);
    entry.set("healthcheck.interval", interval.text(), origin);
    if let Some(fast) = check.fast_interval {
        entry.set("healthcheck.fast_interval", fast.text(), origin);
    }
    match time {
        Some((Millis(0), origin)) => findings.add(origin, "a check always has a limit, here its interval"),
        Some((time, origin)) => {
            entry.set("healthcheck.timeout", time.text(), origin);
        }
        None => {}
    }
    // Without a time of its own, a check of HAProxy lasts an interval at most.
    if !entry.has("healthcheck.timeout") {
        entry.set("healthcheck.timeout", interval.text(), origin);
    }
    if let Some(rise) = &check.rise {
        entry.set_text("healthcheck.rise", rise, origin);
    }
    if let Some(fall) = &check.fall {
        entry.set_text("healthcheck.fall", fall, origin);
    }
}

fn outlier(servers: &[Server], entry: &mut Entry, findings: &mut Findings) {
    let mut limits =
        servers.iter().filter_map(|server| Some((server.error_limit.as_ref()?, &server.entry.origin)));
    let Some((limit, origin)) = limits.next() else { return };
    entry
        .set_text("outlier.consecutive_failures", limit, origin)
        .differs("`observe layer4`: ejects the backend for a time; HAProxy marks it down");
    for (_, place) in limits.filter(|(other, _)| *other != limit) {
        findings.add(place, "error-limit: one for the upstream, here the first; see `outlier`");
    }
}

/// Sets what a check asks: in TLS where there is an origin of that, which it does where the upstream speaks TLS itself.
fn question(
    kind: Option<Given<'_>>,
    (tls, speaks_tls): (Option<&Origin>, bool),
    rules: &[Given<'_>],
    entry: &mut Entry,
    findings: &mut Findings,
) {
    let word = kind.map_or("", |given| given.line.word(1));
    let of = |rule: &&Given<'_>| rule.line.word(0) == if word == "httpchk" { "http-check" } else { word };
    for rule in rules.iter().filter(|rule| !of(rule) && !rule.inherited) {
        findings.add(&rule.line.origin(), "has no effect with this type of check; leave it out");
    }
    let rules: Vec<&Line> = rules.iter().filter(of).map(|rule| rule.line).collect();
    match (kind, word) {
        (Some(_), "httpchk" | "redis-check" | "pgsql-check" | "mysql-check" | "smtpchk")
            if tls.is_some() && !speaks_tls =>
        {
            let (what, secure) =
                if word == "httpchk" { ("HTTPS", "HTTPS") } else { ("TLS", "TLS by this protocol") };
            if let Some(origin) = tls {
                let why = format!(
                    "check-ssl: there is no {secure} in checks of an upstream without `tls`; see `healthcheck.port` for a plain port"
                );
                findings.add(origin, why);
                entry.set("healthcheck.type", "tls", origin).differs(format!("HAProxy asked over {what}"));
            }
        }
        (Some(given), "httpchk") => http(given.line, &rules, entry, findings),
        (Some(given), "redis-check") => {
            let key = entry.set("healthcheck.type", "redis", &given.line.origin());
            key.differs("a server that wants a password is up here, and down for HAProxy");
        }
        (Some(given), "pgsql-check") => postgres(given.line, entry),
        (Some(given), "mysql-check") => mysql(given.line, entry, findings),
        (Some(given), "smtpchk") => smtp(given.line, entry),
        (Some(given), "tcp-check") => tcp(given.line, &rules, entry, findings),
        (Some(given), "ssl-hello-chk") => {
            entry.set("healthcheck.type", "tls", &given.line.origin());
        }
        (Some(given), _) => {
            let why = "no type of its own; write `send_expect`";
            findings.add(&given.line.origin(), why);
            entry
                .set("healthcheck.type", "tcp", &given.line.origin())
                .differs(format!("HAProxy: `option {word}`"));
        }
        (None, _) => {}
    }
    if let (Some(origin), false) = (tls, entry.has("healthcheck.type")) {
        entry.set("healthcheck.type", "tls", origin);
    }
}

/// Reads `user NAME`.
fn postgres(line: &Line, entry: &mut Entry) {
    let origin = line.origin();
    entry.set("healthcheck.type", "postgres", &origin);
    if line.word(2) == "user" {
        entry.set_text("healthcheck.user", line.word(3), &origin);
    }
}

/// Reads `[user NAME [post-41 | pre-41 | post-80]]`.
fn mysql(line: &Line, entry: &mut Entry, findings: &mut Findings) {
    let origin = line.origin();
    let key = entry.set("healthcheck.type", "mysql", &origin);
    if line.word(2) != "user" {
        key.differs("tries a login as `ringway`, which may be denied; HAProxy read the greeting alone");
        return;
    }
    entry.set_text("healthcheck.user", line.word(3), &origin);
    if line.word(4) == "pre-41" {
        findings.add(&origin, "pre-41: a server older than MySQL 4.1 is down; use `type: tcp` for it");
    }
}

/// Reads `[HELO | EHLO DOMAIN]`.
fn smtp(line: &Line, entry: &mut Entry) {
    let origin = line.origin();
    entry.set("healthcheck.type", "smtp", &origin);
    if matches!(line.word(2), "HELO" | "EHLO") && !line.word(3).is_empty() {
        entry.set_text("healthcheck.host", line.word(3), &origin);
    }
}

/// What `option httpchk` and `http-check` ask.
struct Request {
    method: String,
    path: String,
    host: Option<String>,
}

fn http(line: &Line, rules: &[&Line], entry: &mut Entry, findings: &mut Findings) {
    let origin = line.origin();
    let words: Vec<&str> = line.from(2).collect();
    let mut request = match words.as_slice() {
        [] => Request { method: "OPTIONS".to_owned(), path: "/".to_owned(), host: None },
        [path] => Request { method: "OPTIONS".to_owned(), path: (*path).to_owned(), host: None },
        [method, path, version @ ..] => {
            let headers = version.join(" ");
            let host = headers.lines().find_map(|line| line.strip_prefix("Host:")).map(str::trim);
            let host = host.map(str::to_owned);
            Request { method: (*method).to_owned(), path: (*path).to_owned(), host }
        }
    };
    entry.set("healthcheck.type", "http", &origin);
    let (mut sent, mut expected) = (false, false);
    for rule in rules {
        match rule.word(1) {
            "send" if !sent => {
                sent = true;
                send(rule, &mut request, findings);
            }
            "expect" if !expected => {
                expected = true;
                expect_status(rule, entry, findings);
            }
            "comment" => {}
            "send" | "expect" => findings.add(&rule.origin(), "a check is one request; leave it out"),
            "connect" => {
                connect(rule, entry, findings);
            }
            _ => findings.add(&rule.origin(), "no counterpart in `healthcheck`; leave it out"),
        }
    }
    let key = entry.set_text("healthcheck.path", &request.path, &origin);
    if request.method != "GET" {
        key.differs(format!("asked with GET; HAProxy asked with {}", request.method));
    }
    if let Some(host) = request.host {
        entry.set_text("healthcheck.host", &host, &origin);
    }
}

/// Reads `http-check send`.
fn send(rule: &Line, request: &mut Request, findings: &mut Findings) {
    let mut words = rule.from(2);
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_default().to_owned();
        match word {
            "meth" => request.method = value(),
            "uri" => request.path = value(),
            "ver" | "comment" => {
                value();
            }
            "hdr" => {
                let (name, content) = (value(), value());
                if name.eq_ignore_ascii_case("host") {
                    request.host = Some(content);
                } else {
                    let why = "the request has the header `Host` alone; leave it out";
                    findings.add(&rule.origin(), format!("hdr {name}: {why}"));
                }
            }
            other => {
                let why = "the request has a path and `Host` alone; leave it out";
                findings.add(&rule.origin(), format!("{other}: {why}"));
                value();
            }
        }
    }
}

fn expect_status(rule: &Line, entry: &mut Entry, findings: &mut Findings) {
    let words: Vec<&str> = rule.from(2).collect();
    match words.as_slice() {
        ["status", list] => {
            let list = list.split(',').map(str::trim).collect::<Vec<_>>().join(", ");
            entry.set("healthcheck.expect_status", format!("\"{}\"", plain(&list)), &rule.origin());
        }
        _ => {
            let why = "a check judges by the status alone, 200 to 399 by default; see `expect_status`";
            findings.add(&rule.origin(), why);
            entry.comment(format!(
                "the check judges by the status alone; line {} asked for more",
                rule.number
            ));
        }
    }
}

/// Returns what a list of statuses may have.
fn plain(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_digit() || matches!(c, ',' | ' ' | '-')).collect()
}

/// Reads `connect` of either kind, of which the port is taken over. Returns whether that is all.
fn connect(rule: &Line, entry: &mut Entry, findings: &mut Findings) -> bool {
    let words: Vec<&str> = rule.from(2).collect();
    match words.as_slice() {
        [] | ["default"] => true,
        ["port", port] | ["default", "port", port] => {
            entry.set_text("healthcheck.port", port, &rule.origin());
            true
        }
        _ => {
            findings.add(&rule.origin(), "a check connects plainly to the backend; see `healthcheck.port`");
            false
        }
    }
}

/// Makes steps of `tcp-check` rules; a check that none can be made of connects only.
fn tcp(line: &Line, rules: &[&Line], entry: &mut Entry, findings: &mut Findings) {
    let mut steps: Vec<String> = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        let step = match rule.word(1) {
            "comment" => continue,
            "connect" if at == 0 && connect(rule, entry, findings) => continue,
            "connect" if at == 0 => None,
            "send" => rule.words.get(2).map(|word| ("send", word.bytes.clone())),
            "send-binary" => binary(rule.word(2)).map(|bytes| ("send", bytes)),
            "expect" => match (rule.word(2), rule.words.get(3), rule.words.len()) {
                ("string", Some(word), 4) => Some(("expect", word.bytes.clone())),
                ("binary", Some(word), 4) => binary(&word.text).map(|bytes| ("expect", bytes)),
                _ => None,
            },
            _ => None,
        };
        match step.filter(|(_, bytes)| !bytes.is_empty()) {
            Some((what, bytes)) => {
                steps.push(format!("{{{what}: {}}}", scalar(&bytes.escape_ascii().to_string())));
            }
            None => {
                let why =
                    "`send_expect` sends and expects plain bytes on one connection; this check connects only";
                findings.add(&rule.origin(), why);
                let origin = rule.origin();
                entry
                    .set("healthcheck.type", "tcp", &origin)
                    .differs(format!("HAProxy asked more, up to line {}", rule.number));
                return;
            }
        }
    }
    if steps.is_empty() {
        return;
    }
    entry.set("healthcheck.type", "send_expect", &line.origin());
    entry.set("healthcheck.steps", format!("[{}]", steps.join(", ")), &line.origin());
}

fn binary(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks(2).map(hexadecimal).collect()
}
