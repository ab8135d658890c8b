//! Rules between values: names that collide, addresses that lead in a circle, times that contradict each
//! other, settings without effect.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::model::{
    AccessEntry, Backend, BackendAddress, BackendAlpn, Clients, EqualIdle, HashKey, HealthCheck,
    ListenAddress, Listener, ListenerTcp, ListenerTimeouts, NoBackend, OpenSessions, Outlier, OverLimit,
    PoolRules, QueueRules, Reuse, SourcePorts, Upstream, UpstreamTimeouts,
};
use super::reach::Circle;
use super::report::{Location, quote};
use super::section::{Section, nearest};
use super::text::{duration_text, limit_text};
use crate::balance::Registered;
use crate::base::UpstreamId;

/// The names of one list, each of which is unique.
#[derive(Default)]
pub(super) struct Names(BTreeMap<String, Named>);

struct Named {
    position: u16,
    location: Location,
    used: bool,
}

impl Names {
    /// Notes the name of the entry `s`, or reports the entry that has it already.
    pub(super) fn claim(&mut self, s: &Section<'_>, name: &str) {
        let location = if s.has("name") { s.location("name") } else { s.location("address") };
        if let Some(first) = self.0.get(name) {
            let (line, column) = (first.location.span.line, first.location.span.column);
            let shown = quote(name);
            let message = if s.has("name") {
                format!("the name {shown} is already taken at {line}:{column}; give each entry its own")
            } else {
                format!(
                    "{shown} is already a backend at {line}:{column}; to list it twice, give each entry a \
                     `name`"
                )
            };
            s.error_in(location, message);
            return;
        }
        // The lists are bounded by `limits`, which a constant assertion there keeps within u16.
        let position = u16::try_from(self.0.len()).unwrap_or(u16::MAX);
        self.0.insert(name.to_owned(), Named { position, location, used: false });
    }

    /// Returns the upstream that the listener `s` names, and reports a name that is unknown; without any
    /// names the missing list was reported before.
    pub(super) fn take(&mut self, s: &Section<'_>, name: &str) -> UpstreamId {
        if let Some(named) = self.0.get_mut(name) {
            named.used = true;
            return UpstreamId(named.position);
        }
        if self.0.is_empty() {
            return UpstreamId(0);
        }
        let remedy = match nearest(name, self.0.keys().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "add it to `upstreams`".to_owned(),
        };
        s.error_at("upstream", format!("no upstream is called {}; {remedy}", quote(name)));
        UpstreamId(0)
    }

    /// Warns about every upstream that no listener uses.
    pub(super) fn warn_unused(&self, s: &Section<'_>) {
        for (name, named) in self.0.iter().filter(|(_, named)| !named.used) {
            let message =
                format!("no listener uses the upstream {}; remove it, or name it in a listener", quote(name));
            s.warn_in(named.location.clone(), message);
        }
    }
}

/// Refuses an upstream that goes by the word for none.
pub(super) fn not_close(s: &Section<'_>, name: &str) {
    if name == "close" {
        s.error_at("name", "`close` stands for no upstream where one is named; choose another name");
    }
}

/// Refuses listeners that overlap: the kernel would divide the connections between them as it likes
/// (SO_REUSEPORT).
pub(super) fn overlap(s: &Section<'_>, address: &ListenAddress, others: &[Listener]) {
    if let Some(other) = others.iter().find(|other| other.address.overlaps(address)) {
        let (shown, name) = (quote(&address.to_string()), quote(&other.name));
        let theirs = quote(&other.address.to_string());
        let message = format!(
            "{shown} overlaps with {theirs} of listener {name}; use another port or \
                               address"
        );
        s.error_at("address", message);
    }
}

/// The entries of a file, with what is compared across them.
#[derive(Default)]
pub(super) struct Entries {
    pub(super) listeners: Vec<Listener>,
    /// One for each listener.
    pub(super) clients: Vec<WrittenTimeouts>,
    pub(super) upstreams: Vec<Upstream>,
    /// One for each upstream.
    pub(super) locations: Vec<UpstreamLocations>,
}

/// An idle limit as it was written, and where.
pub(super) type WrittenIdle = (Option<Duration>, Location);

/// The `timeouts` of a listener that are compared with the upstream's, as they were written.
pub(super) struct WrittenTimeouts {
    pub(super) idle: Option<WrittenIdle>,
    /// Where `half_close` stands.
    pub(super) half_close: Option<Location>,
}

