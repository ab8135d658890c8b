//! Set-up: one shard, a healthy session, and beside it many that misuse it: clients that do not read,
//! backends that do not read, bulk streams, thousands of connects. Claim: whichever way bytes are relayed,
//! the healthy one goes on, in bounded time, with few buffers and in bounded memory.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringway::base::CloseReason;

use crate::support::{
    Backend, Balancer, BalancerBuilder, Client, Connection, PATIENCE, Stream, backend, balancer, both_ways,
    crowd, eventually, has_descriptors, holds_within, in_own_network, process, receive_at_once, set_network,
};

/// A round trip of the healthy session, at worst. A test machine shares its CPUs with the other tests, so
/// this is a bound on starvation, not a measurement.
const ROUND_TRIP: Duration = Duration::from_secs(2);

/// What healthy sessions send.
static STREAM: LazyLock<Stream> = LazyLock::new(|| Stream::new(99));

/// Round trips of a healthy session: all exact, and none too late.
#[track_caller]
fn assert_healthy(client: &Client, rounds: usize) {
    for round in 0..rounds {
        let begin = Instant::now();
        client.echo(&STREAM.head(1 + round * 97 % 20_000)).unwrap();
        assert!(begin.elapsed() < ROUND_TRIP, "round {round} took {:?}", begin.elapsed());
    }
}

/// What a session may hold beside what is in the kernel: in each direction what one receive brings, and as
/// much that is being sent.
const SESSION_BYTES: usize = 2 * 2 * (64 << 10);

/// Few buffers: far fewer than a thousand sessions could hold.
const NARROW: &str = "buffers_per_core: 256";

/// On loopback the delivery of what a client sent before it reset can hang for half a minute: a full receive
/// queue drops segments (TcpExtTCPRcvQDrop), and their retransmission backs off. This bounds it.
const BOUNDED_END: &str = "timeouts: {half_close: 1s}";

/// Whether bulk went the way that was wanted.
#[track_caller]
fn assert_way(balancer: &Balancer, splices: bool) {
    assert_eq!(balancer.spliced() != (0, 0), splices, "{:?} bytes were spliced", balancer.spliced());
}

/// What begins a flood instead of an echo.
const FLOOD: &[u8] = b"!";

/// A backend that echoes; a client that begins with [`FLOOD`] gets bytes without end, and is not listened to.
fn echo_or_flood() -> Backend {
    let flood_or_echo = |connection: &mut Connection| {
        let first = connection.receive_exact(1)?;
        if first != FLOOD {
            return connection.send(&first).and_then(|()| connection.echo());
        }
        let piece = [b'x'; 64 << 10];
        loop {
            connection.send(&piece)?;
        }
    };
    backend().serve(flood_or_echo).start()
}

/// Clients that send much and never read what comes back: echo or flood fills every buffer on the way. The
/// flood, which is bulk, is for the first ones alone.
fn deaf_clients(address: SocketAddr, count: usize) -> Vec<Client> {
    let deaf: Vec<_> = (0..count).map(|_| Client::connect_small(address).unwrap()).collect();
    deaf.iter().take(20).for_each(|client| client.send(FLOOD).unwrap());
    // Each gets far before everything on its way is full; the last ones find what the first ones left.
    let silence = Duration::from_millis(if count > 100 { 1 } else { 30 });
    for client in &deaf {
        client.send_until_full(silence);
    }
    deaf
}

/// Runs a test in a network whose sockets have short queues. The kernel has one memory for all of TCP
/// (`net.ipv4.tcp_mem`); what many clients that do not read leave there would use it up, and then it resets
/// connections of whatever test runs beside.
fn with_short_queues(test: impl FnOnce() + Send) {
    in_own_network(|| {
        set_network("ipv4/tcp_rmem", "4096 131072 262144");
        set_network("ipv4/tcp_wmem", "4096 16384 262144");
        test();
    });
}

/// A healthy session, and one that begins later, beside so many clients that do not read.
fn assert_healthy_beside_deaf_clients(count: usize, ways: impl IntoIterator<Item = (BalancerBuilder, bool)>) {
    for (builder, splices) in ways {
        let only = echo_or_flood();
        let balancer = builder.listener(BOUNDED_END).backends([&only]).start();
        let healthy = balancer.echoing_client();
        let deaf = deaf_clients(balancer.address(), count);
        assert_healthy(&healthy, 200);
        let late = balancer.echoing_client();
        assert_healthy(&late, 50);
        assert_way(&balancer, splices);
        late.finish().unwrap();
        deaf.into_iter().for_each(Client::reset);
        assert_healthy(&healthy, 50);
        healthy.finish().unwrap();
        assert!(holds_within(3 * PATIENCE, || only.open() == 0), "the backends of the others end");
    }
}

