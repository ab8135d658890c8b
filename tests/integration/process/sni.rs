//! Set-up: a balancer with routes by name, and backends that say who they are once they have all that the client says. Claim: a
//! client goes where its ClientHello leads, however that comes in, and its backend gets exactly the bytes that it has sent.

use std::io;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use ringway::base::CloseReason;
use ringway::protocol::proxy::{Progress, Tlv, read};

use crate::support::{
    Asked, Backend, Balancer, Client, NO_ADMIN, Reserved, V4, backend, crowd, eventually, is_reset, process,
};

fn behind_u16(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// A message of the handshake that asks for this name, with so much padding.
fn message(name: Option<&str>, alpn: &[&str], padding: usize) -> Vec<u8> {
    let extension = |kind: u16, value: &[u8]| [&kind.to_be_bytes()[..], &behind_u16(value)].concat();
    let mut extensions = extension(21, &vec![0; padding]);
    if let Some(name) = name {
        let entry = [&[0][..], &behind_u16(name.as_bytes())].concat();
        extensions.extend(extension(0, &behind_u16(&entry)));
    }
    if !alpn.is_empty() {
        let one = |name: &&str| [&[u8::try_from(name.len()).unwrap()], name.as_bytes()].concat();
        let list: Vec<u8> = alpn.iter().flat_map(one).collect();
        extensions.extend(extension(16, &behind_u16(&list)));
    }
    let fixed = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0]].concat();
    let body = [fixed, behind_u16(&extensions)].concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1][..], &length[1..], &body].concat()
}

/// The message in records of at most so many bytes.
fn in_records(message: &[u8], most: usize) -> Vec<u8> {
    message.chunks(most).flat_map(|part| [&[22, 3, 1][..], &behind_u16(part)].concat()).collect()
}

fn hello(name: &str) -> Vec<u8> {
    in_records(&message(Some(name), &[], 0), 1 << 14)
}

/// A backend that answers with its name once the client has ended, and passes on what that has said.
fn saying(name: &'static str) -> (Backend, Receiver<Vec<u8>>) {
    let (sender, said) = channel();
    let sender = Mutex::new(sender);
    let backend = backend().name(name).serve(move |connection| {
        let (mut all, mut buffer) = (Vec::new(), [0; 4_096]);
        loop {
            match connection.receive(&mut buffer)? {
                0 => break,
                count => all.extend_from_slice(&buffer[..count]),
            }
        }
        // The test may be over.
        let _ = sender.lock().unwrap().send(all);
        connection.send(name.as_bytes())?;
        connection.end()
    });
    (backend.start(), said)
}

/// A listener with these keys beside routes, and upstreams `a`, `b` and `c` of one backend each.
struct Routed {
    port: Reserved,
    backends: [(Backend, Receiver<Vec<u8>>); 3],
}

const ROUTES: &str = "{routes: [{match: b.example.com, upstream: b}, {match: '*.example.com', upstream: c}, \
    {match: closed.example.com, upstream: close}, {match: b.example.com, alpn: acme-tls/1, upstream: c}]}";

impl Routed {
    fn new() -> Self {
        Self { port: Reserved::at(V4), backends: ["a", "b", "c"].map(saying) }
    }

    fn yaml(&self, listener: &str, upstreams: &str) -> String {
        let address = self.port.address();
        let mut yaml = format!(
            "{NO_ADMIN}runtime: {{cores: 1}}\ndefaults: {{upstream: {{healthcheck: off, outlier: off}}}}\n\
             listeners: [{{name: l, address: '{address}', {listener}}}]\nupstreams:\n"
        );
        for ((backend, _), name) in self.backends.iter().zip(["a", "b", "c"]) {
            yaml.push_str(&format!(
                "  - {{name: {name}, {upstreams} backends: [{{{}}}]}}\n",
                backend.entry()
            ));
        }
        yaml
    }

    fn start(&self, listener: &str) -> Balancer {
        Balancer::of(&self.yaml(listener, ""), None, true)
    }

    fn client(&self) -> Client {
        Client::connect(self.port.address()).unwrap()
    }

    /// Sends the bytes in these pieces, and returns who has answered after the last of them, and to what.
    #[track_caller]
    fn answer(&self, pieces: &[&[u8]]) -> (String, Vec<u8>) {
        let client = self.client();
        pieces.iter().for_each(|piece| client.send(piece).unwrap());
        client.end().unwrap();
        let (answer, end) = client.receive_all();
        assert!(end.is_ok(), "{end:?}");
        let answer = String::from_utf8(answer).unwrap();
        let position = ["a", "b", "c"].iter().position(|name| *name == answer).unwrap();
        (answer, self.backends[position].1.recv().unwrap())
    }
}

