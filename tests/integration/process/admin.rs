//! Set-up: the binary with both endpoints of the admin API, and an HTTP client. Claim: both answer what they should
//! and refuse the rest with a remedy, whoever asks and however many; a change is made by the Unix socket alone, and
//! logged.

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    Backend, Endpoint, HttpStream, NO_ADMIN, Process, ProcessBuilder, Reserved, V4, backend, eventually,
    has_descriptors, in_own_network, process, run_to_end,
};

/// A process with both endpoints.
struct Served {
    process: Process,
    only: Backend,
    port: Reserved,
    folder: TempDir,
}

impl Served {
    fn start(settle: impl FnOnce(ProcessBuilder) -> ProcessBuilder) -> Self {
        Self::start_with("", settle)
    }

    /// With these keys of `admin`, too.
    fn start_with(keys: &str, settle: impl FnOnce(ProcessBuilder) -> ProcessBuilder) -> Self {
        let (only, port, folder) = (backend().echo().start(), Reserved::at(V4), tempfile::tempdir().unwrap());
        let socket = folder.path().join("run/admin.sock");
        let admin = format!("listen_address: '{}', socket: '{}', {keys}", port.address(), socket.display());
        let process = settle(process().backends([&only]).admin(&admin)).start();
        Self { process, only, port, folder }
    }

    fn tcp(&self) -> Endpoint {
        Endpoint::Tcp(self.port.address())
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("run/admin.sock")
    }

    fn socket(&self) -> Endpoint {
        Endpoint::Unix(self.path())
    }