/// Where the values of an upstream stand that are compared with the listeners.
pub(super) struct UpstreamLocations {
    /// The address of each backend.
    backends: Vec<Location>,
    idle: Option<WrittenIdle>,
    /// Where `healthcheck.port` is written, and `pool.max_idle` below.
    check_port: Option<Location>,
    max_idle: Option<Location>,
}

impl UpstreamLocations {
    /// Returns the locations of the upstream whose section is `s`.
    pub(super) fn of(s: &Section<'_>, backends: Vec<Location>, idle: Option<WrittenIdle>) -> Self {
        let check_port = s.location_within("healthcheck", "port");
        Self { backends, idle, check_port, max_idle: s.location_within("pool", "max_idle") }
    }
}

/// Makes the idle limits of both sides agree: the one that is written alone is both, and an upstream of
/// several listeners has the longest of theirs. Where both are written and differ, the shorter one ends a
/// session, and a warning says so.
pub(super) fn idle(s: &Section<'_>, entries: &mut Entries) {
    listeners_follow(entries);
    for (position, (upstream, location)) in entries.upstreams.iter_mut().zip(&entries.locations).enumerate() {
        let pairs = entries.listeners.iter().zip(&entries.clients);
        let mut longest: Option<Option<Duration>> = None;
        for (listener, client) in pairs.filter(|(listener, _)| listener.leads_to(position)) {
            if let (Some(client), Some(backend)) = (&client.idle, &location.idle) {
                shorter_idle(s, client, backend);
            }
            let idle = listener.timeouts.client_idle;
            longest = Some(longest.map_or(idle, |before| longer(before, idle)));
            let backend = upstream.timeouts.backend_idle.filter(|_| location.idle.is_some());
            within_idle(s, &listener.timeouts, client, backend);
        }
        if let (None, Some(longest)) = (&location.idle, longest) {
            upstream.timeouts.backend_idle = longest;
        }
        pool_within_idle(s, upstream, location);
    }
}

/// Gives each listener without an idle limit the longest that is written of its upstreams.
fn listeners_follow(entries: &mut Entries) {
    let followers = entries.listeners.iter_mut().zip(&entries.clients);
    for (listener, _) in followers.filter(|(_, client)| client.idle.is_none()) {
        let written = |id: &UpstreamId| Some(entries.locations.get(id.index())?.idle.as_ref()?.0);
        if let Some(longest) = listener.upstreams().iter().filter_map(written).reduce(longer) {
            listener.timeouts.client_idle = longest;
            listener.timeouts.equal_idle = EqualIdle::Backend;
        }
    }
}

/// Returns the longer of two limits; `None` is the longest.
fn longer(one: Option<Duration>, two: Option<Duration>) -> Option<Duration> {
    one.zip(two).map(|(one, two)| one.max(two))
}

fn shorter_idle(s: &Section<'_>, client: &WrittenIdle, backend: &WrittenIdle) {
    if client.0 == backend.0 {
        return;
    }
    let client_is_longer = longer(client.0, backend.0) == client.0;
    let location = if client_is_longer { &client.1 } else { &backend.1 };
    let shorter = if client_is_longer { "backend_idle" } else { "client_idle" };
    s.warn_in(
        location.clone(),
        format!(
            "`client_idle` is {} and `backend_idle` is {}: the shorter one, `{shorter}`, ends a session",
            limit_text(client.0),
            limit_text(backend.0)
        ),
    );
}

/// Warns about a session that ends before an idle limit can act, and about a half-closed session that may be
/// silent for longer than an open one.
fn within_idle(
    s: &Section<'_>,
    timeouts: &ListenerTimeouts,
    written: &WrittenTimeouts,
    backend: Option<Duration>,
) {
    if let (Some(session), Some((Some(idle), location))) = (timeouts.session, &written.idle)
        && session < *idle
    {
        let (session, idle) = (duration_text(session), duration_text(*idle));
        let message = format!("`client_idle` is {idle}, but `session` ends every session at {session}");
        s.warn_in(location.clone(), message);
    }
    let idle = timeouts.client_idle.into_iter().chain(backend).min();
    if let (Some(location), Some(idle)) = (&written.half_close, idle)
        && timeouts.half_close > idle
    {
        let (half_close, idle) = (duration_text(timeouts.half_close), duration_text(idle));
        let message = format!("`half_close` is {half_close}, longer than the idle limit, {idle}; shorten it");
        s.warn_in(location.clone(), message);
    }
}