/// Whenever the reset comes, it is one, and no byte before it.
#[track_caller]
fn expect_closed(client: &Client) {
    let (received, end) = client.receive_all();
    assert!(received.is_empty() && end.as_ref().is_err_and(is_reset), "{received:?}, {end:?}");
}

fn send_and_expect_closed(client: &Client, bytes: &[u8]) {
    // It may be reset already.
    let _ = client.send(bytes);
    expect_closed(client);
}

#[test]
fn client_goes_where_its_name_leads_and_its_backend_gets_what_it_has_sent() {
    let routed = Routed::new();
    let balancer = routed.start(&format!("upstream: a, sni: {ROUTES}"));
    let no_name = in_records(&message(None, &["acme-tls/1"], 0), 1 << 14);
    let with_alpn = in_records(&message(Some("b.example.com"), &["h2", "acme-tls/1"], 0), 1 << 14);
    let not_tls = b"GET / HTTP/1.0\r\n\r\n".to_vec();
    for (bytes, expected) in [
        (hello("b.example.com"), "b"),
        (hello("B.Example.COM."), "b"),
        (hello("other.example.com"), "c"),
        (hello("two.labels.example.com"), "a"),
        (hello("example.com"), "a"),
        (hello("192.0.2.1"), "a"),
        (no_name, "a"),
        (with_alpn, "c"),
        (not_tls, "a"),
    ] {
        let behind = [&bytes[..], b"\x14\x03\x03 and more"].concat();
        assert_eq!(routed.answer(&[&bytes]), (expected.to_owned(), bytes));
        assert_eq!(routed.answer(&[&behind]), (expected.to_owned(), behind));
    }
    balancer.await_closed(CloseReason::Normal, 18);
    send_and_expect_closed(&routed.client(), &hello("closed.example.com"));
    balancer.await_closed(CloseReason::HandshakeFailed, 1);
}

#[test]
fn default_that_is_close_resets_what_no_route_takes() {
    let routed = Routed::new();
    let balancer = routed.start(&format!("upstream: close, sni: {ROUTES}"));
    assert_eq!(routed.answer(&[&hello("b.example.com")]).0, "b");
    for bytes in [hello("example.net"), in_records(&message(None, &[], 0), 99), b"SSH-2.0-x\r\n".to_vec()] {
        send_and_expect_closed(&routed.client(), &bytes);
    }
    balancer.await_closed(CloseReason::HandshakeFailed, 3);
    assert_eq!(routed.backends[0].0.connections(), 0);
}

#[test]
fn hello_in_any_segments_and_records() {
    let routed = Routed::new();
    let balancer = routed.start(&format!("upstream: a, sni: {ROUTES}"));
    let small = message(Some("b.example.com"), &["h2"], 0);
    let large = message(Some("b.example.com"), &["h2"], 15 << 10);
    for most in [1, 7, 1 << 14] {
        let bytes = in_records(&small, most);
        for split in (1..bytes.len()).step_by(if most == 1 { 29 } else { 1 }) {
            let answer = routed.answer(&[&bytes[..split], &bytes[split..]]);
            assert_eq!(answer, ("b".to_owned(), bytes.clone()), "{split} of records of {most}");
        }
        let single: Vec<_> = bytes.chunks(1).collect();
        assert_eq!(routed.answer(&single), ("b".to_owned(), bytes.clone()));
    }
    for most in [100, 4_096, 1 << 14] {
        let bytes = in_records(&large, most);
        let pieces: Vec<_> = bytes.chunks(1_000).collect();
        assert_eq!(routed.answer(&pieces), ("b".to_owned(), bytes.clone()), "{most}");
    }
    // Longer than the bound, so no route takes it.
    let too_long = in_records(&message(Some("b.example.com"), &[], 17 << 10), 1 << 14);
    assert_eq!(routed.answer(&[&too_long]), ("a".to_owned(), too_long));
    drop(balancer);
}

