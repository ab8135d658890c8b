//! Binds the endpoints, before the process serves anybody.
//!
//! An endpoint that the file names must work. A default one may fail: the log then says what does not work, and
//! which key to set.

use std::fmt;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::base::Plain;
use crate::config::{Admin, ListenAddress, SocketGroup};
use crate::net::{self, FileAccess, Inherited, ListenError, Listening, SocketFile};

/// Connections that wait while all slots are taken. Health checkers and scrapers may come in a crowd.
const BACKLOG: u32 = 1_024;
/// Mode of a folder that is made for the socket: who may connect is said by the socket itself.
const FOLDER_MODE: u32 = 0o755;

/// Why an endpoint cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken, forbidden or not here.
    #[error("admin.{key}: {error}; `off` switches this endpoint off")]
    Listen {
        /// The key of the endpoint.
        key: &'static str,
        /// What is wrong with its address.
        error: ListenError,
    },
    /// The folder of the socket is not there, and cannot be made.
    #[error(
        "admin.socket: the folder {} cannot be created: {}; create it for this user, choose another path, or \
         write `off`",
        folder.display(), Plain(error)
    )]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// There is no such group.
    #[error("admin.socket_group: there is no group {0} here; `getent group` lists them")]
    NoGroup(String),
    /// The groups cannot be read.
    #[error("admin.socket_group: group {name} cannot be looked up: {}; write its number", Plain(error))]
    Group {
        /// The name.
        name: String,
        /// Why not.
        error: io::Error,
    },
}

/// The endpoints, bound and listening; nobody accepts yet.
#[derive(Debug, Default)]
pub struct Endpoints {
    pub(super) tcp: Option<Bound>,
    pub(super) socket: Option<Bound>,
}

/// An endpoint.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) address: ListenAddress,
    pub(super) listening: Listening,
}

impl Endpoints {
    /// Returns the listening sockets, each with whether it has a file that goes with this process.
    pub fn sockets(&self) -> impl Iterator<Item = (BorrowedFd<'_>, bool)> {
        let listening = self.tcp.iter().chain(&self.socket).map(|bound| &bound.listening);
        listening.flat_map(|listening| {
            listening.sockets.iter().map(|socket| (socket.as_fd(), listening.file.is_some()))
        })
    }

    /// Takes out the files of Unix sockets, which live as long as the process serves.
    pub fn take_files(&mut self) -> Vec<SocketFile> {
        self.socket.as_mut().and_then(|bound| bound.listening.file.take()).into_iter().collect()
    }
}

impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses = self.tcp.iter().chain(&self.socket).map(|bound| bound.address.to_string());
        f.write_str(&addresses.collect::<Vec<_>>().join(" and "))
    }
}

/// Binds all endpoints, or takes the inherited sockets that have their addresses.
///
/// # Errors
///
/// An endpoint that the file names, or the group of the socket, does not work.
pub fn bind(admin: &Admin, inherited: &mut Inherited) -> Result<Endpoints, BindError> {
    let mut endpoints = Endpoints::default();
    if let Some(address) = &admin.listen_address {
        let written = admin.written.listen_address;
        let lost = "metrics, health and the page are not served over HTTP";
        endpoints.tcp =
            or_warn(listen_on_port(address, written, inherited), written, "listen_address", lost)?;
    }
    if let Some(path) = &admin.socket {
        let access = FileAccess { mode: admin.socket_mode, group: group_of(admin)? };
        let written = admin.written.socket;
        let path = if written { path.clone() } else { default_socket(path) };
        let lost = "`ringway ctl` and `ringway top` cannot reach this process";
        endpoints.socket =
            or_warn(listen_on_file(path, access, written, inherited), written, "socket", lost)?;
    }
    Ok(endpoints)
}

/// Returns where the socket is if nothing is written and this user may not use `/run/ringway`.
#[must_use]
pub fn fallback_socket() -> Option<PathBuf> {
    let folder = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from)?;
    folder.is_absolute().then(|| folder.join("ringway/admin.sock"))
}

/// Returns the first default path that this user may use; the first one of all if there is none.
fn default_socket(path: &Path) -> PathBuf {
    let is_usable = |path: &Path| folder_of(path).is_ok_and(net::may_write);
    if is_usable(path) {
        return path.to_owned();
    }
    fallback_socket().filter(|fallback| is_usable(fallback)).unwrap_or_else(|| path.to_owned())
}

fn or_warn(
    bound: Result<Bound, BindError>,
    written: bool,
    key: &'static str,
    lost: &str,
) -> Result<Option<Bound>, BindError> {
    match bound {
        Ok(bound) => Ok(Some(bound)),
        Err(error) if written => Err(error),
        Err(error) => {
            log::warn!("{error}; until admin.{key} is set, {lost}");
            Ok(None)
        }
    }
}

/// The default address does not wait for a process that has just ended: mostly another instance has it.
fn listen_on_port(
    address: &ListenAddress,
    written: bool,
    inherited: &mut Inherited,
) -> Result<Bound, BindError> {
    let access = FileAccess { mode: 0, group: None };
    let listening = listen(address, access, written, inherited);
    let listening = listening.map_err(|error| BindError::Listen { key: "listen_address", error })?;
    Ok(Bound { address: address.clone(), listening })
}

fn listen_on_file(
    path: PathBuf,
    access: FileAccess,
    written: bool,
    inherited: &mut Inherited,
) -> Result<Bound, BindError> {
    folder_of(&path)?;
    let address = ListenAddress::Unix(path);
    let listening = listen(&address, access, written, inherited);
    let listening = listening.map_err(|error| BindError::Listen { key: "socket", error })?;
    Ok(Bound { address, listening })
}

fn listen(
    address: &ListenAddress,
    access: FileAccess,
    written: bool,
    inherited: &mut Inherited,
) -> Result<Listening, ListenError> {
    let taken = inherited.take(address);
    match taken.is_empty() {
        true => net::listen_alone(address, BACKLOG, access, written),
        false => net::adopt_alone(taken, address, BACKLOG, access),
    }
}

/// Returns the folder of a path, which is created if only its last part is missing.
fn folder_of(path: &Path) -> Result<&Path, BindError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let refused = |error| BindError::Folder { folder: folder.to_owned(), error };
    match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        // The umask may have taken from it.
        Ok(()) => std::fs::set_permissions(folder, Permissions::from_mode(FOLDER_MODE)).map_err(refused)?,
        Err(_) if folder.is_dir() => {}
        Err(error) => return Err(refused(error)),
    }
    Ok(folder)
}

fn group_of(admin: &Admin) -> Result<Option<u32>, BindError> {
    match &admin.socket_group {
        None => Ok(None),
        Some(SocketGroup::Number(number)) => Ok(Some(*number)),
        Some(SocketGroup::Name(name)) => match net::group_number(name) {
            Ok(Some(number)) => Ok(Some(number)),
            Ok(None) => Err(BindError::NoGroup(name.clone())),
            Err(error) => Err(BindError::Group { name: name.clone(), error }),
        },
    }
}
