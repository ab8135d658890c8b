//! Listeners that come, go and move.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::time::{Duration, Instant};

use ringway::base::CloseReason;

use super::{
    CALM, entries, file, listener, listener_status, named, next, start, under_connects, upstream, visit,
};
use crate::support::{Asked, Client, Reserved, V4, backend, eventually, is_reset, process, shards};

fn is_refused(at: SocketAddr) -> bool {
    Client::connect(at).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Listener `l` leads to `u` with backend `a`, listener `m` to `v` with backend `b`.
struct Two {
    ports: [Reserved; 2],
    upstreams: [String; 2],
    _backends: Vec<crate::support::Backend>,
}

impl Two {
    fn new() -> Self {
        let backends = named(b"ab");
        let upstreams =
            [upstream("u", CALM, &entries(&backends[..1])), upstream("v", CALM, &entries(&backends[1..]))];
        Self { ports: [Reserved::at(V4), Reserved::at(V4)], upstreams, _backends: backends }
    }

    fn file(&self, listeners: &[String]) -> String {
        file(&format!("cores: {}", shards()), listeners, &self.upstreams)
    }

    fn at(&self, which: usize) -> SocketAddr {
        self.ports[which].address()
    }

    fn l(&self, which: usize) -> String {
        listener("l", self.at(which), "u")
    }

    fn m(&self, which: usize) -> String {
        listener("m", self.at(which), "v")
    }
}

#[test]
fn added_listener_accepts_and_removed_one_ends_with_its_last_session() {
    let two = Two::new();
    let mut balancer = start(&two.file(&[two.l(0)]));
    assert!(is_refused(two.at(1)));
    let applied = balancer.reloads(&two.file(&[two.l(0), two.m(1)]));
    assert_eq!(applied.changes[0].to_string().split(": ").next(), Some("+ listeners.m"), "{applied:?}");
    assert_eq!((next(two.at(0)), next(two.at(1))), ('a', 'b'));
    let (_, open) = visit(two.at(1));
    balancer.reloads(&two.file(&[two.l(0)]));
    eventually("its port is closed", || is_refused(two.at(1)));
    let left = listener_status(&balancer, "m").unwrap();
    assert!(left.draining && left.totals.active == 1 && left.totals.is_conserved(), "{left:?}");
    open.echo(b"to its end").unwrap();
    open.finish().unwrap();
    eventually("it is gone", || listener_status(&balancer, "m").is_none());
    // It comes back with its counters.
    balancer.reloads(&two.file(&[two.l(0), two.m(1)]));
    assert_eq!(next(two.at(1)), 'b');
    eventually("that session has ended", || balancer.status().open_sessions() == 0);
    assert!(listener_status(&balancer, "m").unwrap().totals.accepted >= 3);
}

#[test]
fn clients_in_the_backlog_of_a_removed_listener_are_served() {
    let two = Two::new();
    let backend = backend().echo().start();
    let asked = Asked::start(process().backends([&backend]));
    let yaml = asked.process.yaml().to_owned();
    let with = |more: &str| yaml.replacen("listeners:\n", &format!("listeners:\n{more}"), 1);
    let second = format!("  - {{{}}}\n", listener("m", two.at(0), "u"));
    std::fs::write(asked.process.file(), with(&second)).unwrap();
    assert_eq!(asked.socket.ask("POST", "/v1/reload", &[], "").status, 200);
    Client::connect(two.at(0)).unwrap().echo(b"hello").unwrap();
    let stopped = asked.process.stop_thread("shard-0");
    let waiting: Vec<_> = (0..50).map(|_| Client::connect(two.at(0)).unwrap()).collect();
    std::fs::write(asked.process.file(), &yaml).unwrap();
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| asked.socket.ask("POST", "/v1/reload", &[], ""));
        let generation = || asked.socket.get("/v1/status").json()["generation"] == 3;
        eventually("the next generation is there", generation);
        drop(stopped);
        assert_eq!(reload.join().unwrap().status, 200);
    });
    for client in waiting {
        client.echo(b"it was accepted").unwrap();
        client.finish().unwrap();
    }
    eventually("its port is closed", || is_refused(two.at(0)));
}

#[test]
fn nobody_is_refused_while_a_wildcard_becomes_one_address_and_back() {
    let backends = named(b"a");
    let port = Reserved::at(Ipv6Addr::UNSPECIFIED.into());
    let upstreams = [upstream("u", CALM, &entries(&backends))];
    let runtime = format!("cores: {}", shards());
    let at = |address: String| file(&runtime, &[listener("l", address, "u")], &upstreams);
    let number = port.address().port();
    let (wide, narrow) = (at(format!(":{number}")), at(format!("127.0.0.1:{number}")));
    let mut balancer = start(&wide);
    for _ in 0..5 {
        under_connects(&[port.reached_at(); 4], || {
            balancer.reloads(&narrow);
        });
        under_connects(&[port.reached_at(); 4], || {
            balancer.reloads(&wide);
        });
    }
    let totals = balancer.totals();
    assert_eq!(totals.closed_with(CloseReason::Normal), totals.accepted);
}

