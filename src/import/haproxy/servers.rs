//! The `server` lines of a proxy, with what `default-server` says before them.

use super::address::{self, Server as Address};
use super::options::Options;
use super::sections::Bag;
use super::tls;
use super::words::Line;
use crate::import::plan::{Entry, Names};
use crate::import::report::{Findings, Origin};
use crate::import::units::{Millis, haproxy_time};

/// A backend, and what its line says about the whole upstream.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) entry: Entry,
    pub(super) backup: bool,
    /// Where `maxconn` is set.
    pub(super) limited: Option<Origin>,
    /// `maxqueue`.
    pub(super) queue: Option<u64>,
    pub(super) source: Option<String>,
    pub(super) slow_start: Option<Millis>,
    pub(super) closes_on_down: bool,
    pub(super) closes_on_up: bool,
    /// `tfo`.
    pub(super) fast_open: bool,
    /// How it is checked, if it is.
    pub(super) check: Option<Check>,
    /// The version of the PROXY header that it is sent.
    pub(super) announced: Option<&'static str>,
    /// Keys of the upstream, if TLS is spoken to the server.
    pub(super) tls: Option<tls::Keys>,
    /// `error-limit` with `observe layer4`.
    pub(super) error_limit: Option<String>,
}

/// How a server is checked, as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) interval: Option<Millis>,
    pub(super) fast_interval: Option<Millis>,
    pub(super) rise: Option<String>,
    pub(super) fall: Option<String>,
    pub(super) port: Option<String>,
    pub(super) tls: bool,
}

/// Takes the servers of a proxy. `ports` are those that its clients come to.
pub(super) fn servers(bag: &mut Bag<'_>, ports: &[u16], findings: &mut Findings) -> Vec<Server> {
    let mut defaults = Options::default();
    let (mut servers, mut names) = (Vec::new(), Names::default());
    for given in bag.take_all(&["server", "default-server"]) {
        if given.line.word(0) == "default-server" {
            defaults.add(given.line, 1);
            continue;
        }
        let mut options = defaults.clone();
        options.add(given.line, 3);
        if let Some(server) = server(given.line, options, ports, &mut names, findings) {
            servers.push(server);
        }
    }
    servers
}

fn server(
    line: &Line,
    mut options: Options,
    ports: &[u16],
    names: &mut Names,
    findings: &mut Findings,
) -> Option<Server> {
    let origin = line.origin();
    if let Some(why) = impossible(&options) {
        findings.add(&origin, why);
        return None;
    }
    let mut entry = Entry::new(origin.clone());
    let name = names.claim(line.word(1));
    entry.set_text("name", &name, &origin);
    if let Err(why) = address_of(line.word(2), ports, &mut entry, &origin) {
        findings.add(&origin, why);
        return None;
    }
    let limited = limits(&mut options, &mut entry, &origin, findings);
    let backup = options.take_flag("backup");
    if backup {
        entry.set("backup", true, &origin);
    }
    let check = check(&mut options, &origin, findings);
    let server = Server {
        backup,
        limited,
        queue: options.take("maxqueue").and_then(|text| text.parse().ok()).filter(|most| *most > 0),
        source: options.take("source"),
        slow_start: time(&mut options, "slowstart", &origin, findings).filter(|time| time.0 > 0),
        closes_on_down: options.take("on-marked-down").is_some_and(|what| what == "shutdown-sessions"),
        closes_on_up: options.take("on-marked-up").is_some_and(|what| what == "shutdown-backup-sessions"),
        fast_open: options.take_flag("tfo"),
        check,
        announced: announced(&mut options),
        tls: tls::of_server(&mut options, &origin, findings),
        error_limit: error_limit(&mut options, &origin, findings),
        entry,
    };
    for (option, value) in options.into_rest() {
        if let Some(why) = reason(&option) {
            findings.add(&origin, format!("{}: {why}", format!("{option} {value}").trim_end()));
        }
    }
    Some(server)
}

/// Says why a server cannot be a backend at all.
fn impossible(options: &Options) -> Option<&'static str> {
    options.has("socks4").then_some("`socks4`: there is no SOCKS; write a backend that is reached directly")
}

/// Takes the version of the PROXY header that the server is sent.
fn announced(options: &mut Options) -> Option<&'static str> {
    // Checks send a header wherever sessions do.
    options.take("check-send-proxy");
    let is_v2 = options.take_flag("send-proxy-v2");
    let is_v1 = options.take_flag("send-proxy");
    // What these say of TLS beside it is reported.
    let is_v2 = is_v2 || ["send-proxy-v2-ssl", "send-proxy-v2-ssl-cn"].iter().any(|name| options.has(name));
    if is_v2 { Some("v2") } else { is_v1.then_some("v1") }
}

/// Sets address and port. A port that is not written is the one that clients come to.
fn address_of(text: &str, ports: &[u16], entry: &mut Entry, origin: &Origin) -> Result<(), String> {
    let (host, port) = match address::server(text)? {
        Address::Unix(path) => {
            entry.set_text("address", &format!("unix:{path}"), origin);
            return Ok(());
        }
        Address::Tcp(host, port) => (host, port),
    };
    let offset = match &port {
        None => Some(0),
        Some(port) if port.starts_with(['+', '-']) => port.parse::<i32>().ok(),
        Some(_) => None,
    };
    let port = match (port, offset, ports) {
        (Some(port), None, _) => port,
        (_, Some(offset), [one]) => {
            entry.comment("HAProxy used the port that the client came to, which is one alone");
            i32::from(*one).saturating_add(offset).to_string()
        }
        _ => return Err("has the port that the client came to; write a backend for each port".to_owned()),
    };
    entry.set_text("address", &host, origin);
    entry.set_text("port", &port, origin);
    Ok(())
}

