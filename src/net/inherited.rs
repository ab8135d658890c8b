//! Listening sockets that this process was started with: from systemd, sd_listen_fds(3), or from a process that it
//! replaces. They listen already, and clients may wait in their queues, so none is closed as long as a listener has its
//! address.

#![expect(
    unsafe_code,
    reason = "descriptors are known by their numbers alone; `remove_var` has no safe equivalent"
)]

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use socket2::{SockRef, Socket, Type};

use super::listen::{
    FileAccess, ListenError, Listening, SocketFile, backlog_number, has_ipv6, port_socket, restrict,
    take_all_hops,
};
use super::options;
use crate::base::Plain;
use crate::config::{ListenAddress, ListenerTcp};

/// All of them; each is taken by the listener that has its address.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<InheritedSocket>,
    /// What is wrong with the others.
    refused: Vec<String>,
    has_predecessor: bool,
}

/// One of them.
#[derive(Debug)]
pub struct InheritedSocket {
    socket: Socket,
    /// Its name at the one who made it: that of the socket unit, or of the listener.
    name: String,
    address: BoundTo,
    /// Whether the file of a Unix socket goes with this process.
    owns_file: bool,
    /// Whether another process serves it meanwhile.
    is_served: bool,
}

/// The address of a listening socket, getsockname(2). Its text is what a listener would be written as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoundTo {
    /// Of a TCP socket.
    Ip {
        /// The address.
        address: SocketAddr,
        /// Whether a socket for all addresses serves both families.
        both_families: bool,
    },
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Inherited {
    /// Takes over the sockets of the service manager, and removes their description from the environment. Call this
    /// once, and before any other thread starts: no other thread may read the environment meanwhile.
    ///
    /// # Errors
    ///
    /// The description is no such thing, or names descriptors that are not open.
    pub fn from_service_manager() -> io::Result<Self> {
        let listed: Vec<_> = sd_notify::listen_fds_with_names()?.collect();
        for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            // SAFETY: there is no other thread yet, as the function demands.
            unsafe { std::env::remove_var(name) };
        }
        let mut inherited = Self::default();
        for (number, name) in listed {
            // SAFETY: the service manager has opened the descriptor for this process, which uses it nowhere else.
            let fd = unsafe { OwnedFd::from_raw_fd(number) };
            if let Err(why) = inherited.add(fd, &name, false) {
                inherited.refused.push(format!(
                    "the service manager handed over {name}, which {why}; it is closed; make it a stream socket \
                     (ListenStream=, and not Accept=yes)"
                ));
            }
        }
        Ok(inherited)
    }

    /// Adds a listening socket of a process that this one replaces. With `owns_file`, the file of a Unix socket is that of
    /// the process that has it last.
    ///
    /// # Errors
    ///
    /// What it is instead.
    pub fn add_handed(&mut self, fd: OwnedFd, name: &str, owns_file: bool) -> Result<BoundTo, String> {
        self.has_predecessor = true;
        self.add(fd, name, owns_file)
    }

    fn add(&mut self, fd: OwnedFd, name: &str, owns_file: bool) -> Result<BoundTo, String> {
        let socket = Socket::from(fd);
        let address = BoundTo::of(&socket)?;
        self.sockets.push(InheritedSocket {
            socket,
            name: name.to_owned(),
            address: address.clone(),
            owns_file,
            is_served: self.has_predecessor,
        });
        Ok(address)
    }

    /// Returns whether another process serves the same sockets meanwhile.
    #[must_use]
    pub fn has_predecessor(&self) -> bool {
        self.has_predecessor
    }

    /// Takes out the sockets that listen on an address, in the order in which they came.
    pub fn take(&mut self, address: &ListenAddress) -> Vec<InheritedSocket> {
        let has_it = |socket: &mut InheritedSocket| socket.address.is(address);
        self.sockets.extract_if(.., has_it).collect()
    }

    /// Returns whether a predecessor listens on the port of this address, and on another address: who binds it must bind
    /// beside that one.
    #[must_use]
    pub fn overlaps(&self, wanted: &ListenAddress) -> bool {
        let is_on_port = |bound: &BoundTo| match bound {
            BoundTo::Ip { address, .. } => wanted.port() == Some(address.port()),
            BoundTo::Unix(_) => false,
        };
        self.has_predecessor && self.sockets.iter().any(|socket| is_on_port(&socket.address))
    }

    /// Closes what nobody has taken, with a record for each address. Returns these addresses, with the files of Unix sockets
    /// that are to be removed.
    pub fn close_rest(self) -> Vec<(BoundTo, Option<SocketFile>)> {
        for why in self.refused {
            log::warn!("{why}");
        }
        let mut rest: Vec<(BoundTo, Option<SocketFile>)> = Vec::new();
        for InheritedSocket { name, address, owns_file, .. } in self.sockets {
            if rest.iter().any(|(known, _)| *known == address) {
                continue;
            }
            if self.has_predecessor {
                log::info!(
                    "the old process listens on {address} for {name}, and this one does not: clients there end with the \
                     old one"
                );
            } else {
                log::warn!(
                    "no listener has the address {address} of the socket {name}, which this process was started with; \
                     it is closed; add a listener with this address, or remove the socket where it is made"
                );
            }
            let file = match &address {
                BoundTo::Unix(path) if owns_file => SocketFile::of_predecessor(path).ok(),
                _ => None,
            };
            rest.push((address, file));
        }
        rest
    }
}

