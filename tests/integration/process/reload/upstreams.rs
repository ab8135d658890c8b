//! Upstreams and backends that come, go and change.

use std::slice;
use std::sync::Arc;

use ringway::base::CloseReason;
use ringway::upstream::Health;

use super::{
    CALM, One, await_waiting, backend_status, count, entries, file, listener, listener_status, named, names,
    next, start, under_connects, upstream, visit,
};
use crate::support::{
    AUTHORITY, Authority, Backend, Balancer, Client, Reserved, Talk, V4, backend, eventually, is_reset,
    talk_tls,
};

#[test]
fn added_backend_takes_sessions_and_removed_one_keeps_its_open_one() {
    let (one, backends) = (One::new(CALM), named(b"ab"));
    let mut balancer = start(&one.file(&entries(&backends[..1])));
    let (_, open) = visit(one.at());
    let applied = balancer.reloads(&one.file(&entries(&backends)));
    assert_eq!(applied.generation, 2);
    assert_eq!(applied.changes.len(), 1, "{applied:?}");
    let line = applied.changes[0].to_string();
    assert!(line.starts_with("+ upstreams.u.backends.b: "), "{line}");
    assert_eq!(count(&names(one.at(), 6), 'b'), 3);
    let applied = balancer.reloads(&one.file(&entries(&backends[1..])));
    assert!(applied.changes[0].to_string().starts_with("- upstreams.u.backends.a: "), "{applied:?}");
    assert_eq!(names(one.at(), 6), "bbbbbb");
    let leaving = backend_status(&balancer, "u", "a").unwrap();
    assert!(leaving.draining, "{leaving:?}");
    assert_eq!(leaving.in_flight, 1);
    open.echo(b"to its end").unwrap();
    open.finish().unwrap();
    eventually("it is gone", || backend_status(&balancer, "u", "a").is_none());
    assert_eq!(balancer.totals().accepted, 13);
}

#[test]
fn changed_weight_is_the_share_from_now_on() {
    let (one, backends) = (One::new(CALM), named(b"ab"));
    let mut balancer = start(&one.file(&entries(&backends)));
    assert_eq!(count(&names(one.at(), 8), 'a'), 4);
    let heavy = [format!("{}, weight: 3", backends[0].entry()), backends[1].entry()];
    let applied = balancer.reloads(&one.file(&heavy));
    assert_eq!(applied.changes[0].to_string(), "~ upstreams.u.backends.a.weight: 1 -> 3");
    assert_eq!(count(&names(one.at(), 8), 'a'), 6);
    balancer.reloads(&one.file(&[format!("{}, weight: 0", backends[0].entry()), backends[1].entry()]));
    assert_eq!(names(one.at(), 4), "bbbb");
}

#[test]
fn order_of_the_file_is_that_of_the_algorithm_first() {
    let (one, backends) = (One::new(&format!("{CALM}, algorithm: first")), named(b"abc"));
    let order = |at: &[usize]| one.file(&at.iter().map(|at| backends[*at].entry()).collect::<Vec<_>>());
    let mut balancer = start(&order(&[0, 1]));
    assert_eq!(names(one.at(), 3), "aaa");
    let applied = balancer.reloads(&order(&[1, 0]));
    assert_eq!(applied.changes[0].to_string(), "~ upstreams.u.backends: a, b -> b, a");
    assert_eq!((applied.changes.len(), &*names(one.at(), 3)), (1, "bbb"));
    // A new one that stands before the others.
    balancer.reloads(&order(&[2, 1, 0]));
    assert_eq!(names(one.at(), 3), "ccc");
}

