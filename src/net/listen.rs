//! Listening sockets.

use std::fs::Permissions;
use std::io;
use std::net::{Ipv6Addr, Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::options;
use crate::base::Plain;
use crate::config::{ListenAddress, ListenerTcp};

/// How long to wait before an address counts as taken: the ring of a killed process closes its sockets 5-10
/// ms after the end of the process.
const STALE_PATIENCE: Duration = Duration::from_secs(2);
const STALE_STEP: Duration = Duration::from_millis(10);

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process listens there, or occupies the port otherwise.
    #[error(
        "{address} is in use; stop the process that has it (`ss -tanp 'sport = :{port}'` names it), or \
         choose another address; if an outgoing connection has it, reserve the port with the sysctl \
         net.ipv4.ip_local_reserved_ports"
    )]
    InUse {
        /// The address.
        address: String,
        /// Its port.
        port: u16,
    },
    /// Another process listens on the Unix socket.
    #[error(
        "{address} is in use; stop the process that listens there (`ss -lxp` names it), or choose another \
         path"
    )]
    FileInUse {
        /// The address.
        address: String,
    },
    /// The system has no IPv6.
    #[error(
        "cannot listen on {address}: this system has no IPv6; write an IPv4 address, or `:PORT` for all \
         addresses"
    )]
    NoIpv6 {
        /// The address.
        address: String,
    },
    /// The process lacks the permission.
    #[error(
        "no permission to listen on {address}; use a port of 1024 or above, or give the binary \
         CAP_NET_BIND_SERVICE"
    )]
    Forbidden {
        /// The address.
        address: String,
    },
    /// The process may not write to the folder of a Unix socket, or not replace the file there.
    #[error(
        "no permission to listen on {address}; choose a path in a folder that this user may write to, or \
         remove a file that another user has left there"
    )]
    FileForbidden {
        /// The address.
        address: String,
    },
    /// Not an address of this machine.
    #[error(
        "{address} is not an address of this machine; `ip address` lists them; an address that is added \
         later needs `tcp.freebind: true`"
    )]
    NotLocal {
        /// The address.
        address: String,
    },
    /// The kernel does not steer by CPU.
    #[error(
        "cannot steer the connections of {address} by CPU: {}; set `tcp.steer_by_cpu: off` there, or let the \
         sandbox allow setsockopt SO_ATTACH_REUSEPORT_CBPF",
        Plain(error)
    )]
    Steering {
        /// The address.
        address: String,
        /// The error of the kernel.
        error: io::Error,
    },
    /// Any other error.
    #[error("cannot listen on {address}: {}", Plain(error))]
    Other {
        /// The address.
        address: String,
        /// The error of the kernel.
        error: io::Error,
    },
}

impl ListenError {
    pub(super) fn new(address: &ListenAddress, error: io::Error) -> Self {
        let port = address.port();
        let address = address.to_string();
        match error.raw_os_error() {
            Some(libc::EADDRINUSE) => match port {
                Some(port) => Self::InUse { address, port },
                None => Self::FileInUse { address },
            },
            Some(libc::EAFNOSUPPORT) => Self::NoIpv6 { address },
            Some(libc::EACCES | libc::EPERM) if port.is_none() => Self::FileForbidden { address },
            Some(libc::EACCES | libc::EPERM) => Self::Forbidden { address },
            Some(libc::EADDRNOTAVAIL) => Self::NotLocal { address },
            _ => Self::Other { address, error },
        }
    }
}

/// Creates listening sockets for one address, one for each of `count` shards.
///
/// A process that has just ended is waited for.
///
/// # Errors
///
/// The address is in use, forbidden, or not an address of this machine.
pub fn listen(
    address: &ListenAddress,
    backlog: u32,
    tcp: &ListenerTcp,
    count: usize,
) -> Result<Listening, ListenError> {
    patiently(address, STALE_PATIENCE, || match address {
        ListenAddress::Unix(path) => listen_on_file(path, backlog, None, count),
        _ => listen_on_port(address, backlog, tcp, count, false),
    })
}

/// As [`listen`], beside sockets of this process whose address overlaps; waits for nobody.
///
/// # Errors
///
/// As [`listen`].
pub fn listen_beside(
    address: &ListenAddress,
    backlog: u32,
    tcp: &ListenerTcp,
    count: usize,
) -> Result<Listening, ListenError> {
    patiently(address, Duration::ZERO, || match address {
        ListenAddress::Unix(path) => listen_on_file(path, backlog, None, count),
        _ => listen_on_port(address, backlog, tcp, count, true),
    })
}

/// Gives a listening socket another backlog and other options.
///
/// # Errors
///
/// listen(2), setsockopt(2).
pub fn adjust(socket: SockRef<'_>, backlog: u32, tcp: &ListenerTcp) -> io::Result<()> {
    if socket.domain()? != Domain::UNIX {
        options::replace(SockRef::from(&*socket), tcp)?;
        socket.set_reuse_address(true)?;
    }
    socket.listen(backlog_number(backlog))
}

