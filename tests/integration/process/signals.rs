//! Set-up: the binary in a process of its own, with open sessions, and a signal, a stop of the whole process,
//! or a restart. Claim: sessions go on for as long as they may, the exit status is as promised, a restart
//! serves within 1 s.

use std::time::Duration;

use crate::support::{Client, backend, crowd, eventually, is_reset, process, run_to_end, timed};

#[test]
fn term_ends_the_process_after_its_last_session() {
    let only = backend().echo().start();
    let mut process = process().backends([&only]).start();
    let clients: Vec<_> = (0..30).map(|_| process.echoing_client()).collect();
    process.signal(libc::SIGTERM);
    // Its count comes before the drain, and our own attempts to connect below are not in it.
    eventually("it drains", || process.log().contains("draining: 30 open sessions"));
    eventually("it accepts no more", || Client::connect(process.address()).is_err());
    for client in clients {
        client.echo(b"served to the end").unwrap();
        client.finish().unwrap();
    }
    assert_eq!(process.exit().code(), Some(0), "{}", process.log());
}

#[test]
fn int_and_quit_stop_like_term() {
    for signal in [libc::SIGINT, libc::SIGQUIT] {
        let only = backend().echo().start();
        let mut process = process().backends([&only]).runtime("shutdown_delay: 1h").start();
        process.echoing_client().finish().unwrap();
        // They skip the delay.
        process.signal(signal);
        assert_eq!(process.exit().code(), Some(0), "{}", process.log());
    }
}

#[test]
fn shutdown_delay_goes_on_accepting_after_term() {
    let only = backend().echo().start();
    let mut process = process().backends([&only]).runtime("shutdown_delay: 1h").start();
    process.signal(libc::SIGTERM);
    eventually("it has heard", || process.log().contains("stopping"));
    process.echoing_client().finish().unwrap();
    process.signal(libc::SIGTERM);
    assert_eq!(process.exit().code(), Some(0), "{}", process.log());
}

#[test]
fn sessions_open_at_the_deadline_are_reset() {
    let only = backend().echo().start();
    let mut process = process().backends([&only]).runtime("shutdown_timeout: 300ms").start();
    let client = process.echoing_client();
    process.signal(libc::SIGTERM);
    let (received, end) = client.receive_all();
    assert!(received.is_empty() && end.as_ref().is_err_and(is_reset), "{end:?}");
    process.exit();
    assert!(process.log().contains("closing 1 open session: runtime.shutdown_timeout"), "{}", process.log());
}

#[test]
fn exit_status_at_the_deadline_is_0() {
    let only = backend().echo().start();
    let mut process = process().backends([&only]).runtime("shutdown_timeout: 100ms").start();
    let _open = process.echoing_client();
    process.signal(libc::SIGTERM);
    assert_eq!(process.exit().code(), Some(0), "{}", process.log());
}

#[test]
fn second_term_stops_at_once() {
    let only = backend().echo().start();
    let mut process = process().backends([&only]).start();
    let client = process.echoing_client();
    process.signal(libc::SIGTERM);
    eventually("it drains", || process.log().contains("draining"));
    client.echo(b"still served").unwrap();
    process.signal(libc::SIGTERM);
    let took = timed(|| assert_eq!(process.exit().code(), Some(0)));
    assert!(took < Duration::from_secs(3), "{took:?}: {}", process.log());
    assert!(client.receive_all().1.is_err());
}

#[test]
fn killed_process_serves_within_a_second_after_its_restart() {
    let only = backend().echo().start();
    let mut process = process().backends([&only]).start();
    for _ in 0..3 {
        // Open sessions leave their connections behind, in states that hold the port.
        let clients: Vec<_> = (0..20).map(|_| process.echoing_client()).collect();
        let took = process.kill_and_restart();
        assert!(took < Duration::from_secs(1), "{took:?}: {}", process.log());
        drop(clients);
    }
}

