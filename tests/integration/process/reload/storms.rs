//! Many commands at once, of processes: they are obeyed one after the other, and the last file wins.

use serde_json::{Value, json};

use super::{CALM, entries, listener, named, upstream};
use crate::support::{Asked, Backend, Reserved, V4, backend, eventually, process};

fn running(backends: &[Backend]) -> (Asked, String) {
    let asked = Asked::start(process().backends(backends));
    let yaml = asked.process.yaml().to_owned();
    (asked, yaml)
}

fn status(asked: &Asked) -> Value {
    asked.socket.get("/v1/status").json()
}

fn retries(yaml: &str, count: usize) -> String {
    yaml.replacen("name: u\n", &format!("name: u\n    retries: {count}\n"), 1)
}

/// At once, as careful editors do it.
fn replace(file: &std::path::Path, yaml: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, yaml).unwrap();
    std::fs::rename(new, file).unwrap();
}

#[test]
fn many_hups_at_once_collapse_and_the_last_file_wins() {
    let backends = [backend().echo().name("a").start()];
    let (asked, yaml) = running(&backends);
    let open = asked.process.echoing_client();
    for round in 0..=100 {
        replace(&asked.process.file(), &retries(&yaml, if round == 100 { 77 } else { round % 50 + 3 }));
        asked.process.signal(libc::SIGHUP);
    }
    let runs = || asked.socket.get("/v1/config").json()["upstreams"][0]["retries"] == 77;
    eventually("the last file runs", runs);
    let generation = status(&asked)["generation"].as_u64().unwrap();
    assert!((2..=102).contains(&generation), "{generation}");
    open.echo(b"still here").unwrap();
    assert_eq!(status(&asked)["reloads"]["failure"], 0);
}

#[test]
fn reloads_asked_for_at_once_all_get_an_answer() {
    let backends = [backend().echo().name("a").start()];
    let (asked, yaml) = running(&backends);
    std::fs::write(asked.process.file(), retries(&yaml, 9)).unwrap();
    let replies: Vec<_> = std::thread::scope(|scope| {
        let ask = || asked.socket.ask("POST", "/v1/reload", &[], "");
        let asking: Vec<_> = (0..30).map(|_| scope.spawn(ask)).collect();
        asking.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let (ok, busy): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 200);
    assert!(ok.len() >= 2, "{busy:?}");
    assert!(ok.iter().all(|reply| reply.json()["generation"] == 2), "{ok:?}");
    assert!(busy.iter().all(|reply| reply.body.contains("too many wait")), "{busy:?}");
}

#[test]
fn reload_and_edit_are_refused_while_the_process_drains() {
    let backends = [backend().echo().name("a").start()];
    let (mut asked, yaml) = running(&backends);
    let open = asked.process.echoing_client();
    asked.process.signal(libc::SIGTERM);
    eventually("it drains", || status(&asked)["phase"] == "draining");
    std::fs::write(asked.process.file(), retries(&yaml, 9)).unwrap();
    let reload = asked.socket.ask("POST", "/v1/reload", &[], "");
    assert_eq!(reload.status, 422, "{reload:?}");
    let errors = reload.json()["errors"].clone();
    assert!(errors[0].as_str().unwrap().contains("ends"), "{errors}");
    let edit = asked.socket.ask(
        "POST",
        "/v1/upstreams/u/backends/a",
        &[("content-type", "application/json")],
        "{\"weight\": 2}",
    );
    assert_eq!(edit.status, 422, "{edit:?}");
    asked.process.signal(libc::SIGHUP);
    open.echo(b"served to the end").unwrap();
    open.finish().unwrap();
    assert_eq!(asked.process.exit().code(), Some(0), "{}", asked.process.log());
}

#[test]
fn edits_hups_and_term_race_without_harm() {
    for round in 0..5 {
        let backends: Vec<_> = named(b"ab");
        let (ports, port) = (Reserved::at(V4), Reserved::at(V4));
        let echo = backend().echo().name("a").start();
        let mut asked = Asked::start(process().backends([&echo]));
        let yaml = asked.process.yaml().to_owned();
        let more = |count: usize| {
            let some: String = [&ports, &port][..count % 3]
                .iter()
                .enumerate()
                .map(|(at, port)| format!("  - {{{}}}\n", listener(&format!("x{at}"), port.address(), "w")))
                .collect();
            retries(&yaml, count + 1).replacen("listeners:\n", &format!("listeners:\n{some}"), 1)
                + &format!("  - {{{}}}\n", upstream("w", CALM, &entries(&backends)))
        };
        let (file, socket) = (asked.process.file(), asked.socket.clone());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for count in 0..30 {
                    replace(&file, &more(count));
                    asked.process.signal(libc::SIGHUP);
                }
            });
            scope.spawn(|| {
                for weight in 1..30 {
                    let body = json!({ "weight": weight }).to_string();
                    let reply = socket.ask(
                        "POST",
                        "/v1/upstreams/u/backends/a",
                        &[("content-type", "application/json")],
                        &body,
                    );
                    assert!(reply.status == 200 || reply.body.contains("too many wait"), "{reply:?}");
                }
            });
        });
        let open = asked.process.client();
        asked.process.signal(libc::SIGHUP);
        asked.process.signal(if round % 2 == 0 { libc::SIGTERM } else { libc::SIGINT });
        asked.process.signal(libc::SIGHUP);
        drop(open);
        assert_eq!(asked.process.exit().code(), Some(0), "{}", asked.process.log());
        let log = asked.process.log();
        assert!(!log.contains("panic") && !log.contains("refused"), "{log}");
    }
}

#[test]
fn a_name_that_nobody_knows_does_not_hold_a_reload_and_the_others_serve() {
    let backends = [backend().echo().name("a").start()];
    let (asked, yaml) = running(&backends);
    let open = asked.process.echoing_client();
    let begin = std::time::Instant::now();
    let entry = "    backends:\n      - {name: n, address: no.such.host.invalid, port: 80}\n";
    std::fs::write(asked.process.file(), yaml.replacen("    backends:\n", entry, 1)).unwrap();
    let reply = asked.socket.ask("POST", "/v1/reload", &[], "");
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(begin.elapsed() < std::time::Duration::from_secs(10), "{:?}", begin.elapsed());
    for _ in 0..10 {
        asked.process.echoing_client().finish().unwrap();
    }
    open.echo(b"still here").unwrap();
}
