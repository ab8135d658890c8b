//! `backend` and the serving half of `listen`: one upstream.

use super::check::{self, Checked};
use super::front::{Served, Timed, keepalive_key, timeout};
use super::sections::Bag;
use super::servers::{Server, servers};
use super::tls;
use crate::import::plan::{Entry, Upstream, flow_list};
use crate::import::report::{Findings, Origin};
use crate::import::units::{Millis, establish};

/// Clients that wait for a permit; HAProxy sets no bound.
const QUEUE: u64 = 1_000;

/// Translates the serving half of a proxy into an upstream of this name. `ports` are those that its clients
/// come to.
pub(super) fn upstream(
    bag: &mut Bag<'_>,
    name: String,
    origin: &Origin,
    ports: &[u16],
    findings: &mut Findings,
) -> (Upstream, Served) {
    let mut entry = Entry::new(origin.clone());
    entry.set_text("name", &name, origin);
    let servers = servers(bag, ports, findings);
    let hashes = balance(bag, &mut entry, findings);
    let tunnel = timeout(bag, "timeout tunnel", findings);
    let server_fin = timeout(bag, "timeout server-fin", findings);
    let connect = not_zero(timeout(bag, "timeout connect", findings), findings);
    let idle = timeout(bag, "timeout server", findings);
    if let Some((time, origin)) = tunnel.as_ref().or(idle.as_ref()) {
        entry.set("timeouts.backend_idle", time.text_or_off(), origin);
    }
    let retries = retries(bag, &mut entry);
    let waited = queue(bag, &servers, connect.as_ref(), &mut entry, findings);
    let longest = establish(connect.as_ref().map(|(time, _)| *time), retries, waited);
    if let Some((time, origin)) = &connect {
        entry.set("timeouts.connect", time.text(), origin);
    }
    if let Some(longest) = longest {
        entry.set("timeouts.establish", longest.text(), connect.as_ref().map_or(origin, |(_, from)| from));
    }
    keepalive(bag, &mut entry, findings);
    if let Some(given) = bag.take("option tcp-smart-connect") {
        entry.set("tcp.quick_ack", "off", &given.line.origin());
    }
    source(bag, &servers, &mut entry, findings);
    let checked = Checked { time: timeout(bag, "timeout check", findings), servers: &servers };
    check::healthcheck(bag, &checked, &mut entry, findings);
    shared_options(&servers, hashes, &mut entry, findings);
    announce(&servers, &mut entry, findings);
    let servers = of_one_kind(servers, &mut entry, findings);
    fast_open(&servers, &mut entry, findings);
    let several_backups = servers.iter().filter(|server| server.backup).count() > 1;
    if bag.take("option allbackups").is_none() && several_backups {
        entry.comment("HAProxy used the first backup alone; here all of them serve, as with `allbackups`");
    }
    let backends = servers.into_iter().map(|server| server.entry).collect();
    (Upstream { name: name.clone(), entry, backends }, Served { upstream: name, tunnel, server_fin })
}

/// Sets the PROXY header that backends are sent: the one of all servers, or none. A server that expects another one would
/// take the header, or what comes without it, for what the client says.
fn announce(servers: &[Server], entry: &mut Entry, findings: &mut Findings) {
    let Some(first) = servers.first() else { return };
    if let Some(other) = servers.iter().find(|server| server.announced != first.announced) {
        let why = "one `send_proxy` for the upstream, and these servers differ in it; none is sent: write an upstream \
                   for each kind";
        findings.add(&other.entry.origin, why);
    } else if let Some(version) = first.announced {
        entry.set("send_proxy", version, &first.entry.origin);
    }
}

/// Sets TLS as the first server wants it, and returns the servers that want the same: what has to be encrypted must not go out
/// plainly.
fn of_one_kind(mut servers: Vec<Server>, entry: &mut Entry, findings: &mut Findings) -> Vec<Server> {
    let Some(wanted) = servers.first().map(|first| first.tls.clone()) else { return servers };
    if let (Some(keys), Some(first)) = (&wanted, servers.first()) {
        tls::set(keys, entry, &first.entry.origin);
    }
    servers.retain(|server| {
        let is_same = server.tls == wanted;
        if !is_same {
            let why = "one `tls` for the upstream, and this server differs from the first one; write an upstream for it";
            findings.add(&server.entry.origin, why);
        }
        is_same
    });
    servers
}