#[test]
fn client_that_leaves_or_stops_amid_its_hello_reaches_no_backend() {
    let _crowd = crowd();
    let routed = Routed::new();
    let balancer = routed.start(&format!("upstream: a, sni: {ROUTES}, timeouts: {{handshake: 3s}}"));
    let bytes = hello("b.example.com");
    let leaving = routed.client();
    leaving.send(&bytes[..50]).unwrap();
    leaving.end().unwrap();
    expect_closed(&leaving);
    let resetting = routed.client();
    resetting.send(&bytes[..50]).unwrap();
    resetting.reset();
    balancer.await_closed(CloseReason::ClientLeft, 2);
    let silent: Vec<_> = (0..150).map(|_| routed.client()).collect();
    let halves: Vec<_> = (0..50).map(|_| routed.client()).collect();
    halves.iter().for_each(|client| client.send(&bytes[..60]).unwrap());
    // Others are served meanwhile.
    assert_eq!(routed.answer(&[&bytes]).0, "b");
    silent.iter().chain(&halves).for_each(|client| client.set_patience(Duration::from_secs(30)));
    silent.iter().chain(&halves).for_each(expect_closed);
    balancer.await_closed(CloseReason::HandshakeTimeout, 200);
    assert_eq!(routed.backends.iter().map(|(backend, _)| backend.connections()).sum::<u64>(), 1);
}

#[test]
fn another_backend_gets_the_same_hello() {
    let (good, said) = saying("good");
    let (resetting, refusing) = (backend().reset_on_accept().start(), Reserved::at(V4));
    let port = Reserved::at(V4);
    let yaml = format!(
        "{NO_ADMIN}runtime: {{cores: 1}}\nlisteners: [{{name: l, address: '{}', upstream: other, \
         sni: {{routes: [{{match: a.b, upstream: web}}]}}}}]\nupstreams:\n\
         \x20 - {{name: other, healthcheck: off, backends: ['{}']}}\n\
         \x20 - {{name: web, algorithm: first, healthcheck: off, outlier: off, retry_budget: off, \
         backends: ['{}', {{{}}}]}}\n",
        port.address(),
        resetting.address(),
        refusing.address(),
        good.entry(),
    );
    let balancer = Balancer::of(&yaml, None, true);
    let bytes = hello("a.b");
    for _ in 0..10 {
        let client = Client::connect(port.address()).unwrap();
        client.send(&bytes).unwrap();
        client.end().unwrap();
        assert_eq!(client.receive_all().0, b"good");
        assert_eq!(said.recv().unwrap(), bytes);
    }
    balancer.await_closed(CloseReason::Normal, 10);
    assert_eq!(resetting.connections(), 0);
}

/// The client waits for a permit of `b`, whose only one another client has, until its route leads to `c`, and to nowhere.
#[test]
fn waiting_client_follows_the_newest_routes() {
    let routed = Routed::new();
    let queue = "queue: {max: 10, timeout: 60s},";
    let limited = |sni: &str| {
        let yaml = routed.yaml(&format!("upstream: a, sni: {{routes: [{sni}]}}"), queue);
        yaml.replace("port: ", "max_connections: 1, port: ")
    };
    let to = |upstream: &str| limited(&format!("{{match: b.example.com, upstream: {upstream}}}"));
    let mut balancer = Balancer::of(&to("b"), None, true);
    let bytes = hello("b.example.com");
    let client = || {
        let client = routed.client();
        client.send(&bytes).unwrap();
        client
    };
    let holding = client();
    eventually("b has a session", || routed.backends[1].0.connections() == 1);
    let waiting = client();
    eventually("a client waits", || balancer.status().upstreams[1].waiting == 1);
    balancer.reloads(&to("c"));
    waiting.end().unwrap();
    assert_eq!(waiting.receive_all().0, b"c");
    assert_eq!(routed.backends[2].1.recv().unwrap(), bytes);
    balancer.reloads(&to("b"));
    let refused = client();
    eventually("a client waits again", || balancer.status().upstreams[1].waiting == 1);
    balancer.reloads(&to("close"));
    expect_closed(&refused);
    balancer.await_closed(CloseReason::HandshakeFailed, 1);
    holding.end().unwrap();
    assert_eq!(holding.receive_all().0, b"b");
}

#[test]
fn name_decides_the_backend_where_it_is_hashed() {
    let backends = ["x", "y", "z"].map(saying);
    let port = Reserved::at(V4);
    let entries: Vec<_> = backends.iter().map(|(backend, _)| format!("{{{}}}", backend.entry())).collect();
    let yaml = format!(
        "{NO_ADMIN}listeners: [{{name: l, address: '{}', upstream: u}}]\nupstreams: [{{name: u, algorithm: maglev, \
         hash_key: sni, healthcheck: off, backends: [{}]}}]\n",
        port.address(),
        entries.join(", ")
    );
    let balancer = Balancer::of(&yaml, None, true);
    let answer = |bytes: &[u8]| -> io::Result<String> {
        let client = Client::connect(port.address())?;
        client.send(bytes)?;
        client.end()?;
        Ok(String::from_utf8_lossy(&client.receive_all().0).into_owned())
    };
    let names: Vec<_> = (0..20).map(|number| format!("n{number}.example.com")).collect();
    let chosen: Vec<_> = names.iter().map(|name| answer(&hello(name)).unwrap()).collect();
    assert!(["x", "y", "z"].iter().all(|one| chosen.iter().any(|other| other == one)), "{chosen:?}");
    for (name, before) in names.iter().zip(&chosen) {
        assert_eq!(answer(&hello(&name.to_uppercase())).unwrap(), *before);
    }
    let first = answer(b"not TLS").unwrap();
    assert_eq!(answer(b"not TLS").unwrap(), first, "by the source");
    balancer.await_closed(CloseReason::Normal, 42);
}

