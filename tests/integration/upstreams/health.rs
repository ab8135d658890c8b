//! Set-up: checks every few milliseconds, backends that stop, return, flap, hang or answer with an error.
//! Claim: a verdict reaches every shard within 100 ms; `rise` and `fall` hold; open sessions stay; a hanging
//! check delays no client; an answer counts as the check says.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use ringway::base::CloseReason;
use ringway::upstream::Health;

use crate::support::{
    Backend, Client, Connection, backend, balancer, eventually, expect_reset, holds_within, timed,
};

/// From the verdict to the last shard.
const SPREAD: Duration = Duration::from_millis(100);

#[test]
fn verdict_stops_sessions_to_a_backend_on_every_shard_within_100_ms() {
    let (mut falling, steady) = (backend().echo().start(), backend().echo().start());
    let balancer = balancer().backends([&falling, &steady]).upstream("retries: 0").quick_checks().start();
    (0..20).for_each(|_| balancer.echoing_client().finish().unwrap());
    falling.stop();
    balancer.await_health(0, Health::Down);
    let verdict = Instant::now();
    // Without retries each session that still goes there is a client that sees an error.
    while verdict.elapsed() < SPREAD {
        let _ = Client::connect(balancer.address()).map(|client| client.echo(b"early"));
    }
    let failures = balancer.connect_failures(0);
    (0..200).for_each(|_| balancer.echoing_client().finish().unwrap());
    assert_eq!(balancer.connect_failures(0), failures, "no session goes there after {SPREAD:?}");
}

#[test]
fn no_client_sees_an_error_while_a_backend_stops_and_returns() {
    let (mut falling, steady) = (backend().echo().start(), backend().echo().start());
    let balancer =
        balancer().backends([&falling, &steady]).upstream("retry_budget: off").quick_checks().start();
    let round = |clients: u32| {
        for _ in 0..clients {
            balancer.echoing_client().finish().unwrap();
        }
    };
    round(20);
    // Refuses from one moment to the next: before the verdict it is the retry that spares the clients.
    falling.refuse();
    while balancer.health()[0] != Health::Down {
        round(5);
    }
    round(50);
    falling.restart();
    while balancer.health()[0] != Health::Up {
        round(5);
    }
    round(50);
    let totals = balancer.finish();
    assert_eq!(totals.closed_with(CloseReason::Normal), totals.accepted, "{totals:?}");
}

#[test]
fn sessions_of_a_backend_that_goes_down_are_kept() {
    let (mut falling, steady) = (backend().echo().start(), backend().echo().start());
    let balancer = balancer().backends([&falling, &steady]).quick_checks().start();
    let clients: Vec<_> = (0..10).map(|_| balancer.echoing_client()).collect();
    falling.refuse();
    balancer.await_health(0, Health::Down);
    for client in clients {
        client.echo(b"still here").unwrap();
        client.finish().unwrap();
    }
    balancer.await_closed(CloseReason::Normal, 10);
}

#[test]
fn rise_and_fall_hold() {
    let mut only = backend().echo().start();
    let balancer = balancer()
        .backends([&only])
        .check("interval: 30ms, fast_interval: 30ms, timeout: 5s, rise: 5, fall: 5")
        .start();
    // Jitter shortens an interval by a tenth at most: five results are at least four intervals apart.
    let least = Duration::from_millis(4 * 26);
    only.stop();
    let took = timed(|| balancer.await_health(0, Health::Down));
    assert!(took >= least, "down after {took:?}");
    only.restart();
    let took = timed(|| balancer.await_health(0, Health::Up));
    assert!(took >= least, "up after {took:?}");
}

/// Down for less than `fall` results: no transition is ever seen.
#[test]
fn short_outage_is_no_transition() {
    let (mut flapping, steady) = (backend().echo().start(), backend().echo().start());
    let balancer = balancer()
        .backends([&flapping, &steady])
        .check("interval: 200ms, fast_interval: 200ms, timeout: 5s, rise: 2, fall: 3")
        .start();
    for _ in 0..5 {
        flapping.refuse();
        // Longer than no check, shorter than three: one or two see it.
        let seen = holds_within(Duration::from_millis(250), || balancer.health()[0] != Health::Up);
        assert!(!seen, "it is still up");
        flapping.restart();
        let before = flapping.connections();
        eventually("a check succeeds", || flapping.connections() > before);
    }
    assert_eq!(balancer.health(), [Health::Up, Health::Up]);
}

#[test]
fn first_result_alone_decides() {
    let (dead, live) = (backend().stopped().start(), backend().echo().start());
    let balancer = balancer().backends([&dead, &live]).check("interval: 60s, rise: 10, fall: 10").start();
    assert_eq!(balancer.health(), [Health::Down, Health::Up]);
    (0..20).for_each(|_| balancer.echoing_client().finish().unwrap());
    assert_eq!((balancer.connect_failures(0), balancer.shares()), (0, vec![0, 20]));
}

#[test]
fn clients_are_served_again_once_a_backend_is_up() {
    let mut only = backend().echo().stopped().start();
    let balancer = balancer().backends([&only]).quick_checks().start();
    expect_reset(balancer.address());
    balancer.await_closed(CloseReason::NoBackend, 1);
    only.restart();
    balancer.await_health(0, Health::Up);
    eventually("it serves", || {
        Client::connect(balancer.address()).is_ok_and(|client| client.echo(b"x").is_ok())
    });
}