/// Has a listening socket begin no further handshakes, so that it can be closed once those that have begun are over: a
/// close resets clients whose last segment is on its way. New clients hear nothing, and try again a second later.
/// Returns whether there are handshakes: a Unix socket has none.
///
/// The kernel drops a SYN that has come over more hops than none (`IP_MINTTL`, ip(7), `IPV6_MINHOPCOUNT`); it asks that of no
/// later segment of a handshake. A filter (`SO_ATTACH_FILTER`) would say it plainer, but kernels refuse one to ordinary users.
/// Sockets that are accepted inherit it, see [`take_all_hops`].
///
/// # Errors
///
/// setsockopt(2).
pub fn end_handshakes(socket: SockRef<'_>) -> io::Result<bool> {
    if socket.domain()? == Domain::UNIX {
        return Ok(false);
    }
    options::set_least_hops(socket, u8::MAX)?;
    Ok(true)
}

/// Closes the port of a listening socket, which stays bound: new clients are refused, and those in its backlog are reset.
/// [`adjust`] opens it again. Descriptors of other processes are of the same socket.
///
/// The kernel takes shutdown(2) of a listening TCP socket as the end of listening; HAProxy pauses its listeners so. A Unix
/// socket would not come back.
pub fn unlisten(socket: SockRef<'_>) {
    // Beside a socket with SO_REUSEADDR that does not listen, another user's may listen (socket(7)).
    let _ = socket.set_reuse_address(false);
    // It fails for a socket that does not listen.
    let _ = socket.shutdown(Shutdown::Read);
}

/// Undoes [`end_handshakes`] for a listening socket, which other processes may have descriptors of, or for a connection that
/// was accepted from one.
pub fn take_all_hops(socket: SockRef<'_>) {
    // A Unix socket has no hops.
    let _ = options::set_least_hops(socket, 0);
}

/// Who may connect to a Unix socket.
#[derive(Clone, Copy, Debug)]
pub struct FileAccess {
    /// Permissions of the file, as chmod(2) takes them.
    pub mode: u32,
    /// Number of its group; `None` leaves that of the process.
    pub group: Option<u32>,
}

/// Creates one listening socket of an endpoint that is not a listener's; `access` applies to a Unix socket before
/// anybody can connect. With `waits`, a process that has just ended is waited for.
///
/// # Errors
///
/// As [`listen`], and a group that this process may not give the socket to.
pub fn listen_alone(
    address: &ListenAddress,
    backlog: u32,
    access: FileAccess,
    waits: bool,
) -> Result<Listening, ListenError> {
    let tcp = ListenerTcp::BARE;
    patiently(address, if waits { STALE_PATIENCE } else { Duration::ZERO }, || match address {
        ListenAddress::Unix(path) => listen_on_file(path, backlog, Some(access), 1),
        _ => listen_on_port(address, backlog, &tcp, 1, false),
    })
}

/// Tries again while the address is in use, for at most `patience`.
fn patiently(
    address: &ListenAddress,
    patience: Duration,
    listen: impl Fn() -> io::Result<Listening>,
) -> Result<Listening, ListenError> {
    let deadline = Instant::now() + patience;
    loop {
        match listen() {
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) && Instant::now() < deadline => {
                std::thread::sleep(STALE_STEP);
            }
            result => return result.map_err(|error| ListenError::new(address, error)),
        }
    }
}

/// The result of [`listen`].
#[derive(Debug)]
pub struct Listening {
    /// One for each shard, or more: number `n` is for shard `n % count`.
    pub sockets: Vec<OwnedFd>,
    /// The file of a `unix:` address.
    pub file: Option<SocketFile>,
}