#[test]
fn order_of_the_file_means_nothing() {
    let (ports, backends) = ([Reserved::at(V4), Reserved::at(V4)], named(b"abcd"));
    let listeners = [listener("l", ports[0].address(), "u"), listener("m", ports[1].address(), "v")];
    let upstreams = |first: [usize; 2], second: [usize; 2]| {
        [
            upstream("u", CALM, &first.map(|at| backends[at].entry())),
            upstream("v", CALM, &second.map(|at| backends[at].entry())),
        ]
    };
    let mut balancer = start(&file("cores: 1", &listeners, &upstreams([0, 1], [2, 3])));
    let (first, second) = (visit(ports[0].address()), visit(ports[1].address()));
    let (mut turned, mut listeners) = (upstreams([1, 0], [3, 2]), listeners);
    turned.reverse();
    listeners.reverse();
    let applied = balancer.reloads(&file("cores: 1", &listeners, &turned));
    assert_eq!((applied.generation, applied.changes), (1, Vec::new()));
    assert_eq!(balancer.status().reloads.success, 1);
    // The other order together with a change.
    let mut turned = turned.to_vec();
    turned.push(upstream("w", CALM, &entries(&backends[..1])));
    let applied = balancer.reloads(&file("cores: 1", &listeners, &turned));
    assert_eq!((applied.generation, applied.changes.len()), (2, 1), "{:?}", applied.changes);
    assert_eq!(balancer.status().open_sessions(), 2);
    for (port, two) in ports.iter().zip(["ab", "cd"]) {
        let names = names(port.address(), 10);
        assert!(two.chars().all(|name| count(&names, name) == 5), "{two}: {names}");
    }
    [first, second].iter().for_each(|(_, client)| client.echo(b"still here").unwrap());
}

#[test]
fn rewired_listener_leads_new_clients_and_those_that_wait_to_the_other_upstream() {
    let (port, backends) = (Reserved::at(V4), named(b"ab"));
    let wired = |to: &str| {
        let limited = [format!("{}, max_connections: 1", backends[0].entry())];
        let queue = format!("{CALM}, queue: {{max: 10, timeout: 20s}}");
        let upstreams = [upstream("u", &queue, &limited), upstream("v", CALM, &entries(&backends[1..]))];
        file("cores: 1", &[listener("l", port.address(), to)], &upstreams)
    };
    let mut balancer = start(&wired("u"));
    let (_, holder) = visit(port.address());
    let waiting = Client::connect(port.address()).unwrap();
    await_waiting(&balancer, "u", 1);
    let applied = balancer.reloads(&wired("v"));
    assert_eq!(applied.changes[0].to_string(), "~ listeners.l.upstream: u -> v");
    assert_eq!(waiting.receive_exact(1).unwrap(), b"b", "who waits goes to the other one");
    assert_eq!(names(port.address(), 3), "bbb");
    holder.echo(b"the session goes on").unwrap();
    await_waiting(&balancer, "u", 0);
}

#[test]
fn renamed_upstream_takes_the_listener_with_it() {
    let (port, backends) = (Reserved::at(V4), named(b"ab"));
    let called = |name: &str| {
        file("cores: 1", &[listener("l", port.address(), name)], &[upstream(name, CALM, &entries(&backends))])
    };
    let mut balancer = start(&called("u"));
    let (_, open) = visit(port.address());
    balancer.reloads(&called("v"));
    assert_eq!(count(&names(port.address(), 4), 'a'), 2);
    open.echo(b"still here").unwrap();
    assert!(backend_status(&balancer, "u", "a").is_some_and(|left| left.draining));
    open.finish().unwrap();
    eventually("the old name goes", || balancer.status().upstreams.len() == 1);
    // And back.
    balancer.reloads(&called("u"));
    assert_eq!(count(&names(port.address(), 4), 'a'), 2);
    assert_eq!(balancer.status().upstreams[0].name, "u");
}

#[test]
fn upstream_that_comes_back_serves_who_waits_in_its_queue() {
    let (ports, backends) = ([Reserved::at(V4), Reserved::at(V4)], named(b"ab"));
    let both = |more: &str, removed: bool| {
        let limited = [format!("{}, max_connections: 1{more}", backends[0].entry())];
        let u = upstream("u", &format!("{CALM}, queue: {{max: 10, timeout: 20s}}"), &limited);
        let v = upstream("v", CALM, &entries(&backends[1..]));
        let (l, m) = (listener("l", ports[0].address(), "u"), listener("m", ports[1].address(), "v"));
        if removed { file("cores: 1", &[m], &[v]) } else { file("cores: 1", &[l, m], &[u, v]) }
    };
    let mut balancer = start(&both("", false));
    let (_, holder) = visit(ports[0].address());
    let waiting = Client::connect(ports[0].address()).unwrap();
    await_waiting(&balancer, "u", 1);
    balancer.reloads(&both("", true));
    assert_eq!(next(ports[1].address()), 'b');
    let gone = listener_status(&balancer, "l").unwrap();
    assert!(gone.draining && gone.totals.active == 2, "{gone:?}");
    balancer.reloads(&both(", weight: 2", false));
    holder.finish().unwrap();
    assert_eq!(waiting.receive_exact(1).unwrap(), b"a");
    waiting.finish().unwrap();
    assert_eq!(next(ports[0].address()), 'a');
}