/// Has first bytes go out with the first segment, if all servers want it: only an application that bears a request done twice
/// may get them so.
fn fast_open(servers: &[Server], entry: &mut Entry, findings: &mut Findings) {
    let is_for_all = servers.iter().all(|server| server.fast_open);
    let has_tls = servers.iter().any(|server| server.tls.is_some());
    let why = if has_tls || entry.has("send_proxy") {
        "tfo: has no effect beside TLS or a PROXY header, which go first; leave it out"
    } else if is_for_all && let Some(first) = servers.first() {
        entry.set("tcp.fast_open", true, &first.entry.origin).differs(
            "for sessions whose first bytes are in hand; `client_first` of a listener waits for them",
        );
        return;
    } else {
        "tfo: one `tcp.fast_open` for the upstream, and other servers are without, so it stays off; write an upstream \
         for each kind"
    };
    for server in servers.iter().filter(|server| server.fast_open) {
        findings.add(&server.entry.origin, why);
    }
}

fn not_zero(timed: Timed, findings: &mut Findings) -> Timed {
    match timed {
        Some((Millis(0), origin)) => {
            findings.add(&origin, "an attempt always has a limit, 5s by default; see `timeouts.connect`");
            None
        }
        timed => timed,
    }
}

/// Sets the algorithm. Returns whether clients are hashed, or served in order.
fn balance(bag: &mut Bag<'_>, entry: &mut Entry, findings: &mut Findings) -> bool {
    let hash_type = bag.take("hash-type");
    let Some(given) = bag.take("balance") else {
        if let Some(given) = hash_type.filter(|given| !given.inherited) {
            findings.add(&given.line.origin(), "has no effect without `balance source`; leave it out");
        }
        return false;
    };
    let origin = given.line.origin();
    let word = given.line.word(1);
    let bare = word.split('(').next().unwrap_or_default();
    let algorithm = match bare {
        "roundrobin" | "static-rr" | "" => "round_robin",
        "leastconn" => "least_connections",
        "first" => "first",
        "random" => "random",
        "source" => "source_hash",
        "hash" if given.line.word(2) == "src" && given.line.words.len() == 3 => "source_hash",
        _ => {
            findings
                .add(&origin, "no algorithm looks into the bytes; `round_robin` is used, or choose another");
            entry.set("algorithm", "round_robin", &origin).differs(format!("HAProxy: `balance {bare}`"));
            return false;
        }
    };
    let key = entry.set("algorithm", algorithm, &origin);
    let consistent = hash_type.is_some_and(|given| given.line.word(1) == "consistent");
    if algorithm == "source_hash" && !consistent {
        key.differs("always consistent: clients may meet another server than with `hash-type map-based`");
    } else if word.contains('(') && word != "random(2)" {
        key.differs("two choices");
    }
    matches!(algorithm, "source_hash" | "first")
}

/// Sets the number of retries, and returns it.
fn retries(bag: &mut Bag<'_>, entry: &mut Entry) -> Option<u64> {
    let redispatch = bag.take("option redispatch").is_some();
    let given = bag.take("retries")?;
    let number = given.line.word(1);
    let key = entry.set_text("retries", number, &given.line.origin());
    if !redispatch {
        key.differs("HAProxy tried the same server again; these go to others, and `retries: 0` to none");
    }
    number.parse().ok()
}

