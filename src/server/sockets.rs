//! What a server keeps of its listening sockets beside the shards, for a process that replaces it: a duplicate of each, and
//! the files of Unix sockets.
//!
//! A duplicate keeps a socket open after its shard has closed it. So whoever stops listening lets the duplicates go first.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::config::{ListenAddress, Listener};
use crate::control::lock;
use crate::net::{BoundTo, SocketFile};

/// Longest time that shards take to close the sockets of a listener that was removed (`shard::accept`).
const CLOSING: Duration = Duration::from_secs(3);

/// See the module documentation.
#[derive(Default)]
pub(super) struct Sockets {
    duplicates: Mutex<Vec<Duplicate>>,
    files: Mutex<Files>,
    /// Addresses whose sockets close, with the time since which they do.
    closing: Mutex<Vec<(ListenAddress, Instant)>>,
}

/// A duplicate of a listening socket.
pub(super) struct Duplicate {
    pub(super) fd: OwnedFd,
    /// The address of a listener; `None` for an endpoint of the admin API.
    address: Option<ListenAddress>,
    /// The listener, or `admin`.
    pub(super) listener: String,
    /// The first shard that has the socket.
    pub(super) shard: usize,
    /// Whether the file of a Unix socket goes with this process.
    pub(super) owns_file: bool,
}

#[derive(Default)]
struct Files {
    /// Removed together with the server, or with the listener on this address.
    used: Vec<(Option<ListenAddress>, SocketFile)>,
    /// What a predecessor listens on, and this process does not.
    unused: Vec<(BoundTo, Option<SocketFile>)>,
}

impl Sockets {
    /// Adds a socket, unless it is one that another shard has, too.
    pub(super) fn add(
        &self,
        socket: BorrowedFd<'_>,
        address: Option<&ListenAddress>,
        listener: &str,
        shard: usize,
        owns_file: bool,
    ) -> io::Result<()> {
        let mut duplicates = self.duplicates();
        let number = inode(socket)?;
        for known in duplicates.iter().filter(|known| known.listener == listener) {
            if inode(known.fd.as_fd())? == number {
                return Ok(());
            }
        }
        let fd = socket.try_clone_to_owned()?;
        let (address, listener) = (address.cloned(), listener.to_owned());
        duplicates.push(Duplicate { fd, address, listener, shard, owns_file });
        Ok(())
    }

    /// Returns how many sockets are on this address.
    pub(super) fn count(&self, address: &ListenAddress) -> usize {
        self.duplicates().iter().filter(|known| known.address.as_ref() == Some(address)).count()
    }

    /// Keeps the files of sockets on this address.
    pub(super) fn keep_files(
        &self,
        address: Option<&ListenAddress>,
        used: impl IntoIterator<Item = SocketFile>,
    ) {
        self.files().used.extend(used.into_iter().map(|file| (address.cloned(), file)));
    }

    /// Follows another configuration: lets go what is for addresses that no listener has any more, takes what is new,
    /// and names the listeners anew.
    pub(super) fn adopt(&self, listeners: &[Listener], new: Self) {
        let listener = |address: &ListenAddress| listeners.iter().find(|known| known.address == *address);
        let mut duplicates = self.duplicates();
        let mut closing = lock(&self.closing);
        closing.retain(|(_, since)| since.elapsed() < CLOSING);
        let addresses = duplicates.iter().filter_map(|one| one.address.clone());
        closing
            .extend(addresses.filter(|address| listener(address).is_none()).map(|one| (one, Instant::now())));
        duplicates.retain(|one| one.address.as_ref().is_none_or(|address| listener(address).is_some()));
        for one in duplicates.iter_mut() {
            if let Some(known) = one.address.as_ref().and_then(listener) {
                one.listener.clone_from(&known.name);
            }
        }
        duplicates.append(&mut new.duplicates());
        let mut files = self.files();
        files.used.retain(|(address, _)| address.as_ref().is_none_or(|address| listener(address).is_some()));
        files.used.append(&mut new.files().used);
    }

    /// Keeps the files of sockets that no listener has, until they can be removed.
    pub(super) fn keep_unused(&self, unused: Vec<(BoundTo, Option<SocketFile>)>) {
        self.files().unused.extend(unused);
    }

    /// Returns what a predecessor listens on, and this process does not.
    pub(super) fn unused(&self) -> Vec<String> {
        self.files().unused.iter().map(|(address, _)| address.address()).collect()
    }

    /// Returns whether sockets on this address may still be closing.
    pub(super) fn closes(&self, address: &ListenAddress) -> bool {
        let closing = lock(&self.closing);
        closing.iter().any(|(one, since)| one == address && since.elapsed() < CLOSING)
    }

    /// Returns all duplicates.
    pub(super) fn duplicates(&self) -> MutexGuard<'_, Vec<Duplicate>> {
        lock(&self.duplicates)
    }

    /// Closes the duplicates.
    pub(super) fn release(&self) {
        self.duplicates().clear();
    }

    /// Makes the files of a predecessor those of this process.
    pub(super) fn claim_files(&self) {
        let mut files = self.files();
        files.used.iter_mut().for_each(|(_, file)| file.claim());
        for mut file in files.unused.drain(..).filter_map(|(_, file)| file) {
            file.claim();
        }
    }

    /// Leaves the files to a successor.
    pub(super) fn leave_files(&self) {
        self.files().used.iter_mut().for_each(|(_, file)| file.leave());
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        lock(&self.files)
    }
}

/// Returns the number that all descriptors of a socket share.
fn inode(socket: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(rustix::fs::fstat(socket)?.st_ino)
}