#[test]
fn client_that_waits_for_a_removed_upstream_is_served_by_it() {
    let (ports, backends) = ([Reserved::at(V4), Reserved::at(V4)], named(b"ab"));
    let limited = [format!("{}, max_connections: 1", backends[0].entry())];
    let u = upstream("u", &format!("{CALM}, queue: {{max: 10, timeout: 20s}}"), &limited);
    let v = upstream("v", CALM, &entries(&backends[1..]));
    let (l, m) = (listener("l", ports[0].address(), "u"), listener("m", ports[1].address(), "v"));
    let mut balancer = start(&file("cores: 1", &[l, m.clone()], &[u, v.clone()]));
    let (_, holder) = visit(ports[0].address());
    let waiting = Client::connect(ports[0].address()).unwrap();
    await_waiting(&balancer, "u", 1);
    balancer.reloads(&file("cores: 1", &[m], &[v]));
    holder.echo(b"still here").unwrap();
    holder.finish().unwrap();
    assert_eq!(waiting.receive_exact(1).unwrap(), b"a");
    waiting.finish().unwrap();
    eventually("it is gone", || listener_status(&balancer, "l").is_none());
    eventually("its upstream too", || balancer.status().upstreams.len() == 1);
}

#[test]
fn waiting_client_keeps_its_place_and_gets_the_backend_that_is_added() {
    let keys = format!("{CALM}, queue: {{max: 10, timeout: 20s}}");
    let (one, backends) = (One::new(&keys), named(b"ab"));
    let limited = backends.iter().map(|one| format!("{}, max_connections: 1", one.entry()));
    let limited: Vec<_> = limited.collect();
    let mut balancer = start(&one.file(&limited[..1]));
    let (_, holder) = visit(one.at());
    let first = Client::connect(one.at()).unwrap();
    await_waiting(&balancer, "u", 1);
    let second = Client::connect(one.at()).unwrap();
    await_waiting(&balancer, "u", 2);
    balancer.reloads(&one.file(&limited));
    assert_eq!(first.receive_exact(1).unwrap(), b"b", "the first of those that wait");
    await_waiting(&balancer, "u", 1);
    holder.finish().unwrap();
    assert_eq!(second.receive_exact(1).unwrap(), b"a");
    assert_eq!(balancer.queued(), 2);
}

#[test]
fn raised_limit_lets_in_who_waits_and_a_lowered_one_ends_nobody() {
    let keys = format!("{CALM}, queue: {{max: 10, timeout: 20s}}");
    let (one, backends) = (One::new(&keys), named(b"a"));
    let most = |most: u32| one.file(&[format!("{}, max_connections: {most}", backends[0].entry())]);
    let mut balancer = start(&most(1));
    let (_, first) = visit(one.at());
    let second = Client::connect(one.at()).unwrap();
    await_waiting(&balancer, "u", 1);
    balancer.reloads(&most(3));
    assert_eq!(second.receive_exact(1).unwrap(), b"a");
    let (_, third) = visit(one.at());
    balancer.reloads(&most(1));
    let fourth = Client::connect(one.at()).unwrap();
    await_waiting(&balancer, "u", 1);
    for client in [&first, &second, &third] {
        client.echo(b"goes on").unwrap();
    }
    first.finish().unwrap();
    second.finish().unwrap();
    eventually("two have ended", || balancer.in_flight() == [1]);
    await_waiting(&balancer, "u", 1);
    third.finish().unwrap();
    assert_eq!(fourth.receive_exact(1).unwrap(), b"a");
}

