//! Changes beside the file: what `ctl set`, `add` and `remove` do.

use ringway::base::CloseReason;
use ringway::config::{AdminState, Edit};

use super::{
    CALM, One, await_waiting, backend_status, count, entries, file, listener, named, names, next, start,
    upstream, visit,
};
use crate::support::{Balancer, Client, Reserved, V4, backend, eventually, is_reset};

#[derive(Default)]
struct Set {
    weight: Option<u32>,
    state: Option<AdminState>,
    max_connections: Option<u32>,
}

#[track_caller]
fn set(balancer: &mut Balancer, backend: &str, Set { weight, state, max_connections }: Set) {
    let (upstream, backend) = ("u".to_owned(), backend.to_owned());
    let edit = Edit::Set { upstream, backend, weight, state, max_connections };
    balancer.edit(edit).unwrap_or_else(|refused| panic!("{refused:?}"));
}

#[track_caller]
fn state(balancer: &mut Balancer, backend: &str, state: AdminState) {
    set(balancer, backend, Set { state: Some(state), ..Set::default() });
}

#[test]
fn set_weight_survives_a_reload_until_the_file_says_something_else() {
    let (one, backends) = (One::new(CALM), named(b"ab"));
    let written = |weight: u32, more: &str| {
        one.file_with(more, &[format!("{}, weight: {weight}", backends[0].entry()), backends[1].entry()])
    };
    let mut balancer = start(&written(1, ""));
    set(&mut balancer, "a", Set { weight: Some(3), ..Set::default() });
    assert_eq!(count(&names(one.at(), 8), 'a'), 6);
    balancer.reloads(&written(1, "backlog: 100"));
    assert_eq!(count(&names(one.at(), 8), 'a'), 6, "it survives a reload of something else");
    let applied = balancer.reloads(&written(2, "backlog: 100"));
    assert_eq!(applied.changes[0].to_string(), "~ upstreams.u.backends.a.weight: 3 -> 2");
    assert_eq!(count(&names(one.at(), 9), 'a'), 6, "the file has had a later word");
}

#[test]
fn drain_takes_no_new_sessions_and_ends_none() {
    let (one, backends) = (One::new(CALM), named(b"ab"));
    let mut balancer = start(&one.file(&entries(&backends)));
    let open = [visit(one.at()), visit(one.at())];
    state(&mut balancer, "a", AdminState::Drain);
    assert_eq!(names(one.at(), 4), "bbbb");
    balancer.reloads(&one.file_with("backlog: 99", &entries(&backends)));
    assert_eq!(names(one.at(), 4), "bbbb", "it survives a reload");
    assert_eq!(backend_status(&balancer, "u", "a").unwrap().admin_state, AdminState::Drain);
    open.iter().for_each(|(_, client)| client.echo(b"still here").unwrap());
    state(&mut balancer, "a", AdminState::Ready);
    assert_eq!(count(&names(one.at(), 4), 'a'), 2);
}

#[test]
fn maint_ends_sessions_where_on_down_says_so_and_nowhere_else() {
    for (on_down, ends) in [("close", true), ("keep", false)] {
        let (one, backends) = (
            One::new(&format!(
                "outlier: off, on_down: {on_down}, healthcheck: {{interval: 1h, timeout: 5s}}"
            )),
            named(b"ab"),
        );
        let mut balancer = start(&one.file(&entries(&backends)));
        let open = [visit(one.at()), visit(one.at())];
        state(&mut balancer, "a", AdminState::Maint);
        let (_, of_b) = open.iter().find(|(name, _)| *name == 'b').unwrap();
        let (_, of_a) = open.iter().find(|(name, _)| *name == 'a').unwrap();
        if ends {
            let (_, end) = of_a.receive_all();
            assert!(end.as_ref().is_err_and(is_reset), "{end:?}");
            balancer.await_closed(CloseReason::BackendDown, 1);
        } else {
            of_a.echo(b"still here").unwrap();
        }
        of_b.echo(b"still here").unwrap();
        assert_eq!(names(one.at(), 4), "bbbb");
        state(&mut balancer, "a", AdminState::Ready);
        eventually("it serves again", || next(one.at()) == 'a');
    }
}