/// A client whose first segment is lost tries again a second later.
const LOST_ONCE: Duration = Duration::from_millis(900);

/// The longest time that a connect and an echo take, of clients that come for a second and a half after `work`.
fn slowest_after(at: SocketAddr, work: impl FnOnce()) -> Duration {
    work();
    let end = Instant::now() + Duration::from_millis(1_500);
    let mut slowest = Duration::ZERO;
    while Instant::now() < end {
        let begin = Instant::now();
        next(at);
        slowest = slowest.max(begin.elapsed());
    }
    slowest
}

/// The sockets that close are the nearer ones for a second, in which they begin no handshake.
#[test]
fn nobody_is_refused_while_one_address_becomes_a_wildcard() {
    let backends = named(b"a");
    let port = Reserved::at(Ipv6Addr::UNSPECIFIED.into());
    let upstreams = [upstream("u", CALM, &entries(&backends))];
    let at = |address: String| file("cores: 1", &[listener("l", address, "u")], &upstreams);
    let number = port.address().port();
    let mut balancer = start(&at(format!("127.0.0.1:{number}")));
    let slowest = slowest_after(port.reached_at(), || {
        balancer.reloads(&at(format!(":{number}")));
    });
    assert!(slowest < LOST_ONCE + Duration::from_secs(3), "{slowest:?}");
}

#[test]
fn a_listener_that_goes_and_comes_back_is_there_at_once() {
    let two = Two::new();
    let mut balancer = start(&two.file(&[two.l(0), two.m(1)]));
    balancer.reloads(&two.file(&[two.l(0)]));
    let begin = Instant::now();
    balancer.reloads(&two.file(&[two.l(0), two.m(1)]));
    assert!(begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());
    let slowest = slowest_after(two.at(1), || {});
    assert!(slowest < LOST_ONCE, "{slowest:?}");
}

#[test]
fn two_listeners_swap_their_ports() {
    let two = Two::new();
    let mut balancer = start(&two.file(&[two.l(0), two.m(1)]));
    let open = [visit(two.at(0)), visit(two.at(1))];
    let names = under_connects(&[two.at(0), two.at(1)], || {
        let applied = balancer.reloads(&two.file(&[two.l(1), two.m(0)]));
        assert_eq!(applied.changes.len(), 2, "{applied:?}");
    });
    for (names, (before, after)) in names.iter().zip([('a', 'b'), ('b', 'a')]) {
        let turn = names.find(after).unwrap();
        assert!(names[..turn].chars().all(|name| name == before), "{names}");
    }
    assert_eq!((next(two.at(0)), next(two.at(1))), ('b', 'a'));
    open.iter().for_each(|(_, client)| client.echo(b"still here").unwrap());
    let active = |name: &str| listener_status(&balancer, name).unwrap().totals.active;
    eventually("each has its open one", || (active("l"), active("m")) == (1, 1));
}

#[test]
fn renamed_listener_goes_on_with_its_socket() {
    let two = Two::new();
    let called = |name: &str| two.file(&[listener(name, two.at(0), "u")]);
    let mut balancer = start(&called("l"));
    let (_, open) = visit(two.at(0));
    under_connects(&[two.at(0)], || {
        balancer.reloads(&called("n"));
    });
    open.echo(b"still here").unwrap();
    let (old, new) = (listener_status(&balancer, "l").unwrap(), listener_status(&balancer, "n").unwrap());
    assert!(old.draining && !new.draining && old.totals.is_conserved() && new.totals.accepted > 0, "{old:?}");
    open.finish().unwrap();
}

#[test]
fn a_changed_timeout_is_of_new_sessions_and_costs_nobody_anything() {
    let two = Two::new();
    let with = |more: &str| two.file(&[format!("{}{more}", two.l(0))]);
    let mut balancer = start(&with(""));
    let (_, open) = visit(two.at(0));
    under_connects(&[two.at(0)], || {
        let applied = balancer.reloads(&with(", timeouts: {session: 200ms}"));
        assert_eq!(applied.changes[0].to_string(), "~ listeners.l.timeouts.session: off -> 200ms");
    });
    let (_, short) = visit(two.at(0));
    assert!(short.receive_all().1.is_err_and(|error| is_reset(&error)), "the new limit ends a new session");
    balancer.await_closed(CloseReason::SessionTimeout, 1);
    open.echo(b"without a limit").unwrap();
}

#[test]
fn a_changed_backlog_costs_nobody_anything_and_is_that_of_the_socket() {
    let two = Two::new();
    let with = |backlog: u32| two.file(&[format!("{}, backlog: {backlog}", two.l(0))]);
    let mut balancer = start(&with(77));
    let (_, open) = visit(two.at(0));
    under_connects(&[two.at(0)], || {
        balancer.reloads(&with(99));
    });
    open.echo(b"still here").unwrap();
    assert_eq!(backlogs(two.at(0)), vec!["99"; shards()]);
}