#[test]
fn cursor_and_sessions_in_flight_outlive_reloads() {
    for changed in ["retries", "timeouts"] {
        let (port, backends) = (Reserved::at(V4), named(b"abc"));
        let written = |value: u32| {
            let keys = match changed {
                "retries" => format!("{CALM}, retries: {value}"),
                _ => format!("{CALM}, timeouts: {{connect: {value}s}}"),
            };
            let upstreams = [upstream("u", &keys, &entries(&backends))];
            file("cores: 1", &[listener("l", port.address(), "u")], &upstreams)
        };
        let mut balancer = start(&written(1));
        let turn: Vec<_> = (0..9)
            .map(|round| {
                let name = next(port.address());
                balancer.reloads(&written(2 + round % 2));
                name
            })
            .collect();
        assert!(
            turn.windows(3).all(|three| three[0] != three[1] && three[1] != three[2] && three[0] != three[2])
        );
        let shares = balancer.shares();
        assert_eq!(shares, [3, 3, 3], "{changed}");
    }
}

#[test]
fn least_connections_knows_sessions_of_earlier_generations() {
    let (port, backends) = (Reserved::at(V4), named(b"ab"));
    let written = |retries: u32| {
        let keys = format!("{CALM}, algorithm: least_connections, retries: {retries}");
        let upstreams = [upstream("u", &keys, &entries(&backends))];
        file("cores: 1", &[listener("l", port.address(), "u")], &upstreams)
    };
    let mut balancer = start(&written(1));
    let mut held: Vec<_> = (0..4).map(|_| visit(port.address())).collect();
    held.retain(|(name, _)| *name == 'a');
    eventually("two are left", || balancer.in_flight() == [2, 0]);
    balancer.reloads(&written(2));
    assert_eq!(balancer.in_flight(), [2, 0]);
    held.extend((0..2).map(|_| visit(port.address())));
    assert_eq!(balancer.in_flight(), [2, 2]);
}

/// Checks that find out at once.
const CHECKED: &str =
    "outlier: off, healthcheck: {interval: 40ms, fast_interval: 20ms, timeout: 5s, rise: 2, fall: 2}";

#[test]
fn changed_address_is_judged_afresh_and_old_sessions_stay() {
    let (one, dead, live) = (One::new(CHECKED), backend().stopped().start(), backend().greet(b"n").start());
    let at = |backend: &Backend| vec![format!("name: x, {}", backend.entry())];
    let mut balancer = start(&one.file(&at(&dead)));
    balancer.await_health(0, Health::Down);
    balancer.reloads(&one.file(&at(&live)));
    balancer.await_health(0, Health::Up);
    let (name, open) = visit(one.at());
    assert_eq!(name, 'n');
    balancer.reloads(&one.file(&at(&dead)));
    balancer.await_health(0, Health::Down);
    open.echo(b"at the old address").unwrap();
    let status = balancer.status();
    assert_eq!(status.upstreams[0].backends[0].addresses, [dead.address().to_string()]);
    open.finish().unwrap();
}

#[test]
fn checks_go_by_the_tls_of_the_newest_file() {
    let config = Arc::new(AUTHORITY.server("a.example", false));
    let answer = |talk: &mut dyn Talk| {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.resize(request.len() + 1, 0);
            talk.read_exact(request.last_mut().map(slice::from_mut).unwrap())?;
        }
        talk.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
        talk.flush()
    };
    let backend = backend().name("x").serve(move |connection| talk_tls(&config, connection, answer)).start();
    let (port, stranger) = (Reserved::at(V4), Authority::new());
    let written = |tls: &str| {
        let check = "{type: http, path: /, interval: 20ms, fast_interval: 20ms, fall: 1, rise: 1}";
        let keys = format!("outlier: off, healthcheck: {check}, {tls}");
        file("cores: 1", &[listener("l", port.address(), "u")], &[upstream("u", &keys, &[backend.entry()])])
    };
    let of = |authority: &Authority, name: &str| {
        format!("tls: {{ca: {}, server_name: {name}}}", authority.path("ca.pem").display())
    };
    let mut balancer = start(&written(&of(&AUTHORITY, "a.example")));
    assert_eq!(balancer.health(), [Health::Up]);
    for (tls, words) in [
        (of(&AUTHORITY, "b.example"), "the certificate is for a.example, not for b.example"),
        (
            of(&stranger, "a.example"),
            "the certificate was changed, or comes from another CA of the same name as in `ca`",
        ),
        ("tls: off".to_owned(), "no HTTP response"),
    ] {
        balancer.reloads(&written(&tls));
        balancer.await_health(0, Health::Down);
        let status = backend_status(&balancer, "u", "x").unwrap();
        let message = status.checks.unwrap().last.unwrap().message;
        assert!(message.contains(words), "{message}");
        balancer.reloads(&written(&of(&AUTHORITY, "a.example")));
        balancer.await_health(0, Health::Up);
    }
}

