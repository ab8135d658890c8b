//! Set-up: the binary under a service manager. Claim: it is told each step of the process's life, in order and once.

use sd_notify::NotifyState;

use crate::support::{ServiceManager, backend, process};

#[test]
fn start_and_stop_are_told_once_and_in_order() {
    let (only, manager) = (backend().echo().start(), ServiceManager::start());
    let mut process = manager.manages(process().backends([&only])).start();
    assert_eq!(manager.told(), "READY=1");
    process.signal(libc::SIGTERM);
    assert_eq!(process.exit().code(), Some(0));
    assert_eq!(manager.told(), "STOPPING=1");
    assert!(manager.is_done());
}

#[test]
fn reload_is_told_with_its_time_and_its_end() {
    let (only, manager) = (backend().echo().start(), ServiceManager::start());
    let mut process = manager.manages(process().backends([&only])).start();
    assert_eq!(manager.told(), "READY=1");
    for _ in 0..2 {
        let before = monotonic_micros();
        process.signal(libc::SIGHUP);
        let told = manager.told();
        let micros = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&told).parse::<i128>().unwrap();
        assert!((before..=monotonic_micros()).contains(&micros), "{told}");
        assert_eq!(manager.told(), "READY=1");
    }
    process.signal(libc::SIGTERM);
    assert_eq!(process.exit().code(), Some(0));
    assert_eq!(manager.told(), "STOPPING=1");
    assert!(manager.is_done());
}

/// The clock that systemd compares with.
fn monotonic_micros() -> i128 {
    let NotifyState::MonotonicUsec(micros) = NotifyState::monotonic_usec_now().unwrap() else {
        unreachable!()
    };
    micros
}