/// Warns about ready connections that may be idle for longer than sessions: a backend that ends idle sessions
/// ends those too.
fn pool_within_idle(s: &Section<'_>, upstream: &Upstream, location: &UpstreamLocations) {
    let (Some(max_idle), Some(idle)) = (&location.max_idle, upstream.timeouts.backend_idle) else { return };
    let is_longer = match upstream.pool.max_idle {
        Some(max_idle) => max_idle > idle,
        // The default of `backend_idle` says nothing about the backend.
        None => location.idle.is_some(),
    };
    if upstream.pool.size > 0 && is_longer {
        let (max_idle_text, idle) = (limit_text(upstream.pool.max_idle), duration_text(idle));
        let message =
            format!("`max_idle` is {max_idle_text}, longer than `backend_idle`, {idle}; shorten it");
        s.warn_in(max_idle.clone(), message);
    }
}

/// Refuses a backend that leads back to its upstream: one session would open connections until no descriptors
/// are left.
pub(super) fn circles(s: &Section<'_>, entries: &Entries) {
    let Entries { listeners, upstreams, locations, .. } = entries;
    let counts: Vec<usize> = upstreams.iter().map(|upstream| upstream.backends.len()).collect();
    let sessions = Circle::all(listeners, &counts, |upstream, backend, listener| {
        upstreams[upstream].backends[backend].address.is_known_to_reach(&listeners[listener].address)
    });
    for Circle { upstream, backend, listener } in sessions {
        let location = locations[upstream].backends[backend].clone();
        let (backend, listener) = (&upstreams[upstream].backends[backend], &listeners[listener]);
        let (name, address) = (quote(&backend.name), quote(&listener.address.to_string()));
        let rest = if listener.leads_to(upstream) {
            " itself; its sessions would go in a circle".to_owned()
        } else {
            let through = quote(&upstreams[listener.upstream.index()].name);
            format!(", whose upstream {through} leads back here; sessions would go in a circle")
        };
        s.error_in(location, format!("the backend {name} is the listener {address}{rest}"));
    }
    checks_in_a_circle(s, entries);
}

/// Refuses a check that comes back to its upstream, where the balancer would ask itself.
fn checks_in_a_circle(s: &Section<'_>, entries: &Entries) {
    let asked = |upstream: &Upstream, backend: &Backend| {
        let port = upstream.healthcheck.as_ref().and_then(|check| check.port)?;
        Some(match &backend.address {
            BackendAddress::Ip(address) => BackendAddress::Ip(SocketAddr::new(address.ip(), port)),
            BackendAddress::Host { name, .. } => BackendAddress::Host { name: name.clone(), port },
            BackendAddress::Zoned(_) | BackendAddress::Unix(_) => return None,
        })
    };
    for (position, (upstream, location)) in entries.upstreams.iter().zip(&entries.locations).enumerate() {
        let own = entries.listeners.iter().filter(|listener| listener.leads_to(position));
        let own: Vec<&Listener> = own.collect();
        let backends =
            upstream.backends.iter().filter_map(|backend| Some((backend, asked(upstream, backend)?)));
        let circle = backends.into_iter().find_map(|(backend, asked)| {
            let listener = own.iter().find(|listener| asked.is_known_to_reach(&listener.address))?;
            Some((backend, listener))
        });
        if let (Some((backend, listener)), Some(location)) = (circle, &location.check_port) {
            let (name, address) = (quote(&backend.name), quote(&listener.address.to_string()));
            let message = format!(
                "the check of {name} asks the listener {address}, whose backend it is: it would go in a circle"
            );
            s.error_in(location.clone(), message);
        }
    }
}

/// Refuses `steer_by_cpu` on a Unix socket: all shards share the one socket, so the kernel has no choice to
/// make.
pub(super) fn steerable(s: &Section<'_>, steer_by_cpu: bool, address: &ListenAddress) {
    // An empty path stands for an address that is missing, or not known yet.
    let ListenAddress::Unix(path) = address else { return };
    if steer_by_cpu && !path.as_os_str().is_empty() {
        let shown = quote(&address.to_string());
        let message =
            format!("`steer_by_cpu` has no effect on {shown}; write `off` here, or listen on a port");
        s.error_at("steer_by_cpu", message);
    }
}