/// A check is a connection that is made and closed: to a backend no more than that.
#[test]
fn checks_do_not_pile_up() {
    let only = backend().sink().start();
    let balancer = balancer().backends([&only]).quick_checks().start();
    eventually("many checks were made", || only.connections() > 20);
    assert!(only.open() <= 1, "{} at the same time", only.open());
    drop(balancer);
    eventually("all are closed", || only.open() == 0);
    assert_eq!(only.failed(), 0, "a check ends cleanly");
}

/// Answers a GET with the status it is told, and echoes everything else.
fn answering(status: &Arc<AtomicU16>) -> Backend {
    let status = Arc::clone(status);
    let serve = backend().serve(move |connection| {
        let mut buffer = [0; 4 << 10];
        loop {
            let count = connection.receive(&mut buffer)?;
            match &buffer[..count] {
                [] => return connection.end(),
                [b'G', b'E', b'T', ..] => {
                    let status = status.load(Ordering::SeqCst);
                    let head = format!("HTTP/1.1 {status} Thus\r\nContent-Length: 0\r\n\r\n");
                    connection.send(head.as_bytes())?;
                }
                bytes => connection.send(bytes)?,
            }
        }
    });
    serve.start()
}

#[test]
fn http_check_takes_a_backend_out_while_it_answers_503() {
    let (changing, good) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU16::new(204)));
    let (falling, steady) = (answering(&changing), answering(&good));
    let balancer = balancer()
        .backends([&falling, &steady])
        .check(
            "type: http, path: /healthz, interval: 40ms, fast_interval: 20ms, timeout: 5s, rise: 2, fall: 2",
        )
        .start();
    let sessions = |clients: u32| {
        (0..clients).for_each(|_| balancer.echoing_client().finish().unwrap());
        balancer.shares()[0]
    };
    assert!(sessions(20) > 0);
    changing.store(503, Ordering::SeqCst);
    balancer.await_health(0, Health::Down);
    let verdict = Instant::now();
    while verdict.elapsed() < SPREAD {
        sessions(1);
    }
    assert_eq!(sessions(0), sessions(20), "no session goes there, although it takes connections");
    changing.store(200, Ordering::SeqCst);
    balancer.await_health(0, Health::Up);
    let before = sessions(0);
    eventually("it serves again", || sessions(1) > before);
    assert_eq!(balancer.health(), [Health::Up, Health::Up]);
}

/// What a server says: at once or not, and then to each message that comes.
struct Script {
    greets: bool,
    up: &'static [&'static [u8]],
    down: &'static [&'static [u8]],
}

/// A server that follows its script, `down` while `refuses` is set.
fn following(script: &'static Script, refuses: &Arc<AtomicBool>, path: PathBuf) -> Backend {
    let refuses = Arc::clone(refuses);
    let serve = move |connection: &mut Connection| {
        let says = if refuses.load(Ordering::SeqCst) { script.down } else { script.up };
        let mut says = says.iter();
        let mut buffer = [0; 1024];
        if script.greets {
            says.next().map_or(Ok(()), |said| connection.send(said))?;
        }
        while connection.receive(&mut buffer)? > 0 {
            says.next().map_or(Ok(()), |said| connection.send(said))?;
        }
        connection.end()
    };
    backend().name("server").on_unix(path).serve(serve).start()
}

#[test]
fn checks_by_protocol_take_a_backend_out_while_it_refuses() {
    const REDIS: Script =
        Script { greets: false, up: &[b"+PONG\r\n", b"+OK\r\n"], down: &[b"-LOADING wait\r\n"] };
    const POSTGRES: Script = Script {
        greets: false,
        up: &[b"R\0\0\0\x08\0\0\0\x03"],
        down: &[b"E\0\0\0\x1aSFATAL\0C57P03\0Mstart\0\0"],
    };
    const MYSQL: Script = Script {
        greets: true,
        up: &[
            b"\x38\0\0\0\x0a8.4\0\x01\0\0\0abcdefgh\0\xff\xff\xff\x02\0\xff\xff\x15\0\0\0\0\0\0\0\0\0\0abcdefghijkl\0native\0",
            b"\x07\0\0\x02\0\0\0\x02\0\0\0",
        ],
        down: &[b"\x17\0\0\0\xff\x10\x04Too many connections"],
    };
    const SMTP: Script = Script {
        greets: true,
        up: &[b"220 mx\r\n", b"250 mx\r\n", b"221 bye\r\n"],
        down: &[b"421 busy\r\n", b"221 bye\r\n"],
    };
    for (kind, script) in [("redis", &REDIS), ("postgres", &POSTGRES), ("mysql", &MYSQL), ("smtp", &SMTP)] {
        let folder = tempfile::tempdir().unwrap();
        let refuses = Arc::new(AtomicBool::new(false));
        let server = following(script, &refuses, folder.path().join("socket"));
        let check =
            format!("type: {kind}, interval: 40ms, fast_interval: 20ms, timeout: 5s, rise: 2, fall: 2");
        let balancer = balancer().backends([&server]).check(&check).start();
        balancer.await_health(0, Health::Up);
        refuses.store(true, Ordering::SeqCst);
        balancer.await_health(0, Health::Down);
        refuses.store(false, Ordering::SeqCst);
        balancer.await_health(0, Health::Up);
        assert_eq!(server.failed(), 0, "{kind}: each check ends in order");
    }
}
