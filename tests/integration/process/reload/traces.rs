//! What is seen of things that were removed: they keep their names as long as sessions are on them, and are gone then.

use serde_json::Value;

use super::{CALM, entries, listener, upstream};
use crate::support::{Asked, Client, Reserved, V4, backend, eventually, process};

/// The value of each series of a metric whose labels hold these words.
fn series(asked: &Asked, metric: &str, words: &str) -> Vec<f64> {
    let body = asked.socket.get("/metrics").body;
    let lines = body.lines().filter(|line| line.starts_with(metric) && line.contains(words));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect()
}

fn reload(asked: &Asked, yaml: &str) {
    std::fs::write(asked.process.file(), yaml).unwrap();
    let reply = asked.socket.ask("POST", "/v1/reload", &[], "");
    assert_eq!(reply.status, 200, "{reply:?}");
}

fn sessions(asked: &Asked, query: &str) -> Vec<Value> {
    let reply = asked.socket.get(&format!("/v1/sessions{query}"));
    assert_eq!(reply.status, 200, "{query}: {reply:?}");
    reply.json()["sessions"].as_array().unwrap().clone()
}

#[test]
fn removed_names_stay_with_their_sessions_and_go_with_them() {
    let backends = [backend().echo().name("a").start(), backend().echo().name("b").start()];
    let (folder, port) = (tempfile::tempdir().unwrap(), Reserved::at(V4));
    let access = folder.path().join("access.log");
    let section = format!("logging: {{access_log: {}, access_format: json}}", access.display());
    let asked = Asked::start(process().section(&section).backends(&backends[..1]));
    let yaml = asked.process.yaml().to_owned();
    let with = yaml.replacen(
        "listeners:\n",
        &format!("listeners:\n  - {{{}}}\n", listener("m", port.address(), "w")),
        1,
    ) + &format!("  - {{{}}}\n", upstream("w", CALM, &entries(&backends[1..])));
    reload(&asked, &with);
    let open = Client::connect(port.address()).unwrap();
    open.echo(b"hello").unwrap();
    reload(&asked, &yaml);
    let found = sessions(&asked, "");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (&found[0]["listener"], &found[0]["upstream"], &found[0]["backend"]),
        (&"m".into(), &"w".into(), &"b".into())
    );
    assert_eq!(series(&asked, "ringway_sessions_active", "listener=\"m\""), [1.0]);
    assert!(series(&asked, "ringway_backend_up", "upstream=\"w\"").iter().all(|up| *up <= 1.0));
    // What is gone has no listener to explain, and no backend to change.
    let explained = asked.socket.get("/v1/explain?client=127.0.0.1&listener=m");
    assert!([404, 422, 400].contains(&explained.status), "{explained:?}");
    let edit = asked.socket.ask(
        "POST",
        "/v1/upstreams/w/backends/b",
        &[("content-type", "application/json")],
        "{\"weight\": 2}",
    );
    assert_eq!(edit.status, 404, "{edit:?}");
    assert_eq!(asked.socket.get("/readyz/m").status, 404);
    open.echo(b"still here").unwrap();
    open.finish().unwrap();
    eventually("the listener is gone", || {
        series(&asked, "ringway_sessions_active", "listener=\"m\"").is_empty()
    });
    eventually("its upstream too", || series(&asked, "ringway_", "upstream=\"w\"").is_empty());
    assert!(series(&asked, "ringway_", "listener=\"m\"").is_empty());
    let record = || {
        let text = std::fs::read_to_string(&access).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .find(|line| line["listener"] == "m")
    };
    eventually("its record is there", || record().is_some());
    let record = record().unwrap();
    assert_eq!((&record["upstream"], &record["backend"]), (&"w".into(), &"b".into()), "{record}");
    // Back again: sums go on.
    reload(&asked, &with);
    Client::connect(port.address()).unwrap().finish().unwrap();
    eventually("sums go on", || series(&asked, "ringway_sessions_total", "listener=\"m\"") == [2.0]);
}

#[test]
fn a_session_on_a_removed_backend_can_be_ended() {
    let backends = [backend().echo().name("a").start(), backend().echo().name("b").start()];
    let asked = Asked::start(process().backends(&backends));
    let yaml = asked.process.yaml().to_owned();
    let open: Vec<_> = (0..2).map(|_| asked.process.echoing_client()).collect();
    let line = yaml.lines().find(|line| line.contains("name: a,")).unwrap();
    reload(&asked, &yaml.replacen(&format!("{line}\n"), "", 1));
    let found = sessions(&asked, "");
    let on_a = found.iter().find(|session| session["backend"] == "a").unwrap();
    let killed = asked.socket.ask("DELETE", &format!("/v1/sessions/{}", on_a["id"]), &[], "");
    assert!(killed.status < 300, "{killed:?}");
    eventually("it has ended", || sessions(&asked, "").len() == 1);
    assert_eq!(open.iter().filter(|client| client.echo(b"still here").is_ok()).count(), 1);
}

#[test]
fn sessions_of_removed_backends_and_listeners_are_found_by_their_names() {
    let backends = [backend().echo().name("a").start(), backend().echo().name("b").start()];
    let asked = Asked::start(process().backends(&backends));
    let yaml = asked.process.yaml().to_owned();
    let _open: Vec<_> = (0..2).map(|_| asked.process.echoing_client()).collect();
    let line = yaml.lines().find(|line| line.contains("name: a,")).unwrap();
    reload(&asked, &yaml.replacen(&format!("{line}\n"), "", 1).replacen("name: l\n", "name: m\n", 1));
    assert_eq!(sessions(&asked, "?backend=u/a").len(), 1);
    assert_eq!(sessions(&asked, "?backend=a").len(), 1);
    assert_eq!(sessions(&asked, "?listener=l").len(), 2);
    assert_eq!(sessions(&asked, "?listener=m").len(), 0);
}
