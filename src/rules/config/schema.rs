//! Every key of the file, but for those of `healthcheck` (`check`): its name, its default, how its value is read. A new key
//! is one line here, one field of the model and one line of `resolved`.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use super::address;
use super::check::healthcheck;
use super::model::{
    Backend, BackendAddress, Config, Cores, HashKey, Keepalive, ListenAddress, Listener, ListenerTcp,
    ListenerTimeouts, LogFormat, LogTarget, Logging, OpenSessions, Outlier, QueueRules, Relay, Runtime,
    TcpOptions, Upstream, UpstreamTimeouts,
};
use super::pool::pool;
use super::relations::{self, Names};
use super::section::Section;
use super::values::{
    FORMATS, HASH_KEYS, LEVELS, OPEN_SESSIONS, algorithm, auto_or, boolean, buffers, cores, count, duration,
    duration_within, limit, list, log_target, name, number, off_or, one_of, percent, port, size, source,
    text, whole_seconds,
};
use crate::rules::balance::{self, Registered};
use crate::words::{UpstreamId, limits};

/// Name of the one listener and the one upstream of the short form.
const DEFAULT_NAME: &str = "default";

const SHORT_KEYS: [&str; 14] = [
    "loadbalancer",
    "backends",
    "healthcheck",
    "outlier",
    "panic_threshold",
    "slow_start",
    "on_down",
    "on_up",
    "retries",
    "retry_budget",
    "queue",
    "pool",
    "source",
    "resolve",
];
const LONG_KEYS: [&str; 3] = ["listeners", "upstreams", "defaults"];

/// Reads a whole file. What it returns is of use only if no error was reported.
pub(super) fn config(root: &mut Section<'_>) -> Config {
    let runtime = root.section("runtime", runtime);
    let logging = root.section("logging", logging);
    let long = LONG_KEYS.iter().any(|key| root.has(key));
    let (listeners, upstreams) = if long { long_form(root) } else { short_form(root) };
    Config { runtime, logging, listeners, upstreams }
}

fn runtime(s: &mut Section<'_>) -> Runtime {
    Runtime {
        cores: s.value("cores", Cores::Auto, cores),
        max_connections: s.value("max_connections", None, limit),
        shutdown_delay: s.value("shutdown_delay", None, off_or(duration)),
        shutdown_timeout: s.value("shutdown_timeout", Some(Duration::from_secs(30)), off_or(duration)),
        relay: s.section("relay", |s| Relay {
            buffer_bytes: s.value("buffer_size", 16 << 10, size(limits::BUFFER_BYTES)),
            buffers_per_core: s.value("buffers_per_core", 4_096, buffers),
            splice: s.value("splice", Some(()), off_or(one_of(&[("auto", ())]))).is_some(),
            pipe_bytes: s.value("pipe_size", 1 << 20, size(limits::PIPE_BYTES)),
            pipes_per_core: s
                .value("pipes_per_core", None, auto_or(number(1..=limits::PIPES_PER_CORE)))
                .and_then(NonZeroU32::new),
        }),
    }
}

fn logging(s: &mut Section<'_>) -> Logging {
    Logging {
        level: s.value("level", log::LevelFilter::Info, one_of(LEVELS)),
        format: s.value("format", LogFormat::Text, one_of(FORMATS)),
        target: s.value("target", LogTarget::Stderr, log_target),
    }
}

fn short_form(root: &mut Section<'_>) -> (Vec<Listener>, Vec<Upstream>) {
    let mut picked = (default_algorithm(), HashKey::Source);
    let written = root.has("loadbalancer");
    if !written {
        root.error("`loadbalancer` is missing; add it, or `listeners` and `upstreams` of the long form");
    }
    let listener = root.section("loadbalancer", |s| {
        for key in ["name", "upstream"] {
            s.forbid(key, "the short form has one listener and one upstream, both called `default`");
        }
        let address = if written { s.required("listen_address", address::listen) } else { None };
        picked = balancing(s);
        listener(s, DEFAULT_NAME.to_owned(), address.unwrap_or_else(nowhere), UpstreamId(0))
    });
    let backends = backends(root);
    relations::circle(root, "backends", &listener.address, &backends);
    let connecting = (upstream_timeouts(&mut root.absent()), tcp(&mut root.absent()));
    let upstream = upstream(root, DEFAULT_NAME.to_owned(), picked, connecting, backends);
    (vec![listener], vec![upstream])
}

