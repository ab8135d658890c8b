//! Set-up: sessions of listeners with a limit on their bytes, and peers that send and read as fast as they can. Claim:
//! each direction of each session moves its rate, never more, copied or spliced, byte for byte; and waiting costs no
//! processor time, ends no session, and delays neither ends nor resets nor other sessions.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringway::base::CloseReason;

use crate::support::{
    Backend, Balancer, Client, PATIENCE, Stream, backend, both_ways, crowd, is_reset, process,
};

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * KIB;

/// What a direction may move at once after a pause, as time of its rate.
const BURST: f64 = 0.040;

/// Measures a direction that moves this many seconds of its rate.
const LENGTH: f64 = 1.2;

fn bandwidth(to_backend: &str, to_client: &str) -> String {
    format!("bandwidth: {{to_backend: {to_backend}, to_client: {to_client}}}")
}

/// A backend that sends so many bytes, and notes when as many as `expected` had come.
fn both_at_once(to_backend: usize, to_client: usize, ends: Sender<Instant>) -> Backend {
    let ends = Mutex::new(ends);
    let serve = move |connection: &mut crate::support::Connection| {
        let sender = connection.clone();
        std::thread::scope(|scope| {
            let sending = scope.spawn(move || sender.send(&Stream::new(2).head(to_client)));
            let received = connection.receive_exact(to_backend)?;
            ends.lock().unwrap().send(Instant::now()).unwrap();
            assert!(Stream::new(1).matches(0, &received));
            sending.join().unwrap()
        })
    };
    backend().serve(serve).start()
}

/// Returns how long both directions of one session took.
fn measure(balancer: &Balancer, (to_backend, to_client): (usize, usize), ends: &Ends) -> (f64, f64) {
    let (sent, expected) = (Stream::new(1).head(to_backend), Stream::new(2));
    let begin = Instant::now();
    let client = balancer.client();
    let client_end = std::thread::scope(|scope| {
        scope.spawn(|| client.send(&sent).unwrap());
        let received = client.receive_exact(to_client).unwrap();
        let end = Instant::now();
        assert!(expected.matches(0, &received));
        end
    });
    let backend_end = ends.recv_timeout(PATIENCE).unwrap();
    client.finish().unwrap();
    ((backend_end - begin).as_secs_f64(), (client_end - begin).as_secs_f64())
}

type Ends = std::sync::mpsc::Receiver<Instant>;

/// No rate is ever above the limit. On a machine with other work it may be below; so one of a few measurements has to
/// be within 5 % in each direction.
fn assert_rates((to_backend, backend_rate): (&str, f64), (to_client, client_rate): (&str, f64)) {
    for (builder, splices) in both_ways("") {
        let lengths = ((backend_rate * LENGTH) as usize, (client_rate * LENGTH) as usize);
        let (sender, ends) = channel();
        let backend = both_at_once(lengths.0, lengths.1, sender);
        let balancer = builder.listener(&bandwidth(to_backend, to_client)).backends([&backend]).start();
        let mut best = (f64::MAX, f64::MAX);
        for _ in 0..8 {
            let took = measure(&balancer, lengths, &ends);
            for took in [took.0, took.1] {
                assert!(took >= LENGTH - BURST - 1e-3, "{took} s for {LENGTH} s of the rate");
            }
            best = (best.0.min(took.0), best.1.min(took.1));
            if best.0.max(best.1) <= LENGTH * 1.05 {
                break;
            }
        }
        println!(
            "{to_backend}, {to_client}, spliced: {splices}: {:.4}, {:.4}",
            LENGTH / best.0,
            LENGTH / best.1
        );
        assert!(best.0.max(best.1) <= LENGTH * 1.05, "{best:?} s for {LENGTH} s of the rates");
        // The slow ones are copied in any case.
        let spliced = balancer.spliced();
        assert_eq!(
            (spliced.0 > 0, spliced.1 > 0),
            (splices && backend_rate > 4.0 * MIB, splices && client_rate > 4.0 * MIB)
        );
        balancer.await_closed(CloseReason::Normal, balancer.totals().closed_with(CloseReason::Normal));
    }
}

