//! Set-up: a limit on sessions, or far fewer buffers than sessions. Claim: the limit is exact over all
//! shards, and sessions above it are reset and counted as denied; without buffers sessions get slower and
//! lose nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringway::base::CloseReason;

use crate::support::{
    AUTHORITY, Balancer, Client, NO_ADMIN, Reserved, Stream, V4, backend, balancer, crowd, eventually,
    expect_reset,
};

#[test]
fn session_above_the_limit_is_denied() {
    let only = backend().echo().start();
    let balancer = balancer().runtime("max_connections: 10").backends([&only]).start();
    let clients: Vec<_> = (0..10).map(|_| balancer.echoing_client()).collect();
    for _ in 0..5 {
        expect_reset(balancer.address());
    }
    eventually("five are denied", || balancer.totals().denied_sum() == 5);
    for client in &clients {
        client.echo(b"unharmed").unwrap();
    }
    // A permit that is given back is there for the next one.
    clients.into_iter().for_each(|client| client.finish().unwrap());
    balancer.await_closed(CloseReason::Normal, 10);
    balancer.echoing_client().finish().unwrap();
    let totals = balancer.finish();
    assert_eq!((totals.accepted, totals.denied_sum()), (16, 5));
}

/// Clients that have a permit for certain, at this moment and at most: each from its echo on until before it ends.
#[derive(Default)]
struct Served {
    open: AtomicU64,
    most: AtomicU64,
}

impl Served {
    fn begin(&self) {
        self.most.fetch_max(self.open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
    }

    fn end(&self, clients: usize) {
        self.open.fetch_sub(clients as u64, Ordering::SeqCst);
    }
}

/// Many threads race for the last permits, on two shards: never is one too many admitted.
#[test]
fn limit_is_exact_while_shards_race() {
    assert_exact_while_shards_race(20);
}

/// With so many permits that shards keep some of them in hand, and with one less.
#[test]
fn limit_with_credits_is_exact_while_shards_race() {
    [63, 64, 65, 80].into_iter().for_each(assert_exact_while_shards_race);
}

#[track_caller]
fn assert_exact_while_shards_race(limit: usize) {
    const THREADS: usize = 8;
    let only = backend().echo().start();
    let balancer = balancer().runtime(&format!("max_connections: {limit}")).backends([&only]).start();
    let served = Served::default();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..20 {
                    let burst: Vec<_> = (0..limit / THREADS + 4)
                        .filter_map(|_| Client::connect(balancer.address()).ok())
                        .collect();
                    let is_served = |client: &&Client| {
                        let is_served = client.echo(b"x").is_ok();
                        if is_served {
                            served.begin();
                        }
                        is_served
                    };
                    served.end(burst.iter().filter(is_served).count());
                }
            });
        }
    });
    let totals = balancer.finish();
    assert!(totals.denied_sum() > 0, "{totals:?}");
    let most = served.most.load(Ordering::SeqCst);
    assert!(most <= limit as u64, "{most} at once, of {limit}");
}

/// Clients beyond the limit wait in the backlogs of two shards, which keep permits in hand. Each of them is served, and never is
/// one too many.
#[test]
fn everybody_who_waits_for_a_limit_with_credits_is_served_within_it() {
    const WAITING: usize = 100;
    const ROUNDS: usize = 5;
    for (limit, of) in [(64, "runtime"), (65, "listener"), (80, "runtime"), (96, "listener")] {
        let only = backend().echo().start();
        let key = format!("max_connections: {limit}");
        let builder = if of == "runtime" { balancer().runtime(&key) } else { balancer().listener(&key) };
        let balancer = builder.listener("over_limit: wait").backends([&only]).start();
        let served = Served::default();
        let all: Vec<_> = (0..limit).map(|_| balancer.echoing_client()).collect();
        all.iter().for_each(|_| served.begin());
        let waiting: Vec<_> = (0..WAITING).map(|_| balancer.client()).collect();
        assert_eq!(balancer.totals().active, limit as u64);
        std::thread::scope(|scope| {
            for first in waiting {
                let (balancer, served) = (&balancer, &served);
                scope.spawn(move || {
                    let later = (1..ROUNDS).map(|_| balancer.client());
                    for client in std::iter::once(first).chain(later) {
                        client.echo(b"patient").unwrap();
                        served.begin();
                        served.end(1);
                        client.finish().unwrap();
                    }
                });
            }
            for client in all {
                served.end(1);
                client.finish().unwrap();
            }
        });
        let most = served.most.load(Ordering::SeqCst);
        assert_eq!(most, limit as u64, "at once");
        let totals = balancer.finish();
        let accepted = (limit + WAITING * ROUNDS) as u64;
        assert_eq!((totals.denied_sum(), totals.accepted), (0, accepted), "{limit}");
    }
}

/// At rest the limit can be looked at: of 30 more that stay, exactly as many are served.
#[test]
fn exactly_the_limit_is_served_of_a_crowd_that_stays() {
    [20, 64, 80].into_iter().for_each(assert_exactly_served);
}

