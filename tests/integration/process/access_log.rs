//! Set-up: the binary with an access log, and sessions that end in all kinds of ways. Claim: each has its record, which
//! says what happened to it, and sessions go on whatever becomes of the log.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::version::{TLS12, TLS13};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    AUTHORITY, Client, Process, ProcessBuilder, Reserved, TlsClient, V4, backend, eventually, expect_reset,
    process,
};

/// A file for an access log.
struct Target(TempDir);

impl Target {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("access.log")
    }

    /// The section that has sessions logged there.
    fn section(&self, more: &str) -> String {
        section(&self.path(), more)
    }

    fn lines(&self) -> Vec<String> {
        lines(&self.path())
    }

    /// Waits for so many records that are as wanted, and returns them.
    #[track_caller]
    fn records(&self, count: usize, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let found = || self.lines().into_iter().filter(|line| wanted(line)).collect::<Vec<_>>();
        eventually(&format!("{count} records"), || found().len() >= count);
        let found = found();
        assert_eq!(found.len(), count, "{found:#?}");
        found
    }
}

fn section(target: &Path, more: &str) -> String {
    format!("logging: {{access_log: {}, {more}}}", target.display())
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn of(client: &Client) -> impl Fn(&str) -> bool + use<> {
    of_address(client.address())
}

fn of_address(address: SocketAddr) -> impl Fn(&str) -> bool + use<> {
    let address = address.to_string();
    move |line| line.contains(&address)
}

/// The words of a tcplog line.
fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// The state letters of a tcplog line.
fn state(line: &str) -> &str {
    words(line)[6]
}

#[test]
fn record_is_the_line_that_haproxy_writes() {
    let (target, only) = (Target::new(), backend().echo().name("app-1").start());
    let process = process().backends([&only]).section(&target.section("")).start();
    let client = process.echoing_client();
    let is_ours = of(&client);
    client.echo(b"more").unwrap();
    client.finish().unwrap();
    let line = target.records(1, is_ours).remove(0);
    let words = words(&line);
    assert_eq!((words[2], words[3]), ("l", "u/app-1"), "{line}");
    // [29/Nov/2026:20:15:04.123], in UTC.
    let date = words[1].trim_matches(['[', ']']);
    let parsed = jiff::civil::DateTime::strptime("%d/%b/%Y:%H:%M:%S%.f", date).unwrap();
    let age =
        jiff::Timestamp::now().duration_since(parsed.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp());
    assert!(age.abs() < jiff::SignedDuration::from_secs(60), "{line}");
    let times: Vec<i64> = words[4].split('/').map(|time| time.parse().unwrap()).collect();
    assert!(matches!(times[..], [queue, connect, total] if queue <= connect && connect <= total), "{line}");
    assert_eq!((words[5], words[6]), ("9", "--"), "bytes to the client, and a normal end: {line}");
    assert!(
        words[7].split('/').all(|count| count.parse::<u32>().is_ok()) && words[7].split('/').count() == 5
    );
    assert_eq!((words[8], words[9]), ("0/0", "up=9"), "{line}");
}

#[test]
fn record_of_json_has_what_tcp_knows_of_both_sides() {
    let (target, only) = (Target::new(), backend().echo().name("app-1").start());
    let process = process().backends([&only]).section(&target.section("access_format: json")).start();
    let client = process.echoing_client();
    let is_ours = of(&client);
    let address = client.address().to_string();
    client.finish().unwrap();
    let record: Value = serde_json::from_str(&target.records(1, is_ours)[0]).unwrap();
    let expected = [
        ("client", Value::from(address)),
        ("listener", "l".into()),
        ("upstream", "u".into()),
        ("backend", "app-1".into()),
        ("to_backend_bytes", 5.into()),
        ("to_client_bytes", 5.into()),
        ("state", "--".into()),
        ("reason", "normal".into()),
        ("retries", 0.into()),
    ];
    for (key, value) in expected {
        assert_eq!(record[key], value, "{key} of {record:#}");
    }
    for side in ["client_tcp", "backend_tcp"] {
        let round_trip = record[side]["rtt_seconds"].as_f64().unwrap();
        assert!(round_trip > 0.0 && round_trip < 1.0, "{record:#}");
        assert_eq!(record[side]["retransmitted_segments"], 0, "{record:#}");
        assert!(record[side]["delivery_rate_bytes_per_second"].is_u64(), "{record:#}");
    }
    let [connect, duration] =
        ["connect_seconds", "duration_seconds"].map(|key| record[key].as_f64().unwrap());
    assert!(connect > 0.0 && connect <= duration, "{record:#}");
    assert!(record["time"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{record:#}");
}

#[test]
fn record_has_what_the_client_has_agreed_on_in_tls() {
    for (format, version) in [("json", &TLS13), ("json", &TLS12), ("tcplog", &TLS13)] {
        let (target, only) = (Target::new(), backend().echo().start());
        let process = process()
            .backends([&only])
            .tls(&AUTHORITY.listener(""))
            .section(&target.section(&format!("access_format: {format}")))
            .start();
        let settings = Arc::new(AUTHORITY.client(version, None));
        for resumed in [false, true] {
            let mut client = TlsClient::connect(&settings, process.address(), "a.example").unwrap();
            let is_ours = of_address(client.0.sock.local_addr().unwrap());
            // Tickets come with the echo.
            client.echo(b"hello").unwrap();
            client.end().unwrap();
            client.receive_all().1.unwrap();
            let line = target.records(1, is_ours).remove(0);
            let expected = if version == &TLS13 { "TLSv1.3" } else { "TLSv1.2" };
            if format == "tcplog" {
                assert!(line.ends_with(&format!(" tls={expected}")), "{line}");
                continue;
            }
            let record: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(
                (&record["tls"]["version"], &record["tls"]["resumed"]),
                (&expected.into(), &resumed.into()),
                "{record:#}"
            );
            let cipher = record["tls"]["cipher"].as_str().unwrap();
            let begin = if version == &TLS13 { "TLS_AES_" } else { "TLS_ECDHE_" };
            assert!(cipher.starts_with(begin), "{record:#}");
        }
        // Nothing was agreed on.
        let plain = process.client();
        plain.send(b"no hello of TLS, as long as a record").unwrap();
        let line = target.records(1, of(&plain)).remove(0);
        assert!(!line.contains("tls") && line.contains("PR"), "{line}");
    }
}

#[test]
fn filter_for_errors_leaves_normal_ends_out() {
    let (target, mut only) = (Target::new(), backend().echo().start());
    let process = process().backends([&only]).section(&target.section("access_filter: errors")).start();
    for _ in 0..10 {
        process.echoing_client().finish().unwrap();
    }
    let cut = process.echoing_client();
    let is_ours = of(&cut);
    only.stop();
    eventually("the end", || cut.receive(&mut [0]).is_ok_and(|count| count == 0) || cut.send(b"x").is_err());
    expect_reset(process.address());
    // The backend ended its stream before it was reset: a client that left between the two would make it a normal end.
    target.records(1, is_ours);
    drop(cut);
    let lines = target.records(2, |_| true);
    let mut states: Vec<_> = lines.iter().map(|line| state(line)).collect();
    states.sort_unstable();
    assert_eq!(states, ["SC", "SD"], "{lines:#?}");
}

/// Sessions of a process whose one permit is taken.
fn full(target: &Target, queue: &str) -> (Process, Client, crate::support::Backend) {
    let only = backend().echo().start();
    let process = process()
        .entry(&format!("{}, max_connections: 1", only.entry()))
        .upstream(queue)
        .section(&target.section(""))
        .start();
    let holder = process.echoing_client();
    (process, holder, only)
}

#[test]
fn letters_tell_who_ended_a_session_and_when() {
    let target = Target::new();
    let (process, holder, _backend) = full(&target, "queue: {max: 5, timeout: 1s}");
    // In the queue: the client leaves, or its time is up.
    let patient = process.client();
    let (left, waited) = (process.client(), of(&patient));
    let has_left = of(&left);
    left.reset();
    assert_eq!(state(&target.records(1, has_left)[0]), "CQ");
    let line = target.records(1, waited).remove(0);
    assert_eq!((state(&line), words(&line)[3]), ("sQ", "u/<NOSRV>"), "{line}");
    // In the data phase: a reset of the client.
    let was_reset = of(&holder);
    holder.reset();
    assert_eq!(state(&target.records(1, was_reset)[0]), "CD");
}

#[test]
fn denied_clients_have_few_records_with_the_reason() {
    let target = Target::new();
    let only = backend().echo().start();
    let process = process()
        .backends([&only])
        .runtime("max_connections: 1")
        .section(&target.section("access_filter: errors"))
        .start();
    let holder = process.echoing_client();
    for _ in 0..100 {
        expect_reset(process.address());
    }
    holder.finish().unwrap();
    // Ten a second; a second may have ended meanwhile.
    let denied = || target.lines().iter().filter(|line| state(line).starts_with('P')).count();
    eventually("records", || denied() >= 10);
    let count = denied();
    assert!((10..=30).contains(&count), "{count}: {:#?}", target.lines());
    assert!(target.lines()[0].contains("<NOSRV>"), "{:#?}", target.lines());
}

#[test]
fn log_that_was_renamed_is_opened_again_at_the_signal() {
    let (target, only) = (Target::new(), backend().echo().start());
    let process = process().backends([&only]).section(&target.section("")).start();
    let first = process.echoing_client();
    let is_first = of(&first);
    first.finish().unwrap();
    target.records(1, is_first);
    let old = target.path().with_extension("old");
    std::fs::rename(target.path(), &old).unwrap();
    process.signal(libc::SIGUSR1);
    eventually("a new file", || target.path().exists());
    let second = process.echoing_client();
    let is_second = of(&second);
    second.finish().unwrap();
    target.records(1, &is_second);
    assert!(!lines(&old).iter().any(|line| is_second(line)));
}

/// Sessions get through, and what they lost is said and counted.
#[track_caller]
fn drops_and_says_so(settle: impl FnOnce(ProcessBuilder) -> ProcessBuilder) {
    let (only, port) = (backend().echo().start(), Reserved::at(V4));
    let admin = format!("listen_address: '{}', socket: off", port.address());
    let mut process = settle(process().backends([&only]).admin(&admin)).start();
    for _ in 0..50 {
        process.echoing_client().finish().unwrap();
    }
    eventually("the loss is said", || {
        process.log().contains("the target of the access log is slow, full or broken")
    });
    let status = crate::support::Endpoint::Tcp(port.address()).get("/v1/status").json();
    assert!(status["log_dropped"]["access"].as_u64().unwrap() > 0, "{status:#}");
    process.signal(libc::SIGTERM);
    assert_eq!(process.exit().code(), Some(0));
}

#[test]
fn full_target_costs_records_only() {
    drops_and_says_so(|process| process.section(&section(Path::new("/dev/full"), "level: info")));
}

#[test]
fn last_records_are_written_before_the_end() {
    let (target, only) = (Target::new(), backend().echo().start());
    let mut process = process().backends([&only]).section(&target.section("")).start();
    let clients: Vec<_> = (0..20).map(|_| process.echoing_client()).collect();
    let addresses: Vec<_> = clients.iter().map(|client| client.address().to_string()).collect();
    process.signal(libc::SIGINT);
    // Two signals at once are one.
    eventually("it drains", || process.log().contains("draining"));
    process.signal(libc::SIGINT);
    assert_eq!(process.exit().code(), Some(0));
    let lines = target.lines();
    for address in addresses {
        let line = lines.iter().find(|line| line.contains(&address)).unwrap_or_else(|| panic!("{lines:#?}"));
        assert_eq!(state(line), "KD", "{line}");
    }
    drop(clients);
}