#[test]
fn client_that_does_not_read_leaves_a_healthy_session_alone() {
    assert_healthy_beside_deaf_clients(1, both_ways(NARROW));
}

#[test]
fn sixty_clients_that_do_not_read_leave_a_healthy_session_alone() {
    with_short_queues(|| assert_healthy_beside_deaf_clients(60, both_ways(NARROW)));
}

/// In one way alone, as it takes its time.
#[test]
fn thousand_clients_that_do_not_read_leave_a_healthy_session_alone() {
    if !has_descriptors(5_000) {
        return;
    }
    with_short_queues(|| {
        let [spliced, _] = both_ways(NARROW);
        assert_healthy_beside_deaf_clients(1_000, [spliced]);
    });
}

#[test]
fn memory_that_clients_which_do_not_read_hold_is_bounded() {
    if has_descriptors(2_000) {
        with_short_queues(assert_memory_is_bounded);
    }
}

fn assert_memory_is_bounded() {
    const CLIENTS: usize = 200;
    for splice in ["auto", "off"] {
        let only = echo_or_flood();
        let relay = format!("relay: {{splice: {splice}, {NARROW}}}");
        let process = process().runtime(&relay).backends([&only]).start();
        let before = process.resident_bytes();
        let deaf = deaf_clients(process.address(), CLIENTS);
        assert_healthy(&process.echoing_client(), 50);
        let held = process.resident_bytes().saturating_sub(before);
        assert!(held < CLIENTS * SESSION_BYTES, "splice {splice}: {held} bytes");
        deaf.into_iter().for_each(Client::reset);
    }
}

/// Mirrored: here the clients send to backends that do not read.
#[test]
fn sixty_backends_that_do_not_read_leave_a_healthy_session_alone() {
    with_short_queues(assert_healthy_beside_deaf_backends);
}

fn assert_healthy_beside_deaf_backends() {
    let _crowd = crowd();
    for (builder, splices) in both_ways(NARROW) {
        let (mut deaf, well) = (backend().never_reads().start(), backend().echo().start());
        let balancer = builder.listener(BOUNDED_END).backends([&deaf, &well]).start();
        let clients: Vec<_> = (0..120).map(|_| balancer.client()).collect();
        eventually("all sessions stand", || balancer.in_flight() == [60, 60]);
        let before = balancer.totals().bytes_to_client;
        for client in &clients {
            client.send_until_full(Duration::from_millis(5));
        }
        // The kernel's buffers are full, and so is what the shard may hold of it. One of two backends echoes.
        let healthy = (0..2).find_map(|_| {
            let client = balancer.client();
            client.set_patience(ROUND_TRIP);
            client.echo(b"hello").is_ok().then_some(client)
        });
        assert_healthy(&healthy.expect("one of two in turn"), 200);
        assert!(balancer.totals().bytes_to_client > before);
        assert_way(&balancer, splices);
        clients.into_iter().for_each(Client::reset);
        deaf.stop();
    }
}

/// What such clients still say is for no backend, and is not held until they have read the last bytes of
/// their backend.
#[test]
fn unread_bytes_of_reset_backends_leave_a_healthy_session_its_buffers() {
    const FEW: &str = "buffers_per_core: 64";
    let directory = tempfile::tempdir().unwrap();
    for on_unix in [false, true] {
        for (builder, splices) in both_ways(FEW) {
            let reset_or_echo = |connection: &mut Connection| {
                let first = connection.receive_exact(1)?;
                if first != FLOOD {
                    return connection.send(&first).and_then(|()| connection.echo());
                }
                connection.send_until_full();
                connection.reset();
                Ok(())
            };
            let only = backend().name("only").serve(reset_or_echo);
            let path = directory.path().join(format!("{splices}"));
            let only = if on_unix { only.on_unix(path) } else { only }.start();
            let balancer = builder.backends([&only]).start();
            let healthy = balancer.echoing_client();
            let deaf: Vec<_> = (0..60).map(|_| Client::connect_small(balancer.address()).unwrap()).collect();
            deaf.iter().for_each(|client| client.send(FLOOD).unwrap());
            eventually("their backends are gone", || only.connections() == 61 && only.open() == 1);
            // More would be read, and thrown away, for as long as it comes.
            deaf.iter().for_each(|client| client.send(&[b'x'; 64 << 10]).unwrap());
            assert_healthy(&healthy, 50);
            deaf.into_iter().for_each(Client::reset);
            healthy.finish().unwrap();
        }
    }
}

