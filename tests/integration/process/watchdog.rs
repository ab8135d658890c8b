//! Set-up: the binary under a service manager that wants signs of life, one of whose shards is stopped as a debugger
//! stops a thread. Claim: the signs end with it and come back with it; who stays away takes the process along.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use crate::support::{
    Backend, Process, ServiceManager, StoppedThread, backend, eventually, holds_within, process,
};

/// A process that shall give signs of life, and who waits for them.
struct Managed {
    process: Process,
    manager: ServiceManager,
    _backend: Backend,
}

impl Managed {
    fn start() -> Self {
        let (only, manager) = (backend().echo().start(), ServiceManager::start());
        let process = process().backends([&only]);
        let process = manager.manages(process).environment("WATCHDOG_USEC", "1500000").start();
        Self { process, manager, _backend: only }
    }

    fn stop_shard(&self) -> StoppedThread {
        self.process.stop_thread("shard-0")
    }

    fn says(&self, what: &str) -> bool {
        self.process.log().contains(what)
    }
}

#[test]
fn signs_of_life_are_given_only_while_all_threads_live() {
    let mut managed = Managed::start();
    managed.manager.wait("READY=1");
    managed.manager.wait("WATCHDOG=1");
    let stopped = managed.stop_shard();
    eventually("a report", || managed.says("shard 0 on CPU") && managed.says("has not moved for 1s"));
    // Of the time before.
    while managed.manager.next(Duration::from_millis(1)).is_some() {}
    assert_eq!(managed.manager.next(Duration::from_millis(1_500)), None, "it lives");
    drop(stopped);
    managed.manager.wait("WATCHDOG=1");
    eventually("it goes on", || managed.says("goes on after"));
    managed.process.echoing_client().finish().unwrap();
    managed.process.signal(libc::SIGTERM);
    managed.manager.wait("STOPPING=1");
    assert_eq!(managed.process.exit().code(), Some(0));
}

#[test]
fn shard_that_stays_away_takes_the_process_along() {
    let mut managed = Managed::start();
    let stopped = managed.stop_shard();
    assert!(holds_within(Duration::from_secs(60), || managed.says("the process ends: shard 0 on CPU")));
    drop(stopped);
    assert_eq!(managed.process.exit().signal(), Some(libc::SIGABRT), "{}", managed.process.log());
    assert!(managed.says("has not moved for 30s"), "{}", managed.process.log());
}
