//! Puts into words which backend a client would get now, and why: every rule that a session asks, in its order.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::admission::{Decided, SharedListener};
use crate::balance::Candidate;
use crate::base::{BackendId, ClientAddress, DenyReason, ListenerId, Moment};
use crate::config::{self, HashKey, NoBackend, OverLimit, SniRoute, Target};
use crate::control::Source;
use crate::control::process::{AskedRule, ExplainError, ExplainQuery, Explanation};
use crate::control::status::{BackendStatus, Phase, Status, UpstreamStatus};
use crate::protocol::client_hello::{ClientHello, host_name};
use crate::upstream::{Preview, PreviewStep, SharedUpstream, Snapshot};

/// Whom an explanation is about.
pub(super) struct Wanted {
    pub(super) client: ClientAddress,
    /// What it says first.
    pub(super) hello: ClientHello,
    /// The position of the listener in the configuration of `snapshot`.
    position: usize,
    snapshot: Arc<Snapshot>,
}

impl Wanted {
    pub(super) fn parse(query: &ExplainQuery, snapshot: Arc<Snapshot>) -> Result<Self, ExplainError> {
        let config = snapshot.config();
        let text = query.client.trim();
        let client = if text == "unix:" {
            ClientAddress::UNIX
        } else {
            let address = text.parse::<SocketAddr>();
            let address = address.or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 0)));
            Some(address.map_err(|_| ExplainError::Client(text.chars().take(80).collect()))?).into()
        };
        let names = || config.listeners.iter().map(|listener| &*listener.name).collect::<Vec<_>>().join(", ");
        let position = match &query.listener {
            Some(name) => {
                config.listeners.iter().position(|listener| listener.name == *name).ok_or_else(|| {
                    ExplainError::Listener(format!("there is no listener {name:.80}; there are: {}", names()))
                })?
            }
            None if config.listeners.len() == 1 => 0,
            None => {
                return Err(ExplainError::Listener(format!(
                    "there are several listeners, so name one (`--listener`, or `listener=`): {}",
                    names()
                )));
            }
        };
        let name = query.sni.as_deref().map(|name| {
            let host = host_name(name.trim().as_bytes());
            host.ok_or_else(|| ExplainError::Name(name.chars().take(80).collect()))
        });
        let hello = ClientHello::new(name.transpose()?, []);
        Ok(Self { client, hello, position, snapshot })
    }

    fn listener(&self) -> &config::Listener {
        &self.snapshot.config().listeners[self.position]
    }

    /// Returns the number of the listener.
    pub(super) fn id(&self) -> ListenerId {
        self.snapshot.listeners()[self.position]
    }
}

/// The rules asked so far.
#[derive(Default)]
struct Rules(Vec<AskedRule>);

impl Rules {
    fn add(&mut self, rule: &str, verdict: String) {
        self.0.push(AskedRule { rule: rule.to_owned(), verdict });
    }
}

/// Explains what a shard has answered.
pub(super) fn explain(source: &Source, wanted: &Wanted, preview: &Preview) -> Explanation {
    let status = source.status();
    let listener = wanted.listener();
    let (target, route) = listener.target(Some(&wanted.hello));
    let shared = match target {
        Target::Upstream(id) => &wanted.snapshot.upstreams()[id.index()],
        Target::Close => wanted.snapshot.upstream_of(listener),
    };
    let Some(upstream) = status.upstreams.iter().find(|upstream| upstream.name == shared.config().name)
    else {
        // It was removed meanwhile.
        return Explanation {
            client: wanted.client.to_string(),
            listener: listener.name.clone(),
            upstream: shared.config().name.clone(),
            backend: None,
            core: source.cpus[0],
            rules: Vec::new(),
        };
    };
    let mut rules = Rules::default();
    let admitted = admission(source, wanted, &status, &mut rules);
    by_name(wanted, (target, route), &shared.config().name, &mut rules);
    let mut backend = None;
    if target != Target::Close {
        tls(wanted, &mut rules);
        states(upstream, &mut rules);
        panic(shared, upstream, &mut rules);
        hash(shared, wanted, &mut rules);
        backend = steps(shared, preview, &mut rules).filter(|_| admitted);
    }
    if listener.no_backend == NoBackend::Unlisten
        && !status.listeners.iter().any(|known| known.name == listener.name && known.ready)
    {
        rules.add(
            "no_backend",
            "no backend is eligible: the port is closed, so the client is refused".to_owned(),
        );
    }
    Explanation {
        client: match wanted.client.ip() {
            // Nobody named a port.
            Some(ip) if wanted.client.port() == 0 => ip.to_string(),
            _ => wanted.client.to_string(),
        },
        listener: listener.name.clone(),
        upstream: upstream.name.clone(),
        backend: backend.and_then(|number| shared.backend(number)).map(|backend| backend.name.clone()),
        core: source.cpus[0],
        rules: rules.0,
    }
}

