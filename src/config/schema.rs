//! The keys of the file, each with its name, its default, and how its value is read within which bounds;
//! those of `healthcheck` and `pool` stand in files of their own.
//!
//! A new key is one call here, one field of the model, whose comment is the sentence of the reference, and
//! one row of docs/CONFIGURATION.md, which a test dictates.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::address;
use super::admin::admin;
use super::admission::{NO_BACKEND, OVER_LIMIT, clients, per_source, rate_limit};
use super::files::Files;
use super::healthcheck::healthcheck;
use super::hints;
use super::model::{
    AccessFilter, AccessFormat, AdminState, Backend, BackendAddress, Bandwidth, Config, CoreSelection,
    EqualIdle, HashKey, Keepalive, ListenAddress, Listener, ListenerTcp, ListenerTimeouts, LogFormat,
    LogTarget, Logging, NoBackend, OpenSessions, Outlier, OverLimit, QueueRules, Relay, Runtime, Sni,
    SourcePorts, TcpOptions, Upstream, UpstreamTimeouts, UpstreamTls,
};
use super::pool::pool;
use super::proxy::{VERSIONS, proxy_protocol};
use super::relations::{self, Entries, Names, UpstreamLocations, WrittenIdle, WrittenTimeouts};
use super::report::{Location, Problems};
use super::section::{Read, Section};
use super::sni;
use super::tls;
use super::tree::{Map, Node, Value};
use super::values::{
    ACCESS_FILTERS, ACCESS_FORMATS, FORMATS, HASH_KEYS, LEVELS, OPEN_SESSIONS, SOURCE_PORTS, algorithm,
    auto_or, boolean, buffers, byte_rate, congestion_control, cores, count, duration, duration_within,
    interface, limit, log_target, name, number, off_or, one_of, percent, port, size, sources, text,
    whole_seconds,
};
use crate::balance::{self, Registered};
use crate::base::{UpstreamId, limits};

/// Name of the one listener and the one upstream of the short form.
const DEFAULT_NAME: &str = "default";

const LONG_KEYS: [&str; 3] = ["listeners", "upstreams", "defaults"];

/// Reads a whole file. The configuration counts only if no error was reported.
pub(super) fn config(root: &mut Section<'_>) -> Config {
    let runtime = root.section("runtime", runtime);
    let logging = root.section("logging", logging);
    let (mut admin, places) = root.section("admin", admin);
    let long = LONG_KEYS.iter().any(|key| root.has(key));
    let mut entries = if long { long_form(root) } else { short_form(root) };
    relations::idle(root, &mut entries);
    relations::circles(root, &entries);
    places.keep_apart(root, &mut admin, &entries.listeners);
    Config { runtime, logging, admin, listeners: entries.listeners, upstreams: entries.upstreams }
}

fn runtime(s: &mut Section<'_>) -> Runtime {
    Runtime {
        cores: s.value("cores", CoreSelection::Auto, cores),
        max_connections: s.value("max_connections", None, limit),
        shutdown_delay: s.value("shutdown_delay", None, off_or(duration)),
        shutdown_timeout: s.value("shutdown_timeout", Some(Duration::from_secs(30)), off_or(duration)),
        drain_timeout: s.value("drain_timeout", None, off_or(duration)),
        relay: s.section("relay", |s| Relay {
            buffer_bytes: s.value("buffer_size", 16 << 10, size(limits::BUFFER_BYTES)),
            buffers_per_core: s.value("buffers_per_core", 4_096, buffers),
            splice: s.value("splice", Some(()), off_or(one_of(&[("auto", ())]))).is_some(),
            pipe_bytes: s.value("pipe_size", 1 << 20, size(limits::PIPE_BYTES)),
            pipes_per_core: s
                .value("pipes_per_core", None, auto_or(number(1..=limits::PIPES_PER_CORE_MAX)))
                .and_then(NonZeroU32::new),
        }),
    }
}

fn logging(s: &mut Section<'_>) -> Logging {
    Logging {
        level: s.value("level", log::LevelFilter::Info, one_of(LEVELS)),
        format: s.value("format", LogFormat::Text, one_of(FORMATS)),
        target: s.value("target", LogTarget::Stderr, log_target),
        access_log: s.value("access_log", None, off_or(log_target)),
        access_format: s.value("access_format", AccessFormat::Tcplog, one_of(ACCESS_FORMATS)),
        access_filter: s.value("access_filter", AccessFilter::All, one_of(ACCESS_FILTERS)),
    }
}