/// Warns about options of TCP on a Unix socket.
pub(super) fn port_options_of_use(s: &Section<'_>, tcp: &ListenerTcp, address: &ListenAddress) {
    // An empty path stands for an address that is missing, or not known yet.
    let is_unix = matches!(address, ListenAddress::Unix(path) if !path.as_os_str().is_empty());
    let written = [
        ("defer_accept", tcp.defer_accept.is_some()),
        ("freebind", tcp.freebind),
        ("interface", tcp.interface.is_some()),
        ("congestion_control", tcp.options.congestion_control.is_some()),
        ("fast_open", tcp.options.fast_open),
    ];
    for (key, _) in written.into_iter().filter(|(_, is_set)| *is_set && is_unix) {
        s.warn_own(key, format!("`{key}` has no effect on a `unix:` listener"));
    }
}

/// Warns about rules of admission that no client, or every client, meets.
pub(super) fn admission_of_use(s: &Section<'_>, listener: &Listener) {
    allows_somebody(s, listener);
    if listener.deny.0.contains(&AccessEntry::Any) {
        s.warn_at("deny", "`any` denies every client; remove it, or the listener");
    }
    // An empty path stands for an address that is missing, or not known yet.
    let is_unix = matches!(&listener.address, ListenAddress::Unix(path) if !path.as_os_str().is_empty());
    if listener.per_source.is_some() && is_unix && !listener.proxy_protocol.is_required() {
        let message = "`per_source` has no effect on a `unix:` listener, whose clients have no addresses";
        s.warn_at("per_source", message);
    }
    if listener.over_limit == OverLimit::Wait && listener.rate_limit.is_some() {
        // No client waits for a rate: the kernel's backlog would fill with clients that have long left.
        let message = "`over_limit: wait` holds for `max_connections`; clients beyond `rate_limit` are reset";
        s.warn_own("over_limit", message);
    }
}

/// Warns about a list of clients in which nobody who comes here is.
fn allows_somebody(s: &Section<'_>, listener: &Listener) {
    let allow = &listener.allow.0;
    let is_required = listener.proxy_protocol.is_required();
    let message = match &listener.address {
        _ if allow.is_empty() => return,
        // A proxy in front says who the clients are.
        _ if is_required && !allow.iter().all(AccessEntry::is_empty) => return,
        // An empty path stands for an address that is missing, or not known yet.
        ListenAddress::Unix(path) if path.as_os_str().is_empty() => return,
        ListenAddress::Unix(_) if !is_required && allow.iter().any(AccessEntry::has_unix) => return,
        ListenAddress::Unix(_) if !is_required => {
            "no client of a `unix:` listener is in the list, so every client is denied; add `unix:`"
        }
        _ if allow.iter().all(AccessEntry::is_empty) => {
            "the file has no prefix, so every client is denied; add one, or remove `allow`"
        }
        _ if !allow.iter().any(AccessEntry::has_addresses) => {
            "`unix:` is nobody who comes to this address, so every client is denied; list prefixes"
        }
        _ => return,
    };
    s.warn_at("allow", message);
}

/// Refuses `no_backend: unlisten` where a socket that was closed for a while would not be as it was.
pub(super) fn may_unlisten(s: &Section<'_>, listener: &Listener) {
    if listener.no_backend != NoBackend::Unlisten {
        return;
    }
    match &listener.address {
        // An empty path stands for an address that is missing, or not known yet.
        ListenAddress::Unix(path) if !path.as_os_str().is_empty() => {
            let message =
                "`unlisten` is not possible on a `unix:` socket; write `reset`, or listen on a port";
            s.error_at("no_backend", message);
        }
        _ if listener.tcp.steer_by_cpu => {
            let message = "`unlisten` does not go with `tcp.steer_by_cpu`, which needs the order of the sockets; \
                           write `reset`, or switch steering off";
            s.error_at("no_backend", message);
        }
        _ => {}
    }
}

/// Warns about a hash of client addresses behind a Unix socket, whose clients have none but that of a header.
pub(super) fn clients_apart(s: &Section<'_>, listener: &Listener, upstream: &Upstream) {
    let ListenAddress::Unix(path) = &listener.address else { return };
    if listener.proxy_protocol.is_required() {
        return;
    }
    if upstream.hash_key == HashKey::Sni {
        return;
    }
    if upstream.algorithm.wants.key && !path.as_os_str().is_empty() && upstream.backends.len() > 1 {
        let name = upstream.algorithm.name;
        let message = format!(
            "`{name}` takes all clients of a `unix:` listener for one, so they share one \
                               backend"
        );
        s.warn_at("address", message);
    }
}

pub(super) fn some_weight(s: &Section<'_>, backends: &[Backend]) {
    if !backends.is_empty() && backends.iter().all(|backend| backend.weight == 0) {
        let message = "every weight is 0, so no session could be served; give one backend at least 1";
        s.error_at("backends", message);
    }
}