/// Returns whether a client would be let in: the rules of the listener and of the process, in the order in which they are
/// asked.
fn admission(source: &Source, wanted: &Wanted, status: &Status, rules: &mut Rules) -> bool {
    let shared = &wanted.snapshot.shared_listeners()[wanted.position];
    let (config, now) = (wanted.listener(), Moment::read_clock());
    let is_open = status.phase != Phase::Draining;
    let verdict = if is_open { "accepts clients" } else { "drains: it accepts no clients" };
    rules.add("phase", format!("the process {verdict}"));
    let beyond = match config.over_limit {
        OverLimit::Refuse => "the client is denied",
        OverLimit::Wait => "the client waits in the backlog",
    };
    let room = |open: u64, most: u64, reason: DenyReason| match open < most {
        true => "there is room".to_owned(),
        false => format!("{beyond}: {}", reason.name()),
    };
    let mut has_room = true;
    if let Some((open, most)) = shared.sessions().map(|(open, most)| (u64::from(open), u64::from(most))) {
        has_room &= open < most;
        let verdict = room(open, most, DenyReason::ListenerLimit);
        rules.add("listener max_connections", format!("{open} of {most} sessions are open: {verdict}"));
    }
    let (open, most) = (status.open_sessions(), u64::from(status.max_sessions));
    has_room &= open < most;
    let verdict = room(open, most, DenyReason::ProcessLimit);
    rules.add("runtime.max_connections", format!("{open} of {most} sessions are open: {verdict}"));
    if shared.awaits_header() {
        let verdict = "the client has to be announced by the PROXY header of a proxy in `trusted`";
        rules.add("proxy_protocol", verdict.to_owned());
    }
    // All are asked, whatever the first ones say.
    let (is_listed, is_within) = (lists(shared, wanted, rules), rates(source, (shared, wanted), now, rules));
    is_open && has_room && is_listed && is_within
}

/// Returns whether `allow` and `deny` let a client in.
fn lists(shared: &SharedListener, wanted: &Wanted, rules: &mut Rules) -> bool {
    let decided = shared.decide(wanted.client);
    let denied = || format!("the client is denied: {}", DenyReason::Acl.name());
    let config = wanted.listener();
    if !config.deny.is_empty() {
        let has_it = decided == Decided::Denied;
        let verdict =
            if has_it { format!("has the client: {}", denied()) } else { "does not have the client".into() };
        rules.add("deny", verdict);
    }
    if !config.allow.is_empty() && decided != Decided::Denied {
        let has_it = decided == Decided::Allowed;
        let verdict =
            if has_it { "has the client".into() } else { format!("does not have the client: {}", denied()) };
        rules.add("allow", verdict);
    }
    matches!(decided, Decided::Allowed | Decided::Open)
}