/// The file of a Unix socket; removed on drop, unless it belongs to another process, or one has put its own there in the
/// meantime.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
    is_ours: bool,
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)?, is_ours: true })
    }

    /// The file of another process, which serves it still.
    pub(super) fn of_predecessor(path: &Path) -> io::Result<Self> {
        let mut file = Self::new(path)?;
        file.leave();
        Ok(file)
    }

    /// Makes it the file of this process.
    pub fn claim(&mut self) {
        self.is_ours = true;
    }

    /// Leaves it to another process.
    pub fn leave(&mut self) {
        self.is_ours = false;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_ours && identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            // A file that is left behind is removed by the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Creates sockets that share a port.
///
/// With SO_REUSEPORT the kernel would silently share the connections between this process and a stale one, or
/// one that starts at the same moment. So the first socket listens without it, which listen(2) grants to one
/// process only, and sets it afterwards, so that the other sockets can join. With `joins`, other sockets of this process
/// are in the way, and the first one joins, too.
fn listen_on_port(
    address: &ListenAddress,
    backlog: u32,
    tcp: &ListenerTcp,
    count: usize,
    joins: bool,
) -> io::Result<Listening> {
    let first = port_socket(address, backlog, tcp, joins)?;
    first.set_reuse_port(true)?;
    let mut sockets = vec![first.into()];
    for _ in 1..count {
        sockets.push(port_socket(address, backlog, tcp, true)?.into());
    }
    Ok(Listening { sockets, file: None })
}

/// Creates one of them; with `joins`, it may be bound beside others.
pub(super) fn port_socket(
    address: &ListenAddress,
    backlog: u32,
    tcp: &ListenerTcp,
    joins: bool,
) -> io::Result<Socket> {
    let socket = new_tcp_socket(address)?;
    if joins {
        socket.set_reuse_port(true)?;
    }
    options::apply_listening(SockRef::from(&socket), tcp)?;
    socket.bind(&SockAddr::from(socket_address(address)))?;
    socket.listen(backlog_number(backlog))?;
    Ok(socket)
}

/// SO_REUSEPORT does not exist for Unix sockets, so all shards share one socket.
fn listen_on_file(
    path: &Path,
    backlog: u32,
    access: Option<FileAccess>,
    count: usize,
) -> io::Result<Listening> {
    remove_stale_file(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::new(path)?;
    // Nobody can connect before listen(2), whatever the umask has made of the file until here.
    access.map_or(Ok(()), |access| restrict(path, access))?;
    socket.listen(backlog_number(backlog))?;
    let mut sockets = vec![OwnedFd::from(socket)];
    for _ in 1..count {
        sockets.push(sockets[0].try_clone()?);
    }
    Ok(Listening { sockets, file: Some(file) })
}

pub(super) fn restrict(path: &Path, access: FileAccess) -> io::Result<()> {
    if let Some(group) = access.group {
        chown(path, None, Some(group)).map_err(|error| {
            let why = Plain(&error);
            io::Error::other(format!(
                "it cannot be given to group {group}: {why}; run as root, or as a member of that group"
            ))
        })?;
    }
    std::fs::set_permissions(path, Permissions::from_mode(access.mode))
}

pub(super) fn backlog_number(backlog: u32) -> i32 {
    i32::try_from(backlog).unwrap_or(i32::MAX)
}

fn new_tcp_socket(address: &ListenAddress) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(socket_address(address)), Type::STREAM, None)?;
    // Otherwise a restart waits for the connections of the last run to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    // A socket for all addresses serves both families; IPv4 clients appear as ::ffff:a.b.c.d, ipv6(7).
    // Without IPv6 on the system it is an IPv4 socket, which has no such option.
    if socket_address(address).is_ipv6() {
        socket.set_only_v6(!matches!(address, ListenAddress::Any { .. }))?;
    }
    Ok(socket)
}

fn socket_address(address: &ListenAddress) -> SocketAddr {
    match address {
        ListenAddress::Any { port } if has_ipv6() => SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port)),
        ListenAddress::Any { port } => SocketAddr::from(([0, 0, 0, 0], *port)),
        ListenAddress::Tcp(address) => *address,
        ListenAddress::Zoned(address) => unreachable!("the zone of {address} has no number yet"),
        ListenAddress::Unix(path) => unreachable!("{} is no TCP address", path.display()),
    }
}

/// `ipv6.disable=1` removes the family, and `":PORT"` then means IPv4 only.
pub(super) fn has_ipv6() -> bool {
    Socket::new(Domain::IPV6, Type::STREAM, None).is_ok()
}

/// Removes a Unix socket that no process listens on any more.
fn remove_stale_file(path: &Path) -> io::Result<()> {
    let metadata = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::other("the path exists and is not a socket; remove it, or choose another"));
    }
    // In blocking mode, connect(2) would wait for as long as the backlog of the process that listens there is
    // full.
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::EADDRINUSE)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn handshakes_end_and_clients_that_have_come_stay() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut first = std::net::TcpStream::connect(address).unwrap();
        assert!(end_handshakes(SockRef::from(&listener)).unwrap());
        let late = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300));
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let (mut accepted, _) = listener.accept().unwrap();
        take_all_hops(SockRef::from(&accepted));
        take_all_hops(SockRef::from(&listener));
        std::net::TcpStream::connect_timeout(&address, Duration::from_secs(20)).unwrap();
        drop(listener);
        io::Write::write_all(&mut first, b"x").unwrap();
        io::Read::read_exact(&mut accepted, &mut [0]).unwrap();
    }

    /// Two processes that start at once must not both find the port unused: the kernel would share the
    /// connections.
    #[test]
    fn of_two_that_listen_at_once_not_both_are_let() {
        let tcp = ListenerTcp::BARE;
        // Occupies the port for this test, and does not listen.
        let reserved = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        reserved.set_reuse_address(true).unwrap();
        reserved.bind(&SockAddr::from(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
        let address = ListenAddress::Tcp(reserved.local_addr().unwrap().as_socket().unwrap());
        let begin = Barrier::new(2);
        for _ in 0..500 {
            let both = std::thread::scope(|scope| {
                let listen = || {
                    begin.wait();
                    listen_on_port(&address, 16, &tcp, 1, false)
                };
                // The one that listens goes on until the other one has tried.
                [scope.spawn(listen), scope.spawn(listen)].map(|thread| thread.join().unwrap())
            });
            let errors = both.iter().filter_map(|one| one.as_ref().err()?.raw_os_error());
            let errors: Vec<_> = errors.collect();
            // Now and then each sees the other one in the way; `listen` tries again in that case.
            assert!(
                !errors.is_empty() && errors.iter().all(|error| *error == libc::EADDRINUSE),
                "{errors:?}"
            );
        }
    }
}
