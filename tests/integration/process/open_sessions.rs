//! Set-up: the binary with clients that hold their sessions, and an HTTP client on the admin socket. Claim: each open
//! session is listed once with what it does, by pages and by filters, and the one that is killed ends, and no other.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use crate::support::{
    Asked, Client, PATIENCE, ProcessBuilder, Reserved, V4, backend, eventually, is_reset, process,
};

/// All pages of a query, each of them full but the last.
fn pages(asked: &Asked, query: &str, limit: usize) -> Vec<Value> {
    let (mut sessions, mut after) = (Vec::new(), String::new());
    loop {
        let page = asked.socket.get(&format!("/v1/sessions?limit={limit}{query}{after}")).json();
        let found = page["sessions"].as_array().unwrap();
        assert!(found.len() == limit || page["next"].is_null() && found.len() < limit, "{page}");
        sessions.extend_from_slice(found);
        match page["next"].as_u64() {
            Some(next) => after = format!("&after={next}"),
            None => return sessions,
        }
    }
}

fn listed(asked: &Asked, query: &str) -> Vec<Value> {
    pages(asked, query, 1_000)
}

fn of<'a>(sessions: &'a [Value], client: &Client) -> &'a Value {
    let name = client.address().to_string();
    sessions
        .iter()
        .find(|session| session["client"] == *name)
        .unwrap_or_else(|| panic!("{name}: {sessions:?}"))
}

#[track_caller]
fn kill(asked: &Asked, session: &Value) {
    let path = format!("/v1/sessions/{}", session["id"]);
    let reply = asked.socket.ask("DELETE", &path, &[], "");
    assert_eq!((reply.status, &reply.json()["killed"]), (200, &session["id"]), "{reply:?}");
}

fn asked(settle: impl FnOnce(ProcessBuilder) -> ProcessBuilder) -> Asked {
    Asked::start(settle(process()))
}

#[test]
fn open_sessions_are_listed_once_each_by_pages_of_any_size() {
    const SESSIONS: usize = 40;
    let only = backend().echo().name("b").start();
    let asked = asked(|process| process.backends([&only]).runtime("cores: 2"));
    let clients: Vec<_> = (0..SESSIONS).map(|_| asked.process.echoing_client()).collect();
    let open: BTreeSet<_> = clients.iter().map(|client| client.address().to_string()).collect();
    // The session of the test for readiness may end a moment later on the other shard.
    eventually("no other one is open", || listed(&asked, "").len() == SESSIONS);
    for limit in [1, 7, SESSIONS, 1_000] {
        let sessions = pages(&asked, "", limit);
        let names: BTreeSet<_> =
            sessions.iter().map(|session| session["client"].as_str().unwrap().to_owned()).collect();
        let numbers: BTreeSet<_> = sessions.iter().map(|session| session["id"].as_u64().unwrap()).collect();
        assert_eq!((sessions.len(), numbers.len()), (SESSIONS, SESSIONS), "{limit}");
        assert_eq!(names, open, "{limit}");
    }
    // Those of the first page by default.
    assert_eq!(asked.socket.get("/v1/sessions").json()["sessions"].as_array().unwrap().len(), SESSIONS);
    // A place that no page has ended at.
    assert!(listed(&asked, "&after=18446744073709551615").is_empty());
    drop(clients);
    eventually("none is left", || listed(&asked, "").is_empty());
}

#[test]
fn open_session_has_its_names_age_and_bytes() {
    let only = backend().echo().name("b").start();
    let asked = asked(|process| process.backends([&only]));
    let client = asked.process.echoing_client();
    client.echo(&[b'x'; 995]).unwrap();
    let counted = || of(&listed(&asked, ""), &client)["to_client_bytes"] == 1_000;
    eventually("all bytes are counted", counted);
    let sessions = listed(&asked, "");
    let session = of(&sessions, &client);
    for (key, value) in [
        ("listener", Value::from("l")),
        ("upstream", "u".into()),
        ("backend", "b".into()),
        ("state", "relaying".into()),
        ("to_backend_bytes", 1_000.into()),
        ("to_client_bytes", 1_000.into()),
        ("core", asked.socket.get("/v1/status").json()["shards"][0]["cpu"].clone()),
    ] {
        assert_eq!(session[key], value, "{key}: {session}");
    }
    let age = session["age_seconds"].as_f64().unwrap();
    assert!(age > 0.0 && age < PATIENCE.as_secs_f64() * 2.0, "{session}");
    for key in ["to_backend_bytes_per_second", "to_client_bytes_per_second"] {
        let rate = session[key].as_f64().unwrap();
        assert!((rate * age - 1_000.0).abs() < 1.0, "{key}: {session}");
    }
    let later = of(&listed(&asked, ""), &client)["age_seconds"].as_f64().unwrap();
    assert!(later > age, "{later} {age}");
}