/// Sets the queue, which HAProxy always has where a server has a limit. Returns the longest wait.
fn queue(
    bag: &mut Bag<'_>,
    servers: &[Server],
    connect: Option<&(Millis, Origin)>,
    entry: &mut Entry,
    findings: &mut Findings,
) -> Option<Millis> {
    let written = timeout(bag, "timeout queue", findings);
    let (first, _) = servers.iter().find_map(|server| server.limited.as_ref().map(|origin| (origin, ())))?;
    let most: Vec<u64> = servers.iter().filter_map(|server| server.queue).collect();
    let key = if most.len() == servers.len() {
        entry.set(
            "queue.max",
            most.iter().fold(0_u64, |sum, one| sum.saturating_add(*one)).min(65_535),
            first,
        )
    } else {
        entry.set("queue.max", QUEUE, first)
    };
    key.differs("one queue for the upstream; HAProxy has one for each server, without a bound by default");
    // Without a limit of its own, a client of HAProxy waits as long as an attempt may last.
    let (time, origin) = written.as_ref().or(connect)?;
    if time.0 == 0 {
        findings.add(origin, "a wait in the queue always has a limit, 5s by default; see `queue.timeout`");
        return None;
    }
    entry.set("queue.timeout", time.text(), origin);
    Some(*time)
}

fn keepalive(bag: &mut Bag<'_>, entry: &mut Entry, findings: &mut Findings) {
    bag.take("option srvtcpka");
    bag.take("option tcpka");
    for (name, path) in [
        ("srvtcpka-idle", "tcp.keepalive.idle"),
        ("srvtcpka-intvl", "tcp.keepalive.interval"),
        ("srvtcpka-cnt", "tcp.keepalive.count"),
    ] {
        keepalive_key(bag, (name, path), entry, findings);
    }
}

/// Sets the local address: the proxy's, or the one that all servers have.
fn source(bag: &mut Bag<'_>, servers: &[Server], entry: &mut Entry, findings: &mut Findings) {
    if let Some(given) = bag.take("source") {
        let origin = given.line.origin();
        if given.line.words.len() > 2 {
            let rest: Vec<&str> = given.line.from(2).collect();
            let why = "backends see an address of this machine; see `source`";
            findings.add(&origin, format!("{}: {why}", rest.join(" ")));
        }
        set_source(given.line.word(1), &origin, entry);
    }
    let own: Vec<&str> = servers.iter().filter_map(|server| server.source.as_deref()).collect();
    let same = own.len() == servers.len() && own.windows(2).all(|pair| pair[0] == pair[1]);
    if let (true, Some(first), Some(server)) = (same, own.first(), servers.first()) {
        set_source(first, &server.entry.origin, entry);
        return;
    }
    for server in servers.iter().filter(|server| server.source.is_some()) {
        findings
            .add(&server.entry.origin, "`source` is one for the upstream, and these differ; see `source`");
    }
}

fn set_source(text: &str, origin: &Origin, entry: &mut Entry) {
    // The port, where one is written, has nothing to say: the kernel chooses one.
    let host = if text.parse::<std::net::IpAddr>().is_ok() {
        text
    } else {
        text.rsplit_once(':').map_or(text, |(host, _)| host)
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if !matches!(host, "" | "*" | "0.0.0.0" | "::") {
        entry.set("source", flow_list([host]), origin);
    }
}

/// Sets what servers have each and an upstream has once.
fn shared_options(servers: &[Server], hashes: bool, entry: &mut Entry, findings: &mut Findings) {
    if let Some(server) = servers.iter().find(|server| server.closes_on_down) {
        entry.set("on_down", "close", &server.entry.origin);
    }
    let has_both = servers.iter().any(|server| server.backup) && servers.iter().any(|server| !server.backup);
    if let Some(server) = servers.iter().find(|server| server.closes_on_up) {
        if has_both {
            entry.set("on_up", "close", &server.entry.origin);
        } else {
            findings.add(&server.entry.origin, "`on-marked-up` has no effect without primaries and backups");
        }
    }
    let mut times = servers.iter().filter_map(|server| Some((server.slow_start?, &server.entry.origin)));
    let Some((time, origin)) = times.next() else { return };
    if hashes {
        findings.add(origin, "`slowstart` would move clients with this algorithm; leave it out");
        return;
    }
    let key = entry.set("slow_start", time.text(), origin);
    if times.any(|(other, _)| other != time) || servers.iter().any(|server| server.slow_start.is_none()) {
        key.differs("one for all backends; they differed");
    }
}