impl InheritedSocket {
    /// Returns whether other sockets may be bound beside it.
    #[must_use]
    pub fn is_in_group(&self) -> bool {
        matches!(self.address, BoundTo::Ip { .. }) && self.socket.reuse_port().unwrap_or(false)
    }
}

impl BoundTo {
    /// Returns the address of a listening stream socket.
    ///
    /// # Errors
    ///
    /// What the descriptor is instead.
    pub fn of(socket: &impl AsFd) -> Result<Self, String> {
        let socket = SockRef::from(socket);
        let no_socket = |error: io::Error| format!("is not a socket: {}", Plain(&error));
        let is_stream = socket.r#type().map_err(no_socket)? == Type::STREAM;
        let address = socket.local_addr().map_err(no_socket)?;
        // A process that had no backend has closed the port (`unlisten`), which is still bound.
        let is_bound = address.as_socket().is_some_and(|address| address.port() > 0);
        let may_listen = is_bound && socket.peer_addr().is_err();
        if !is_stream || !(socket.is_listener().map_err(no_socket)? || may_listen) {
            return Err("is not a stream socket that listens".to_owned());
        }
        if let Some(path) = address.as_pathname() {
            return Ok(Self::Unix(path.to_owned()));
        }
        let Some(address) = address.as_socket() else {
            return Err("listens neither on TCP nor on a path".to_owned());
        };
        let is_any_v6 = address.is_ipv6() && address.ip().is_unspecified();
        let both_families = is_any_v6 && !socket.only_v6().map_err(no_socket)?;
        Ok(Self::Ip { address, both_families })
    }

    /// Returns the address as text.
    #[must_use]
    pub fn address(&self) -> String {
        self.to_string()
    }

    /// Returns `tcp` or `unix`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Ip { .. } => "tcp",
            Self::Unix(_) => "unix",
        }
    }

    fn is(&self, wanted: &ListenAddress) -> bool {
        match (self, wanted) {
            (Self::Unix(path), ListenAddress::Unix(wanted)) => path == wanted,
            (Self::Ip { address, both_families }, ListenAddress::Any { port }) => {
                let is_any = address.ip().is_unspecified() && address.port() == *port;
                is_any && if address.is_ipv6() { *both_families } else { !has_ipv6() }
            }
            (Self::Ip { address, both_families }, ListenAddress::Tcp(wanted)) => {
                address == wanted && !both_families
            }
            _ => false,
        }
    }
}

impl fmt::Display for BoundTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip { address, both_families: true } => write!(f, ":{}", address.port()),
            Self::Ip { address, .. } => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Listens for `count` shards on sockets that listen already, with the settings of the listener. The result has at least