/// What a deaf client did not read is not lost: once it reads, everything comes, in order.
#[test]
fn slow_reader_gets_everything_once_it_reads() {
    const LENGTH: usize = 8 << 20;
    for (builder, splices) in both_ways("buffers_per_core: 64") {
        let only = backend().source(Stream::new(1).head(LENGTH)).start();
        let balancer = builder.backends([&only]).start();
        let clients: Vec<_> = (0..40).map(|_| Client::connect_small(balancer.address()).unwrap()).collect();
        eventually("all sessions stand", || only.connections() == 40);
        receive_at_once(clients, &Stream::new(1), LENGTH);
        balancer.await_closed(CloseReason::Normal, 40);
        assert_way(&balancer, splices);
    }
}

/// Twenty bulk streams, of which one is read as fast as it comes and the others stay full.
#[test]
fn bulk_stream_leaves_a_thousand_small_sessions_their_turn() {
    if !has_descriptors(5_000) {
        return;
    }
    for (builder, splices) in both_ways("") {
        let mut only = echo_or_flood();
        let balancer = builder.backends([&only]).start();
        let readers: Vec<_> = (0..20).map(|_| balancer.client()).collect();
        readers.iter().for_each(|client| client.send(FLOOD).unwrap());
        let pings: Vec<_> = (0..1_000).map(|_| balancer.client()).collect();
        let reading = AtomicBool::new(true);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut buffer = vec![0; 1 << 20];
                while reading.load(Ordering::Relaxed) {
                    readers[0].receive(&mut buffer).unwrap();
                }
            });
            for client in &pings {
                assert_healthy(client, 1);
            }
            reading.store(false, Ordering::Relaxed);
        });
        assert_way(&balancer, splices);
        readers.into_iter().for_each(Client::reset);
        only.stop();
    }
}

/// A crowd that connects at once: it is served, and an open session goes on meanwhile.
#[test]
fn crowd_of_connects_leaves_an_open_session_its_turn() {
    if !has_descriptors(9_000) {
        return;
    }
    const CROWD: usize = 2_000;
    let only = backend().echo().start();
    let balancer = balancer().one_shard().backends([&only]).start();
    let healthy = balancer.echoing_client();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let crowd: Vec<_> = (0..CROWD).map(|_| Client::connect(balancer.address()).unwrap()).collect();
            crowd.iter().for_each(|client| client.send(b"x").unwrap());
            for client in crowd {
                assert_eq!(client.receive_exact(1).unwrap(), b"x");
                client.finish().unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            assert_healthy(&healthy, 1);
        }
    });
    healthy.finish().unwrap();
    balancer.await_closed(CloseReason::Normal, CROWD as u64 + 1);
}

/// Readers that stall use up all buffers and much of the heap; then there is no traffic at all.
#[test]
fn memory_of_a_burst_is_given_back_at_rest() {
    if !has_descriptors(2_000) {
        return;
    }
    const CLIENTS: usize = 500;
    let answer_or_echo = |connection: &mut Connection| match connection.receive_exact(1)?.as_slice() {
        b"!" => connection.send(&[b'x'; 256 << 10]),
        first => connection.send(first).and_then(|()| connection.echo()),
    };
    let only = backend().serve(answer_or_echo).start();
    let process = process().runtime("relay: {splice: off, buffers_per_core: 1024}").backends([&only]).start();
    let before = process.resident_bytes();
    let clients: Vec<_> = (0..CLIENTS).map(|_| Client::connect_small(process.address()).unwrap()).collect();
    clients.iter().for_each(|client| client.send(b"!").unwrap());
    eventually("the burst is there", || process.resident_bytes() > before + (8 << 20));
    clients.into_iter().for_each(Client::reset);
    let is_back = || process.resident_bytes() < before + (3 << 20);
    assert!(holds_within(Duration::from_secs(50), is_back), "{before}, then {}", process.resident_bytes());
}