/// What ss(8) shows as the backlogs of listening sockets of this address.
fn backlogs(at: SocketAddr) -> Vec<String> {
    let output = std::process::Command::new("ss").args(["-Hltn", &format!("src {at}")]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split_whitespace().nth(2).unwrap().to_owned()).collect()
}

#[test]
fn drain_timeout_ends_sessions_of_a_removed_listener_alone() {
    let two = Two::new();
    let written =
        |listeners: &[String]| two.file(listeners).replacen("cores", "drain_timeout: 300ms, cores", 1);
    let mut balancer = start(&written(&[two.l(0), two.m(1)]));
    let ((_, stays), (_, ends)) = (visit(two.at(0)), visit(two.at(1)));
    balancer.reloads(&written(&[two.l(0)]));
    ends.echo(b"for a while").unwrap();
    let (_, end) = ends.receive_all();
    assert!(end.as_ref().is_err_and(is_reset), "{end:?}");
    stays.echo(b"it stays").unwrap();
    eventually("it is gone", || listener_status(&balancer, "m").is_none());
    assert_eq!(balancer.status().open_sessions(), 1);
}

#[test]
fn unix_listener_comes_and_goes_with_its_file() {
    let (two, folder) = (Two::new(), tempfile::tempdir().unwrap());
    let path = folder.path().join("l.sock");
    let n = listener("n", format!("unix:{}", path.display()), "v");
    let mut balancer = start(&two.file(&[two.l(0)]));
    for _ in 0..3 {
        balancer.reloads(&two.file(&[two.l(0), n.clone()]));
        assert!(path.symlink_metadata().unwrap().file_type().is_socket());
        let client = Client::connect_unix(&path).unwrap();
        assert_eq!(client.receive_exact(1).unwrap(), b"b");
        balancer.reloads(&two.file(&[two.l(0)]));
        assert!(!path.exists());
        client.echo(b"still here").unwrap();
        client.finish().unwrap();
    }
}

#[test]
fn listener_names_wander_over_addresses_in_one_reload() {
    // l: 0 -> 1, m: 1 -> gone, n: new on 0.
    let two = Two::new();
    let mut balancer = start(&two.file(&[two.l(0), two.m(1)]));
    let open = [visit(two.at(0)), visit(two.at(1))];
    under_connects(&[two.at(0), two.at(1)], || {
        balancer.reloads(&two.file(&[two.l(1), listener("n", two.at(0), "v")]));
    });
    assert_eq!((next(two.at(0)), next(two.at(1))), ('b', 'a'));
    open.iter().for_each(|(_, client)| client.echo(b"still here").unwrap());
    let names: Vec<_> = balancer.status().listeners.into_iter().map(|one| (one.name, one.draining)).collect();
    assert_eq!(names, [("l".into(), false), ("n".into(), false), ("m".into(), true)]);
}

#[test]
fn many_listeners_come_and_go_under_connects_without_a_trace() {
    let two = Two::new();
    let more: Vec<_> = (0..8).map(|_| Reserved::at(V4)).collect();
    let all = |round: usize| {
        let some = more.iter().enumerate().filter(|(at, _)| !(at + round).is_multiple_of(3));
        let some = some.map(|(at, port)| listener(&format!("x{at}"), port.address(), "v"));
        two.file(&[two.l(0)].into_iter().chain(some).collect::<Vec<_>>())
    };
    let mut balancer = start(&all(0));
    under_connects(&[two.at(0)], || {
        for round in 1..=6 {
            balancer.reloads(&all(round));
        }
    });
    balancer.reloads(&two.file(&[two.l(0)]));
    assert_eq!(balancer.status().listeners.len(), 1);
    std::thread::scope(|scope| {
        for port in &more {
            scope.spawn(|| eventually("its port is closed", || is_refused(port.address())));
        }
    });
}

#[test]
fn connects_to_a_listener_that_goes_are_served_or_refused_and_never_cut() {
    let two = Two::new();
    let mut balancer = start(&two.file(&[two.l(0), two.m(1)]));
    let end = Instant::now() + Duration::from_secs(2);
    std::thread::scope(|scope| {
        let visits = scope.spawn(|| {
            let (mut served, mut cut) = (0, Vec::new());
            while Instant::now() < end {
                let Ok(client) = Client::connect(two.at(1)) else { continue };
                client.set_patience(Duration::from_secs(5));
                match client.receive_exact(1).and_then(|_| client.echo(b"hello")) {
                    Ok(()) => served += 1,
                    Err(error) => cut.push((error, client)),
                }
            }
            (served, cut)
        });
        while Instant::now() < end {
            balancer.reloads(&two.file(&[two.l(0)]));
            balancer.reloads(&two.file(&[two.l(0), two.m(1)]));
        }
        let (served, cut) = visits.join().unwrap();
        assert!(served > 0);
        if let Some((error, client)) = cut.first() {
            let status = balancer.status();
            let probe = (client.send(b"?"), client.receive(&mut [0]));
            panic!("{} of {served} were cut: {error}, then {probe:?}: {:?}", cut.len(), status.listeners);
        }
    });
}
