//! What a server keeps of its listening sockets beside the shards, for a process that replaces it: a duplicate of each, and
//! the files of Unix sockets.
//!
//! A duplicate keeps a socket open after its shard has closed it. So whoever stops listening lets the duplicates go first.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::net::SocketFile;

/// See the module documentation.
#[derive(Default)]
pub(super) struct Sockets {
    duplicates: Mutex<Vec<Duplicate>>,
    files: Mutex<Files>,
}

/// A duplicate of a listening socket.
pub(super) struct Duplicate {
    pub(super) fd: OwnedFd,
    /// The listener, or `admin`.
    pub(super) listener: String,
    /// The first shard that has the socket.
    pub(super) shard: usize,
    /// Whether the file of a Unix socket goes with this process.
    pub(super) owns_file: bool,
}

#[derive(Default)]
struct Files {
    /// Removed together with the server.
    used: Vec<SocketFile>,
    /// Of sockets that a predecessor had, and this process has no listener for.
    unused: Vec<SocketFile>,
}

impl Sockets {
    /// Adds a socket, unless it is one that another shard has, too.
    pub(super) fn add(
        &self,
        socket: BorrowedFd<'_>,
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
        duplicates.push(Duplicate { fd, listener: listener.to_owned(), shard, owns_file });
        Ok(())
    }

    /// Keeps the files of sockets.
    pub(super) fn keep_files(&self, used: impl IntoIterator<Item = SocketFile>) {
        self.files().used.extend(used);
    }

    /// Keeps the files of sockets that no listener has, until they can be removed.
    pub(super) fn keep_unused(&self, unused: Vec<SocketFile>) {
        self.files().unused.extend(unused);
    }

    /// Returns all duplicates.
    pub(super) fn duplicates(&self) -> MutexGuard<'_, Vec<Duplicate>> {
        self.duplicates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the duplicates.
    pub(super) fn release(&self) {
        self.duplicates().clear();
    }

    /// Makes the files of a predecessor those of this process.
    pub(super) fn claim_files(&self) {
        let mut files = self.files();
        files.used.iter_mut().for_each(SocketFile::claim);
        for mut file in files.unused.drain(..) {
            file.claim();
        }
    }

    /// Leaves the files to a successor.
    pub(super) fn leave_files(&self) {
        self.files().used.iter_mut().for_each(SocketFile::leave);
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the number that all descriptors of a socket share.
fn inode(socket: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(rustix::fs::fstat(socket)?.st_ino)
}