/// Sets weight and limit. Returns where the limit is set.
fn limits(
    options: &mut Options,
    entry: &mut Entry,
    origin: &Origin,
    findings: &mut Findings,
) -> Option<Origin> {
    if let Some(weight) = options.take("weight") {
        match weight.parse::<u32>() {
            Ok(weight) if weight <= 1_000 => {
                entry.set("weight", weight, origin);
            }
            _ => findings.add(origin, format!("`weight {weight}` is not a number from 0 to 1000; it is 1")),
        }
    }
    options.take("enabled");
    if options.take_flag("disabled") {
        entry.set("weight", 0, origin).differs("disabled: no new sessions, but checks go on");
    }
    let limit = options.take("maxconn")?;
    match limit.parse::<u32>() {
        Ok(limit) => {
            entry.set("max_connections", limit, origin);
            (limit > 0).then(|| origin.clone())
        }
        Err(_) => {
            findings.add(origin, format!("`maxconn {limit}` is not a number; the backend has no limit"));
            None
        }
    }
}

fn check(options: &mut Options, origin: &Origin, findings: &mut Findings) -> Option<Check> {
    let on = options.take_flag("check");
    let check = Check {
        interval: time(options, "inter", origin, findings).filter(|time| time.0 > 0),
        fast_interval: time(options, "fastinter", origin, findings).filter(|time| time.0 > 0),
        rise: options.take("rise"),
        fall: options.take("fall"),
        port: options.take("port"),
        tls: options.take_flag("check-ssl"),
    };
    if !on {
        return None;
    }
    if options.take("downinter").is_some() {
        findings.add(origin, "downinter: a backend that is down is checked every `interval`; leave it out");
    }
    for name in ["addr", "check-via-socks4", "check-sni", "check-alpn", "check-proto"] {
        if options.take(name).is_some() {
            findings.add(
                origin,
                format!("{name}: checks ask the backend itself, plainly; see `healthcheck.port`"),
            );
        }
    }
    Some(check)
}

fn time(options: &mut Options, name: &str, origin: &Origin, findings: &mut Findings) -> Option<Millis> {
    let text = options.take(name)?;
    let time = haproxy_time(&text);
    if time.is_none() {
        findings.add(origin, format!("`{name} {text}` is not a time; write one such as `2s`"));
    }
    time
}

/// Takes `error-limit` where the connections of sessions are watched.
fn error_limit(options: &mut Options, origin: &Origin, findings: &mut Findings) -> Option<String> {
    let layer = options.take("observe")?;
    if layer != "layer4" {
        findings.add(origin, format!("observe {layer}: nothing here reads more than TCP; see `outlier`"));
        return None;
    }
    options.take("on-error");
    Some(options.take("error-limit").unwrap_or_else(|| "10".to_owned()))
}

/// Says why an option is not taken over; `None` for what has nothing to say here.
fn reason(option: &str) -> Option<&'static str> {
    Some(match option {
        // Of a server that is not checked, and of what is always so.
        "downinter" | "addr" | "check-via-socks4" | "check-sni" | "id" => return None,
        "resolvers" | "resolve-prefer" | "resolve-opts" | "resolve-net" => {
            "the system's resolver is asked; see `resolve`"
        }
        "init-addr" => "a name that does not resolve does not stop the start; leave it out",
        "minconn" => "the limit of a backend does not move; see `max_connections`",
        "cookie" => "cookies are of HTTP; see `source_hash` for affinity",
        "track" => "each backend is checked itself; leave it out",
        "agent-check" | "agent-port" | "agent-inter" | "agent-addr" | "agent-send" => {
            "there is no agent; let it answer over HTTP, and write `healthcheck.port`"
        }
        "observe" | "error-limit" | "on-error" => "failed sessions eject a backend; see `outlier`",
        "on-marked-down" | "on-marked-up" => "see `on_down` and `on_up`, which keep or close sessions",
        "tcp-ut" => "one for the upstream; see `tcp.user_timeout`",
        "usesrc" | "interface" => "backends see an address of this machine; see `source`",
        "namespace" => "start the process in the namespace (`ip netns exec`)",
        "pool-max-conn" | "pool-low-conn" | "pool-purge-delay" => "of HTTP; see `pool`",
        "hash-key" => "clients are hashed over the names of backends; leave it out",
        "send-proxy-v2-ssl" | "send-proxy-v2-ssl-cn" | "proxy-v2-options" => {
            "the header says nothing of TLS, and always has a checksum; see `send_proxy`"
        }
        "verify" | "ca-file" | "crt" | "sni" | "alpn" | "verifyhost" => {
            "has no effect without `ssl`; leave it out"
        }
        "ciphers" | "ciphersuites" | "ssl-min-ver" | "ssl-max-ver" | "force-tlsv12" | "force-tlsv13" => {
            "always what is safe today, with TLS 1.2 and 1.3; leave it out"
        }
        _ => "no counterpart; leave it out",
    })
}
