//! `server` of `stream`: its listeners.

use super::settings::Settings;
use super::tls;
use super::tokens::Directive;
use crate::import::listen::Accept;
use crate::import::plan::Entry;
use crate::import::report::{Findings, Origin};
use crate::import::units::nginx_time;

/// Returns where a `listen` accepts, and sets its options. Reports one that cannot be taken over.
pub(super) fn listen(
    directive: &Directive,
    settings: &Settings<'_>,
    entry: &mut Entry,
    findings: &mut Findings,
) -> Option<Accept> {
    let origin = directive.origin();
    let options: Vec<&str> = directive.arguments.iter().skip(1).map(String::as_str).collect();
    for (option, why) in
        [("udp", "there is no UDP; keep it in nginx"), ("quic", "there is no QUIC; keep it in nginx")]
    {
        if options.contains(&option) {
            findings.add(&origin, format!("{option}: {why}"));
            return None;
        }
    }
    if options.contains(&"ssl")
        && let Err(why) = tls::of_listen(settings, entry, &origin, findings)
    {
        findings.add(&origin, why);
        return None;
    }
    let accept = match accept(directive.argument(0), &options) {
        Ok(accept) => accept,
        Err(why) => {
            findings.add(&origin, why);
            return None;
        }
    };
    for option in options {
        apply(option, entry, &origin, findings);
    }
    Some(accept)
}

fn accept(text: &str, options: &[&str]) -> Result<Accept, String> {
    if text.contains('$') {
        return Err("has a variable; write its value, and import again".to_owned());
    }
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(Accept::Unix(path.to_owned()));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((_, port)) if port.ends_with(']') => return Err("has no port; write one".to_owned()),
        Some((host, port)) => (host, port),
        None if text.starts_with(|c: char| c.is_ascii_digit()) && !text.contains('.') => ("", text),
        None => return Err("has no port; write one".to_owned()),
    };
    if port.contains('-') {
        return Err(format!("{port} is a range of ports; write a `listen` for each, and import again"));
    }
    let port = port.parse().map_err(|_| format!("{port} is not a port from 1 to 65535; write one"))?;
    Ok(Accept::new(host, port, options.contains(&"ipv6only=off")))
}

fn apply(option: &str, entry: &mut Entry, origin: &Origin, findings: &mut Findings) {
    let (name, value) = option.split_once('=').unwrap_or((option, ""));
    match name {
        "backlog" => {
            entry.set_text("backlog", value, origin);
        }
        "so_keepalive" => keepalive(value, entry, origin, findings),
        "proxy_protocol" => entry.accept_proxy(origin),
        "fastopen" => {
            entry.set("tcp.fast_open", true, origin);
        }
        "deferred" => {
            entry.set("tcp.defer_accept", "1s", origin);
        }
        // Every core has a socket of its own, and the address says the rest.
        "reuseport" | "bind" | "ipv6only" => {}
        // Keys of its own say it.
        "ssl" => {}
        "default_server" | "default" => {
            findings.add(origin, format!("{option}: no names are read; leave it out"))
        }
        _ => findings.add(origin, format!("{option}: the socket option is not set; leave it out")),
    }
}

/// Sets `on`, `off` or `IDLE:INTERVAL:COUNT`, of which parts may be empty.
fn keepalive(value: &str, entry: &mut Entry, origin: &Origin, findings: &mut Findings) {
    if value == "on" {
        return;
    }
    if value == "off" {
        entry.set("tcp.keepalive", "off", origin);
        return;
    }
    let mut parts = value.split(':');
    for path in ["tcp.keepalive.idle", "tcp.keepalive.interval"] {
        let text = parts.next().unwrap_or_default();
        match nginx_time(text) {
            Some(time) => {
                entry.set(path, time.text(), origin);
            }
            None if text.is_empty() => {}
            None => {
                findings.add(origin, format!("so_keepalive: `{text}` is not a time; write one such as `30s`"))
            }
        }
    }
    if let Some(count) = parts.next().filter(|count| !count.is_empty()) {
        entry.set_text("tcp.keepalive.count", count, origin);
    }
}