#[track_caller]
fn assert_exactly_served(limit: usize) {
    let only = backend().echo().start();
    let balancer = balancer().runtime(&format!("max_connections: {limit}")).backends([&only]).start();
    let crowd: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..limit + 30)
            .map(|_| {
                scope.spawn(|| {
                    let client = Client::connect(balancer.address()).ok()?;
                    client.echo(b"x").is_ok().then_some(client)
                })
            })
            .collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    let served = (crowd.len(), balancer.totals().denied_sum(), only.open());
    assert_eq!(served, (limit, 30, limit as u64));
    assert_eq!(balancer.in_flight(), [limit as u32]);
}

/// 64 buffers of 1 KiB for 120 busy sessions. Each takes four descriptors, and others run beside it within 1,024.
#[test]
fn sessions_without_buffers_lose_nothing() {
    const LENGTH: usize = 40_000;
    const SESSIONS: u64 = 120;
    let only = backend().echo().start();
    let balancer = balancer()
        .one_shard()
        .runtime("relay: {buffer_size: 1KiB, buffers_per_core: 64}")
        .backends([&only])
        .start();
    std::thread::scope(|scope| {
        for seed in 0..SESSIONS {
            let client = balancer.client();
            let balancer = &balancer;
            scope.spawn(move || {
                let bytes = Stream::new(seed).head(LENGTH);
                std::thread::scope(|scope| {
                    scope.spawn(|| client.send(&bytes).and_then(|()| client.end()).unwrap());
                    let (received, end) = client.receive_all();
                    let whole = end.is_ok() && received == bytes;
                    let totals = || balancer.totals();
                    assert!(whole, "{} of {LENGTH} bytes, {end:?}, {:?}", received.len(), totals());
                });
            });
        }
    });
    balancer.await_closed(CloseReason::Normal, SESSIONS);
    assert_eq!(only.received(), SESSIONS * LENGTH as u64);
}

/// Descriptors are used again at once while sends and receives of their last owners are still being
/// cancelled.
#[test]
fn descriptors_used_again_at_once_carry_no_bytes_of_others() {
    let only = backend().echo().start();
    let balancer = balancer().backends([&only]).start();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let balancer = &balancer;
            scope.spawn(move || {
                let stream = Stream::new(thread);
                for round in 0..150_usize {
                    let doomed = balancer.client();
                    doomed.send(&stream.head(60_000)).unwrap();
                    doomed.reset();
                    let client = balancer.client();
                    client.echo(&stream.head(1 + round * 311 % 30_000)).unwrap();
                    client.finish().unwrap();
                }
            });
        }
    });
    eventually("no session is left", || balancer.status().open_sessions() == 0);
    assert!(balancer.closed(CloseReason::Normal) == 600, "{:?}", balancer.totals());
}

/// As many as fill the buffers have said a byte and wait for a permit of the backend.
#[test]
fn waiting_clients_take_no_buffers_from_open_sessions() {
    let _crowd = crowd();
    let only = backend().echo().start();
    let balancer = balancer()
        .one_shard()
        .runtime("relay: {buffers_per_core: 64}")
        .entry(&format!("{}, max_connections: 1", only.entry()))
        .upstream("queue: {max: 200, timeout: 20s}")
        .start();
    let open = balancer.echoing_client();
    let crowd: Vec<_> = (0..100).map(|_| balancer.client()).collect();
    crowd.iter().for_each(|client| client.send(b"x").unwrap());
    eventually("all wait", || balancer.status().upstreams[0].waiting == crowd.len());
    open.set_patience(Duration::from_secs(5));
    (0..100).for_each(|_| open.echo(b"still here").unwrap());
    open.finish().unwrap();
}

/// As many as fill the buffers have sent a part of what is wanted at the door, in two segments.
#[test]
fn clients_at_the_door_take_no_buffers_from_open_sessions() {
    const FIRST: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x0f\xff";
    let _crowd = crowd();
    let only = backend().echo().start();
    let header = "proxy_protocol: {accept: required, trusted: [any]}".to_owned();
    let route = "sni: {routes: [{match: a.example, upstream: u}]}".to_owned();
    for (door, first) in [
        (header, FIRST),
        (route, b"\x16\x03\x01\x02\x00\x01\x00"),
        (AUTHORITY.listener(""), b"\x16\x03\x01\x02\x00\x01\x00"),
    ] {
        let (open_port, door_port) = (Reserved::at(V4), Reserved::at(V4));
        let yaml = format!(
            "{NO_ADMIN}runtime: {{cores: 1, relay: {{buffers_per_core: 64}}}}\nlisteners:\n\
             - {{name: open, address: '{}', upstream: u}}\n- {{name: door, address: '{}', upstream: u, {door}}}\n\
             upstreams: [{{name: u, backends: [{{{}}}]}}]\n",
            open_port.address(),
            door_port.address(),
            only.entry()
        );
        let _balancer = Balancer::of(&yaml, None, true);
        let open = Client::connect(open_port.address()).unwrap();
        open.echo(b"open").unwrap();
        let crowd: Vec<_> = (0..100).map(|_| Client::connect(door_port.address()).unwrap()).collect();
        // What came before an echo, the shard has looked at when that is back.
        for part in [first, b"\x01"] {
            crowd.iter().for_each(|client| client.send(part).unwrap());
            open.set_patience(Duration::from_secs(5));
            (0..100).for_each(|_| open.echo(b"still here").unwrap_or_else(|error| panic!("{door}: {error}")));
        }
        open.finish().unwrap();
    }
}