#[test]
fn slow_and_middle_rates_are_kept_in_both_directions_at_once() {
    assert_rates(("64KiB/s", 64.0 * KIB), ("1MiB/s", MIB));
}

#[test]
fn middle_and_fast_rates_are_kept_in_both_directions_at_once() {
    assert_rates(("1MiB/s", MIB), ("100MiB/s", 100.0 * MIB));
}

#[test]
fn fast_and_slow_rates_are_kept_in_both_directions_at_once() {
    assert_rates(("20MiB/s", 20.0 * MIB), ("64KiB/s", 64.0 * KIB));
}

#[test]
fn direction_without_a_limit_is_not_held_up_by_the_other_one() {
    for (builder, _) in both_ways("") {
        let (sender, ends) = channel();
        let lengths = (64 << 10, 64 << 20);
        let backend = both_at_once(lengths.0, lengths.1, sender);
        let balancer = builder.listener(&bandwidth("64KiB/s", "off")).backends([&backend]).start();
        let took = measure(&balancer, lengths, &ends);
        assert!(took.0 >= 0.9 && took.1 < took.0, "{took:?} s");
    }
}

/// A task that looks again and again would take a second in each second.
#[test]
fn waiting_for_the_rate_takes_no_processor_time() {
    const SESSIONS: usize = 4;
    for splice in ["auto", "off"] {
        let backend = backend().echo().start();
        let process = process()
            .runtime(&format!("relay: {{splice: {splice}}}"))
            .listener(&bandwidth("8MiB/s", "256KiB/s"))
            .backends([&backend])
            .start();
        let clients: Vec<_> = (0..SESSIONS).map(|_| process.client()).collect();
        let before = process.processor_time();
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for client in &clients {
                scope.spawn(|| client.send(&Stream::new(1).head(512 << 10)).unwrap());
                scope.spawn(|| assert!(Stream::new(1).matches(0, &client.receive_exact(512 << 10).unwrap())));
            }
        });
        let (used, took) = (process.processor_time() - before, begin.elapsed());
        println!("{used:?} of processor time in {took:?}");
        assert!(took >= Duration::from_millis(1_900), "{took:?}");
        assert!(used < took / 4, "{used:?} in {took:?}");
    }
}

/// Its limits on silence are shorter than the time that its bytes wait.
#[test]
fn end_is_passed_on_behind_bytes_that_had_to_wait() {
    for (builder, _) in both_ways("") {
        let stream = Stream::new(5);
        let backend = backend()
            .serve(|connection| {
                let mut received = Vec::new();
                let mut buffer = [0; 64 << 10];
                while let count @ 1.. = connection.receive(&mut buffer)? {
                    received.extend_from_slice(&buffer[..count]);
                }
                connection.send(&received)?;
                connection.end()
            })
            .start();
        let balancer = builder
            .listener(&bandwidth("64KiB/s", "128KiB/s"))
            .listener("timeouts: {client_idle: 200ms, half_close: 400ms}")
            .backends([&backend])
            .start();
        let client = balancer.client();
        let begin = Instant::now();
        client.send(&stream.head(48 << 10)).unwrap();
        client.end().unwrap();
        let (received, end) = client.receive_all();
        end.unwrap();
        assert!(received.len() == 48 << 10 && stream.matches(0, &received));
        assert!(begin.elapsed() >= Duration::from_millis(1_000), "{:?}", begin.elapsed());
        balancer.await_closed(CloseReason::Normal, 1);
    }
}

