//! Set-up: the binary in a process of its own, whose limit on descriptors is lowered while it runs. Claim:
//! without a descriptor no thread spins and no listener ends; open sessions go on; once there are
//! descriptors, it serves again.

use std::time::{Duration, Instant};

use crate::support::{Backend, Client, Process, backend, eventually, expect_reset, holds_within, process};

/// How long the processor time of the starving process is looked at.
const LOOK: Duration = Duration::from_millis(600);

/// A process with five open sessions and no descriptor left, and twenty clients that wait to be accepted.
fn starving(only: &Backend) -> (Process, Vec<Client>, Vec<Client>) {
    let process = process().backends([only]).start();
    let open: Vec<_> = (0..5).map(|_| process.echoing_client()).collect();
    eventually("nothing else is open", || only.open() == 5);
    process.await_rest();
    process.limit_descriptors(Some(0));
    let waiting: Vec<_> = (0..20).map(|_| process.client()).collect();
    waiting.iter().for_each(|client| client.send(b"hello").unwrap());
    (process, open, waiting)
}

#[test]
fn accepting_without_descriptors_does_not_spin() {
    let only = backend().echo().start();
    let (process, open, _waiting) = starving(&only);
    let (before, begin) = (process.processor_time(), Instant::now());
    while begin.elapsed() < LOOK {
        open.iter().for_each(|client| client.echo(b"open sessions go on").unwrap());
        std::thread::sleep(Duration::from_millis(20));
    }
    let used = process.processor_time() - before;
    assert!(used < LOOK / 3, "{used:?} of processor time in {:?}", begin.elapsed());
}

#[test]
fn clients_that_found_no_descriptor_are_served_once_there_is_one() {
    let only = backend().echo().start();
    let (process, open, waiting) = starving(&only);
    eventually("accepting has failed", || process.log().contains("accepting failed"));
    process.limit_descriptors(None);
    for client in waiting {
        assert_eq!(client.receive_exact(5).unwrap(), b"hello");
        client.finish().unwrap();
    }
    open.into_iter().for_each(|client| client.finish().unwrap());
    process.echoing_client().finish().unwrap();
    let log = process.log();
    assert!(log.matches("accepting failed").count() == 1, "said once, not for each try: {log}");
}

#[test]
fn connecting_without_a_descriptor_ends_that_session_alone() {
    let only = backend().echo().start();
    let process = process().backends([&only]).start();
    let open = process.echoing_client();
    eventually("nothing else is open", || only.open() == 1);
    process.await_rest();
    // One for the client of the next session, none for its backend.
    process.limit_descriptors(Some(1));
    for _ in 0..3 {
        expect_reset(process.address());
        open.echo(b"unharmed").unwrap();
    }
    process.limit_descriptors(None);
    let served = holds_within(Duration::from_secs(5), || {
        Client::connect(process.address()).is_ok_and(|client| client.echo(b"back").is_ok())
    });
    assert!(served, "{}", process.log());
    open.finish().unwrap();
    eventually("the log says what is missing", || process.log().contains("out of file descriptors"));
}
