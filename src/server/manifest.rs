//! What a process tells the one that replaces it: a sealed memory file, whose descriptor an environment variable names.
//!
//! The two may be of different versions, and either may be the newer one. So a field that the reader does not know is ignored,
//! one that is missing has a default, and no field ever changes its meaning.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};
use serde::{Deserialize, Serialize};

use crate::config::Overlay;
use crate::tls::{HandedTickets, Tickets};

/// The environment variable with the number of the descriptor.
pub(super) const VARIABLE: &str = "RINGWAY_UPGRADE";

/// What the new process says once it listens and its backends have verdicts; behind it as JSON, and with the end of the line,
/// the addresses of handed sockets that it does not use.
pub(super) const READY: &str = "ready ";
/// What the new process says before the reason why it does not start.
pub(super) const REFUSED: &str = "refused: ";
/// What the old process says when everything is the new one's.
pub(super) const SERVE: &str = "serve\n";

/// See the module documentation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Manifest {
    /// The version of this format: 1.
    pub(super) version: u32,
    /// The old process.
    pub(super) pid: u32,
    /// The descriptor of a socket to the old process.
    pub(super) link: RawFd,
    /// The descriptor of what the old process has as its standard error stream.
    pub(super) stderr: RawFd,
    pub(super) sockets: Vec<HandedSocket>,
    /// The generation of the configuration that the old process runs.
    pub(super) generation: u64,
    /// Changes at run time, beside the file.
    pub(super) overlay: serde_json::Value,
    /// How many upgrades have led to the old process.
    pub(super) upgrades: u64,
    /// What the old process knows of its backends.
    pub(super) health: Vec<KnownBackend>,
    /// With which clients of TLS resume their sessions; secret.
    pub(super) tickets: HandedTickets,
}

/// What a process has that goes on in its successor, sockets aside.
#[derive(Clone, Debug, Default)]
pub struct Left {
    /// Changes at run time, beside the file.
    pub(super) overlay: serde_json::Value,
    /// How many upgrades have led to the new process.
    pub(super) upgrades: u64,
    /// With which clients of TLS resume their sessions.
    pub(super) tickets: HandedTickets,
}

impl Left {
    /// Returns the tickets that this process goes on with; new ones without a predecessor, or if that has none.
    pub(super) fn tickets(&self) -> Arc<Tickets> {
        Tickets::inherit(&self.tickets).map_or_else(Arc::default, Arc::new)
    }

    /// Returns the changes at run time. A process of another version may have some that this one cannot read: they are
    /// lost, with a warning.
    pub(super) fn overlay(&self) -> Overlay {
        if self.overlay.is_null() {
            return Overlay::default();
        }
        serde_json::from_value(self.overlay.clone()).unwrap_or_else(|error| {
            let cause = error.to_string();
            log::warn!(
                "the changes at run time of the old process are lost: this version cannot read them ({cause}); make them \
                 again, or write them into the file"
            );
            Overlay::default()
        })
    }
}

/// A listening socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct HandedSocket {
    pub(super) descriptor: RawFd,
    /// The listener, or `admin`.
    pub(super) listener: String,
    /// As a listener would be written.
    pub(super) address: String,
    /// `tcp` or `unix`.
    pub(super) kind: String,
    /// The shard that had it.
    pub(super) shard: usize,
    /// Whether its file is removed when the new process ends.
    pub(super) owns_file: bool,
}

/// A backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct KnownBackend {
    pub(super) upstream: String,
    pub(super) backend: String,
    /// As `ringway ctl backends` shows it.
    pub(super) state: String,
}

impl Manifest {
    /// The version that this binary writes.
    pub(super) const VERSION: u32 = 1;

    /// Returns a memory file with the manifest, which nobody can change any more.
    pub(super) fn seal(&self) -> io::Result<OwnedFd> {
        let memory =
            rustix::fs::memfd_create("ringway-upgrade", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let mut file = File::from(memory);
        file.write_all(&serde_json::to_vec(self)?)?;
        rustix::fs::fcntl_add_seals(&file, sealed())?;
        Ok(file.into())
    }

    /// Reads a manifest.
    ///
    /// # Errors
    ///
    /// The descriptor is something else.
    pub(super) fn read(memory: OwnedFd) -> io::Result<Self> {
        if !rustix::fs::fcntl_get_seals(&memory)?.contains(sealed()) {
            return Err(io::Error::other("it is not sealed"));
        }
        let (mut file, mut text) = (File::from(memory), Vec::new());
        file.rewind()?;
        file.read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }
}

fn sealed() -> SealFlags {
    SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifest_is_read_as_it_was_written() {
        let socket = HandedSocket { descriptor: 7, listener: "web".to_owned(), ..HandedSocket::default() };
        let tickets = Tickets::default().hand_on();
        let manifest =
            Manifest { version: 1, generation: 4, sockets: vec![socket], tickets, ..Manifest::default() };
        let read = Manifest::read(manifest.seal().unwrap()).unwrap();
        assert_eq!(read, manifest);
        let left = Left { tickets: read.tickets, ..Left::default() };
        assert!(left.tickets().hand_on() == manifest.tickets, "the same secret");
        let without = Left::default();
        assert!(without.tickets().hand_on() != without.tickets().hand_on(), "secrets of their own");
    }

    #[test]
    fn newer_and_older_manifests_are_read() {
        let newer =
            r#"{"version": 9, "pid": 3, "more": [1], "sockets": [{"descriptor": 5, "colour": "red"}]}"#;
        let read: Manifest = serde_json::from_str(newer).unwrap();
        assert_eq!((read.version, read.pid, read.sockets[0].descriptor), (9, 3, 5));
        assert_eq!(serde_json::from_str::<Manifest>("{}").unwrap(), Manifest::default());
    }

    #[test]
    fn changes_that_cannot_be_read_are_none() {
        assert_eq!(Left::default().overlay(), Overlay::default());
        let strange = Left { overlay: serde_json::json!({"upstreams": 7}), ..Left::default() };
        assert_eq!(strange.overlay(), Overlay::default());
    }

    #[test]
    fn what_is_not_sealed_is_refused() {
        let file = tempfile::tempfile().unwrap();
        assert!(Manifest::read(file.into()).is_err());
        let open = rustix::fs::memfd_create("open", MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(Manifest::read(open).unwrap_err().to_string().contains("not sealed"));
    }
}