    fn both(&self) -> [Endpoint; 2] {
        [self.tcp(), self.socket()]
    }
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

#[test]
fn both_endpoints_show_what_concerns_no_client() {
    let served = Served::start(|process| process);
    for endpoint in served.both() {
        for (path, kind) in [
            ("/", "text/html; charset=utf-8"),
            ("/healthz", TEXT),
            ("/readyz", TEXT),
            ("/readyz/l", TEXT),
            ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
            ("/v1/status", JSON),
            ("/v1/openapi.json", JSON),
        ] {
            let reply = endpoint.get(path);
            assert_eq!((reply.status, reply.header("content-type")), (200, Some(kind)), "{path}: {reply:?}");
            assert_eq!(reply.header("cache-control"), Some("no-store"), "{path}");
            assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{path}");
            // The same without the body.
            let head = endpoint.ask("HEAD", path, &[], "");
            assert_eq!((head.status, &*head.body), (200, ""), "{path}");
            assert_eq!(head.header("content-type"), Some(kind), "{path}");
        }
        assert_eq!(endpoint.get("/healthz").body, "ok\n");
        assert_eq!(endpoint.get("/readyz").body, "ready\n");
        let open = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        let accepts = [("accept", "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3")];
        assert_eq!(endpoint.ask("GET", "/metrics", &accepts, "").header("content-type"), Some(open));
        let page = endpoint.get("/");
        assert!(page.header("content-security-policy").unwrap().contains("default-src 'none'"), "{page:?}");
        assert_eq!(page.header("x-frame-options"), Some("DENY"));
    }
}

/// Every key of an answer is in the description, and every key that the description promises is there.
#[test]
fn answers_are_as_described() {
    fn compare(description: &Value, schema: &Value, value: &Value, at: &str) {
        if let Some(name) = schema["$ref"].as_str() {
            let schema = description.pointer(&name[1..]).unwrap_or_else(|| panic!("{name}"));
            return compare(description, schema, value, at);
        }
        if let (Some(options), false) = (schema["oneOf"].as_array(), value.is_null()) {
            return compare(description, &options[0], value, at);
        }
        match value {
            Value::Object(members) => {
                let Some(known) = schema["properties"].as_object() else { return };
                let keys = |keys: &mut dyn Iterator<Item = &String>| keys.cloned().collect::<Vec<_>>();
                let (mut found, mut promised) = (keys(&mut members.keys()), keys(&mut known.keys()));
                found.sort();
                promised.sort();
                assert_eq!(found, promised, "{at}");
                assert_eq!(schema["required"].as_array().map(Vec::len), Some(known.len()), "{at}");
                members.iter().for_each(|(key, value)| {
                    compare(description, &known[key], value, &format!("{at}.{key}"));
                });
            }
            Value::Array(items) => {
                items
                    .iter()
                    .for_each(|item| compare(description, &schema["items"], item, &format!("{at}[]")));
            }
            _ => assert!(schema["type"].is_string() || schema["type"].is_array(), "{at}: {schema}"),
        }
    }
    let served = Served::start(|process| process.check("interval: 1h"));
    let description = served.tcp().get("/v1/openapi.json").json();
    eventually("the first check is over", || {
        !served.tcp().get("/v1/status").json()["upstreams"][0]["backends"][0]["checks"]["last"].is_null()
    });
    let status = served.tcp().get("/v1/status").json();
    compare(&description, &description["components"]["schemas"]["Status"], &status, "status");
    assert_eq!(status["pid"], served.process.id());
    let _open = served.process.echoing_client();
    for (path, name) in [("/v1/sessions", "SessionPage"), ("/v1/explain?client=127.0.0.1", "Explanation")] {
        let answer = served.socket().get(path).json();
        compare(&description, &description["components"]["schemas"][name], &answer, name);
    }
}

#[test]
fn clients_and_changes_are_on_the_unix_socket_only() {
    let served = Served::start(|process| process);
    for (method, path) in [
        ("GET", "/v1/sessions"),
        ("GET", "/v1/config"),
        ("DELETE", "/v1/sessions/1"),
        ("POST", "/v1/drain"),
        ("POST", "/v1/log-level"),
        ("GET", "/v1/diff"),
        ("POST", "/v1/reload"),
        ("POST", "/v1/upgrade"),
        ("POST", "/v1/upstreams/u/backends"),
        ("POST", "/v1/upstreams/u/backends/b"),
        ("DELETE", "/v1/upstreams/u/backends/b"),
    ] {
        let reply = served.tcp().ask(method, path, &[], "");
        assert_eq!(reply.status, 403, "{path}: {reply:?}");
        assert!(reply.error().contains("use the Unix socket of `admin.socket`"), "{}", reply.error());
    }
    let socket = served.socket();
    assert!(socket.get("/v1/sessions").json()["sessions"].is_array());
    let none = socket.ask("DELETE", "/v1/sessions/18446744073709551615", &[], "");
    assert_eq!(none.status, 404);
    assert!(none.error().contains("no open session has the number `18446744073709551615`"), "{none:?}");
    assert_eq!(socket.ask("DELETE", "/v1/sessions/x", &[], "").status, 404);
    let config = socket.get("/v1/config").json();
    assert_eq!(config["admin"]["listen_address"], served.port.address().to_string());
    let yaml = socket.ask("GET", "/v1/config", &[("accept", "application/yaml")], "");
    assert_eq!(yaml.header("content-type"), Some("application/yaml"));
    assert!(yaml.body.starts_with("runtime:\n"), "{}", yaml.body);
}

#[test]
fn what_there_is_not_and_what_does_not_fit_is_refused_with_a_remedy() {
    let served = Served::start(|process| process);
    for endpoint in served.both() {
        for (method, path, status, words) in [
            ("GET", "/nothing", 404, "`/v1/openapi.json` lists what there is"),
            (
                "GET",
                "/readyz/none",
                404,
                "no listener is called `none`; `ringway ctl status` and `/v1/status` list them",
            ),
            ("GET", "/v1/explain", 400, "`client` is missing; write `?client=ADDRESS`"),
            ("GET", "/v1/explain?client=1.2.3.4&sni=a..b", 400, "`a..b` is not a host name; write `sni` as"),
            ("GET", "/v1/explain?client=1.2.3.4&name=a", 400, "there is no parameter `name` here"),
            ("POST", "/v1/status", 405, "this takes GET, HEAD only"),
            ("DELETE", "/metrics", 405, "this takes GET, HEAD only"),
            ("GET", "/v1/drain", 405, "this takes POST only"),
            ("GET", "/v1/sessions/1", 405, "this takes DELETE only"),
            ("GET", "/v1/reload", 405, "this takes POST only"),
            ("POST", "/v1/diff", 405, "this takes GET, HEAD only"),
            ("GET", "/v1/upstreams/u/backends/b", 405, "this takes POST, DELETE only"),
            ("OPTIONS", "/", 405, "this takes GET, HEAD only"),
        ] {
            let reply = endpoint.ask(method, path, &[], "");
            assert_eq!(reply.status, status, "{method} {path}: {reply:?}");
            assert!(reply.error().contains(words), "{method} {path}: {}", reply.error());
            assert_eq!(reply.header("allow").is_some(), status == 405, "{method} {path}");
        }
    }
    let backend = format!("/v1/upstreams/u/backends/{}", served.only.address());
    for (method, path, body, status, words) in [
        (
            "POST",
            "/v1/upstreams/u/backends/none",
            "{}",
            404,
            "no backend has this name; `ringway ctl backends`",
        ),
        ("DELETE", "/v1/upstreams/none/backends/none", "", 404, "no upstream has this name"),
        ("POST", "/v1/upstreams/none/backends", "{}", 404, "no upstream has this name"),
        ("POST", "/v1/upstreams/u/backends", "[]", 400, "write an entry of `backends` as JSON"),
        ("POST", &backend, "{}", 400, "the body sets nothing; write {\"weight\": 3"),
        ("POST", &backend, r#"{"weight": "3"}"#, 400, "write {\"weight\": 3"),
        ("POST", &backend, r#"{"state": "up"}"#, 400, "`state` is ready, drain or maint"),
        ("POST", &backend, r#"{"weight": 3, "port": 1}"#, 400, "unknown field `port`"),
    ] {
        let reply = served.socket().ask(method, path, &[], body);
        assert_eq!(reply.status, status, "{method} {path}: {reply:?}");
        assert!(reply.error().contains(words), "{method} {path}: {}", reply.error());
    }
    let refused = served.socket().get("/v1/sessions?limit=0");
    assert_eq!(refused.status, 400);
    assert!(refused.error().contains("write a whole number from 1 to 1000"), "{refused:?}");
}

#[test]
fn page_of_a_stranger_reaches_nothing() {
    let served = Served::start(|process| process);
    let (tcp, host) = (served.tcp(), served.tcp().host());
    for headers in [
        &[("host", "example.com")][..],
        &[("host", "localhost.example.com:9900")],
        &[("origin", "http://example.com")],
        &[("origin", "null")],
    ] {
        let reply = tcp.ask("GET", "/v1/status", headers, "");
        assert_eq!(reply.status, 403, "{headers:?}: {reply:?}");
    }
    assert_eq!(
        tcp.send(b"GET http://example.com/ HTTP/1.1\r\nhost: [::1]\r\nconnection: close\r\n\r\n")
            .unwrap()
            .status,
        403
    );
    for headers in [&[("host", "localhost")][..], &[("origin", &format!("http://{host}"))]] {
        assert_eq!(tcp.ask("GET", "/v1/status", headers, "").status, 200, "{headers:?}");
    }
    // No browser has a name for the socket, but somebody may lead one to it.
    assert_eq!(served.socket().ask("GET", "/v1/status", &[("host", "example.com")], "").status, 200);
    let led = served.socket().ask("POST", "/v1/drain", &[("origin", "http://example.com")], "");
    assert_eq!(led.status, 403, "{led:?}");
    assert_eq!(tcp.send(b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n").unwrap().status, 400, "no host");
}

#[test]
fn log_level_is_changed_and_the_change_is_logged_with_the_user() {
    let served = Served::start(|process| process);
    let own = std::fs::metadata("/proc/self").unwrap().uid();
    let reply = served.socket().ask("POST", "/v1/log-level", &[], r#"{"level": "debug"}"#);
    assert_eq!((reply.status, &reply.json()["level"]), (200, &Value::from("debug")));
    eventually("it is logged", || {
        let log = served.process.log();
        log.contains(&format!("admin: uid {own} sets the log level to debug"))
            && log.contains("from level DEBUG on")
    });
    for body in ["", "debug", r#"{"level": "loud"}"#, r#"{"level": "info", "more": 1}"#] {
        let reply = served.socket().ask("POST", "/v1/log-level", &[], body);
        assert_eq!(reply.status, 400, "{body}: {reply:?}");
        assert!(reply.error().contains("write {\"level\": \"debug\"}"), "{body}: {reply:?}");
    }
    let large = format!("{{\"level\": \"{}\"}}", "x".repeat(65 << 10));
    let reply = served.socket().ask("POST", "/v1/log-level", &[], &large);
    assert_eq!(reply.status, 413, "{reply:?}");
    assert!(reply.error().contains("larger than 64 KiB"), "{reply:?}");
}

/// What cannot be is refused as a whole with every reason, and whoever asked stands in the log.
#[test]
fn changes_are_logged_with_the_user_and_refused_with_every_reason() {
    let served = Served::start(|process| process);
    let own = std::fs::metadata("/proc/self").unwrap().uid();
    let name = served.only.address().to_string();
    let (backends, backend) = ("/v1/upstreams/u/backends", format!("/v1/upstreams/u/backends/{name}"));
    for (method, path, body, logged) in [
        (
            "POST",
            &*backend,
            r#"{"weight": 5000, "state": "drain"}"#,
            format!("sets u/{name} to weight=5000 state=drain"),
        ),
        (
            "POST",
            backends,
            r#"{"address": "127.0.0.1"}"#,
            "adds a backend to u: `{\"address\":\"127.0.0.1\"}`".into(),
        ),
        ("DELETE", &backend, "", format!("removes the backend u/{name}")),
    ] {
        let reply = served.socket().ask(method, path, &[], body);
        assert_eq!(reply.status, 422, "{reply:?}");
        assert!(!reply.json()["errors"].as_array().unwrap().is_empty(), "{reply:?}");
        let logged = format!("admin: uid {own} {logged}");
        eventually("it is logged", || served.process.log().contains(&logged));
    }
    assert_eq!(served.socket().get("/v1/diff").json()["changes"], Value::Array(Vec::new()));
}

#[test]
fn drain_stops_like_term_and_takes_the_socket_along() {
    let mut served = Served::start(|process| process);
    let own = std::fs::metadata("/proc/self").unwrap().uid();
    let client = served.process.echoing_client();
    let reply = served.socket().ask("POST", "/v1/drain", &[], "");
    assert_eq!((reply.status, &reply.json()["draining"]), (202, &Value::Bool(true)));
    eventually("it drains", || served.process.log().contains("draining: 1 open session"));
    assert!(served.process.log().contains(&format!("admin: uid {own} drains the process")));
    // Who asks again does no harm.
    assert_eq!(served.socket().ask("POST", "/v1/drain", &[], "").status, 202);
    eventually("it says so", || served.process.log().contains("which the process does already"));
    // It is there to the end, and says what it does.
    for endpoint in served.both() {
        assert_eq!(endpoint.get("/readyz").status, 503);
        assert_eq!(endpoint.get("/healthz").status, 200);
        assert_eq!(endpoint.get("/v1/status").json()["phase"], "draining");
    }
    client.echo(b"served to the end").unwrap();
    client.finish().unwrap();
    assert_eq!(served.process.exit().code(), Some(0), "{}", served.process.log());
    assert!(!served.path().exists(), "the socket goes with the process");
}

#[test]
fn process_that_is_about_to_stop_is_not_ready_while_it_accepts() {
    let served = Served::start(|process| process.runtime("shutdown_delay: 1h"));
    assert_eq!(served.tcp().get("/readyz").status, 200);
    served.process.signal(libc::SIGTERM);
    eventually("it has heard", || served.process.log().contains("stopping"));
    for path in ["/readyz", "/readyz/l"] {
        let reply = served.tcp().get(path);
        assert!(reply.status == 503 && reply.body.starts_with("not ready: "), "{path}: {reply:?}");
    }
    served.process.echoing_client().finish().unwrap();
}

#[test]
fn process_without_an_eligible_backend_is_not_ready() {
    let mut served =
        Served::start(|process| process.check("interval: 40ms, fast_interval: 20ms, fall: 1, rise: 1"));
    eventually("it is ready", || served.tcp().get("/readyz/l").status == 200);
    served.only.stop();
    eventually("it is not ready", || served.tcp().get("/readyz/l").status == 503);
    assert_eq!(served.tcp().get("/readyz").status, 503);
    assert_eq!(served.tcp().get("/healthz").status, 200);
}

#[test]
fn requests_without_an_end_are_bounded() {
    let served = Served::start(|process| process);
    for endpoint in served.both() {
        // A line, a header and a number of headers that are too large.
        let line = [b"GET /".as_slice(), &vec![b'a'; 1 << 20]].concat();
        let header = [b"GET / HTTP/1.1\r\nhost: localhost\r\nx: ".as_slice(), &vec![b'a'; 1 << 20]].concat();
        let headers = format!("GET / HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x: y\r\n".repeat(1_000));
        for request in [&*line, &*header, headers.as_bytes()] {
            // Who is cut off before he has sent all may lose the answer.
            let status = endpoint.send(request).map_or(431, |reply| reply.status);
            assert!([400, 414, 431].contains(&status), "{status}");
        }
        // Bytes that are no HTTP.
        assert!(
            endpoint.send(&[0x16, 3, 1, 0, 200, 0, 13, 10, 13, 10]).is_ok_and(|reply| reply.status == 400)
        );
        assert_eq!(endpoint.get("/healthz").status, 200);
    }
}

/// Bytes as a fuzzer makes them: valid requests with a few of them changed, cut or repeated, and noise.
fn mutated(random: &mut fastrand::Rng) -> Vec<u8> {
    let seeds: [&[u8]; 5] = [
        b"GET /v1/status HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"DELETE /v1/sessions/7 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\nabc",
        b"POST /v1/log-level HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"GET /v1/explain?client=%5B::1%5D:5&listener=l HTTP/1.0\r\n\r\n",
        b"GET /v1/sessions?limit=5&after=9&client=::1 HTTP/1.1\r\nhost: x\r\naccept: */*;q=0.1\r\n\r\n",
    ];
    let mut bytes = seeds[random.usize(..seeds.len())].repeat(random.usize(1..4));
    for _ in 0..random.usize(..8) {
        let at = random.usize(..bytes.len());
        match random.u8(..4) {
            0 => bytes[at] = random.u8(..),
            1 => bytes.truncate(at.max(1)),
            2 => bytes.insert(at, random.u8(..)),
            _ => bytes
                .splice(at..at, [b'%', b'f', b'0', b'\r', b'\n'].repeat(random.usize(1..9)))
                .for_each(drop),
        }
    }
    bytes
}

#[test]
fn bytes_of_any_kind_end_no_endpoint() {
    const ROUNDS: usize = 300;
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut served = Served::start(|process| process);
    for endpoint in served.both() {
        for _ in 0..ROUNDS {
            let bytes = mutated(&mut random);
            let mut stream = endpoint.connect().unwrap();
            // Who is refused early may be reset.
            let _ = stream.write_all(&bytes).and_then(|()| stream.end());
            let _ = stream.read_to_end(&mut Vec::new());
        }
        assert_eq!(endpoint.get("/healthz").status, 200, "seed {seed}");
    }
    assert!(served.process.is_running(), "seed {seed}");
    let log = served.process.log();
    assert!(!log.contains("panic"), "seed {seed}: {log}");
}

#[test]
fn requests_that_come_in_one_piece_are_answered_in_their_order() {
    const REQUESTS: usize = 200;
    let served = Served::start(|process| process);
    for endpoint in served.both() {
        let mut stream = endpoint.connect().unwrap();
        let paths = ["/healthz", "/readyz/none", "/readyz"];
        let request = |at: usize| format!("GET {} HTTP/1.1\r\nhost: localhost\r\n\r\n", paths[at % 3]);
        let requests: String = (0..REQUESTS).map(request).collect();
        stream.write_all(requests.as_bytes()).unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).unwrap();
        let statuses: Vec<_> =
            answers.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].to_owned()).collect();
        let expected: Vec<_> =
            (0..=REQUESTS).map(|at| ["200", "404", "200"][if at == REQUESTS { 0 } else { at % 3 }]).collect();
        assert_eq!(statuses, expected);
    }
}

/// Whether the other side has closed, within the time that it may take.
fn is_closed(stream: &mut dyn HttpStream) -> bool {
    // An answer such as 408 may come before.
    stream.read_to_end(&mut Vec::new()).is_ok() || stream.write_all(b"x").is_err()
}

#[test]
fn who_says_nothing_or_never_ends_a_line_is_sent_away() {
    let served = Served::start(|process| process);
    let begin = Instant::now();
    let mut waiting: Vec<_> = served.both().map(|endpoint| endpoint.connect().unwrap()).into();
    for mut stream in served.both().map(|endpoint| endpoint.connect().unwrap()) {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost").unwrap();
        waiting.push(stream);
    }
    for mut stream in waiting {
        assert!(is_closed(&mut *stream));
    }
    assert!(begin.elapsed() >= Duration::from_secs(9), "{:?}", begin.elapsed());
}

#[test]
fn crowd_on_tcp_leaves_the_operator_alone() {
    const CROWD: usize = 1_000;
    if !has_descriptors(CROWD as u64 + 200) {
        return;
    }
    let served = Served::start(|process| process);
    let before = served.process.descriptors().len();
    // The backlog takes who finds no slot.
    let crowd: Vec<_> = (0..CROWD).map(|_| served.tcp().connect().unwrap()).collect();
    let begin = Instant::now();
    for _ in 0..20 {
        assert_eq!(served.socket().get("/v1/status").status, 200);
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    let taken = served.process.descriptors().len() - before;
    assert!(taken <= 64, "{taken}");
    served.process.echoing_client().finish().unwrap();
    drop(crowd);
    assert_eq!(served.tcp().get("/healthz").status, 200);
}

/// Silent clients that come again and again hold a slot for two seconds each, not for ever.
#[test]
fn silent_crowd_gives_its_slots_back() {
    let served = Served::start(|process| process);
    let crowd: Vec<_> = (0..80).map(|_| served.tcp().connect().unwrap()).collect();
    // Who comes last is served all the same.
    assert_eq!(served.tcp().get("/healthz").status, 200);
    drop(crowd);
}

#[test]
fn slow_readers_of_large_answers_hold_nobody() {
    const SLOW: usize = 10;
    let entry = |port: usize| format!("name: backend-{port}, address: 127.0.0.1, port: {port}, weight: 0");
    let served =
        Served::start(|process| (1..=2_000).fold(process, |process, port| process.entry(&entry(port))));
    served.process.await_rest();
    let before = served.process.descriptors().len();
    let socket = served.socket();
    let large = socket.get("/v1/status").body.len();
    // Far more than the kernel holds for a Unix socket.
    assert!(large > 800 << 10, "{large}");
    let request = "GET /v1/status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let slow: Vec<_> = (0..SLOW)
        .map(|_| {
            let mut stream = socket.connect().unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            // The answer has begun, and is not read on.
            stream.read_exact(&mut [0; 12]).unwrap();
            stream
        })
        .collect();
    for endpoint in served.both() {
        assert_eq!(endpoint.get("/v1/status").body.len() / 10_000, large / 10_000);
    }
    served.process.echoing_client().finish().unwrap();
    assert!(served.process.descriptors().len() >= before + SLOW, "they still wait");
    drop(slow);
}

#[test]
fn socket_has_its_mode_and_group_and_its_folder_is_made() {
    let own = std::fs::metadata("/proc/self").unwrap().gid();
    let served = Served::start_with(&format!("socket_mode: '0660', socket_group: {own}"), |process| process);
    let socket = std::fs::metadata(served.path()).unwrap();
    assert_eq!((socket.permissions().mode() & 0o7777, socket.gid()), (0o660, own));
    let folder = std::fs::metadata(served.path().parent().unwrap()).unwrap();
    assert_eq!(folder.permissions().mode() & 0o7777, 0o755);
    let private = Served::start(|process| process);
    assert_eq!(std::fs::metadata(private.path()).unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn stale_socket_is_replaced() {
    let mut served = Served::start(|process| process);
    served.process.kill_and_restart();
    assert_eq!(served.socket().get("/healthz").status, 200);
    assert_eq!(served.tcp().get("/healthz").status, 200);
}

/// A configuration file with these keys of `admin`, which listens somewhere.
fn file(keys: &str) -> (TempDir, PathBuf, Reserved) {
    let (folder, port) = (tempfile::tempdir().unwrap(), Reserved::at(V4));
    let path = folder.path().join("second.yaml");
    let yaml = format!(
        "admin: {{{keys}}}\nloadbalancer: {{listen_address: '{}'}}\nbackends: ['127.0.0.1:1']\n",
        port.address()
    );
    std::fs::write(&path, yaml).unwrap();
    (folder, path, port)
}

const RUN: &str = env!("CARGO_BIN_EXE_ringway");

#[track_caller]
fn refused(keys: &str) -> String {
    let (_folder, path, _port) = file(keys);
    let output = run_to_end(std::process::Command::new(RUN).arg("-f").arg(path));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

#[test]
fn second_instance_on_the_same_endpoints_does_not_start_and_leaves_them_alone() {
    let served = Served::start(|process| process);
    let said = refused(&format!("listen_address: off, socket: '{}'", served.path().display()));
    assert!(said.contains("admin.socket: unix:") && said.contains("is in use"), "{said}");
    let said = refused(&format!("listen_address: '{}', socket: off", served.port.address()));
    assert!(said.contains("admin.listen_address: 127.0.0.1:") && said.contains("is in use"), "{said}");
    for endpoint in served.both() {
        assert_eq!(endpoint.get("/healthz").status, 200);
    }
}

#[test]
fn endpoints_that_cannot_be_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("file"), "").unwrap();
    for (keys, words) in [
        (format!("socket: '{}'", path("file")), "the path exists and is not a socket"),
        (
            format!("socket: '{}'", path("a/b/admin.sock")),
            "cannot be created: No such file or directory; create it",
        ),
        (
            format!("socket: '{}', socket_group: no-such-group", path("s")),
            "admin.socket_group: there is no group no-such-group here; `getent group` lists them",
        ),
    ] {
        let said = refused(&format!("listen_address: off, {keys}"));
        assert!(said.contains(words), "{keys}: {said}");
    }
    let said = refused("listen_address: '192.0.2.1:9900', socket: off");
    assert!(said.contains("192.0.2.1:9900 is not an address of this machine"), "{said}");
}

#[test]
fn default_address_that_is_taken_is_a_warning() {
    in_own_network(|| {
        let _taken = std::net::TcpListener::bind("127.0.0.1:9900").unwrap();
        let only = backend().echo().start();
        let process = process().backends([&only]).admin("socket: off").start();
        let says = |words: &str| eventually(words, || process.log().contains(words));
        says("admin.listen_address: 127.0.0.1:9900 is in use");
        says("until admin.listen_address is set, metrics, health and the page are not");
    });
}

#[test]
fn default_address_is_served() {
    in_own_network(|| {
        let only = backend().echo().start();
        let process = process().backends([&only]).admin("socket: off").start();
        let words = "the admin API is on 127.0.0.1:9900";
        eventually(words, || process.log().contains(words));
        let endpoint = Endpoint::Tcp("127.0.0.1:9900".parse().unwrap());
        assert_eq!(endpoint.get("/readyz").status, 200);
    });
}

#[test]
fn process_without_endpoints_opens_none() {
    assert!(NO_ADMIN.contains("off"));
    let only = backend().echo().start();
    let process = process().backends([&only]).start();
    assert!(!process.log().contains("admin"), "{}", process.log());
}

#[test]
fn shortage_of_descriptors_makes_callers_wait_and_costs_no_time() {
    let served = Served::start(|process| process);
    served.process.await_rest();
    served.process.limit_descriptors(Some(0));
    let mut waiting = served.both().map(|endpoint| endpoint.connect().unwrap());
    eventually("it says so", || served.process.log().matches("nobody can be accepted on").count() == 2);
    let begin = served.process.processor_time();
    let watched = Instant::now();
    eventually("a second passes", || watched.elapsed() >= Duration::from_secs(1));
    let spent = served.process.processor_time() - begin;
    assert!(spent < Duration::from_millis(300), "{spent:?}");
    served.process.limit_descriptors(None);
    for stream in &mut waiting {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("ok\n"), "{answer}");
    }
}

/// A path that a living process of another kind listens on.
#[test]
fn socket_of_a_living_process_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let _other = UnixListener::bind(&path).unwrap();
    let said = refused(&format!("listen_address: off, socket: '{}'", path.display()));
    assert!(said.contains("is in use; stop the process that listens there"), "{said}");
    assert!(path.exists());
}