fn short_form(root: &mut Section<'_>) -> Entries {
    let written = root.has("loadbalancer");
    if !written {
        root.error("`loadbalancer` is missing; add it, or `listeners` and `upstreams` of the long form");
    }
    let (listener, client, (settings, idle)) = root.section("loadbalancer", |s| {
        for key in ["name", "upstream", "sni"] {
            s.forbid(key, "the short form has one listener and one upstream, both called `default`");
        }
        let address = if written { s.required("listen_address", address::listen) } else { None };
        let address = address.unwrap_or_else(nowhere);
        let (algorithm, hash_key) = balancing(s);
        // Here the two sections take the keys of both sides.
        let ((listener_timeouts, client), (timeouts, idle)) =
            s.section("timeouts", |s| (listener_timeouts(s), upstream_timeouts(s)));
        let (listener_tcp, tcp) = s.section("tcp", |s| (listener_tcp(s, &address), tcp(s)));
        let listener = bare_listener(s, DEFAULT_NAME.to_owned(), address, listener_timeouts, listener_tcp);
        let tls = None;
        (listener, client, (UpstreamSettings { algorithm, hash_key, timeouts, tcp, tls }, idle))
    });
    let why = "TLS with clients stands in `loadbalancer`; TLS with backends needs the long form, `listeners` and `upstreams`";
    root.forbid("tls", why);
    let (backends, addresses) = backends(root);
    let upstream = upstream(root, DEFAULT_NAME.to_owned(), settings, backends);
    let locations = vec![UpstreamLocations::of(root, addresses, idle)];
    Entries { listeners: vec![listener], clients: vec![client], upstreams: vec![upstream], locations }
}

fn long_form(root: &mut Section<'_>) -> Entries {
    for key in hints::TOP_KEYS.split(' ').chain(["loadbalancer"]) {
        let why = "it is of the short form, but `listeners`, `upstreams` and `defaults` are of the long \
                   form; use one form in a file";
        root.forbid(key, why);
    }
    let (listener_defaults, upstream_defaults) = root.section("defaults", defaults);
    let mut names = Names::default();
    let mut entries = Entries::default();
    for mut s in root.entries("upstreams", limits::UPSTREAMS_MAX, Some(&upstream_defaults)) {
        let called = s.required("name", name);
        if let Some(called) = &called {
            relations::not_close(&s, called);
            names.claim(&s, called);
        }
        let (backends, addresses) = backends(&mut s);
        let (upstream, idle) = long_upstream(&mut s, called.unwrap_or_default(), backends);
        entries.upstreams.push(upstream);
        entries.locations.push(UpstreamLocations::of(&s, addresses, idle));
        s.finish();
    }
    listeners(root, &listener_defaults, &mut names, &mut entries);
    if root.has("listeners") {
        names.warn_unused(root);
    }
    entries
}

fn listeners<'a>(
    root: &mut Section<'a>,
    defaults: &Section<'a>,
    upstreams: &mut Names,
    entries: &mut Entries,
) {
    let mut names = Names::default();
    for mut s in root.entries("listeners", limits::LISTENERS_MAX, Some(defaults)) {
        let called = s.required("name", name);
        let address = s.required("address", address::listen);
        let (upstream, sni) = sni::routed(&mut s, upstreams);
        if let Some(called) = &called {
            names.claim(&s, called);
        }
        if let Some(address) = &address {
            relations::overlap(&s, address, &entries.listeners);
        }
        // A missing key was reported; the rest of the entry is read all the same.
        let address = address.unwrap_or_else(nowhere);
        let (mut listener, client) = listener(&mut s, called.unwrap_or_default(), address);
        (listener.upstream, listener.sni) = (upstream, sni);
        for id in listener.upstreams() {
            if let Some(upstream) = entries.upstreams.get(id.index()) {
                relations::clients_apart(&s, &listener, upstream);
            }
        }
        entries.listeners.push(listener);
        entries.clients.push(client);
        s.finish();
    }
}

/// Returns what stands for an address that was reported, so that the rest of its entry is read all the same.
fn nowhere() -> ListenAddress {
    ListenAddress::Unix(PathBuf::new())
}

/// Reads both sections of `defaults` on their own, so that a mistake there is reported there.
fn defaults<'a>(s: &mut Section<'a>) -> (Section<'a>, Section<'a>) {
    let mut own = s.part("listener");
    for key in ["name", "address"] {
        own.forbid(key, "each listener has its own");
    }
    own.forbid("sni", "each listener has its own");
    own.optional("upstream", name);
    listener(&mut own, String::new(), nowhere());
    let listener_defaults = own.clone();
    own.finish();

    let mut own = s.part("upstream");
    for key in ["name", "backends"] {
        own.forbid(key, "each upstream has its own");
    }
    long_upstream(&mut own, String::new(), Vec::new());
    let upstream_defaults = own.clone();
    own.finish();
    (listener_defaults, upstream_defaults)
}

