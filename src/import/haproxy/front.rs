//! `frontend` and the listening half of `listen`: one listener for each address of a `bind`.

use super::address;
use super::options::Options;
use super::sections::{Bag, Given};
use super::tls;
use super::words::Line;
use crate::import::plan::{Entry, Listener, Plan};
use crate::import::report::{Findings, Origin};
use crate::import::units::{Millis, haproxy_time};

/// A time with the directive that sets it.
pub(super) type Timed = Option<(Millis, Origin)>;

/// What a listener needs to know of its upstream.
#[derive(Clone, Debug)]
pub(super) struct Served {
    /// The name of the upstream.
    pub(super) upstream: String,
    /// `timeout tunnel`, which wins over the timeouts of both sides.
    pub(super) tunnel: Timed,
    /// `timeout server-fin`.
    pub(super) server_fin: Timed,
}

/// Reads a timeout of the proxy.
pub(super) fn timeout(bag: &mut Bag<'_>, name: &str, findings: &mut Findings) -> Timed {
    let given = bag.take(name)?;
    let (origin, text) = (given.line.origin(), given.line.word(2));
    let read = haproxy_time(text);
    if read.is_none() {
        findings.add(&origin, format!("`{text}` is not a time; write one such as `30s`"));
    }
    read.map(|time| (time, origin))
}

/// Adds the listeners of a proxy. What all of them share is read once.
pub(super) fn listeners(
    bag: &mut Bag<'_>,
    proxy: (&str, &Origin),
    served: &Served,
    plan: &mut Plan,
    findings: &mut Findings,
) {
    let (name, origin) = proxy;
    let mut shared = Entry::new(origin.clone());
    times(bag, served, &mut shared, findings);
    keepalive(bag, &mut shared, findings);
    if let Some(given) = bag.take("option tcp-smart-accept") {
        shared.set("tcp.quick_ack", "off", &given.line.origin());
    }
    if let Some(given) = bag.take("backlog") {
        shared.set_text("backlog", given.line.word(1), &given.line.origin());
    }
    limits(bag, &mut shared, findings);
    choices(bag, served, &mut shared, findings);
    let binds = bag.take_all(&["bind"]);
    if binds.is_empty() {
        findings.add(origin, "has no `bind`, so nobody can reach it; write a listener with its address");
    }
    for Given { line, .. } in binds {
        bind(line, name, served, &shared, plan, findings);
    }
}

/// Adds the listeners of one `bind`.
fn bind(line: &Line, name: &str, served: &Served, shared: &Entry, plan: &mut Plan, findings: &mut Findings) {
    let origin = line.origin();
    let mut options = Options::default();
    options.add(line, 2);
    let mut entry = Entry { origin: origin.clone(), ..shared.clone() };
    let tls = tls::of_bind(&mut options, &mut entry, &origin, findings);
    if let Some(why) = tls.err().or_else(|| impossible(&options)) {
        findings.add(&origin, why);
        return;
    }
    let own_name = options.take("name").map(|own| format!("{name}-{own}"));
    if let Some(backlog) = options.take("backlog") {
        entry.set_text("backlog", &backlog, &origin);
    }
    match options.take("tcp-ut").map(|text| haproxy_time(&text)) {
        Some(Some(time)) => {
            entry.set("tcp.user_timeout", time.text_or_off(), &origin);
        }
        Some(None) => findings.add(&origin, "`tcp-ut` is not a time; write one such as `30s`"),
        None => {}
    }
    if options.take_flag("accept-proxy") {
        entry.accept_proxy(&origin);
    }
    if let Some(limit) = options.take("maxconn") {
        limit_of(&limit, &mut entry, &origin);
    }
    if let Some(interface) = options.take("interface") {
        entry.set_text("tcp.interface", &interface, &origin);
    }
    if options.take_flag("tfo") {
        entry.set("tcp.fast_open", true, &origin);
    }
    if options.take_flag("defer-accept") {
        entry.set("tcp.defer_accept", "1s", &origin);
    }
    let flags = if options.has("v6only") { vec!["v6only"] } else { Vec::new() };
    for text in line.word(1).split(',').map(str::trim).filter(|text| !text.is_empty()) {
        match address::bind(text, &flags) {
            Err(why) => findings.add(&origin, format!("{text}: {why}")),
            Ok(accept) => {
                let mut entry = entry.clone();
                let name = plan.listener_names.claim(own_name.as_deref().unwrap_or(name));
                entry.set_text("name", &name, &origin);
                plan.listeners.push(Listener { entry, accept, upstream: served.upstream.clone() });
            }
        }
    }
    for (option, value) in options.into_rest() {
        if let Some(why) = reason_of_option(&option) {
            findings.add(&origin, format!("{}: {why}", format!("{option} {value}").trim_end()));
        }
    }
}

/// Says why a `bind` cannot be a listener at all.
fn impossible(options: &Options) -> Option<&'static str> {
    options.has("accept-netscaler-cip").then_some(
        "`accept-netscaler-cip`: its header would reach the backend; have the other side send the PROXY protocol, and \
         write a listener",
    )
}