#[test]
fn a_backend_that_is_down_stays_down_over_a_reload_of_something_else() {
    let (port, dead, live) = (Reserved::at(V4), backend().name("d").stopped().start(), named(b"l"));
    let written = |retries: u32, more: &[String]| {
        let mut all = vec![dead.entry(), live[0].entry()];
        all.extend_from_slice(more);
        // The next check is far away: only what is known decides.
        let keys = format!(
            "retries: {retries}, outlier: off, healthcheck: {{interval: 1h, fast_interval: 1h, timeout: 5s, fall: 1}}"
        );
        file("cores: 1", &[listener("l", port.address(), "u")], &[upstream("u", &keys, &all)])
    };
    let mut balancer = start(&written(1, &[]));
    assert_eq!(balancer.health(), [Health::Down, Health::Up]);
    balancer.reloads(&written(2, &[]));
    assert_eq!(balancer.health(), [Health::Down, Health::Up]);
    let more = named(b"m");
    balancer.reloads(&written(2, &entries(&more)));
    assert_eq!(balancer.health()[..2], [Health::Down, Health::Up]);
    balancer.await_health(2, Health::Up);
    assert_eq!(count(&names(port.address(), 6), 'm'), 3);
    assert_eq!(balancer.connect_failures(0), 0);
}

#[test]
fn ejection_stays_over_a_reload_and_goes_with_the_address() {
    let (port, dead, live) = (Reserved::at(V4), backend().stopped().start(), named(b"b"));
    let written = |at: &str, retries: u32| {
        let keys = format!(
            "healthcheck: off, retries: {retries}, outlier: {{consecutive_failures: 3, ejection_time: 1h}}"
        );
        let entries = [format!("name: a, {at}"), live[0].entry()];
        file("cores: 1", &[listener("l", port.address(), "u")], &[upstream("u", &keys, &entries)])
    };
    let mut balancer = start(&written(&dead.entry(), 2));
    eventually("it is ejected", || {
        next(port.address());
        balancer.ejected() == [true, false]
    });
    let failures = balancer.connect_failures(0);
    balancer.reloads(&written(&dead.entry(), 3));
    assert_eq!(balancer.ejected(), [true, false]);
    assert_eq!(names(port.address(), 6), "bbbbbb");
    assert_eq!(balancer.connect_failures(0), failures);
    let other = backend().greet(b"a").start();
    balancer.reloads(&written(&other.entry(), 3));
    balancer.await_ejected(0, false);
    assert_eq!(count(&names(port.address(), 6), 'a'), 3);
}

#[test]
fn slow_start_goes_on_over_a_reload() {
    let (port, mut backends) = (Reserved::at(V4), named(b"ab"));
    let written = |backends: &[Backend], retries: u32| {
        let keys = format!("{CHECKED}, slow_start: 1h, retries: {retries}");
        file("cores: 1", &[listener("l", port.address(), "u")], &[upstream("u", &keys, &entries(backends))])
    };
    let mut balancer = start(&written(&backends, 1));
    assert_eq!(count(&names(port.address(), 20), 'a'), 10, "not at the start");
    backends[0].stop();
    balancer.await_health(0, Health::Down);
    backends[0].restart();
    balancer.await_health(0, Health::Up);
    let before = count(&names(port.address(), 50), 'a');
    assert!(before < 10, "{before}");
    balancer.reloads(&written(&backends, 2));
    let after = count(&names(port.address(), 50), 'a');
    assert!(after < 10, "{after}");
}

