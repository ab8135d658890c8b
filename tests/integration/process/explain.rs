//! Set-up: the binary with one shard and several backends, and an HTTP client on the admin socket. Claim: the backend
//! that `/v1/explain` names is the one that the next client from that address gets, whatever the algorithm and the
//! states, and each rule on the way is named.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::Value;

use crate::support::{
    AUTHORITY, Asked, Backend, Client, ProcessBuilder, backend, eventually, expect_reset, process,
};

fn explained(asked: &Asked, client: &str) -> Value {
    let reply = asked.socket.get(&format!("/v1/explain?client={client}"));
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

/// The verdicts of a rule.
fn verdicts(explanation: &Value, rule: &str) -> String {
    let rules = explanation["rules"].as_array().unwrap().iter().filter(|asked| asked["rule"] == rule);
    rules.map(|asked| asked["verdict"].as_str().unwrap()).collect::<Vec<_>>().join("\n")
}

/// Patient enough for a loaded machine, whose backends must not seem to be down.
const CHECK: &str = "interval: 500ms, fast_interval: 100ms, timeout: 500ms, fall: 1, rise: 1";

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn four() -> Vec<Backend> {
    NAMES.iter().map(|name| backend().echo().name(name).start()).collect()
}

fn asked(backends: &[Backend], settle: impl FnOnce(ProcessBuilder) -> ProcessBuilder) -> Asked {
    let asked = Asked::start(settle(process().backends(backends)));
    let active = || asked.socket.get("/v1/status").json()["listeners"][0]["active"].clone();
    eventually("the sessions before are over", || active() == 0);
    asked
}

/// The name of the backend that a client from this address gets, and the client.
fn got(asked: &Asked, backends: &[Backend], ip: IpAddr) -> (&'static str, Client) {
    let before: Vec<_> = backends.iter().map(Backend::connections).collect();
    let client = Client::connect_from(ip, asked.process.address()).unwrap();
    client.echo(b"who").unwrap();
    let position = (0..backends.len()).find(|at| backends[*at].connections() > before[*at]).unwrap();
    (NAMES[position], client)
}

#[test]
fn backend_that_is_named_is_the_one_that_the_next_client_gets() {
    for algorithm in
        ["round_robin", "least_connections", "random", "source_hash", "maglev", "peak_ewma", "first"]
    {
        let backends = four();
        let asked = asked(&backends, |process| process.upstream(&format!("algorithm: {algorithm}")));
        let mut held = Vec::new();
        for number in 1..=20 {
            let ip = IpAddr::from([127, 0, 0, number]);
            let explanation = explained(&asked, &ip.to_string());
            // Asking is not taking.
            assert_eq!(explained(&asked, &ip.to_string())["backend"], explanation["backend"], "{algorithm}");
            let (name, client) = got(&asked, &backends, ip);
            assert_eq!(explanation["backend"], name, "{algorithm}, {ip}: {explanation}");
            assert_eq!((&explanation["upstream"], &explanation["listener"]), (&"u".into(), &"l".into()));
            assert_eq!(verdicts(&explanation, algorithm), format!("chooses {name}"), "{explanation}");
            let hashes = ["source_hash", "maglev"].contains(&algorithm);
            let said = if hashes { format!("the hash of {ip} decides") } else { String::new() };
            assert_eq!(verdicts(&explanation, "hash_key"), said, "{explanation}");
            held.push(client);
        }
    }
}

#[test]
fn hash_of_the_port_is_that_of_the_client() {
    let backends = four();
    let settle =
        |process: ProcessBuilder| process.upstream("algorithm: maglev").upstream("hash_key: source_port");
    let asked = asked(&backends, settle);
    for _ in 0..10 {
        let (name, client) = got(&asked, &backends, Ipv4Addr::LOCALHOST.into());
        let explanation = explained(&asked, &client.address().to_string());
        assert_eq!(explanation["backend"], name, "{explanation}");
        let port = client.address().port();
        assert_eq!(
            verdicts(&explanation, "hash_key"),
            format!("the hash of 127.0.0.1 and port {port} decides")
        );
    }
}

#[test]
fn backend_that_is_down_says_why_and_its_clients_go_elsewhere() {
    let mut backends = four();
    let asked = asked(&backends, |process| process.check(CHECK).upstream("algorithm: maglev"));
    eventually("all are up", || {
        !verdicts(&explained(&asked, "127.0.0.1"), "health").contains("not eligible")
    });
    let ip = IpAddr::from([127, 0, 0, 7]);
    let chosen = explained(&asked, "127.0.0.7")["backend"].clone();
    let position = NAMES.iter().position(|name| chosen == *name).unwrap();
    backends[position].stop();
    let of_chosen =
        format!("{} (primary) is down: not eligible, because its last check failed: ", NAMES[position]);
    eventually("it is down", || verdicts(&explained(&asked, "127.0.0.7"), "health").contains(&of_chosen));
    let explanation = explained(&asked, "127.0.0.7");
    assert!(explanation["backend"] != chosen && explanation["backend"].is_string(), "{explanation}");
    assert!(
        verdicts(&explanation, "panic_threshold").contains("3 of 4 primaries are eligible"),
        "{explanation}"
    );
    // The checks connect, too, so connections to a backend do not tell who has the client.
    let client = Client::connect_from(ip, asked.process.address()).unwrap();
    client.echo(b"who").unwrap();
    let sessions = asked.socket.get("/v1/sessions?client=127.0.0.7").json();
    assert_eq!(sessions["sessions"][0]["backend"], explanation["backend"], "{sessions} {explanation}");
    backends.iter_mut().for_each(Backend::stop);
    // A shard hears of it a moment before the status does.
    eventually("all are down", || {
        let explanation = explained(&asked, "127.0.0.7");
        explanation["backend"].is_null()
            && verdicts(&explanation, "order of resort") == "no backend is left: the client is reset"
            && verdicts(&explanation, "panic_threshold")
                .ends_with("0 of 4 primaries are eligible; serving: no backend")
    });
    expect_reset(asked.process.address());
}

#[test]
fn panic_is_explained() {
    let mut backends = four();
    let settle = |process: ProcessBuilder| {
        process.check(CHECK).upstream("panic_threshold: 50%").upstream("algorithm: source_hash")
    };
    let asked = asked(&backends, settle);
    // They listen no more, so they fail their checks, and nobody else asks them.
    backends.iter_mut().for_each(Backend::refuse);
    let panics = |explanation: &Value| {
        let words = "0 of 4 primaries are eligible, the threshold is 50%; serving: all backends (panic)";
        verdicts(explanation, "panic_threshold") == words
    };
    eventually("panic", || panics(&explained(&asked, "127.0.0.9")));
    let explanation = explained(&asked, "127.0.0.9");
    let name = explanation["backend"].as_str().unwrap();
    assert!(NAMES.contains(&name), "{explanation}");
    assert!(verdicts(&explanation, "health").contains(&format!("{name} (primary) is down")), "{explanation}");
}

#[test]
fn full_backend_is_passed_over_waited_for_or_the_end() {
    let backends = [backend().echo().name("a").start(), backend().echo().name("b").start()];
    let start = |queue: &str| {
        let limited = |backend: &Backend| format!("{}, max_connections: 1", backend.entry());
        let process = process().entry(&limited(&backends[0])).entry(&limited(&backends[1]));
        let asked = Asked::start(process.upstream("algorithm: first").upstream(queue));
        let active = || asked.socket.get("/v1/status").json()["listeners"][0]["active"].clone();
        eventually("the sessions before are over", || active() == 0);
        asked
    };
    for (queue, end) in [
        ("queue: {max: 0}", ("order of resort", "no backend is left: the client is reset")),
        ("queue: {max: 3, timeout: 1h}", ("queue", "the client waits; 0 of 3 positions are taken")),
    ] {
        let asked = start(queue);
        let explanation = explained(&asked, "127.0.0.1");
        assert_eq!(explanation["backend"], "a", "{explanation}");
        assert_eq!(verdicts(&explanation, "max_connections"), "a has 0 connections and room for more");
        let _first = asked.process.echoing_client();
        let explanation = explained(&asked, "127.0.0.1");
        assert_eq!(explanation["backend"], "b", "{explanation}");
        assert!(verdicts(&explanation, "max_connections").contains("a is full"), "{explanation}");
        assert_eq!(verdicts(&explanation, "first"), "chooses a\nchooses b");
        let _second = asked.process.echoing_client();
        let explanation = explained(&asked, "127.0.0.1");
        assert!(explanation["backend"].is_null(), "{explanation}");
        assert!(verdicts(&explanation, end.0).contains(end.1), "{explanation}");
    }
}

#[test]
fn queue_that_is_full_is_no_place_to_wait() {
    let backends = [backend().echo().name("a").start()];
    let asked = asked(&backends[..0], |process| {
        let entry = format!("{}, max_connections: 1", backends[0].entry());
        process.entry(&entry).upstream("queue: {max: 1, timeout: 1h}")
    });
    let _open = asked.process.echoing_client();
    let _waiting = Client::connect(asked.process.address()).unwrap();
    eventually("it waits", || asked.socket.get("/v1/status").json()["upstreams"][0]["waiting"] == 1);
    let explanation = explained(&asked, "127.0.0.1");
    assert_eq!(verdicts(&explanation, "queue"), "it is full: 1 of 1 positions are taken", "{explanation}");
    let end = verdicts(&explanation, "order of resort");
    assert!(end.ends_with("no backend is left: the client is reset"), "{explanation}");
    expect_reset(asked.process.address());
}

#[test]
fn connection_in_the_pool_is_room() {
    let backends = [backend().echo().name("a").start()];
    let asked = asked(&backends[..0], |process| {
        let entry = format!("{}, max_connections: 1", backends[0].entry());
        process.entry(&entry).upstream("pool: {size: 1}")
    });
    eventually("the pool is filled", || {
        let explanation = explained(&asked, "127.0.0.1");
        explanation["backend"] == "a" && verdicts(&explanation, "pool") == "a connection to a is ready"
    });
    let _open = asked.process.echoing_client();
    let explanation = explained(&asked, "127.0.0.1");
    assert!(explanation["backend"].is_null(), "{explanation}");
    assert!(verdicts(&explanation, "order of resort").contains("no backend is left"), "{explanation}");
}

#[test]
fn limit_of_the_process_is_explained() {
    let backends = [backend().echo().name("a").start()];
    let asked = asked(&backends, |process| process.runtime("max_connections: 1"));
    let _open = asked.process.echoing_client();
    let explanation = explained(&asked, "127.0.0.1");
    assert!(explanation["backend"].is_null(), "{explanation}");
    let verdict = verdicts(&explanation, "runtime.max_connections");
    assert_eq!(verdict, "1 of 1 sessions are open: the client is denied: process_limit");
}

#[test]
fn question_that_is_none_is_refused_with_a_remedy() {
    let backends = four();
    let asked = asked(&backends, |process| process);
    for (query, status, words) in [
        ("client=nobody", 400, "write an IP address, or ADDRESS:PORT"),
        ("client=127.0.0.1:99999", 400, "write an IP address, or ADDRESS:PORT"),
        ("client=", 400, "write an IP address, or ADDRESS:PORT"),
        ("client=127.0.0.1&listener=none", 404, "there are: l"),
        ("listener=l", 400, "`client` is missing"),
    ] {
        let reply = asked.socket.get(&format!("/v1/explain?{query}"));
        assert_eq!(reply.status, status, "{query}: {reply:?}");
        assert!(reply.error().contains(words), "{query}: {}", reply.error());
    }
    for client in ["127.0.0.1", "127.0.0.1:80", "%5B::1%5D:80", "::1", "unix:"] {
        assert!(explained(&asked, client)["backend"].is_string(), "{client}");
    }
}

#[test]
fn certificate_that_a_client_gets_is_named_and_whether_it_needs_one() {
    let only = backend().echo().name("a").start();
    let both = |keys: &str| {
        let entries = [AUTHORITY.entry("a.example"), AUTHORITY.entry("b.example")].join(", ");
        format!("tls: {{certificates: [{entries}]{keys}}}")
    };
    let ca = AUTHORITY.path("ca.pem").display().to_string();
    for (keys, needed) in [
        (String::new(), "the client needs no certificate".to_owned()),
        (
            format!(", client_ca: {ca}"),
            format!("the client needs a certificate that comes from a CA in {ca}"),
        ),
    ] {
        let asked = Asked::start(process().backends([&only]).tls(&both(&keys)));
        for (query, begin, file) in [
            ("", "a client without a name gets ", "a.example"),
            ("&sni=b.example", "a client that asks for b.example gets ", "b.example"),
            ("&sni=B.Example", "a client that asks for b.example gets ", "b.example"),
            (
                "&sni=c.example",
                "no certificate is for c.example, so the client gets the first one: ",
                "a.example",
            ),
        ] {
            let explanation = explained(&asked, &format!("127.0.0.1{query}"));
            let verdict = verdicts(&explanation, "tls.certificates");
            let path = AUTHORITY.path(&format!("{file}.pem")).display().to_string();
            assert!(verdict.starts_with(&format!("{begin}{path} ({file} until ")), "{verdict}");
            assert_eq!(verdicts(&explanation, "tls.client_ca"), needed);
            assert_eq!(explanation["backend"], "a", "{explanation}");
        }
    }
    let asked = Asked::start(process().backends([&only]));
    assert_eq!(verdicts(&explained(&asked, "127.0.0.1&sni=b.example"), "tls.certificates"), "");
}