#[test]
fn sessions_are_filtered_by_listener_backend_and_client() {
    let (a, b) = (backend().echo().name("a").start(), backend().echo().name("b").start());
    let asked = asked(|process| process.backends([&a, &b]));
    let near: Vec<_> = (0..6).map(|_| asked.process.echoing_client()).collect();
    let other = Client::connect_from(IpAddr::from([127, 0, 0, 2]), asked.process.address()).unwrap();
    other.echo(b"hello").unwrap();
    for (query, count) in [
        ("", 7),
        ("&listener=l", 7),
        ("&client=127.0.0.1", 6),
        ("&client=::ffff:127.0.0.1", 6),
        ("&client=127.0.0.2", 1),
        ("&client=127.0.0.3", 0),
    ] {
        assert_eq!(listed(&asked, query).len(), count, "{query}");
    }
    // A mistake does not look like an empty list.
    for (query, what) in
        [("listener=none", "listener"), ("backend=none", "backend"), ("backend=none/a", "backend")]
    {
        let reply = asked.socket.get(&format!("/v1/sessions?{query}"));
        assert_eq!(reply.status, 404, "{query}");
        assert!(reply.error().starts_with(&format!("no {what} has this name; ")), "{}", reply.error());
    }
    for name in ["a", "b"] {
        let of_backend = listed(&asked, &format!("&backend={name}"));
        assert!(of_backend.len() >= 3, "{of_backend:?}");
        assert!(of_backend.iter().all(|session| session["backend"] == name), "{of_backend:?}");
        assert_eq!(listed(&asked, &format!("&backend=u/{name}")).len(), of_backend.len());
        // A filter finds as much in small pages.
        assert_eq!(pages(&asked, &format!("&backend={name}"), 1).len(), of_backend.len());
    }
    drop(near);
}

#[test]
fn killed_session_is_reset_and_no_other_and_its_end_is_logged() {
    let only = backend().echo().start();
    let asked = asked(|process| process.backends([&only]).section("logging: {access_log: stderr}"));
    let clients: Vec<_> = (0..5).map(|_| asked.process.echoing_client()).collect();
    let sessions = listed(&asked, "");
    let session = of(&sessions, &clients[2]);
    kill(&asked, session);
    let (_, end) = clients[2].receive_all();
    assert!(end.as_ref().is_err_and(is_reset), "{end:?}");
    let id = session["id"].to_string();
    eventually("it is gone", || {
        asked.socket.ask("DELETE", &format!("/v1/sessions/{id}"), &[], "").status == 404
    });
    for (position, client) in clients.iter().enumerate().filter(|(position, _)| *position != 2) {
        client.echo(b"goes on").unwrap_or_else(|error| panic!("{position}: {error}"));
    }
    assert_eq!(listed(&asked, "").len(), 4);
    eventually("the access log has it", || {
        asked.process.log().lines().any(|line| line.contains(&format!("id={id}")) && line.contains(" KD "))
    });
    eventually("the change is logged", || asked.process.log().contains(&format!("has ended session {id}")));
    let status = asked.socket.get("/v1/status").json();
    assert_eq!(status["listeners"][0]["closed"]["killed"], 1, "{status}");
    // A number that nobody has, of a shard that is not there.
    assert_eq!(asked.socket.ask("DELETE", "/v1/sessions/1023", &[], "").status, 404);
}

#[test]
fn client_in_the_queue_is_listed_as_such_and_can_be_killed() {
    let only = backend().echo().start();
    let entry = format!("{}, max_connections: 1", only.entry());
    let asked = asked(|process| process.entry(&entry).upstream("queue: {max: 5, timeout: 1h}"));
    let first = asked.process.echoing_client();
    let (second, third) = (asked.process.client(), asked.process.client());
    eventually("both wait", || listed(&asked, "").iter().filter(|one| one["state"] == "queued").count() == 2);
    let sessions = listed(&asked, "");
    let waiting = of(&sessions, &second);
    assert!(waiting["backend"].is_null() && waiting["to_backend_bytes"] == 0, "{waiting}");
    kill(&asked, waiting);
    let (_, end) = second.receive_all();
    assert!(end.as_ref().is_err_and(is_reset), "{end:?}");
    eventually("its position is free", || {
        asked.socket.get("/v1/status").json()["upstreams"][0]["waiting"] == 1
    });
    first.finish().unwrap();
    third.echo(b"is next").unwrap();
    assert_eq!(of(&listed(&asked, ""), &third)["state"], "relaying");
}

/// A backend whose backlog is full: the kernel leaves the connection unanswered.
#[test]
fn session_that_connects_is_listed_as_such_and_can_be_killed() {
    let (only, silent) = (backend().echo().start(), Reserved::at(V4));
    let listening = silent.listen(0);
    let fill: Vec<_> = (0..3)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&silent.address().into());
            socket
        })
        .collect();
    let entry = format!("name: silent, address: 127.0.0.1, port: {}, backup: true", silent.address().port());
    let limited = format!("{}, max_connections: 1", only.entry());
    let settle = |process: ProcessBuilder| {
        process.entry(&limited).entry(&entry).upstream("timeouts: {connect: 1h, establish: 2h}")
    };
    let asked = asked(settle);
    let first = asked.process.echoing_client();
    // The only primary is full, so the backup is next.
    let second = asked.process.client();
    eventually("it connects", || {
        listed(&asked, "&backend=silent").iter().any(|session| session["state"] == "connecting")
    });
    kill(&asked, of(&listed(&asked, ""), &second));
    let (_, end) = second.receive_all();
    assert!(end.as_ref().is_err_and(is_reset), "{end:?}");
    first.echo(b"goes on").unwrap();
    drop((listening, fill));
}