#[test]
fn pool_stays_over_a_reload_of_something_else_and_goes_with_its_backend() {
    let (ports, backends) = ([Reserved::at(V4), Reserved::at(V4)], named(b"ab"));
    let written = |retries: u32, of_u: &[String]| {
        let keys = format!("{CALM}, pool: {{size: 2, max_idle: 1h}}");
        let upstreams = [
            upstream("u", &keys, of_u),
            upstream("v", &format!("{CALM}, retries: {retries}"), &entries(&backends[1..])),
        ];
        let listeners = [listener("l", ports[0].address(), "u"), listener("m", ports[1].address(), "v")];
        file("cores: 1", &listeners, &upstreams)
    };
    let mut balancer = start(&written(1, &entries(&backends)));
    let pooled = |balancer: &Balancer| {
        balancer.status().upstreams[0].backends.iter().map(|one| one.totals.pooled).collect::<Vec<_>>()
    };
    let made = 4;
    eventually("the pools are filled", || {
        let are_open = backends.iter().all(|backend| backend.open() == 2);
        are_open && pooled(&balancer) == [2, 2] && balancer.status().upstreams[0].pool.made == made
    });
    balancer.reloads(&written(2, &entries(&backends)));
    assert_eq!((pooled(&balancer), balancer.status().upstreams[0].pool.made), (vec![2, 2], made));
    assert_eq!((backends[0].open(), backends[0].connections()), (2, 2));
    balancer.reloads(&written(2, &entries(&backends[1..])));
    eventually("its connections go", || backends[0].open() == 0);
    eventually("the other's are there", || pooled(&balancer).last() == Some(&2) && backends[1].open() == 2);
    assert_eq!(names(ports[0].address(), 3), "bbb");
}

#[test]
fn drain_timeout_ends_sessions_of_a_removed_backend_alone() {
    let (port, backends) = (Reserved::at(V4), named(b"ab"));
    let written = |all: &[Backend]| {
        let runtime = "cores: 1, drain_timeout: 300ms";
        file(runtime, &[listener("l", port.address(), "u")], &[upstream("u", CALM, &entries(all))])
    };
    let mut balancer = start(&written(&backends));
    let both = [visit(port.address()), visit(port.address())];
    let (first, second) = (&both[0].1, &both[1].1);
    assert_eq!((both[0].0, both[1].0), ('a', 'b'));
    balancer.reloads(&written(&backends[1..]));
    first.echo(b"for a while").unwrap();
    let (rest, end) = first.receive_all();
    assert!(rest.is_empty() && end.as_ref().is_err_and(is_reset), "{end:?}");
    balancer.await_closed(CloseReason::Shutdown, 1);
    second.echo(b"it stays").unwrap();
    assert_eq!(balancer.status().open_sessions(), 1);
}

#[test]
fn backend_that_comes_back_within_drain_timeout_keeps_its_sessions() {
    let (port, backends) = (Reserved::at(V4), named(b"abc"));
    let written = |all: &[&Backend]| {
        let runtime = "cores: 1, drain_timeout: 300ms";
        let upstreams = [upstream("u", CALM, &entries(all.iter().copied()))];
        file(runtime, &[listener("l", port.address(), "u")], &upstreams)
    };
    let [a, b, c] = [0, 1, 2].map(|at| &backends[at]);
    let mut balancer = start(&written(&[a, b, c]));
    let open: Vec<_> = (0..2).map(|_| visit(port.address())).collect();
    assert_eq!((open[0].0, open[1].0), ('a', 'b'));
    balancer.reloads(&written(&[b, c]));
    balancer.reloads(&written(&[a, c]));
    // The end of the session on `b`, which left later, says that the time of `a` is over.
    assert!(open[1].1.receive_all().1.is_err());
    open[0].1.echo(b"its backend is of the file again").unwrap();
    balancer.await_closed(CloseReason::Shutdown, 1);
}

