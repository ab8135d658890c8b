//! Rules that hold between values: names, addresses, times that contradict each other.

use std::collections::BTreeMap;

use super::model::{
    Backend, BackendAddress, Clients, HashKey, HealthCheck, ListenAddress, Listener, OpenSessions, Outlier,
    PoolRules, QueueRules, Reuse, Upstream, UpstreamTimeouts,
};
use super::report::{Place, quote};
use super::section::{Section, nearest};
use super::values::duration_text;
use crate::rules::balance::Registered;
use crate::words::UpstreamId;

/// The names of one list, in which each is unique.
#[derive(Default)]
pub(super) struct Names(BTreeMap<String, Named>);

struct Named {
    position: u16,
    place: Place,
    used: bool,
}

impl Names {
    /// Takes the name of the entry `s`, or reports who has it already.
    pub(super) fn claim(&mut self, s: &Section<'_>, name: &str) {
        let place = if s.has("name") { s.place("name") } else { s.place("address") };
        if let Some(first) = self.0.get(name) {
            let (line, column) = (first.place.span.line, first.place.span.column);
            let shown = quote(name);
            let message = if s.has("name") {
                format!("the name {shown} is taken, at {line}:{column}; give each its own")
            } else {
                format!(
                    "{shown} is a backend already, at {line}:{column}; to have it twice, give each a `name`"
                )
            };
            s.error_place(place, message);
            return;
        }
        // The lists are bounded by `limits`, which a constant assertion there keeps within u16.
        let position = u16::try_from(self.0.len()).unwrap_or(u16::MAX);
        self.0.insert(name.to_owned(), Named { position, place, used: false });
    }

    /// The upstream that the listener `s` names; that there is none is reported, unless there are no names
    /// at all, which was reported before.
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

    /// Reports every upstream that no listener took.
    pub(super) fn warn_unused(&self, s: &Section<'_>) {
        for (name, named) in self.0.iter().filter(|(_, named)| !named.used) {
            let message = format!("no listener uses the upstream {}", quote(name));
            s.warn_place(named.place.clone(), message);
        }
    }
}

/// Two listeners that overlap would share connections at the kernel's whim (SO_REUSEPORT).
pub(super) fn overlap(s: &Section<'_>, address: &ListenAddress, others: &[Listener]) {
    if let Some(other) = others.iter().find(|other| other.address.overlaps(address)) {
        let (shown, name) = (quote(&address.to_string()), quote(&other.name));
        let theirs = quote(&other.address.to_string());
        s.error_at(
            "address",
            format!("{shown} overlaps with {theirs} of listener {name}; use another port or address"),
        );
    }
}

/// A listener whose sessions come back to it would open connections until there are no descriptors left.
pub(super) fn circle(s: &Section<'_>, key: &str, address: &ListenAddress, backends: &[Backend]) {
    if let Some(backend) = backends.iter().find(|backend| address.is_reached_by(&backend.address)) {
        let (listener, name) = (quote(&address.to_string()), quote(&backend.name));
        s.error_at(
            key,
            format!(
                "the backend {name} is the listener {listener} itself; its sessions would go in a circle"
            ),
        );
    }
}

/// All shards share the one socket of a file, so the kernel has none to choose.
pub(super) fn steerable(s: &Section<'_>, steer_by_cpu: bool, address: &ListenAddress) {
    // An empty path stands for an address that is missing, or not known yet.
    let ListenAddress::Unix(path) = address else { return };
    if steer_by_cpu && !path.as_os_str().is_empty() {
        let shown = quote(&address.to_string());
        s.error_at(
            "steer_by_cpu",
            format!("no CPU receives the connections of {shown}; write `steer_by_cpu: off` here, or listen on a port"),
        );
    }
}

/// To a hash of addresses, all clients of a socket file are one.
pub(super) fn clients_apart(s: &Section<'_>, address: &ListenAddress, upstream: &Upstream) {
    let ListenAddress::Unix(path) = address else { return };
    if upstream.algorithm.wants.key && !path.as_os_str().is_empty() && upstream.backends.len() > 1 {
        let name = upstream.algorithm.name;
        s.warn_at(
            "address",
            format!("all clients of a `unix:` listener are one to `{name}`, so they share one backend"),
        );
    }
}

pub(super) fn some_weight(s: &Section<'_>, backends: &[Backend]) {
    if !backends.is_empty() && backends.iter().all(|backend| backend.weight == 0) {
        s.error_at(
            "backends",
            "every weight is 0, so no session could be served; give one backend at least 1",
        );
    }
}

pub(super) fn hash_key_of_use(s: &Section<'_>, key: HashKey, algorithm: &Registered) {
    if key != HashKey::Source && !algorithm.wants.key {
        s.warn_at("hash_key", format!("`hash_key` means nothing to `{}`", algorithm.name));
    }
}

pub(super) fn slow_start_of_use(s: &Section<'_>, algorithm: &Registered) {
    if algorithm.slow_start {
        return;
    }
    let why = if algorithm.weighted { "would move its clients at each step" } else { "means nothing to it" };
    let message =
        format!("`slow_start` {why}: `{}`; leave it out or choose another `algorithm`", algorithm.name);
    s.error_at("slow_start", message);
}

