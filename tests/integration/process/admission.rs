//! Set-up: a listener with rules of admission, and clients from several addresses of loopback. Claim: each rule denies
//! whom it should and nobody else, counts it by its reason, and takes nothing from a client that it denies; limits are
//! exact over all shards, and come back.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ringway::base::{CloseReason, DenyReason};

use crate::support::{Asked, Balancer, Client, Reply, backend, balancer, eventually, is_reset, process};

fn from(host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, host))
}

/// A client that is served.
fn served(address: SocketAddr, host: u8) -> Client {
    let client = Client::connect_from(from(host), address).unwrap();
    client.echo(b"served").unwrap();
    client
}

/// Returns whether a client is denied: its connection ends with a reset, and not with an answer.
fn is_denied(address: SocketAddr, host: u8) -> bool {
    // The reset may come before connect(2) returns.
    match Client::connect_from(from(host), address).and_then(|client| client.echo(b"?")) {
        Ok(()) => false,
        Err(error) => {
            assert!(is_reset(&error), "{error}");
            true
        }
    }
}

fn denied(balancer: &Balancer, reason: DenyReason) -> u64 {
    balancer.totals().denied[reason.index()]
}

fn reload(asked: &Asked) -> Reply {
    asked.socket.ask("POST", "/v1/reload", &[], "")
}

#[test]
fn lists_let_in_whom_they_name() {
    let only = backend().echo().start();
    let lists = ["allow: [127.0.0.0/29]", "deny: [127.0.0.2, 127.0.0.4/31]"];
    let balancer = balancer().listener(lists[0]).listener(lists[1]).backends([&only]).start();
    for (host, lets_in) in [(1, true), (2, false), (3, true), (4, false), (5, false), (7, true), (8, false)] {
        assert_eq!(is_denied(balancer.address(), host), !lets_in, "127.0.0.{host}");
    }
    eventually("all are counted", || denied(&balancer, DenyReason::Acl) == 4);
    let totals = balancer.finish();
    assert_eq!((totals.accepted, totals.denied_sum()), (7, 4), "nobody else is denied");
}

/// An IPv4 client of a listener for both families is an IPv4 client.
#[test]
fn mapped_client_is_the_ipv4_client_of_the_lists() {
    let only = backend().echo().start();
    let balancer = balancer().on_any().listener("deny: [127.0.0.2]").backends([&only]).start();
    let address = SocketAddr::new(from(1), balancer.address().port());
    assert!(is_denied(address, 2) && !is_denied(address, 3));
    balancer.finish();
}

#[test]
fn clients_of_a_unix_socket_go_by_their_word() {
    for (rule, lets_in) in
        [("deny: [\"unix:\"]", false), ("allow: [\"unix:\"]", true), ("allow: [10.0.0.0/8]", false)]
    {
        let only = backend().echo().start();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let balancer = balancer().on_unix(path.clone()).listener(rule).backends([&only]).start();
        let mut client = UnixStream::connect(&path).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut answer = [0; 1];
        // The socket may be gone before the client writes. A single read could end with EINTR (`Client::receive`).
        let is_served = client.write_all(b"x").is_ok() && client.read_exact(&mut answer).is_ok();
        assert_eq!(is_served, lets_in, "{rule}");
        drop(client);
        balancer.finish();
    }
}

#[test]
fn file_is_read_anew_at_each_reload_and_refused_as_a_whole() {
    let only = backend().echo().start();
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("office.txt");
    fs::write(&list, "# who may come\n127.0.0.1\n\n127.0.0.2/32 # the printer\n").unwrap();
    let keys = format!("allow: [\"file:{}\"]", list.display());
    let asked = Asked::start(process().listener(&keys).backends([&only]));
    let address = asked.process.address();
    assert!(!is_denied(address, 2) && is_denied(address, 3));

    let kept = served(address, 1);
    fs::write(&list, "127.0.0.3\n").unwrap();
    let reply = reload(&asked);
    assert_eq!(reply.status, 200, "{reply:?}");
    let changes = reply.json()["changes"].to_string();
    assert!(changes.contains("2 address ranges") && changes.contains("1 address range ("), "{changes}");
    assert!(is_denied(address, 2) && !is_denied(address, 3));
    kept.echo(b"goes on").unwrap();

    fs::write(&list, "127.0.0.1\n127.0.0.1/33\nprinter\n").unwrap();
    let reply = reload(&asked);
    let text = reply.json().to_string();
    assert_eq!(reply.status, 422, "{text}");
    assert!(text.contains("line 2 of") && text.contains("one more line is wrong"), "{text}");
    assert!(is_denied(address, 1) && !is_denied(address, 3), "the old list stays");

    fs::remove_file(&list).unwrap();
    let reply = reload(&asked);
    assert_eq!(reply.status, 422);
    assert!(reply.json().to_string().contains("office.txt: cannot be read: No such file"));
}