#[test]
fn backend_that_wants_a_header_is_told_the_name() {
    let routed = Routed::new();
    let yaml = routed.yaml(&format!("upstream: a, sni: {ROUTES}"), "send_proxy: v2,");
    let balancer = Balancer::of(&yaml, None, true);
    let bytes = hello("B.example.com");
    let (name, said) = routed.answer(&[&bytes]);
    let Progress::Complete { length, header } = read(&said) else { panic!("{said:?}") };
    assert_eq!((&*name, &said[length..]), ("b", &*bytes));
    assert!(header.tlvs.known().any(|tlv| tlv == Tlv::Authority("b.example.com")), "{header:?}");
    balancer.await_closed(CloseReason::Normal, 1);
}

/// A listener is ready, and its port open, as long as one of its upstreams has a backend.
#[test]
fn listener_serves_as_long_as_one_of_its_upstreams_does() {
    let mut routed = Routed::new();
    let check = "healthcheck: {interval: 40ms, fast_interval: 20ms, timeout: 5s, rise: 1, fall: 1},";
    let yaml = routed.yaml(&format!("upstream: a, no_backend: unlisten, sni: {ROUTES}"), check);
    let balancer = Balancer::of(&yaml, None, true);
    let is_ready = || balancer.status().listeners[0].ready;
    assert!(is_ready() && Client::connect(routed.port.address()).is_ok());
    routed.backends[0].0.stop();
    routed.backends[1].0.stop();
    let states = || balancer.status().upstreams;
    eventually("two are down", || {
        states()[..2].iter().all(|upstream| upstream.backends[0].state() == "down")
    });
    assert!(is_ready());
    assert_eq!(routed.answer(&[&hello("x.example.com")]).0, "c");
    routed.backends[2].0.stop();
    eventually("it is not ready", || !is_ready());
    eventually("the port is closed", || Client::connect(routed.port.address()).is_err());
    routed.backends[1].0.restart();
    eventually("the port is open", || Client::connect(routed.port.address()).is_ok());
    assert_eq!(routed.answer(&[&hello("b.example.com")]).0, "b");
}

#[test]
fn explanation_and_access_log_say_the_name() {
    let only = backend().echo().name("only").start();
    let routes =
        "sni: {routes: [{match: a.example.com, upstream: u}, {match: '*.example.com', upstream: close}]}";
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("access.log");
    let logging = format!("logging: {{access_log: {}, access_format: json}}", target.display());
    let builder = process().listener(routes).backends([&only]).section(&logging);
    let asked = Asked::start(builder);
    let explained = |query: &str| {
        let reply = asked.socket.get(&format!("/v1/explain?client=127.0.0.1{query}"));
        assert_eq!(reply.status, 200, "{reply:?}");
        let explained = reply.json();
        let rules =
            explained["rules"].as_array().unwrap().iter().find(|asked| asked["rule"] == "sni").cloned();
        (explained["backend"].clone(), rules.unwrap()["verdict"].as_str().unwrap().to_owned())
    };
    assert_eq!(
        explained("&sni=A.example.com."),
        ("only".into(), "the route a.example.com takes a.example.com: upstream u".into())
    );
    assert_eq!(
        explained("&sni=b.example.com").1,
        "the route *.example.com takes b.example.com: the client is reset"
    );
    assert_eq!(explained(""), ("only".into(), "no route takes a client without a name: upstream u".into()));
    assert_eq!(asked.socket.get("/v1/explain?client=127.0.0.1&sni=a..b").status, 400);
    let client = asked.process.client();
    client.echo(&hello("A.example.com")).unwrap();
    client.finish().unwrap();
    send_and_expect_closed(&asked.process.client(), &hello("x.example.com"));
    let log = || std::fs::read_to_string(&target).unwrap_or_default();
    for (name, reason) in [("a.example.com", "normal"), ("x.example.com", "handshake_failed")] {
        let is_logged = |line: &str| {
            line.contains(&format!("\"sni\":\"{name}\""))
                && line.contains(&format!("\"reason\":\"{reason}\""))
        };
        eventually(name, || log().lines().any(is_logged));
    }
}