/// A stop of the whole process is neither the sessions' fault nor the backends'.
#[test]
fn stopped_process_goes_on_without_a_false_verdict() {
    let backends = [backend().echo().start(), backend().echo().start()];
    let process = process()
        .backends(&backends)
        .check("interval: 100ms, fast_interval: 50ms, timeout: 1s, fall: 1")
        .start();
    let clients: Vec<_> = (0..20).map(|_| process.echoing_client()).collect();
    eventually("both are up", || process.log().matches("is up").count() == 2);
    process.signal(libc::SIGSTOP);
    // What is said meanwhile waits in the kernel.
    clients.iter().for_each(|client| client.send(b"meanwhile").unwrap());
    let late = process.client();
    late.send(b"late").unwrap();
    std::thread::sleep(Duration::from_secs(3));
    process.signal(libc::SIGCONT);
    for client in clients {
        assert_eq!(client.receive_exact(9).unwrap(), b"meanwhile");
        client.finish().unwrap();
    }
    assert_eq!(late.receive_exact(4).unwrap(), b"late");
    let checks = backends[0].connections();
    eventually("checks go on", || backends[0].connections() > checks + 5);
    assert!(!process.log().contains("is down"), "{}", process.log());
}

#[test]
fn hup_and_usr1_do_not_end_it() {
    let only = backend().echo().start();
    let mut process = process().backends([&only]).start();
    for signal in [libc::SIGHUP, libc::SIGUSR1] {
        process.signal(signal);
        process.echoing_client().finish().unwrap();
    }
    assert!(process.is_running());
}

#[test]
fn pid_file_lives_as_long_as_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pid");
    let only = backend().echo().start();
    let mut process =
        process().backends([&only]).argument("--pid-file").argument(path.to_str().unwrap()).start();
    assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), process.id().to_string());
    process.signal(libc::SIGTERM);
    assert_eq!(process.exit().code(), Some(0));
    assert!(!path.exists());
}

/// A client that gets through proves that signals can be sent.
#[test]
fn pid_file_is_there_before_the_first_session() {
    let folder = tempfile::tempdir().unwrap();
    let only = backend().echo().start();
    for round in 0..10 {
        let path = folder.path().join(round.to_string());
        // It waits for a session to get through, and no longer.
        let process =
            process().backends([&only]).argument("--pid-file").argument(path.to_str().unwrap()).start();
        assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), process.id().to_string());
    }
}

#[test]
fn every_end_has_a_last_line() {
    let only = backend().echo().start();
    for (timeout, signals, words) in [
        ("shutdown_timeout: 1h", 1, "stopped: every session has ended"),
        ("shutdown_timeout: 100ms", 1, "stopped: runtime.shutdown_timeout"),
        ("shutdown_timeout: 1h", 2, "stopped: a second signal"),
    ] {
        let mut process = process().backends([&only]).runtime(timeout).start();
        let open = (words != "stopped: every session has ended").then(|| process.echoing_client());
        for _ in 0..signals {
            let before = process.log().matches("TERM received").count();
            process.signal(libc::SIGTERM);
            eventually("it has heard", || process.log().matches("TERM received").count() > before);
        }
        assert_eq!(process.exit().code(), Some(0));
        let log = process.log();
        assert!(log.lines().last().unwrap().ends_with(words), "{words}: {log}");
        drop(open);
    }
}

#[test]
fn refused_second_instance_leaves_the_pid_file_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pid");
    let only = backend().echo().start();
    let process = process().backends([&only]).argument("--pid-file").argument(path.to_str().unwrap()).start();
    let output = run_to_end(&mut process.second());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), process.id().to_string());
}

/// Their bytes came while the process stood still, long before they would have been idle.
#[test]
fn sessions_in_use_outlive_a_stop_longer_than_their_idle_limit() {
    let _crowd = crowd();
    let only = backend().echo().start();
    let process = process().upstream("timeouts: {backend_idle: 3s}").backends([&only]).start();
    let clients: Vec<_> = (0..300).map(|_| process.echoing_client()).collect();
    process.freeze();
    clients.iter().for_each(|client| client.send(b"still here").unwrap());
    // Not to wait for something: so long is the freeze.
    std::thread::sleep(Duration::from_millis(3_500));
    process.signal(libc::SIGCONT);
    for client in &clients {
        assert_eq!(client.receive_exact(10).unwrap(), b"still here");
    }
    clients.into_iter().for_each(|client| client.finish().unwrap());
}