#[test]
fn reset_is_passed_on_behind_bytes_that_had_to_wait() {
    for (builder, _) in both_ways("") {
        let (sender, ends) = channel();
        let sender = Mutex::new(sender);
        let backend = backend()
            .serve(move |connection| {
                let mut received = Vec::new();
                let mut buffer = [0; 64 << 10];
                let error = loop {
                    match connection.receive(&mut buffer) {
                        Ok(0) => break None,
                        Ok(count) => received.extend_from_slice(&buffer[..count]),
                        Err(error) => break Some(error),
                    }
                };
                sender.lock().unwrap().send((received, error)).unwrap();
                Ok(())
            })
            .start();
        let balancer = builder.listener(&bandwidth("64KiB/s", "off")).backends([&backend]).start();
        let client = balancer.client();
        let stream = Stream::new(6);
        client.send(&stream.head(24 << 10)).unwrap();
        let begin = Instant::now();
        client.reset();
        let (received, error) = ends.recv_timeout(PATIENCE).unwrap();
        assert!(received.len() == 24 << 10 && stream.matches(0, &received), "{} bytes", received.len());
        assert!(error.as_ref().is_some_and(is_reset), "{error:?}");
        assert!(begin.elapsed() >= Duration::from_millis(250), "{:?}", begin.elapsed());
        balancer.await_closed(CloseReason::ClientReset, 1);
    }
}

/// What is left to send would take minutes.
#[test]
fn reset_of_the_receiver_ends_a_session_whose_bytes_wait() {
    for (builder, _) in both_ways("") {
        let backend = backend()
            .serve(|connection| {
                connection.receive_exact(16 << 10)?;
                connection.reset();
                Ok(())
            })
            .start();
        let balancer = builder.listener(&bandwidth("64KiB/s", "64KiB/s")).backends([&backend]).start();
        let client = balancer.client();
        // The kernel tells of the reset once: whichever call is first.
        let ends = std::thread::scope(|scope| {
            let sending = scope.spawn(|| client.send(&vec![b'x'; 16 << 20]));
            [client.receive_all().1, sending.join().unwrap()]
        });
        assert!(ends.iter().flat_map(|end| end.as_ref().err()).any(is_reset), "{ends:?}");
        balancer.await_closed(CloseReason::BackendReset, 1);
    }
}

/// What a session may not move yet waits at its sender.
#[test]
fn bytes_that_wait_are_not_received() {
    let _crowd = crowd();
    for (builder, _) in both_ways("buffers_per_core: 64") {
        let backend = backend().echo().start();
        let balancer = builder.listener(&bandwidth("16KiB/s", "off")).backends([&backend]).start();
        let clients: Vec<_> = (0..100).map(|_| balancer.client()).collect();
        for client in &clients {
            client.send(&vec![b'x'; 32 << 10]).unwrap();
        }
        // Each would hold two of the buffers otherwise.
        let healthy = balancer.client();
        let begin = Instant::now();
        healthy.echo(b"hello").unwrap();
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
        // What they have sent comes first.
        clients.into_iter().for_each(Client::reset);
        balancer.await_closed(CloseReason::ClientReset, 100);
    }
}

#[test]
fn many_sessions_have_their_rates_beside_a_quick_one() {
    const SESSIONS: usize = 50;
    for (builder, _) in both_ways("") {
        let stream = Arc::new(Stream::new(7));
        let backend = backend().echo().start();
        let balancer = builder.listener(&bandwidth("512KiB/s", "256KiB/s")).backends([&backend]).start();
        let quick = balancer.echoing_client();
        let begin = Instant::now();
        let length = 256 << 10;
        std::thread::scope(|scope| {
            for _ in 0..SESSIONS {
                let (client, stream) = (balancer.client(), &stream);
                scope.spawn(move || {
                    std::thread::scope(|scope| {
                        scope.spawn(|| client.send(&stream.head(length)).unwrap());
                        assert!(stream.matches(0, &client.receive_exact(length).unwrap()));
                    });
                    let took = begin.elapsed().as_secs_f64();
                    assert!((0.95..3.0).contains(&took), "{took} s for a second of the rate");
                    client.finish().unwrap();
                });
            }
            let mut longest = Duration::ZERO;
            while begin.elapsed() < Duration::from_millis(800) {
                let begin = Instant::now();
                quick.echo(b"ping").unwrap();
                longest = longest.max(begin.elapsed());
            }
            assert!(longest < Duration::from_millis(500), "{longest:?}");
        });
    }
}