#[test]
fn limit_of_a_listener_is_exact_and_comes_back() {
    let only = backend().echo().start();
    let balancer = balancer().listener("max_connections: 5").backends([&only]).start();
    let clients: Vec<_> = (0..5).map(|_| balancer.echoing_client()).collect();
    for _ in 0..10 {
        assert!(is_denied(balancer.address(), 1));
    }
    assert_eq!(denied(&balancer, DenyReason::ListenerLimit), 10);
    clients.into_iter().for_each(|client| client.finish().unwrap());
    balancer.await_closed(CloseReason::Normal, 5);
    let again: Vec<_> = (0..5).map(|_| balancer.echoing_client()).collect();
    assert!(is_denied(balancer.address(), 1));
    drop(again);
    balancer.finish();
}

/// The limit holds over reloads, which may change it; sessions from before count.
#[test]
fn limit_of_a_listener_goes_on_through_reloads() {
    let only = backend().echo().start();
    let asked = Asked::start(process().listener("max_connections: 3").backends([&only]));
    let address = asked.process.address();
    let set_limit = |limit: u32| {
        let yaml = asked.process.yaml().replace("max_connections: 3", &format!("max_connections: {limit}"));
        asked.process.configure(&yaml);
    };
    let mut clients: Vec<_> = (0..3).map(|_| served(address, 1)).collect();
    set_limit(4);
    assert_eq!(reload(&asked).status, 200);
    clients.push(served(address, 1));
    assert!(is_denied(address, 1));
    set_limit(2);
    assert_eq!(reload(&asked).status, 200);
    clients.drain(..2).for_each(|client| client.finish().unwrap());
    assert!(is_denied(address, 1), "two are open");
    clients.pop().expect("two are left").finish().unwrap();
    eventually("a place comes back", || !is_denied(address, 1));
}

