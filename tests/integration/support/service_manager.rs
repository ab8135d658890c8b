//! A service manager, as systemd is one: sd_notify(3).

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use tempfile::TempDir;

use super::{PATIENCE, ProcessBuilder};

/// Hears what a process tells it.
pub struct ServiceManager {
    told: UnixDatagram,
    folder: TempDir,
}

impl ServiceManager {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let told = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        Self { told, folder }
    }

    /// Has a process tell it.
    pub fn manages(&self, process: ProcessBuilder) -> ProcessBuilder {
        process.environment("NOTIFY_SOCKET", self.folder.path().join("notify").to_str().unwrap())
    }

    /// The next thing that it is told, if it comes in time; several lines are one thing.
    pub fn next(&self, patience: Duration) -> Option<String> {
        self.told.set_read_timeout(Some(patience)).unwrap();
        let mut buffer = [0; 1024];
        let length = self.told.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).trim().to_owned())
    }

    /// Waits until it is told this.
    #[track_caller]
    pub fn wait(&self, what: &str) {
        assert!(std::iter::from_fn(|| self.next(PATIENCE)).any(|told| told == what), "{what}");
    }

    /// The next thing that it is told.
    #[track_caller]
    pub fn told(&self) -> String {
        self.next(PATIENCE).expect("it is told something")
    }

    /// Whether it was told everything already.
    pub fn is_done(&self) -> bool {
        self.next(Duration::from_millis(1)).is_none()
    }
}