pub(super) fn hash_key_of_use(s: &Section<'_>, key: HashKey, algorithm: &Registered) {
    if key != HashKey::Source && !algorithm.wants.key {
        s.warn_at("hash_key", format!("`hash_key` has no effect with `{}`", algorithm.name));
    }
}

pub(super) fn slow_start_of_use(s: &Section<'_>, algorithm: &Registered) {
    if algorithm.slow_start {
        return;
    }
    let why = if algorithm.weighted { "would move clients at each step of" } else { "has no effect with" };
    let message =
        format!("`slow_start` {why} `{}`; remove it, or choose another `algorithm`", algorithm.name);
    s.error_at("slow_start", message);
}

/// Warns about a percentage that allows no ejection because it rounds down.
pub(super) fn some_ejection(s: &Section<'_>, outlier: &Outlier, backends: &[Backend]) {
    let most = outlier.max_ejected;
    let all = backends.iter().filter(|backend| !backend.backup && backend.weight > 0).count();
    // The only primary is never ejected, whatever the percentage.
    if all > 1 && all * most as usize / 100 == 0 {
        let message = format!("`max_ejected` is {most}% of {all} primaries, so none of them is ever ejected");
        s.warn_at("max_ejected", message);
    }
}

/// Warns about settings that have no effect beside the other values of the upstream; mostly a key was
/// forgotten.
pub(super) fn upstream_of_use(s: &Section<'_>, upstream: &Upstream) {
    if upstream.backends.is_empty() {
        // These are the defaults, which stand behind several upstreams; or the missing list was reported.
        return;
    }
    weights_of_use(s, upstream);
    transitions_of_use(s, upstream);
    if upstream.retries == 0 {
        s.warn_own("retry_budget", "`retry_budget` has no effect with `retries: 0`");
    }
    queue_of_use(s, upstream);
    pool_without_announcement(s, upstream);
    pool_without_protocol(s, upstream);
    sources_of_use(s, upstream);
}

fn weights_of_use(s: &Section<'_>, upstream: &Upstream) {
    let some = || upstream.backends.iter().filter(|backend| backend.weight > 0).map(|backend| backend.weight);
    if !upstream.algorithm.weighted && some().min() != some().max() {
        let name = upstream.algorithm.name;
        s.warn_own("backends", format!("`{name}` goes by the order of the backends, not by their weights"));
    }
}

fn transitions_of_use(s: &Section<'_>, upstream: &Upstream) {
    if upstream.healthcheck.is_none() && upstream.outlier.is_none() {
        for (key, is_set) in [
            ("panic_threshold", upstream.panic_threshold.is_some()),
            ("slow_start", upstream.slow_start.is_some()),
            ("on_down", upstream.on_down == OpenSessions::Close),
        ] {
            if is_set {
                s.warn_own(key, format!("`{key}` has no effect while `healthcheck` and `outlier` are off"));
            }
        }
    }
    let backups = upstream.backends.iter().filter(|backend| backend.backup).count();
    if upstream.on_up == OpenSessions::Close && (backups == 0 || backups == upstream.backends.len()) {
        s.warn_own("on_up", "`on_up: close` has no effect without both primaries and backups");
    }
}

/// Warns about a wait that `establish` cuts short; `s` is the section `queue`.
pub(super) fn queue_within_establish(s: &Section<'_>, queue: QueueRules, timeouts: &UpstreamTimeouts) {
    let establish = timeouts.establish.filter(|establish| *establish < queue.timeout);
    if let Some(establish) = establish.filter(|_| queue.max > 0) {
        let (timeout, establish) = (duration_text(queue.timeout), duration_text(establish));
        let message = format!(
            "a client may wait {timeout}, but `establish`, which covers all attempts, ends that at {establish}"
        );
        s.warn_own("timeout", message);
    }
}

fn queue_of_use(s: &Section<'_>, upstream: &Upstream) {
    let unlimited = |backend: &&Backend| backend.max_connections.is_none() && backend.weight > 0;
    if upstream.queue.max > 0
        && let Some(backend) = upstream.backends.iter().find(unlimited)
    {
        let message =
            format!("no client waits while {} is up: it has no `max_connections`", quote(&backend.name));
        s.warn_own("queue", message);
    }
}