/// `count` sockets: `n` of them are for shard `n % count`. None of `taken` is closed, because that would reset the clients
/// that wait in its queue.
///
/// Where there are fewer sockets than shards, others are bound beside them if they have SO_REUSEPORT, belong to this user, and
/// no predecessor serves them still: clients would wait in the others until this process serves, and be reset if it never does.
/// All shards share them otherwise.
///
/// # Errors
///
/// A setting cannot be made, or descriptors are short.
pub fn adopt(
    taken: Vec<InheritedSocket>,
    address: &ListenAddress,
    backlog: u32,
    tcp: &ListenerTcp,
    count: usize,
) -> Result<Listening, ListenError> {
    let file = file_of(&taken);
    let listen = || {
        for InheritedSocket { socket, address, .. } in &taken {
            if matches!(address, BoundTo::Ip { .. }) {
                options::same_interface(&SockRef::from(socket), tcp.interface.as_deref())?;
                if !socket.is_listener()? {
                    socket.set_reuse_address(true)?;
                }
                options::replace(SockRef::from(socket), tcp)?;
                // A process that was killed may have left it closed to clients.
                take_all_hops(SockRef::from(socket));
            }
            socket.listen(backlog_number(backlog))?;
        }
        let given = taken.len();
        let may_join = taken[0].is_in_group() && !taken[0].is_served;
        let mut sockets: Vec<OwnedFd> = taken.into_iter().map(|taken| taken.socket.into()).collect();
        while sockets.len() < count {
            let beside = if may_join { bind_beside(address, backlog, tcp)? } else { None };
            let shared = || sockets[sockets.len() % given].try_clone();
            let next = beside.map_or_else(shared, Ok)?;
            sockets.push(next);
        }
        Ok(sockets)
    };
    let sockets = listen().map_err(|error| ListenError::new(address, error))?;
    Ok(Listening { sockets, file })
}

/// Like [`adopt`], for an endpoint that is not a listener's. A socket of the service manager keeps the access that it has.
///
/// # Errors
///
/// As [`adopt`].
pub fn adopt_alone(
    taken: Vec<InheritedSocket>,
    address: &ListenAddress,
    backlog: u32,
    access: FileAccess,
) -> Result<Listening, ListenError> {
    if let (ListenAddress::Unix(path), true) = (address, taken.iter().any(|taken| taken.owns_file)) {
        restrict(path, access).map_err(|error| ListenError::new(address, error))?;
    }
    let tcp = ListenerTcp::BARE;
    adopt(taken, address, backlog, &tcp, 1)
}

fn file_of(taken: &[InheritedSocket]) -> Option<SocketFile> {
    taken.iter().filter(|taken| taken.owns_file).find_map(|taken| match &taken.address {
        // An operator may have removed the file, and nobody else can connect then.
        BoundTo::Unix(path) => SocketFile::of_predecessor(path).ok(),
        BoundTo::Ip { .. } => None,
    })
}

/// Binds another socket to the port of a listener; `None` where those that are there admit none: they belong to another user, as
/// systemd's do, have no SO_REUSEPORT, or are Unix sockets.
///
/// # Errors
///
/// socket(2), bind(2), listen(2).
pub fn bind_beside(address: &ListenAddress, backlog: u32, tcp: &ListenerTcp) -> io::Result<Option<OwnedFd>> {
    if matches!(address, ListenAddress::Unix(_)) {
        return Ok(None);
    }
    match port_socket(address, backlog, tcp, true) {
        Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => Ok(None),
        socket => socket.map(|socket| Some(socket.into())),
    }
}

/// The descriptors that this process was started with, apart from the standard streams; by their numbers.
#[derive(Debug)]
pub struct Given(BTreeSet<RawFd>);

impl Given {
    /// Lists them, and removes from the environment the variable that says what they are. Call this once, and before anything
    /// opens a descriptor, starts a thread, or takes over one of them.
    ///
    /// # Errors
    ///
    /// They cannot be listed.
    pub fn at_start(variable: &str) -> io::Result<Self> {
        // SAFETY: there is no other thread yet, as the function demands.
        unsafe { std::env::remove_var(variable) };
        let numbers = std::fs::read_dir("/proc/self/fd")?.map(|entry| Ok(entry?.file_name()));
        let numbers: Vec<_> = numbers.collect::<io::Result<_>>()?;
        let numbers = numbers.iter().filter_map(|name| name.to_str()?.parse().ok());
        // The listing was one of them, and is closed.
        // SAFETY: the call takes numbers only.
        let is_open = |number: &RawFd| *number > 2 && unsafe { libc::fcntl(*number, libc::F_GETFD) } >= 0;
        Ok(Self(numbers.filter(is_open).collect()))
    }