fn reason_of_option(option: &str) -> Option<&'static str> {
    Some(match option {
        // What these ask for follows from the address, or is always so.
        "v4v6" | "v6only" | "shards" | "nice" | "id" => {
            return match option {
                "shards" | "nice" => Some("every core has a socket of its own; leave it out"),
                _ => None,
            };
        }
        "process" | "thread" => "every core listens; see `runtime.cores`",
        "user" | "group" | "uid" | "gid" | "mode" => {
            "the socket gets the rights of the process and its umask; set them in the service manager"
        }
        "ciphers"
        | "ciphersuites"
        | "curves"
        | "ecdhe"
        | "sigalgs"
        | "ssl-max-ver"
        | "prefer-client-ciphers" => "always what is safe today, with TLS 1.2 and 1.3; leave it out",
        "crt-list" => "list its certificates in `tls.certificates`",
        "strict-sni" => "a client whose name has no certificate gets the first one; leave it out",
        "transparent" => "see `tcp.freebind`, which binds an address that is not there yet",
        "mss" => "the socket option is not set; set it for the route (`advmss`)",
        "namespace" => "start the process in the namespace (`ip netns exec`)",
        _ => "no counterpart; leave it out",
    })
}

/// Sets the idle limits.
fn times(bag: &mut Bag<'_>, served: &Served, entry: &mut Entry, findings: &mut Findings) {
    let client = timeout(bag, "timeout client", findings);
    match (&served.tunnel, client) {
        (Some((time, origin)), _) => {
            entry
                .set("timeouts.client_idle", time.text_or_off(), origin)
                .differs("`timeout tunnel`; there is one phase only");
        }
        (None, Some((time, origin))) => {
            entry.set("timeouts.client_idle", time.text_or_off(), &origin);
        }
        (None, None) => {}
    }
    let client_fin = timeout(bag, "timeout client-fin", findings);
    let differ = match (&client_fin, &served.server_fin) {
        (Some((client, _)), Some((server, _))) if client != server => Some(server.text()),
        _ => None,
    };
    if let Some((time, origin)) = client_fin.as_ref().or(served.server_fin.as_ref()) {
        if time.0 == 0 {
            findings.add(origin, "a half-closed session always has a limit; see `timeouts.half_close`");
            return;
        }
        let key = entry.set("timeouts.half_close", time.text(), origin);
        key.comment =
            differ.map(|server| format!("one limit for both sides; `timeout server-fin` was {server}"));
    }
}

/// Sets keepalive. It is on by default, so the bare option has nothing to say.
fn keepalive(bag: &mut Bag<'_>, entry: &mut Entry, findings: &mut Findings) {
    bag.take("option clitcpka");
    bag.take("option tcpka");
    for (name, path) in [
        ("clitcpka-idle", "tcp.keepalive.idle"),
        ("clitcpka-intvl", "tcp.keepalive.interval"),
        ("clitcpka-cnt", "tcp.keepalive.count"),
    ] {
        keepalive_key(bag, (name, path), entry, findings);
    }
}

/// Sets one key of keepalive; times without a unit are seconds.
pub(super) fn keepalive_key(
    bag: &mut Bag<'_>,
    (name, path): (&str, &'static str),
    entry: &mut Entry,
    findings: &mut Findings,
) {
    let Some(given) = bag.take(name) else { return };
    let (origin, text) = (given.line.origin(), given.line.word(1));
    if name.ends_with("-cnt") {
        entry.set_text(path, text, &origin);
        return;
    }
    let bare = text.bytes().all(|byte| byte.is_ascii_digit());
    let time = if bare { haproxy_time(&format!("{text}s")) } else { haproxy_time(text) };
    match time {
        Some(time) => {
            entry.set(path, time.text(), &origin);
        }
        None => findings.add(&origin, "not a time; write one such as `30s`"),
    }
}

/// Sets the limits on sessions. Clients beyond them wait in the backlog, as they do at HAProxy.
fn limits(bag: &mut Bag<'_>, entry: &mut Entry, findings: &mut Findings) {
    if let Some(given) = bag.take("maxconn") {
        limit_of(given.line.word(1), entry, &given.line.origin());
    }
    let Some(given) = bag.take("rate-limit") else { return };
    let (origin, text) = (given.line.origin(), given.line.word(2));
    match text.parse::<u32>() {
        Ok(rate) if given.line.word(1) == "sessions" && rate > 0 => {
            entry
                .set("rate_limit", format!("{rate}/s"), &origin)
                .differs("clients beyond it are reset; HAProxy has them wait");
        }
        _ => findings.add(&origin, "not `rate-limit sessions` and a number; see `rate_limit`"),
    }
}

fn limit_of(limit: &str, entry: &mut Entry, origin: &Origin) {
    entry.set_text("max_connections", limit, origin).differs("of this listener alone");
    entry.set("over_limit", "wait", origin);
}

/// Reports what chooses among backends or clients, and says so at the listener.
fn choices(bag: &mut Bag<'_>, served: &Served, entry: &mut Entry, findings: &mut Findings) {
    for Given { line, .. } in bag.take_all(&["use_backend"]) {
        let why = format!(
            "a listener has one upstream, so every connection goes to {}; write a listener on another address",
            served.upstream
        );
        findings.add(&line.origin(), why);
        entry.comment(format!("HAProxy chose by `use_backend` in line {}; here all go to one", line.number));
    }
    for Given { line, .. } in bag.take_all(&["tcp-request"]) {
        let why =
            "rules are not translated; see `allow`, `deny`, `rate_limit` and `per_source` of a listener";
        findings.add(&line.origin(), why);
        entry.comment(format!("the rule in line {} is not taken over: every client gets in", line.number));
    }
}