/// Warns about a pool that its backends cannot fill, and about trust without effect; `s` is the section
/// `pool`.
pub(super) fn pool_of_use(s: &Section<'_>, pool: &PoolRules, backends: &[Backend]) {
    let size = pool.size;
    let too_small = |backend: &&Backend| backend.max_connections.is_some_and(|most| most.get() < size);
    if let Some(backend) = backends.iter().find(too_small) {
        let name = quote(&backend.name);
        s.warn_own("size", format!("{size} ready connections are more than the `max_connections` of {name}"));
    }
    // The defaults have no backends, and stand behind several pools.
    if pool.clients == Clients::Trusted && pool.reuse != Reuse::Reset && !backends.is_empty() {
        s.warn_own("clients", "`clients: trusted` has no effect without `reuse: reset`");
    }
}

/// Refuses ready connections whose backends want to know of the client first: a header announces one client, and a
/// connection in the pool has none yet.
fn pool_without_announcement(s: &Section<'_>, upstream: &Upstream) {
    if upstream.send_proxy.is_some() && upstream.pool.size > 0 {
        let message = "with `send_proxy` nothing is pooled: its header announces the one client of a connection; \
                       remove `pool`, or write `send_proxy: off`";
        s.error_at("send_proxy", message);
    }
}

/// Refuses ready connections that should offer what their client has agreed on: they have no client yet.
fn pool_without_protocol(s: &Section<'_>, upstream: &Upstream) {
    let is_same = upstream.tls.as_ref().is_some_and(|tls| tls.alpn == BackendAlpn::Same);
    if is_same && upstream.pool.size > 0 {
        let message = "with `alpn: same` nothing is pooled: a connection offers what its one client has agreed on; remove \
                       `pool`, or list the protocols, as in `alpn: [http/1.1]`";
        s.error_at("tls", message);
    }
}

/// Checks the local addresses: a backend can be reached only from one of its own family.
fn sources_of_use(s: &Section<'_>, upstream: &Upstream) {
    let sources = &upstream.source;
    if let Some(twice) = sources.iter().enumerate().find(|(at, ip)| sources[..*at].contains(ip)) {
        s.error_at("source", format!("{} is listed twice; name each once", twice.1));
    }
    let unix = |backend: &Backend| matches!(backend.address, BackendAddress::Unix(_));
    if upstream.backends.iter().all(unix) {
        if !upstream.source.is_empty() {
            s.warn_own("source", "`source` has no effect on `unix:` backends");
        }
        if upstream.source_ports != SourcePorts::Any {
            s.warn_own("source_ports", "`source_ports` has no effect on `unix:` backends");
        }
    }
    for backend in &upstream.backends {
        if let BackendAddress::Ip(address) = &backend.address
            && !upstream.source.is_empty()
            && !upstream.source.iter().any(|source| source.is_ipv4() == address.is_ipv4())
        {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            s.error_at(
                "source",
                format!(
                    "none of these addresses is {family}, the family of {}; add one",
                    quote(&backend.name)
                ),
            );
        }
    }
}

pub(super) fn connect_within_establish(s: &Section<'_>, timeouts: &UpstreamTimeouts) {
    let Some(establish) = timeouts.establish.filter(|establish| *establish < timeouts.connect) else {
        return;
    };
    let (connect, establish) = (duration_text(timeouts.connect), duration_text(establish));
    let key = if s.has("connect") { "connect" } else { "establish" };
    s.warn_at(
        key,
        format!(
            "`connect` is {connect} but `establish`, which covers all attempts, ends the first at {establish}"
        ),
    );
}

pub(super) fn check_times(s: &Section<'_>, check: &HealthCheck) {
    let interval = duration_text(check.interval);
    if check.fast_interval > check.interval {
        let fast = duration_text(check.fast_interval);
        let message = format!("`fast_interval` is {fast}, longer than the `interval` of {interval}");
        s.warn_at("fast_interval", message);
    }
    // The default of `timeout` beside a short interval is common and harmless.
    if s.has("timeout") && check.timeout > check.interval {
        let timeout = duration_text(check.timeout);
        s.warn_at("timeout", format!("`timeout` is {timeout}, longer than the `interval` of {interval}"));
    }
}

pub(super) fn check_port(s: &Section<'_>, check: &HealthCheck, backends: &[Backend]) {
    let unix = |backend: &&Backend| matches!(backend.address, BackendAddress::Unix(_));
    if let Some(backend) = check.port.and_then(|_| backends.iter().find(unix)) {
        s.warn_at("port", format!("`port` does not apply to the `unix:` backend {}", quote(&backend.name)));
    }
}