    /// Takes one over; no program that this process starts will have it.
    ///
    /// # Errors
    ///
    /// It was not there at the start, or was taken already.
    pub fn take(&mut self, number: RawFd) -> io::Result<OwnedFd> {
        if !self.0.remove(&number) {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        // SAFETY: it was open before any code of this process opened one, so nothing else has it; and it is in the set once.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        Ok(fd)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use socket2::Domain;

    use super::*;

    fn tcp() -> ListenerTcp {
        ListenerTcp::BARE
    }

    #[test]
    fn socket_goes_to_the_listener_with_its_address_alone() {
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listening.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("front");
        let unix = UnixListener::bind(&path).unwrap();
        let mut inherited = Inherited::default();
        inherited.add(listening.into(), "web", false).unwrap();
        inherited.add(unix.into(), "front", true).unwrap();
        assert!(inherited.take(&ListenAddress::Any { port: address.port() }).is_empty());
        assert!(inherited.take(&ListenAddress::Unix(folder.path().join("other"))).is_empty());
        assert_eq!(inherited.take(&ListenAddress::Tcp(address)).len(), 1);
        assert!(inherited.take(&ListenAddress::Tcp(address)).is_empty(), "only once");
        let mut rest = inherited.close_rest();
        assert!(path.exists(), "the predecessor serves it still");
        assert_eq!(rest[0].0, BoundTo::Unix(path.clone()));
        rest.iter_mut().filter_map(|(_, file)| file.as_mut()).for_each(SocketFile::claim);
        drop(rest);
        assert!(!path.exists());
    }

    #[test]
    fn all_addresses_are_one_socket_for_both_families() {
        let wildcard = |both: bool| {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
            socket.set_only_v6(!both).unwrap();
            socket.bind(&SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0)).into()).unwrap();
            socket.listen(1).unwrap();
            BoundTo::of(&socket).unwrap()
        };
        for both in [true, false] {
            let BoundTo::Ip { address, both_families } = wildcard(both) else { panic!("no path") };
            assert_eq!(both_families, both);
            let bound = BoundTo::Ip { address, both_families };
            assert_eq!(bound.is(&ListenAddress::Any { port: address.port() }), both);
            assert_eq!(bound.is(&ListenAddress::Tcp(address)), !both);
        }
    }

    #[test]
    fn what_does_not_listen_is_refused() {
        let mut inherited = Inherited::default();
        let idle = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        assert!(inherited.add(idle.into(), "x", false).unwrap_err().contains("listens"));
        let file = tempfile::tempfile().unwrap();
        assert!(inherited.add(file.into(), "x", false).unwrap_err().contains("not a socket"));
    }

    #[test]
    fn every_shard_has_a_socket_and_none_is_closed() {
        let of_group = |count: usize| {
            let first = TcpListener::bind("127.0.0.1:0").unwrap();
            SockRef::from(&first).set_reuse_port(true).unwrap();
            let address = ListenAddress::Tcp(first.local_addr().unwrap());
            let mut inherited = Inherited::default();
            inherited.add(first.into(), "web", false).unwrap();
            for _ in 1..count {
                inherited.add(port_socket(&address, 8, &tcp(), true).unwrap().into(), "web", false).unwrap();
            }
            (inherited.take(&address), address)
        };
        let number = |fd: &OwnedFd| std::os::fd::AsRawFd::as_raw_fd(fd);
        for (given, shards, sockets) in [(1, 1, 1), (1, 3, 3), (2, 2, 2), (3, 2, 3)] {
            let (taken, address) = of_group(given);
            let before: Vec<_> =
                taken.iter().map(|one| std::os::fd::AsRawFd::as_raw_fd(&one.socket)).collect();
            let listening = adopt(taken, &address, 8, &tcp(), shards).unwrap();
            assert_eq!(listening.sockets.len(), sockets);
            assert_eq!(listening.sockets[..given].iter().map(number).collect::<Vec<_>>(), before);
        }
    }

    #[test]
    fn socket_that_is_plain_or_served_is_shared_by_all_shards() {
        for is_served in [false, true] {
            let only = TcpListener::bind("127.0.0.1:0").unwrap();
            SockRef::from(&only).set_reuse_port(is_served).unwrap();
            let address = ListenAddress::Tcp(only.local_addr().unwrap());
            let mut inherited = Inherited::default();
            match is_served {
                true => inherited.add_handed(only.into(), "web", false).unwrap(),
                false => inherited.add(only.into(), "web", false).unwrap(),
            };
            let listening = adopt(inherited.take(&address), &address, 8, &tcp(), 2).unwrap();
            let inode = |fd: &OwnedFd| {
                let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(fd));
                std::fs::read_link(link).unwrap()
            };
            assert_eq!(inode(&listening.sockets[0]), inode(&listening.sockets[1]));
            let beside = bind_beside(&address, 8, &tcp()).unwrap();
            assert_eq!(beside.is_some(), is_served, "a plain one admits none");
        }
    }
}