/// Returns whether the limits of the source and the rate of the listener let a client in.
fn rates(
    source: &Source,
    (shared, wanted): (&SharedListener, &Wanted),
    now: Moment,
    rules: &mut Rules,
) -> bool {
    let config = wanted.listener();
    let verdict = |admits: bool, reason: DenyReason| match admits {
        true => "lets the client in".to_owned(),
        false => format!("the client is denied: {}", reason.name()),
    };
    let mut admits = true;
    let of_source = shared.look_at_source(wanted.client, &source.gate.sources, now);
    if let (Some((open, is_within)), Some(limits)) = (of_source, &config.per_source) {
        if let Some(limit) = limits.rate_limit() {
            admits &= is_within;
            let text = verdict(is_within, DenyReason::SourceRate);
            rules.add("per_source.rate", format!("{}, burst {}: {text}", limit.rate, limit.burst));
        }
        if let Some(most) = limits.max_connections {
            let has_room = open < most.get();
            admits &= has_room;
            let text = verdict(has_room, DenyReason::SourceLimit);
            rules.add("per_source.max_connections", format!("{open} of {most} sessions are open: {text}"));
        }
    }
    if let Some(limit) = config.rate_limit {
        let is_within = shared.is_within_rate(now);
        admits &= is_within;
        let text = verdict(is_within, DenyReason::Rate);
        rules.add("rate_limit", format!("{}, burst {}: {text}", limit.rate, limit.burst));
    }
    admits
}

/// Says where a client goes by the name that it asks for.
fn by_name(wanted: &Wanted, (target, route): (Target, Option<&SniRoute>), upstream: &str, rules: &mut Rules) {
    if wanted.listener().sni.routes.is_empty() {
        return;
    }
    let name =
        wanted.hello.server_name().map_or("a client without a name".to_owned(), |name| format!("{name:.80}"));
    let taken = match route {
        Some(route) => format!("the route {} takes {name}", route.name),
        None => format!("no route takes {name}"),
    };
    let verdict = match target {
        Target::Close => format!("{taken}: the client is reset"),
        Target::Upstream(_) => format!("{taken}: upstream {upstream}"),
    };
    rules.add("sni", verdict);
}

/// Says which certificate a client gets, and whether it needs one itself.
fn tls(wanted: &Wanted, rules: &mut Rules) {
    let Some(settings) = wanted.snapshot.shared_listeners()[wanted.position].tls() else { return };
    let name = wanted.hello.server_name();
    let (certificates, is_for_name) = settings.certificates_for(name);
    let shown = certificates.iter().map(|one| {
        let (file, identity) = (one.certificate.display(), one.identity.as_ref());
        identity.map_or_else(|| file.to_string(), |identity| format!("{file} ({})", identity.summary()))
    });
    let shown = shown.collect::<Vec<_>>().join(", or if it cannot check that one ");
    let verdict = match name {
        Some(name) if is_for_name => format!("a client that asks for {name:.80} gets {shown}"),
        Some(name) => format!("no certificate is for {name:.80}, so the client gets the first one: {shown}"),
        None => format!("a client without a name gets {shown}"),
    };
    rules.add("tls.certificates", verdict);
    let verdict = match &settings.of().client_ca {
        Some(ca) => format!("the client needs a certificate that comes from a CA in {ca}"),
        None => "the client needs no certificate".to_owned(),
    };
    rules.add("tls.client_ca", verdict);
}

fn states(upstream: &UpstreamStatus, rules: &mut Rules) {
    for backend in &upstream.backends {
        let kind = if backend.backup { "backup" } else { "primary" };
        let why = match (&backend.checks, backend.state()) {
            (Some(checks), "down") => match &checks.last {
                Some(last) if !last.ok => format!(", because its last check failed: {}", last.message),
                Some(_) => ", until `rise` consecutive checks have succeeded".to_owned(),
                None => String::new(),
            },
            (None, _) => ", without health checks".to_owned(),
            (_, "ejected") => ", because its sessions failed".to_owned(),
            (_, "checking") => ", because it waits for its first verdict".to_owned(),
            _ => String::new(),
        };
        let can = if is_eligible(backend) { "eligible" } else { "not eligible" };
        let weight = if backend.weight == 0 { "; weight 0: no new sessions" } else { "" };
        rules.add("health", format!("{} ({kind}) is {}: {can}{why}{weight}", backend.name, backend.state()));
    }
}