fn long_form(root: &mut Section<'_>) -> (Vec<Listener>, Vec<Upstream>) {
    for key in SHORT_KEYS {
        let why = "it is of the short form, but `listeners`, `upstreams` and `defaults` are of the long form; \
                   use one form in a file";
        root.forbid(key, why);
    }
    let (listener_defaults, upstream_defaults) = root.section("defaults", defaults);
    let mut names = Names::default();
    let mut upstreams = Vec::new();
    for mut s in root.entries("upstreams", limits::UPSTREAMS, Some(&upstream_defaults)) {
        let called = s.required("name", name);
        if let Some(called) = &called {
            names.claim(&s, called);
        }
        let backends = backends(&mut s);
        upstreams.push(long_upstream(&mut s, called.unwrap_or_default(), backends));
        s.finish();
    }
    let listeners = listeners(root, &listener_defaults, &mut names, &upstreams);
    if root.has("listeners") {
        names.warn_unused(root);
    }
    (listeners, upstreams)
}

fn listeners<'a>(
    root: &mut Section<'a>,
    defaults: &Section<'a>,
    upstreams: &mut Names,
    known: &[Upstream],
) -> Vec<Listener> {
    let mut names = Names::default();
    let mut listeners: Vec<Listener> = Vec::new();
    for mut s in root.entries("listeners", limits::LISTENERS, Some(defaults)) {
        let called = s.required("name", name);
        let address = s.required("address", address::listen);
        let upstream = s.required("upstream", name);
        if let Some(called) = &called {
            names.claim(&s, called);
        }
        if let Some(address) = &address {
            relations::overlap(&s, address, &listeners);
        }
        let upstream = upstream.map(|name| upstreams.take(&s, &name));
        if let (Some(address), Some(id)) = (&address, upstream)
            && let Some(upstream) = known.get(id.index())
        {
            relations::circle(&s, "upstream", address, &upstream.backends);
            relations::clients_apart(&s, address, upstream);
        }
        // What is missing was reported; the rest of the entry is read all the same.
        let address = address.unwrap_or_else(nowhere);
        let listener =
            listener(&mut s, called.unwrap_or_default(), address, upstream.unwrap_or(UpstreamId(0)));
        listeners.push(listener);
        s.finish();
    }
    listeners
}

/// Stands for an address that was reported, so that the rest of its entry is read all the same.
fn nowhere() -> ListenAddress {
    ListenAddress::Unix(PathBuf::new())
}

/// Reads both sections of `defaults` once on their own, so that what is wrong there is reported there.
fn defaults<'a>(s: &mut Section<'a>) -> (Section<'a>, Section<'a>) {
    let mut own = s.part("listener");
    for key in ["name", "address"] {
        own.forbid(key, "each listener has its own");
    }
    own.optional("upstream", name);
    listener(&mut own, String::new(), nowhere(), UpstreamId(0));
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

fn listener(s: &mut Section<'_>, name: String, address: ListenAddress, upstream: UpstreamId) -> Listener {
    Listener {
        name,
        upstream,
        backlog: s.value("backlog", 4_096, number(1..=limits::BACKLOG)),
        timeouts: s.section("timeouts", |s| ListenerTimeouts {
            client_idle: s.value("client_idle", Some(Duration::from_secs(3_600)), off_or(duration)),
            half_close: s.value("half_close", Duration::from_secs(30), duration),
            session: s.value("session", None, off_or(duration)),
        }),
        tcp: s.section("tcp", |s| {
            let options = tcp(s);
            let steer_by_cpu = s.value("steer_by_cpu", false, boolean);
            relations::steerable(s, steer_by_cpu, &address);
            ListenerTcp { options, steer_by_cpu }
        }),
        address,
    }
}

fn tcp(s: &mut Section<'_>) -> TcpOptions {
    let user_timeout = duration_within(limits::DURATION_MIN..=limits::USER_TIMEOUT);
    let user_timeout = s.value("user_timeout", None, off_or(user_timeout));
    TcpOptions {
        nodelay: s.value("nodelay", true, boolean),
        keepalive: keepalive(s, user_timeout),
        user_timeout,
    }
}

/// A time of silence alone, or all of it in a section.
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
            count: s.value("count", usual.count, number(1..=limits::KEEPALIVE_PROBES)),
            ..usual
        }
    }))
}