fn listener(s: &mut Section<'_>, name: String, address: ListenAddress) -> (Listener, WrittenTimeouts) {
    let (timeouts, written) = s.section("timeouts", listener_timeouts);
    let tcp = s.section("tcp", |s| listener_tcp(s, &address));
    (bare_listener(s, name, address, timeouts, tcp), written)
}

/// Reads the keys that a listener has in both forms under the same name.
fn bare_listener(
    s: &mut Section<'_>,
    name: String,
    address: ListenAddress,
    timeouts: ListenerTimeouts,
    tcp: ListenerTcp,
) -> Listener {
    let listener = Listener {
        name,
        upstream: UpstreamId(0),
        sni: Sni::default(),
        backlog: s.value("backlog", 4_096, number(1..=limits::BACKLOG_MAX)),
        max_connections: s.value("max_connections", None, limit),
        over_limit: s.value("over_limit", OverLimit::Refuse, one_of(OVER_LIMIT)),
        rate_limit: rate_limit(s),
        per_source: per_source(s),
        allow: clients(s, "allow"),
        deny: clients(s, "deny"),
        client_first: s.value("client_first", None, off_or(duration)),
        no_backend: s.value("no_backend", NoBackend::Reset, one_of(NO_BACKEND)),
        proxy_protocol: proxy_protocol(s, &address),
        tls: tls::of_listener(s),
        bandwidth: s.section("bandwidth", bandwidth),
        timeouts,
        tcp,
        address,
    };
    relations::admission_of_use(s, &listener);
    relations::may_unlisten(s, &listener);
    listener
}

fn bandwidth(s: &mut Section<'_>) -> Bandwidth {
    Bandwidth {
        to_backend: s.value("to_backend", None, off_or(byte_rate)),
        to_client: s.value("to_client", None, off_or(byte_rate)),
    }
}

fn listener_timeouts(s: &mut Section<'_>) -> (ListenerTimeouts, WrittenTimeouts) {
    let idle = s.optional("client_idle", off_or(duration));
    let handshake = duration_within(limits::HANDSHAKE_MIN..=limits::DURATION_MAX);
    let timeouts = ListenerTimeouts {
        handshake: s.value("handshake", Duration::from_secs(10), handshake),
        client_idle: idle.unwrap_or(Some(ListenerTimeouts::IDLE)),
        equal_idle: EqualIdle::Client,
        half_close: s.value("half_close", Duration::from_secs(30), duration),
        session: s.value("session", None, off_or(duration)),
    };
    let half_close = s.has("half_close").then(|| s.location("half_close"));
    (timeouts, WrittenTimeouts { idle: idle.map(|idle| (idle, s.location("client_idle"))), half_close })
}

fn listener_tcp(s: &mut Section<'_>, address: &ListenAddress) -> ListenerTcp {
    let options = tcp(s);
    let steer_by_cpu = s.value("steer_by_cpu", false, boolean);
    relations::steerable(s, steer_by_cpu, address);
    let seconds = duration_within(Duration::from_secs(1)..=limits::DEFER_ACCEPT_MAX);
    let tcp = ListenerTcp {
        options,
        steer_by_cpu,
        defer_accept: s.value("defer_accept", None, off_or(seconds)),
        freebind: s.value("freebind", false, boolean),
        interface: s.value("interface", None, off_or(interface)),
    };
    relations::port_options_of_use(s, &tcp, address);
    tcp
}

fn tcp(s: &mut Section<'_>) -> TcpOptions {
    let user_timeout = duration_within(limits::DURATION_MIN..=limits::USER_TIMEOUT_MAX);
    let user_timeout = s.value("user_timeout", None, off_or(user_timeout));
    TcpOptions {
        nodelay: s.value("nodelay", true, boolean),
        keepalive: keepalive(s, user_timeout),
        user_timeout,
        congestion_control: s.value("congestion_control", None, off_or(congestion_control)),
        quick_ack: s.value("quick_ack", true, boolean),
        fast_open: s.value("fast_open", false, boolean),
    }
}