fn is_eligible(backend: &BackendStatus) -> bool {
    backend.state() == "up" && !backend.addresses.is_empty()
}

fn panic(shared: &SharedUpstream, upstream: &UpstreamStatus, rules: &mut Rules) {
    let primaries = || upstream.backends.iter().filter(|backend| !backend.backup && backend.weight > 0);
    let (eligible, all) = (primaries().filter(|backend| is_eligible(backend)).count(), primaries().count());
    let serving = upstream.serving.words();
    let verdict = match shared.config().panic_threshold {
        None => format!("off; {eligible} of {all} primaries are eligible; serving: {serving}"),
        Some(percent) => {
            format!(
                "{eligible} of {all} primaries are eligible, the threshold is {percent}%; serving: {serving}"
            )
        }
    };
    rules.add("panic_threshold", verdict);
}

fn hash(shared: &SharedUpstream, wanted: &Wanted, rules: &mut Rules) {
    let (upstream, client) = (shared.config(), wanted.client);
    if !upstream.algorithm.wants.key {
        return;
    }
    let name = wanted.hello.server_name().filter(|_| upstream.hash_key == HashKey::Sni);
    let verdict = match (client.ip(), upstream.hash_key) {
        _ if name.is_some() => format!("the hash of {} decides", name.unwrap_or_default()),
        (None, _) => "a client of a Unix socket has no address: all of them go together".to_owned(),
        (Some(ip), HashKey::SourcePort) => format!("the hash of {ip} and port {} decides", client.port()),
        (Some(ip), _) => format!("the hash of {ip} decides"),
    };
    rules.add("hash_key", verdict);
}

/// Returns the backend that the client gets.
fn steps(shared: &SharedUpstream, preview: &Preview, rules: &mut Rules) -> Option<BackendId> {
    let algorithm = shared.config().algorithm.name;
    let name = |id: BackendId| shared.backend(id).map_or("-", |backend| &*backend.name);
    for step in &preview.steps {
        match step {
            PreviewStep::Tier(tier, candidates) => {
                rules.add("order of resort", format!("tier {tier}: {}", listed(candidates, &name)));
            }
            PreviewStep::Full(id) => {
                rules.add(algorithm, format!("chooses {}", name(*id)));
                rules.add("max_connections", format!("{} is full, or others wait for it", name(*id)));
            }
            PreviewStep::Gets(id) => {
                rules.add(algorithm, format!("chooses {}", name(*id)));
                let permit = match shared.permits_taken(*id) {
                    None => "has no limit".to_owned(),
                    Some(taken) => format!("has {taken} connections and room for more"),
                };
                rules.add("max_connections", format!("{} {permit}", name(*id)));
                return Some(*id);
            }
            PreviewStep::Pooled(id) => {
                rules.add(algorithm, format!("chooses {}", name(*id)));
                rules.add("pool", format!("a connection to {} is ready", name(*id)));
                return Some(*id);
            }
            PreviewStep::Waits => {
                rules.add("queue", format!("the client waits; {}", positions(shared)));
                return None;
            }
            PreviewStep::WaitsForPool => {
                let verdict = "the client waits a moment: a pool gives a connection up for it";
                rules.add("queue", verdict.to_owned());
                return None;
            }
            PreviewStep::QueueFull => rules.add("queue", format!("it is full: {}", positions(shared))),
            PreviewStep::AwaitsVerdicts => {
                let verdict = "a primary has none yet: the client waits in the backlog";
                rules.add("first verdicts", verdict.to_owned());
                return None;
            }
        }
    }
    rules.add("order of resort", "no backend is left: the client is reset".to_owned());
    None
}

fn positions(shared: &SharedUpstream) -> String {
    format!("{} of {} positions are taken", shared.queue_length(), shared.config().queue.max)
}

fn listed<'a>(candidates: &[Candidate], name: &impl Fn(BackendId) -> &'a str) -> String {
    let texts = candidates.iter().map(|one| format!("{} (weight {})", name(one.id), one.weight));
    texts.collect::<Vec<_>>().join(", ")
}
