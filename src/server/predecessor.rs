//! The new process's side of an upgrade: what it was handed, and what it says to the process that it replaces.

use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::manifest::{HandedSocket, Left, Manifest, READY, REFUSED, SERVE, VARIABLE};
use super::program;
use crate::base::Plain;
use crate::net::{Given, Inherited};

/// The process that this one is to replace.
pub struct Predecessor {
    link: UnixStream,
    /// What the old process has as its standard error stream. Until this process is ready, the old one reads the own one, so
    /// that it can say why a start has failed.
    stderr: OwnedFd,
    left: Left,
    pid: u32,
}

/// Takes over everything that this process was started with: the sockets of the service manager, or those of the process that
/// it replaces. Call this once, and before anything opens a descriptor or starts a thread.
///
/// # Errors
///
/// What was handed over is not what it should be. A sentence.
pub fn inherited() -> Result<(Inherited, Option<Predecessor>), String> {
    program::note();
    let mut inherited = Inherited::from_service_manager().map_err(|error| {
        let why = Plain(&error);
        format!("the sockets of the service manager cannot be taken over: {why}; see sd_listen_fds(3), or unset LISTEN_FDS")
    })?;
    let Some(number) = std::env::var_os(VARIABLE) else { return Ok((inherited, None)) };
    let strange = |why: &dyn std::fmt::Display| {
        format!("{VARIABLE} is set, but not by a process that this one is to replace: {why}; unset it")
    };
    let mut given = Given::at_start(VARIABLE).map_err(|error| strange(&Plain(&error)))?;
    let number =
        number.to_str().and_then(|number| number.parse().ok()).ok_or_else(|| strange(&"it is no number"))?;
    let manifest = given.take(number).and_then(Manifest::read).map_err(|error| strange(&Plain(&error)))?;
    let take = |given: &mut Given, number| {
        given
            .take(number)
            .map_err(|error| format!("descriptor {number} was not handed over: {}", Plain(&error)))
    };
    let predecessor = Predecessor {
        link: take(&mut given, manifest.link)?.into(),
        stderr: take(&mut given, manifest.stderr)?,
        pid: manifest.pid,
        left: Left { overlay: manifest.overlay, upgrades: manifest.upgrades + 1, tickets: manifest.tickets },
    };
    for handed in &manifest.sockets {
        let added = take(&mut given, handed.descriptor).and_then(|fd| add(&mut inherited, fd, handed));
        if let Err(why) = added {
            predecessor.refuse(&why);
            return Err(why);
        }
    }
    Ok((inherited, Some(predecessor)))
}

/// Adds a socket, if it is what the manifest says.
fn add(inherited: &mut Inherited, fd: OwnedFd, handed: &HandedSocket) -> Result<(), String> {
    let HandedSocket { descriptor, listener, address, kind, owns_file, .. } = handed;
    let found = inherited.add_handed(fd, listener, *owns_file);
    let found = found.map_err(|why| format!("descriptor {descriptor}, the socket of {listener}, {why}"))?;
    if (found.address(), found.kind()) != (address.clone(), &**kind) {
        return Err(format!(
            "descriptor {descriptor} shall be the {kind} socket of {listener} on {address}, and is one on {}",
            found.address()
        ));
    }
    Ok(())
}

impl Predecessor {
    /// Returns what of the old process goes on in this one, sockets aside.
    #[must_use]
    pub fn left(&self) -> Left {
        self.left.clone()
    }

    /// Says that this process listens, except on the addresses of `unused`, and waits until the old one has left everything to
    /// it.
    ///
    /// # Errors
    ///
    /// The old process wants this one to end. If it has died, this one serves.
    pub fn take_over(&self, unused: &[String]) -> io::Result<()> {
        rustix::stdio::dup2_stderr(&self.stderr)?;
        let ready = format!("{READY}{}\n", serde_json::to_string(unused)?);
        let mut said = String::new();
        let heard = (&self.link)
            .write_all(ready.as_bytes())
            .and_then(|()| BufReader::new(&self.link).read_line(&mut said).map(drop));
        if said == SERVE {
            return Ok(());
        }
        if self.has_died() {
            log::warn!("process {} has ended before it was replaced; this one serves", self.pid);
            return Ok(());
        }
        heard?;
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    /// Returns whether the old process is gone, so that nobody but this one serves.
    fn has_died(&self) -> bool {
        let parent = rustix::process::getppid().map(|parent| parent.as_raw_nonzero().get().unsigned_abs());
        parent != Some(self.pid)
    }

    /// Says why this process does not start.
    pub fn refuse(&self, cause: &str) {
        // The old process has ended if it cannot be told, and nobody wants to know.
        let _ = (&self.link).write_all(format!("{REFUSED}{cause}").as_bytes());
        let _ = self.link.shutdown(Shutdown::Write);
    }
}
