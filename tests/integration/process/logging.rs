//! Set-up: the binary in a process of its own, whose log goes to a file, or to something that takes nothing.
//! Claim: sessions go on whatever becomes of the log; what an operator has to know is in it.

use std::fs::{File, OpenOptions};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{Client, Process, backend, eventually, expect_reset, process};

#[test]
fn records_of_json_have_their_parts_by_name() {
    let only = backend().echo().start();
    let mut process = process().backends([&only]).section("logging: {format: json, level: debug}").start();
    process.echoing_client().finish().unwrap();
    process.signal(libc::SIGTERM);
    assert_eq!(process.exit().code(), Some(0));
    let records: Vec<serde_json::Value> =
        process.log().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |event: &str| {
        records.iter().rfind(|record| record["event"] == event).unwrap_or_else(|| panic!("{event}"))
    };
    assert_eq!((&of("listener")["listener"], &of("listener")["backends"]), (&"l".into(), &1.into()));
    assert!(of("listener")["message"].as_str().unwrap().contains("(1 backend, round_robin)"));
    let closed = of("session_closed");
    assert_eq!(
        (&closed["reason"], &closed["listener"], &closed["upstream"]),
        (&"normal".into(), &"l".into(), &"u".into())
    );
    assert_eq!((&closed["to_backend"], &closed["to_client"]), (&5.into(), &5.into()));
    assert!(closed["seconds"].is_f64(), "{closed}");
    assert!(of("started")["max_sessions"].is_u64());
    assert_eq!(of("stopped")["cause"], "every session has ended");
}

#[test]
fn log_that_is_truncated_has_no_hole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    // As `2> log`: without O_APPEND.
    let opened = File::create(&path).unwrap();
    let only = backend().echo().start();
    let process = process().backends([&only]).section("logging: {level: debug}").stderr(opened).start();
    let wait = || eventually("a record", || std::fs::metadata(&path).unwrap().len() > 0);
    wait();
    process.await_rest();
    File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    process.echoing_client().finish().unwrap();
    wait();
    assert!(!std::fs::read(&path).unwrap().contains(&0), "the rest of what was there before");
}

/// So many sessions that their records at level `trace` are more than any queue or pipe holds.
fn many_sessions(process: &Process) {
    for _ in 0..300 {
        process.echoing_client().finish().unwrap();
    }
}

#[test]
fn log_to_a_full_disk_leaves_sessions_alone() {
    let only = backend().echo().start();
    let mut process =
        process().backends([&only]).section("logging: {level: trace, target: /dev/full}").start();
    many_sessions(&process);
    process.signal(libc::SIGTERM);
    assert_eq!(process.exit().code(), Some(0));
}

#[test]
fn log_to_an_unread_pipe_leaves_sessions_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let section = format!("logging: {{level: trace, target: {}}}", path.display());
    let only = backend().echo().start();
    let mut process = process().backends([&only]).section(&section).start();
    // For both, so that the open does not wait, fifo(7).
    let _open: File = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    many_sessions(&process);
    process.signal(libc::SIGTERM);
    assert_eq!(process.exit().code(), Some(0));
}

#[test]
fn blocked_standard_error_leaves_sessions_alone() {
    let (reader, writer) = std::io::pipe().unwrap();
    let only = backend().echo().start();
    let mut process = process().backends([&only]).section("logging: {level: trace}").stderr(writer).start();
    many_sessions(&process);
    process.signal(libc::SIGTERM);
    assert_eq!(process.exit().code(), Some(0));
    drop(reader);
}

#[test]
fn broken_standard_error_leaves_sessions_alone() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let only = backend().echo().start();
    let mut process = process().backends([&only]).section("logging: {level: trace}").stderr(writer).start();
    many_sessions(&process);
    process.signal(libc::SIGTERM);
    assert_eq!(process.exit().code(), Some(0));
}

#[test]
fn client_that_is_turned_away_is_in_the_log() {
    let mut only = backend().echo().start();
    let mut process = process().backends([&only]).check("interval: 1h, fast_interval: 20ms").start();
    only.stop();
    expect_reset(process.address());
    let says = |text: &str| process.log().contains(text);
    eventually("the upstream is deserted", || says("ERROR") && says("u has no backend left to try"));
    (0..9).for_each(|_| expect_reset(process.address()));
    eventually("a warning", || says("listener l turned"));
    only.restart();
    eventually("it is served again", || says("u has a backend again"));
    // It takes the states of the health thread a moment to reach the shard.
    eventually("a session gets through", || {
        Client::connect(process.address()).is_ok_and(|client| client.echo(b"again").is_ok())
    });
    process.signal(libc::SIGTERM);
    assert_eq!(process.exit().code(), Some(0), "{}", process.log());
    let log = process.log();
    let totals = log.lines().find(|line| line.contains("listener l had")).unwrap_or_else(|| panic!("{log}"));
    assert!(totals.contains("connect_failed") && totals.contains("no_backend"), "{totals}");
}

/// A client that gets nothing but resets is turned away too.
#[test]
fn client_that_every_backend_resets_is_in_the_log() {
    let well = Arc::new(AtomicBool::new(true));
    let gate = Arc::clone(&well);
    let only = backend()
        .serve(move |connection| {
            if gate.load(Ordering::SeqCst) {
                connection.echo()
            } else {
                connection.reset();
                Ok(())
            }
        })
        .start();
    let process = process().backends([&only]).check("interval: 1h").start();
    well.store(false, Ordering::SeqCst);
    expect_reset(process.address());
    eventually("a warning", || {
        process.log().contains("listener l turned 1 client away in the last")
            && process.log().contains("1 backend_reset")
    });
}

#[test]
fn record_of_a_session_has_the_address_of_its_client() {
    let only = backend().echo().start();
    let process = process().backends([&only]).argument("--log-level=debug").start();
    let client = process.echoing_client();
    let record = format!("session closed: normal (--) client={} listener=l", client.address());
    client.finish().unwrap();
    eventually("the record", || process.log().contains(&record));
    let client = process.echoing_client();
    let record = format!("session closed: client_reset (CD) client={} listener=l", client.address());
    client.reset();
    eventually("the record of a reset", || process.log().contains(&record));
}
