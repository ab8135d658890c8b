//! `upstream`: algorithm and servers.

use super::tokens::Directive;
use crate::import::plan::Entry;
use crate::import::report::{Findings, Origin};
use crate::import::units::{Millis, nginx_time};

/// Sets the algorithm and adds the backends of a block.
pub(super) fn upstream(
    block: &Directive,
    name: &str,
    entry: &mut Entry,
    findings: &mut Findings,
) -> Vec<Entry> {
    let (mut backends, mut parts) = (Vec::new(), Vec::new());
    for directive in block.block.iter().flatten() {
        let origin = directive.origin();
        match directive.name.as_str() {
            "server" => {
                let position = backends.len() + 1;
                if let Some((backend, part)) = server(directive, name, position, findings) {
                    backends.push(backend);
                    parts.push((part, origin));
                }
            }
            "least_conn" => {
                entry.set("algorithm", "least_connections", &origin);
            }
            "random" => {
                entry.set("algorithm", "random", &origin).comment =
                    (directive.argument(0) != "two").then(|| "two choices".to_owned());
            }
            "least_time" => {
                entry
                    .set("algorithm", "peak_ewma", &origin)
                    .differs("goes by the latency of the last answers");
            }
            "hash" => hash(directive, entry, findings),
            // The state is that of the whole process.
            "zone" => {}
            "resolver" | "resolver_timeout" => {
                findings.add(&origin, "the system's resolver is asked; see `resolve`");
            }
            _ => findings
                .add(&origin, format!("no counterpart in `upstreams`; leave it out{}", directive.extent())),
        }
    }
    shared(&parts, entry, findings);
    backends
}

fn hash(directive: &Directive, entry: &mut Entry, findings: &mut Findings) {
    let origin = directive.origin();
    let key: String = directive.argument(0).chars().filter(|c| !matches!(c, '{' | '}' | ':')).collect();
    let source_port = match key.as_str() {
        "$remote_addr" | "$binary_remote_addr" => false,
        "$remote_addr$remote_port" | "$binary_remote_addr$remote_port" => true,
        _ => {
            let why = "`source_hash` and `maglev` go by the client's address, with or without its port; \
                       `round_robin` is used, or choose another";
            findings.add(&origin, why);
            entry.set("algorithm", "round_robin", &origin).differs("nginx: `hash` of something else");
            return;
        }
    };
    let key = entry.set("algorithm", "source_hash", &origin);
    if directive.argument(1) != "consistent" {
        key.differs("always consistent: clients may meet another server than before");
    }
    if source_port {
        entry.set("hash_key", "source_port", &origin);
    }
}

/// What a `server` says that an upstream has once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Part {
    max_fails: Option<String>,
    fail_timeout: Option<Millis>,
    slow_start: Option<Millis>,
}

fn server(
    directive: &Directive,
    upstream: &str,
    position: usize,
    findings: &mut Findings,
) -> Option<(Entry, Part)> {
    let origin = directive.origin();
    let mut entry = Entry::new(origin.clone());
    entry.set_text("name", &format!("{upstream}{position}"), &origin);
    if let Err(why) = address(directive.argument(0), &mut entry, &origin) {
        findings.add(&origin, why);
        return None;
    }
    let mut part = Part::default();
    for argument in directive.arguments.iter().skip(1) {
        let (name, value) = argument.split_once('=').unwrap_or((argument, ""));
        let mut time = |text: &str| {
            let time = nginx_time(text);
            if time.is_none() {
                findings.add(&origin, format!("`{argument}` is not a time; write one such as `30s`"));
            }
            time
        };
        match name {
            "weight" | "max_conns" => match value.parse::<u32>() {
                Ok(number) if name == "max_conns" => {
                    entry.set("max_connections", number, &origin);
                }
                Ok(number) if number <= 1_000 => {
                    if !entry.has("weight") {
                        entry.set("weight", number, &origin);
                    }
                }
                _ => {
                    findings.add(&origin, format!("`{argument}` is out of bounds; see docs/CONFIGURATION.md"))
                }
            },
            "backup" => {
                entry.set("backup", true, &origin);
            }
            "down" => {
                entry.set("weight", 0, &origin).differs("down: no new sessions, but checks go on");
            }
            "max_fails" => part.max_fails = Some(value.to_owned()),
            "fail_timeout" => part.fail_timeout = time(value).filter(|time| time.0 > 0),
            "slow_start" => part.slow_start = time(value).filter(|time| time.0 > 0),
            // Names are always looked up again.
            "resolve" => {}
            "service" => {
                findings.add(&origin, "records of type SRV are not read; write a backend for each server");
                return None;
            }
            _ => findings.add(&origin, format!("{argument}: no counterpart; leave it out")),
        }
    }
    Some((entry, part))
}

/// Sets the address of a backend: `HOST:PORT` or `unix:/PATH`.
pub(super) fn address(text: &str, entry: &mut Entry, origin: &Origin) -> Result<(), String> {
    if text.contains('$') {
        return Err("depends on a variable; an upstream is fixed: write one, and import again".to_owned());
    }
    if text.starts_with("unix:") {
        entry.set_text("address", text, origin);
        return Ok(());
    }
    let Some((host, port)) = text.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) else {
        return Err(format!("`{text}` has no port; write it, and import again"));
    };
    entry.set_text("address", host.trim_start_matches('[').trim_end_matches(']'), origin);
    entry.set_text("port", port, origin);
    Ok(())
}

/// Sets what the servers have each and an upstream has once.
fn shared(parts: &[(Part, Origin)], entry: &mut Entry, findings: &mut Findings) {
    let Some((first, origin)) = parts.iter().find(|(part, _)| *part != Part::default()) else { return };
    for (_, place) in parts.iter().filter(|(part, _)| part != first && *part != Part::default()) {
        findings.add(place, "max_fails, fail_timeout, slow_start: one for the upstream; the first is used");
    }
    if parts.iter().any(|(part, _)| part != first) {
        entry.comment(
            "the servers differed in max_fails, fail_timeout or slow_start; here all are like the first",
        );
    }
    match first.max_fails.as_deref() {
        Some("0") => {
            entry.set("outlier", "off", origin);
        }
        max_fails => {
            if let Some(most) = max_fails {
                entry
                    .set_text("outlier.consecutive_failures", most, origin)
                    .differs("consecutive ones, not those within `fail_timeout`");
            }
            if let Some(time) = first.fail_timeout {
                entry.set("outlier.ejection_time", time.text(), origin);
            }
        }
    }
    let hashes = entry.keys.iter().any(|key| key.path == "algorithm" && key.value == "source_hash");
    match first.slow_start {
        Some(_) if hashes => {
            findings.add(origin, "slow_start would move clients with this algorithm; leave it out")
        }
        Some(time) => {
            entry.set("slow_start", time.text(), origin);
        }
        None => {}
    }
}
