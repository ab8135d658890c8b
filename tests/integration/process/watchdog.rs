//! Set-up: the binary under a service manager that wants signs of life, one of whose shards is stopped as a debugger
//! stops a thread. Claim: the signs end with it and come back with it; who stays away takes the process along.

use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use crate::support::{Backend, PATIENCE, Process, StoppedThread, backend, eventually, holds_within, process};

/// A service manager, and what it starts.
struct Managed {
    process: Process,
    told: UnixDatagram,
    _folder: tempfile::TempDir,
    _backend: Backend,
}

impl Managed {
    fn start() -> Self {
        let (only, folder) = (backend().echo().start(), tempfile::tempdir().unwrap());
        let path = folder.path().join("notify");
        let told = UnixDatagram::bind(&path).unwrap();
        told.set_read_timeout(Some(PATIENCE)).unwrap();
        let process = process()
            .backends([&only])
            .environment("NOTIFY_SOCKET", path.to_str().unwrap())
            .environment("WATCHDOG_USEC", "1500000")
            .start();
        Self { process, told, _folder: folder, _backend: only }
    }

    /// The next thing that it is told, if it comes in time.
    fn next(&self, patience: Duration) -> Option<String> {
        self.told.set_read_timeout(Some(patience)).unwrap();
        let mut buffer = [0; 256];
        let length = self.told.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).trim().to_owned())
    }

    /// Waits until it is told this.
    #[track_caller]
    fn wait(&self, what: &str) {
        assert!(std::iter::from_fn(|| self.next(PATIENCE)).any(|told| told == what), "{what}");
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
    managed.wait("READY=1");
    managed.wait("WATCHDOG=1");
    let stopped = managed.stop_shard();
    eventually("a report", || managed.says("shard 0 on CPU") && managed.says("has not moved for 1s"));
    // Of the time before.
    while managed.next(Duration::from_millis(1)).is_some() {}
    assert_eq!(managed.next(Duration::from_millis(1_500)), None, "it lives");
    drop(stopped);
    managed.wait("WATCHDOG=1");
    eventually("it goes on", || managed.says("goes on after"));
    managed.process.echoing_client().finish().unwrap();
    managed.process.signal(libc::SIGTERM);
    managed.wait("STOPPING=1");
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