/// Reads the time of silence alone, or all three settings in a section.
fn keepalive(s: &mut Section<'_>, user_timeout: Option<Duration>) -> Option<Keepalive> {
    const IDLE: Duration = Duration::from_secs(60);
    let after = |idle| Keepalive {
        idle,
        interval: Keepalive::interval_for(idle, user_timeout),
        count: Keepalive::COUNT,
    };
    if !s.is_section("keepalive") {
        return s.value("keepalive", Some(IDLE), off_or(whole_seconds)).map(after);
    }
    Some(s.section("keepalive", |s| {
        let usual = after(s.value("idle", IDLE, whole_seconds));
        Keepalive {
            interval: s.value("interval", usual.interval, whole_seconds),
            count: s.value("count", usual.count, number(1..=limits::KEEPALIVE_PROBES_MAX)),
            ..usual
        }
    }))
}

/// The settings of an upstream that the short form has under `loadbalancer`.
struct UpstreamSettings {
    algorithm: &'static Registered,
    hash_key: HashKey,
    timeouts: UpstreamTimeouts,
    tcp: TcpOptions,
    tls: Option<Arc<UpstreamTls>>,
}

fn long_upstream(
    s: &mut Section<'_>,
    name: String,
    backends: Vec<Backend>,
) -> (Upstream, Option<WrittenIdle>) {
    let (algorithm, hash_key) = balancing(s);
    let ((timeouts, idle), tcp) = (s.section("timeouts", upstream_timeouts), s.section("tcp", tcp));
    let tls = tls::of_upstream(s, &backends);
    (upstream(s, name, UpstreamSettings { algorithm, hash_key, timeouts, tcp, tls }, backends), idle)
}

/// Reads the keys that stand in an entry of `upstreams`, or at the top of a short form.
fn upstream(
    s: &mut Section<'_>,
    name: String,
    settings: UpstreamSettings,
    backends: Vec<Backend>,
) -> Upstream {
    let UpstreamSettings { algorithm, hash_key, timeouts, tcp, tls } = settings;
    let upstream = Upstream {
        name,
        algorithm,
        hash_key,
        healthcheck: healthcheck(s, &backends),
        outlier: outlier(s, &backends),
        panic_threshold: s.value("panic_threshold", None, off_or(percent)),
        slow_start: slow_start(s, algorithm),
        on_down: open_sessions(s, "on_down"),
        on_up: open_sessions(s, "on_up"),
        retries: s.value("retries", 2, count(0..=limits::RETRIES_MAX)),
        retry_budget: s.value("retry_budget", Some(20), off_or(percent)),
        queue: s.section_or_off("queue", |s| {
            let max = s.value("max", 0, count(0..=limits::QUEUE_MAX));
            let queue = QueueRules { max, timeout: s.value("timeout", Duration::from_secs(5), duration) };
            relations::queue_within_establish(s, queue, &timeouts);
            queue
        }),
        pool: pool(s, &backends),
        send_proxy: s.value("send_proxy", None, off_or(one_of(VERSIONS))),
        tls,
        source: s.value("source", Vec::new(), sources),
        source_ports: s.value("source_ports", SourcePorts::Any, one_of(SOURCE_PORTS)),
        resolve: s.value("resolve", Some(Duration::from_secs(30)), off_or(duration)),
        timeouts,
        tcp,
        backends,
    };
    relations::upstream_of_use(s, &upstream);
    upstream
}

fn balancing(s: &mut Section<'_>) -> (&'static Registered, HashKey) {
    let algorithm = s.value("algorithm", default_algorithm(), algorithm);
    let hash_key = s.value("hash_key", HashKey::Source, one_of(HASH_KEYS));
    relations::hash_key_of_use(s, hash_key, algorithm);
    (algorithm, hash_key)
}

fn default_algorithm() -> &'static Registered {
    balance::find("round_robin").expect("round_robin is in the registry, as a test shows")
}

fn slow_start(s: &mut Section<'_>, algorithm: &Registered) -> Option<Duration> {
    let slow_start = s.value("slow_start", None, off_or(duration));
    if slow_start.is_some() {
        relations::slow_start_of_use(s, algorithm);
    }
    slow_start
}

fn open_sessions(s: &mut Section<'_>, key: &'static str) -> OpenSessions {
    s.value(key, OpenSessions::Keep, one_of(OPEN_SESSIONS))
}

fn outlier(s: &mut Section<'_>, backends: &[Backend]) -> Option<Outlier> {
    if s.is_off("outlier") {
        return None;
    }
    s.section("outlier", |s| {
        let max_ejected = s.optional("max_ejected", percent);
        let failures = || number(1..=limits::CONSECUTIVE_FAILURES_MAX);
        let outlier = Outlier {
            consecutive_failures: s.value("consecutive_failures", 5, failures()),
            empty_answers: s.value("empty_answers", None, off_or(failures())),
            ejection_time: s.value("ejection_time", Duration::from_secs(30), duration),
            max_ejected: max_ejected.unwrap_or(50),
        };
        if max_ejected.is_some() || !s.has("max_ejected") {
            relations::some_ejection(s, &outlier, backends);
        }
        Some(outlier)
    })
}