/// Clients beyond the limit wait in the backlog, and each is served once one before it ends, on whatever shard.
#[test]
fn clients_wait_in_the_backlog_where_the_rules_say_so() {
    for limit in ["max_connections: 3", "over_limit: wait"] {
        let only = backend().echo().start();
        let builder = match limit {
            "over_limit: wait" => balancer().runtime("max_connections: 3"),
            limit => balancer().listener(limit),
        };
        let balancer = builder.listener("over_limit: wait").backends([&only]).start();
        let mut open: Vec<_> = (0..3).map(|_| balancer.echoing_client()).collect();
        let waiting: Vec<_> = (0..20)
            .map(|_| {
                let client = balancer.client();
                client.send(b"patient").unwrap();
                client
            })
            .collect();
        assert_eq!(balancer.totals().active, 3);
        std::thread::scope(|scope| {
            let threads: Vec<_> = waiting
                .into_iter()
                .map(|client| {
                    scope.spawn(move || {
                        assert_eq!(client.receive_exact(7).unwrap(), b"patient");
                        client.finish().unwrap();
                    })
                })
                .collect();
            // One place is enough for all of them, one after the other.
            open.pop().expect("three are open").finish().unwrap();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
        drop(open);
        let totals = balancer.finish();
        assert_eq!((totals.denied_sum(), totals.accepted), (0, 23), "{limit}");
    }
}

#[test]
fn one_source_does_not_take_the_places_of_others() {
    let only = backend().echo().start();
    let keys = ["per_source: {max_connections: 2}", "max_connections: 5"];
    let balancer = balancer().listener(keys[0]).listener(keys[1]).backends([&only]).start();
    let address = balancer.address();
    let greedy: Vec<_> = (0..2).map(|_| served(address, 1)).collect();
    for _ in 0..10 {
        assert!(is_denied(address, 1));
    }
    let others: Vec<_> = (2..5).map(|host| served(address, host)).collect();
    assert_eq!(denied(&balancer, DenyReason::SourceLimit), 10, "the limit of the listener is not used up");
    assert!(is_denied(address, 6));
    assert_eq!(denied(&balancer, DenyReason::ListenerLimit), 1);
    drop((greedy, others));
    eventually("the places come back", || !is_denied(address, 1));
    balancer.finish();
}

/// A burst comes through, and then so many in a second, over all shards.
#[test]
fn rates_are_kept_over_all_shards() {
    for (keys, reason) in [
        ("rate_limit: {rate: 50/s, burst: 10}", DenyReason::Rate),
        ("per_source: {rate: 50/s, burst: 10}", DenyReason::SourceRate),
    ] {
        let only = backend().echo().start();
        let balancer = balancer().listener(keys).backends([&only]).start();
        let begun = Instant::now();
        let mut let_in = 0;
        while begun.elapsed() < Duration::from_secs(2) {
            let_in += u64::from(!is_denied(balancer.address(), 1));
        }
        let most = 10.0 + begun.elapsed().as_secs_f64() * 50.0;
        // A loaded machine may have no client ready when one could be let in.
        assert!(let_in as f64 <= most + 1.0 && let_in >= 60, "{let_in} of at most {most}");
        assert!(denied(&balancer, reason) > 0);
        let totals = balancer.finish();
        assert_eq!(totals.denied_sum(), totals.denied[reason.index()], "{keys}");
    }
}

/// What `explain` says is what happens next, and asking takes nothing.
#[test]
fn explanation_has_every_rule_in_its_order() {
    let only = backend().echo().start();
    let keys = [
        "max_connections: 9",
        "deny: [127.0.0.9]",
        "allow: [127.0.0.0/8]",
        "rate_limit: {rate: 5/h, burst: 5}",
        "per_source: {rate: 2/h, burst: 2, max_connections: 1}",
    ];
    let asked =
        Asked::start(keys.iter().fold(process().backends([&only]), |process, key| process.listener(key)));
    // Looks of the start come from 127.0.0.1.
    let address = asked.process.address();
    let explained = |client: &str| {
        let json = asked.socket.get(&format!("/v1/explain?client={client}")).json();
        let rules = json["rules"].as_array().unwrap().iter().map(|asked| {
            let of = |key: &str| asked[key].as_str().unwrap().to_owned();
            (of("rule"), of("verdict"))
        });
        (rules.collect::<Vec<_>>(), json["backend"].is_string())
    };
    let order = [
        "phase",
        "listener max_connections",
        "runtime.max_connections",
        "deny",
        "allow",
        "per_source.rate",
        "per_source.max_connections",
        "rate_limit",
    ];
    for _ in 0..3 {
        let (rules, gets_one) = explained("127.0.0.5");
        assert!(gets_one, "{rules:?}");
        assert!(rules.iter().map(|(rule, _)| &**rule).take(order.len()).eq(order), "{rules:?}");
    }
    let open = served(address, 5);
    let (rules, gets_one) = explained("127.0.0.5");
    assert!(!gets_one && rules.iter().any(|(_, verdict)| verdict.ends_with("source_limit")), "{rules:?}");
    assert!(is_denied(address, 5));
    open.finish().unwrap();
    eventually("the place comes back", || explained("127.0.0.5").1);
    served(address, 5).finish().unwrap();
    let (rules, gets_one) = explained("127.0.0.5");
    assert!(!gets_one && rules.iter().any(|(_, verdict)| verdict.ends_with("source_rate")), "{rules:?}");
    let (rules, gets_one) = explained("127.0.0.9");
    assert!(!gets_one && rules.iter().any(|(_, verdict)| verdict.ends_with("acl")), "{rules:?}");
    assert!(!explained("10.0.0.1").1, "`allow` does not have it");
}

/// After storms on every limit, everything that was taken is back.
#[test]
fn gauges_return_to_zero_after_a_storm() {
    let only = backend().echo().start();
    let keys = [
        "max_connections: 8",
        "per_source: {max_connections: 3}",
        "rate_limit: {rate: 100000/s, burst: 100}",
    ];
    let builder = balancer().runtime("max_connections: 6").backends([&only]);
    let balancer = keys.iter().fold(builder, |builder, key| builder.listener(key)).start();
    let address = balancer.address();
    std::thread::scope(|scope| {
        for host in 1..=8 {
            scope.spawn(move || {
                for _ in 0..50 {
                    let clients: Vec<_> =
                        (0..4).filter_map(|_| Client::connect_from(from(host), address).ok()).collect();
                    clients.iter().for_each(|client| {
                        let _ = client.echo(b"storm");
                    });
                }
            });
        }
    });
    eventually("all sessions have ended", || balancer.totals().active == 0);
    let all: Vec<_> = (1..=2).flat_map(|host| (0..3).map(move |_| host)).collect();
    let clients: Vec<_> = all.into_iter().map(|host| served(address, host)).collect();
    assert!(is_denied(address, 3));
    drop(clients);
    let totals = balancer.finish();
    assert!(totals.is_conserved() && totals.denied_sum() > 0, "{totals:?}");
}