/// The connection, and its permit, are of the generation before.
#[test]
fn maint_ends_the_session_on_a_connection_that_was_pooled_before_a_reload() {
    let one = One::new("outlier: off, on_down: close, healthcheck: off, pool: {size: 1, max_idle: 1h}");
    let backends = named(b"a");
    let entry = |more: &str| [format!("{}{more}", backends[0].entry())];
    let mut balancer = start(&one.file(&entry("")));
    let pool = |balancer: &Balancer| {
        let status = balancer.status().upstreams.swap_remove(0);
        (status.backends[0].totals.pooled, status.pool.hits)
    };
    eventually("a connection is ready", || pool(&balancer) == (1, 0) && backends[0].open() == 1);
    balancer.reloads(&one.file(&entry(", weight: 2")));
    let (_, client) = visit(one.at());
    assert_eq!(pool(&balancer).1, 1, "it is the one from the pool");
    state(&mut balancer, "a", AdminState::Maint);
    let (_, end) = client.receive_all();
    assert!(end.as_ref().is_err_and(is_reset), "{end:?}");
    balancer.await_closed(CloseReason::BackendDown, 1);
}

#[test]
fn maint_of_all_turns_clients_away_and_ready_brings_them_back() {
    let keys = format!("{CALM}, queue: {{max: 5, timeout: 20s}}");
    let (one, backends) = (One::new(&keys), named(b"a"));
    let mut balancer = start(&one.file(&[format!("{}, max_connections: 1", backends[0].entry())]));
    let (_, open) = visit(one.at());
    let waiting = Client::connect(one.at()).unwrap();
    await_waiting(&balancer, "u", 1);
    state(&mut balancer, "a", AdminState::Maint);
    let (_, end) = waiting.receive_all();
    assert!(end.as_ref().is_err_and(is_reset), "{end:?}");
    crate::support::expect_reset(one.at());
    open.echo(b"still here").unwrap();
    open.finish().unwrap();
    state(&mut balancer, "a", AdminState::Ready);
    assert_eq!(next(one.at()), 'a');
}

#[test]
fn set_limit_lets_in_who_waits() {
    let keys = format!("{CALM}, queue: {{max: 5, timeout: 20s}}");
    let (one, backends) = (One::new(&keys), named(b"a"));
    let written = |more: &str| one.file_with(more, &[format!("{}, max_connections: 1", backends[0].entry())]);
    let mut balancer = start(&written(""));
    let (_, holder) = visit(one.at());
    let waiting = Client::connect(one.at()).unwrap();
    await_waiting(&balancer, "u", 1);
    set(&mut balancer, "a", Set { max_connections: Some(2), ..Set::default() });
    assert_eq!(waiting.receive_exact(1).unwrap(), b"a");
    balancer.reloads(&written("backlog: 99"));
    let third = Client::connect(one.at()).unwrap();
    await_waiting(&balancer, "u", 1);
    set(&mut balancer, "a", Set { max_connections: Some(0), ..Set::default() });
    assert_eq!(third.receive_exact(1).unwrap(), b"a");
    holder.finish().unwrap();
}

#[test]
fn added_and_removed_backends_survive_a_reload() {
    let (one, backends) = (One::new(CALM), named(b"abc"));
    let mut balancer = start(&one.file(&entries(&backends[..2])));
    let entry = format!("{{{}}}", backends[2].entry());
    balancer.edit(Edit::Add { upstream: "u".into(), entry }).unwrap();
    let open = visit(one.at());
    balancer.edit(Edit::Remove { upstream: "u".into(), backend: open.0.to_string() }).unwrap();
    let rest = |names: &str| {
        assert_eq!(count(names, open.0), 0, "{names}");
        assert_eq!(count(names, 'c'), 3, "{names}");
    };
    rest(&names(one.at(), 6));
    balancer.reloads(&one.file_with("backlog: 99", &entries(&backends[..2])));
    rest(&names(one.at(), 6));
    open.1.echo(b"drained").unwrap();
    assert!(backend_status(&balancer, "u", &open.0.to_string()).unwrap().draining);
}