fn long_upstream(s: &mut Section<'_>, name: String, backends: Vec<Backend>) -> Upstream {
    let balancing = balancing(s);
    let connecting = (s.section("timeouts", upstream_timeouts), s.section("tcp", tcp));
    upstream(s, name, balancing, connecting, backends)
}

/// The keys that stand in an entry of `upstreams`, and in the short form at the top.
fn upstream(
    s: &mut Section<'_>,
    name: String,
    (algorithm, hash_key): (&'static Registered, HashKey),
    (timeouts, tcp): (UpstreamTimeouts, TcpOptions),
    backends: Vec<Backend>,
) -> Upstream {
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
        retries: s.value("retries", 2, count(0..=limits::RETRIES)),
        retry_budget: s.value("retry_budget", Some(20), off_or(percent)),
        queue: s.section_or_off("queue", |s| {
            let max = s.value("max", 0, count(0..=limits::QUEUE));
            let queue = QueueRules { max, timeout: s.value("timeout", Duration::from_secs(5), duration) };
            relations::queue_within_establish(s, queue, &timeouts);
            queue
        }),
        pool: pool(s, &backends),
        source: s.value("source", Vec::new(), list("source", limits::SOURCES, source)),
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
        let outlier = Outlier {
            consecutive_failures: s.value("consecutive_failures", 5, number(1..=limits::FAILURES_IN_A_ROW)),
            ejection_time: s.value("ejection_time", Duration::from_secs(30), duration),
            max_ejected: max_ejected.unwrap_or(50),
        };
        if max_ejected.is_some() || !s.has("max_ejected") {
            relations::some_ejection(s, &outlier, backends);
        }
        Some(outlier)
    })
}

fn upstream_timeouts(s: &mut Section<'_>) -> UpstreamTimeouts {
    let timeouts = UpstreamTimeouts {
        connect: s.value("connect", Duration::from_secs(5), duration),
        establish: s.value("establish", Some(Duration::from_secs(15)), off_or(duration)),
        backend_idle: s.value("backend_idle", Some(Duration::from_secs(3_600)), off_or(duration)),
    };
    relations::connect_within_establish(s, &timeouts);
    timeouts
}

fn backends(s: &mut Section<'_>) -> Vec<Backend> {
    let mut names = Names::default();
    let mut backends = Vec::new();
    let sections = s.entries("backends", limits::BACKENDS_PER_UPSTREAM, None);
    let written = sections.len();
    for mut entry in sections {
        if let Some(backend) = backend(&mut entry) {
            names.claim(&entry, &backend.name);
            backends.push(backend);
        }
        entry.finish();
    }
    if backends.len() == written {
        relations::some_weight(s, &backends);
    }
    backends
}

fn backend(s: &mut Section<'_>) -> Option<Backend> {
    let name = s.optional("name", name);
    let weight = s.value("weight", 1, number(0..=limits::WEIGHT));
    let max_connections = s.value("max_connections", None, limit);
    let backup = s.value("backup", false, boolean);
    let port = s.optional("port", port);
    let port_unfit = s.has("port") && port.is_none();
    // Without its port the address can be read, not judged.
    let address = s.required("address", |node| {
        let text = text(node)?;
        if port_unfit { Ok(None) } else { address::backend(text, port).map(Some) }
    })??;
    let name = match (name, &address) {
        (Some(name), _) => name,
        (None, _) if s.has("name") => return None,
        (None, BackendAddress::Unix(_)) => {
            s.error("`name` is missing; a `unix:` backend needs one");
            return None;
        }
        (None, address) => address.to_string(),
    };
    Some(Backend { name, address, weight, max_connections, backup })
}