fn upstream_timeouts(s: &mut Section<'_>) -> (UpstreamTimeouts, Option<WrittenIdle>) {
    let idle = s.optional("backend_idle", off_or(duration));
    let timeouts = UpstreamTimeouts {
        connect: s.value("connect", Duration::from_secs(5), duration),
        establish: s.value("establish", Some(Duration::from_secs(15)), off_or(duration)),
        backend_idle: idle.unwrap_or(Some(ListenerTimeouts::IDLE)),
    };
    relations::connect_within_establish(s, &timeouts);
    (timeouts, idle.map(|idle| (idle, s.location("backend_idle"))))
}

/// Reads the backends of a section, and notes where their addresses stand.
fn backends(s: &mut Section<'_>) -> (Vec<Backend>, Vec<Location>) {
    let mut names = Names::default();
    let (mut backends, mut locations) = (Vec::new(), Vec::new());
    let sections = s.entries_or_texts("backends", limits::BACKENDS_PER_UPSTREAM_MAX);
    let written = sections.len();
    for (mut entry, bare) in sections {
        if let Some(backend) = backend(&mut entry, bare) {
            names.claim(&entry, &backend.name);
            backends.push(backend);
            locations.push(entry.location("address"));
        }
        entry.finish();
    }
    if backends.len() == written {
        relations::some_weight(s, &backends);
    }
    (backends, locations)
}

/// Reads the address of an entry that is nothing else.
fn bare_address(s: &Section<'_>, node: &Node) -> Option<BackendAddress> {
    let address = text(node)
        .map_err(|_| "not an entry; write `HOST:PORT`, or `key: value` pairs".to_owned())
        .and_then(|text| backend_address(s, text, None))
        .and_then(|address| match address {
            BackendAddress::Unix(_) => {
                Err("a `unix:` backend needs a name; write `{name: NAME, address: ...}`".to_owned())
            }
            address => Ok(address),
        });
    address.map_err(|rule| s.error(hints::of_value(node).unwrap_or(rule))).ok()
}

/// Reads a backend's address. One that only the resolver of the system would understand is reported, and read
/// as the resolver reads it, because that may be a listener of this file.
fn backend_address(s: &Section<'_>, text: &str, port: Option<u16>) -> Read<BackendAddress> {
    match address::loose_backend(text) {
        Some((meant, message)) => {
            s.error_at("address", message);
            address::backend(&meant, port)
        }
        None => address::backend(text, port),
    }
}

/// Reads an entry of `backends`: a section, or an address alone, which has the defaults of all other keys.
fn backend(s: &mut Section<'_>, bare: Option<&Node>) -> Option<Backend> {
    let name = s.optional("name", name);
    let weight = s.value("weight", 1, number(0..=limits::WEIGHT_MAX));
    let max_connections = s.value("max_connections", None, limit);
    let backup = s.value("backup", false, boolean);
    let port = s.optional("port", port);
    let port_unfit = s.has("port") && port.is_none();
    // Without its port the address can be read, not judged.
    let looked_at = s.clone();
    let address = match bare {
        Some(node) => bare_address(s, node)?,
        None => s.required("address", |node| {
            let text = text(node)?;
            if port_unfit { Ok(None) } else { backend_address(&looked_at, text, port).map(Some) }
        })??,
    };
    let name = match (name, &address) {
        (Some(name), _) => name,
        (None, _) if s.has("name") => return None,
        (None, BackendAddress::Unix(_)) => {
            s.error("`name` is missing; a `unix:` backend needs one");
            return None;
        }
        (None, address) => address.to_string(),
    };
    Some(Backend { name, address, weight, max_connections, backup, admin_state: AdminState::Ready })
}

/// Reads an entry of `backends` that stands alone: the document of a text of its own.
pub(super) fn lone_backend(document: &Node, problems: &Problems) -> Option<Backend> {
    let (nothing, files) = (Map::new(), Files::default());
    let (mut s, bare) = match &document.value {
        Value::Map(map) => (Section::root(map, problems, &files), None),
        _ => (Section::root(&nothing, problems, &files), Some(document)),
    };
    let backend = backend(&mut s, bare);
    s.finish();
    backend
}