/// Percentages round down.
pub(super) fn some_ejection(s: &Section<'_>, outlier: &Outlier, backends: &[Backend]) {
    let most = outlier.max_ejected;
    let all = backends.iter().filter(|backend| !backend.backup && backend.weight > 0).count();
    // A single one is never ejected, whatever stands there.
    if all > 1 && all * most as usize / 100 == 0 {
        s.warn_at(
            "max_ejected",
            format!("`max_ejected` is {most}% of {all} primaries, so none of them is ever ejected"),
        );
    }
}

/// What is written and does nothing beside the other values of the upstream is a mistake, mostly a forgotten key.
pub(super) fn upstream_of_use(s: &Section<'_>, upstream: &Upstream) {
    if upstream.backends.is_empty() {
        // Of the defaults, which stand behind several; or it was reported.
        return;
    }
    weights_of_use(s, upstream);
    transitions_of_use(s, upstream);
    if upstream.retries == 0 {
        s.warn_own("retry_budget", "`retry_budget` means nothing with `retries: 0`");
    }
    queue_of_use(s, upstream);
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
                s.warn_own(key, format!("`{key}` means nothing while `healthcheck` and `outlier` are off"));
            }
        }
    }
    let backups = upstream.backends.iter().filter(|backend| backend.backup).count();
    if upstream.on_up == OpenSessions::Close && (backups == 0 || backups == upstream.backends.len()) {
        s.warn_own("on_up", "`on_up: close` means nothing without primaries and backups");
    }
}

/// Of the section `queue`.
pub(super) fn queue_within_establish(s: &Section<'_>, queue: QueueRules, timeouts: &UpstreamTimeouts) {
    let establish = timeouts.establish.filter(|establish| *establish < queue.timeout);
    if let Some(establish) = establish.filter(|_| queue.max > 0) {
        let (timeout, establish) = (duration_text(queue.timeout), duration_text(establish));
        s.warn_own(
            "timeout",
            format!("a client may wait {timeout}, but `establish`, which covers all tries, ends that at {establish}"),
        );
    }
}

fn queue_of_use(s: &Section<'_>, upstream: &Upstream) {
    let unlimited = |backend: &&Backend| backend.max_connections.is_none() && backend.weight > 0;
    if upstream.queue.max > 0
        && let Some(backend) = upstream.backends.iter().find(unlimited)
    {
        s.warn_own(
            "queue",
            format!("nobody waits while {} is up: it has no `max_connections`", quote(&backend.name)),
        );
    }
}

/// Of the section `pool`.
pub(super) fn pool_of_use(s: &Section<'_>, pool: &PoolRules, backends: &[Backend]) {
    let size = pool.size;
    let too_small = |backend: &&Backend| backend.max_connections.is_some_and(|most| most.get() < size);
    if let Some(backend) = backends.iter().find(too_small) {
        let name = quote(&backend.name);
        s.warn_own("size", format!("{size} ready connections are more than the `max_connections` of {name}"));
    }
    // The defaults have no backends, and stand behind several pools.
    if pool.clients == Clients::Trusted && pool.reuse != Reuse::Reset && !backends.is_empty() {
        s.warn_own("clients", "`clients: trusted` means nothing without `reuse: reset`");
    }
}

/// A backend is reached from addresses of its own family only.
fn sources_of_use(s: &Section<'_>, upstream: &Upstream) {
    let sources = &upstream.source;
    if let Some(twice) = sources.iter().enumerate().find(|(at, ip)| sources[..*at].contains(ip)) {
        s.error_at("source", format!("{} is listed twice; name each once", twice.1));
    }
    let unix = |backend: &Backend| matches!(backend.address, BackendAddress::Unix(_));
    if !upstream.source.is_empty() && upstream.backends.iter().all(unix) {
        s.warn_own("source", "`source` means nothing to `unix:` backends");
    }
    for backend in &upstream.backends {
        if let BackendAddress::Ip(address) = &backend.address
            && !upstream.source.is_empty()
            && !upstream.source.iter().any(|source| source.is_ipv4() == address.is_ipv4())
        {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            s.error_at(
                "source",
                format!("no address here is {family}, as {} is; add one", quote(&backend.name)),
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
            "`connect` is {connect} but `establish`, which covers all tries, ends the first at {establish}"
        ),
    );
}

pub(super) fn check_times(s: &Section<'_>, check: &HealthCheck) {
    let interval = duration_text(check.interval);
    if check.fast_interval > check.interval {
        let fast = duration_text(check.fast_interval);
        s.warn_at(
            "fast_interval",
            format!("`fast_interval` is {fast}, slower than the `interval` of {interval}"),
        );
    }
    // The default of `timeout` beside a short interval is common and harmless.
    if s.has("timeout") && check.timeout > check.interval {
        let timeout = duration_text(check.timeout);
        s.warn_at("timeout", format!("a check may take {timeout}, longer than the `interval` of {interval}"));
    }
}

pub(super) fn check_port(s: &Section<'_>, check: &HealthCheck, backends: &[Backend]) {
    let unix = |backend: &&Backend| matches!(backend.address, BackendAddress::Unix(_));
    if let Some(backend) = check.port.and_then(|_| backends.iter().find(unix)) {
        s.warn_at("port", format!("`port` does not apply to the `unix:` backend {}", quote(&backend.name)));
    }
}