#[test]
fn three_hundred_backends_are_replaced_at_once_with_pools_and_checks() {
    let (port, live) = (Reserved::at(V4), named(b"ab"));
    let written = |live: &Backend, round: usize| {
        let address = live.address();
        let entry = |at: usize| {
            format!("name: n{}, address: {}, port: {}", round * 300 + at, address.ip(), address.port())
        };
        let all: Vec<_> = (0..300).map(entry).collect();
        let keys = "outlier: off, pool: {size: 1}, healthcheck: {interval: 200ms, timeout: 10s}";
        file("cores: 1", &[listener("l", port.address(), "u")], &[upstream("u", keys, &all)])
    };
    let mut balancer = start(&written(&live[0], 0));
    let (name, open) = visit(port.address());
    assert_eq!(name, 'a');
    let applied = balancer.reloads(&written(&live[1], 1));
    assert_eq!(applied.changes.len(), 600);
    assert_eq!(names(port.address(), 20), "b".repeat(20));
    open.echo(b"still here").unwrap();
    assert_eq!(balancer.status().upstreams[0].backends.len(), 301);
    open.finish().unwrap();
    eventually("all connections to the old ones end", || live[0].open() == 0);
    eventually("the old ones are gone", || balancer.status().upstreams[0].backends.len() == 300);
}

/// Replaces the only backend of an upstream again and again while clients come.
#[track_caller]
fn replace_the_only_backend(keys: &str) {
    let (one, backends) = (One::new(keys), named(b"ab"));
    let mut balancer = start(&one.file(&entries(&backends[..1])));
    let names = under_connects(&[one.at(); 4], || {
        for _ in 0..30 {
            balancer.reloads(&one.file(&entries(&backends[1..])));
            balancer.reloads(&one.file(&entries(&backends[..1])));
        }
    });
    assert!(names.iter().all(|names| names.contains('a')), "{names:?}");
}

#[test]
fn nobody_is_turned_away_while_the_only_backend_is_replaced() {
    replace_the_only_backend(CALM);
}

#[test]
fn nobody_is_turned_away_while_the_only_backend_is_replaced_and_checked() {
    replace_the_only_backend(CHECKED);
}

#[test]
fn a_name_that_is_looked_up_does_not_take_the_address_of_the_backend_that_goes() {
    let (one, backends) = (One::new(CALM), named(b"ab"));
    let mut balancer = start(&one.file(&entries(&backends[..1])));
    under_connects(&[one.at(); 2], || {
        for round in 0..5 {
            let name = format!("name: n{round}, address: no-{round}.such.invalid, port: 80");
            balancer.reloads(&one.file(&[name.clone(), backends[1].entry()]));
            balancer.reloads(&one.file(&[name, backends[0].entry()]));
        }
    });
}

#[test]
fn nobody_is_turned_away_while_an_address_changes() {
    for keys in [CALM, CHECKED] {
        let (one, backends) = (One::new(keys), named(b"ab"));
        let at = |which: usize| {
            let address = backends[which].address();
            vec![format!("name: x, address: {}, port: {}", address.ip(), address.port())]
        };
        let mut balancer = start(&one.file(&at(0)));
        under_connects(&[one.at(); 4], || {
            for _ in 0..20 {
                balancer.reloads(&one.file(&at(1)));
                balancer.reloads(&one.file(&at(0)));
            }
        });
        assert!(backends[1].connections() > 0);
    }
}

/// A backend that says its name, and then echoes, but answers the question of a check late.
fn slow_to_check(name: &'static str) -> Backend {
    backend()
        .name(name)
        .serve(move |connection| {
            connection.send(name.as_bytes())?;
            let mut first = [0];
            if connection.receive(&mut first)? == 0 {
                return connection.end();
            }
            if first == *b"?" {
                std::thread::sleep(std::time::Duration::from_millis(300));
                return connection.send(b"!");
            }
            connection.send(&first)?;
            connection.echo()
        })
        .start()
}

#[test]
fn nobody_is_turned_away_before_the_first_verdict_on_new_backends() {
    let check = "{type: send_expect, interval: 1h, timeout: 10s, steps: [{send: '?', expect: '!'}]}";
    let one = One::new(&format!("outlier: off, healthcheck: {check}"));
    let backends = ["a", "b", "c"].map(slow_to_check);
    let mut balancer = start(&one.file(&entries(&backends[..1])));
    let names = under_connects(&[one.at(); 2], || {
        balancer.reloads(&one.file(&entries(&backends[1..])));
    });
    assert!(names.iter().all(|names| names.starts_with('a') && names.ends_with(['b', 'c'])), "{names:?}");
}