#[test]
fn edit_that_is_refused_changes_nothing() {
    let (one, backends) = (One::new(CALM), named(b"ab"));
    let mut balancer = start(&one.file(&entries(&backends)));
    for entry in [
        "",
        "{",
        "[]",
        "{name: a, address: 127.0.0.1, port: 1}",
        "{name: 'a b', address: 127.0.0.1, port: 1}",
        "{name: x, address: 127.0.0.1, port: 0}",
        "{name: x, address: 127.0.0.1, port: 1, colour: red}",
        "\0",
        "&a [*a]",
    ] {
        let refused = balancer.edit(Edit::Add { upstream: "u".into(), entry: entry.into() }).unwrap_err();
        assert!(
            !refused.errors.is_empty() && refused.errors.iter().all(|error| !error.is_empty()),
            "{entry:?}: {refused:?}"
        );
    }
    for backend in ["", "nobody", "a\n", "../a", "ä", "u/a"] {
        balancer.edit(Edit::Remove { upstream: "u".into(), backend: backend.into() }).unwrap_err();
    }
    assert_eq!(balancer.status().generation, 1);
    assert_eq!(balancer.status().reloads.failure, 0, "an edit is no reload");
    assert_eq!(count(&names(one.at(), 4), 'a'), 2);
}

#[test]
fn odd_names_come_go_and_change() {
    let (port, back) = (Reserved::at(V4), backend().greet(b"x").start());
    let long = "n".repeat(259);
    let odd = ["[::1]:80", "%", "-", "a.b:c-d_e", &*long, "."];
    let written = |names: &[&str], weight: u32| {
        let address = back.address();
        let entry = |name: &&str| {
            format!("name: '{name}', address: 127.0.0.1, port: {}, weight: {weight}", address.port())
        };
        let all: Vec<_> = names.iter().map(entry).collect();
        file("cores: 1", &[listener("'[%]'", port.address(), "u")], &[upstream("u", CALM, &all)])
    };
    let mut balancer = start(&written(&odd[..1], 1));
    for count in 1..=odd.len() {
        balancer.reloads(&written(&odd[..count], count as u32 + 1));
        assert_eq!(balancer.status().upstreams[0].backends.last().unwrap().name, odd[count - 1]);
    }
    for name in odd {
        set(&mut balancer, name, Set { weight: Some(50), ..Set::default() });
    }
    assert_eq!(names(port.address(), 6), "xxxxxx");
    assert_eq!(balancer.shares().iter().sum::<u64>(), 6);
    for name in &odd[1..] {
        balancer.edit(Edit::Remove { upstream: "u".into(), backend: (*name).into() }).unwrap();
    }
    assert_eq!(balancer.shares().len(), 1);
}

#[test]
fn a_backend_that_was_added_is_of_the_file_when_the_file_says_so() {
    let (one, backends) = (One::new(CALM), named(b"ab"));
    let mut balancer = start(&one.file(&entries(&backends[..1])));
    let entry = format!("{{{}, weight: 2}}", backends[1].entry());
    balancer.edit(Edit::Add { upstream: "u".into(), entry }).unwrap();
    assert_eq!(count(&names(one.at(), 6), 'b'), 4);
    let (_, open) = visit(one.at());
    balancer.reloads(&one.file(&entries(&backends)));
    assert_eq!(count(&names(one.at(), 6), 'b'), 3, "the value of the file wins");
    balancer.reloads(&one.file(&entries(&backends[..1])));
    assert_eq!(names(one.at(), 3), "aaa", "it is the file's now, and goes with it");
    open.echo(b"still here").unwrap();
}
