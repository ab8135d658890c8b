//! Which addresses meet: listeners that overlap, backends that are listeners of the same process, and the
//! circles that follow.
//!
//! Left out: what only the machine knows, its addresses and the numbers of its interfaces; the caller passes
//! them in.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::{Component, Path, PathBuf};

use super::model::{BackendAddress, Config, ListenAddress, Listener, ZonedAddress};

impl ListenAddress {
    /// Returns true if both would receive the same connections. `[::]` is IPv6 alone, unlike `:PORT`.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        if let (Self::Unix(one), Self::Unix(two)) = (self, other) {
            return cleaned(one) == cleaned(two);
        }
        let (Some(port), Some(other_port)) = (self.port(), other.port()) else { return false };
        if port != other_port {
            return false;
        }
        let (Some(one), Some(two)) = (self.ip(), other.ip()) else {
            // One of the two takes all addresses.
            return true;
        };
        let whole_family = one.is_unspecified() || two.is_unspecified();
        self == other || (one.is_ipv4() == two.is_ipv4() && whole_family)
    }

    /// Returns true if a connection to this address, made on this machine, arrives here; `own` tells which
    /// addresses are the machine's.
    #[must_use]
    pub fn takes(&self, address: SocketAddr, own: impl Fn(IpAddr) -> bool) -> bool {
        if self.port() != Some(address.port()) {
            return false;
        }
        let ip = address.ip().to_canonical();
        match self {
            Self::Any { .. } => own(ip),
            Self::Tcp(listener) if listener.ip().is_unspecified() => {
                listener.is_ipv4() == ip.is_ipv4() && own(ip)
            }
            Self::Tcp(listener) => {
                *listener == address || (listener.ip() == ip && !is_scoped(listener) && !is_scoped(&address))
            }
            Self::Zoned(_) | Self::Unix(_) => false,
        }
    }

    /// Returns the port; `None` for a Unix socket.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Any { port } => Some(*port),
            Self::Tcp(address) => Some(address.port()),
            Self::Zoned(address) => Some(address.port),
            Self::Unix(_) => None,
        }
    }

    /// Returns the one IP address; `None` for all addresses and for a Unix socket.
    fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip()),
            Self::Zoned(address) => Some(address.ip.into()),
            Self::Any { .. } | Self::Unix(_) => None,
        }
    }
}

/// Returns true for an address that belongs to an interface, as link-local ones do.
fn is_scoped(address: &SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(address) if address.scope_id() > 0)
}

impl BackendAddress {
    /// Returns the addresses that need no look-up, in the order in which they are tried; none for any other
    /// name and for a Unix socket. `localhost` is the loopback by definition (RFC 6761, section 6.3), also
    /// where `/etc/hosts` is missing or names one family only.
    #[must_use]
    pub fn known(&self) -> Vec<SocketAddr> {
        match self {
            Self::Ip(address) => vec![*address],
            Self::Host { name, port } if is_localhost(name) => {
                let loopback = [IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)];
                loopback.map(|ip| SocketAddr::new(ip, *port)).to_vec()
            }
            Self::Host { .. } | Self::Zoned(_) | Self::Unix(_) => Vec::new(),
        }
    }

    /// Returns true if a session to this backend would arrive at the listener, as far as the file tells: of
    /// the machine's own addresses it tells the loopback ones only.
    #[must_use]
    pub fn is_known_to_reach(&self, listener: &ListenAddress) -> bool {
        match (self, listener) {
            (Self::Unix(backend), ListenAddress::Unix(listener)) => cleaned(backend) == cleaned(listener),
            (Self::Zoned(backend), ListenAddress::Zoned(listener)) => backend == listener,
            _ => self.known().iter().any(|address| listener.takes(*address, |ip| ip.is_loopback())),
        }
    }
}

fn is_localhost(name: &str) -> bool {
    name.strip_suffix('.').unwrap_or(name).eq_ignore_ascii_case("localhost")
}

/// Returns a path without `.`, `..` and doubled slashes, as far as its text tells.
fn cleaned(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}

/// A backend that is a listener of the same process, whose sessions may come back to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Circle {
    /// Position of the upstream.
    pub upstream: usize,
    /// Position of the backend in it.
    pub backend: usize,
    /// Position of the listener that the backend is.
    pub listener: usize,
}

impl Circle {
    /// Returns every circle. `backends` is the number of backends of each upstream, and `reaches` tells
    /// whether a session to a backend of an upstream arrives at a listener, all by their positions.
    #[must_use]
    pub fn all(
        listeners: &[Listener],
        backends: &[usize],
        reaches: impl Fn(usize, usize, usize) -> bool,
    ) -> Vec<Self> {
        // A circle leads only through upstreams that a listener names, so those alone get a row.
        let mut rows = BTreeMap::new();
        for listener in listeners {
            for upstream in listener.upstreams() {
                let next = rows.len();
                rows.entry(upstream.index()).or_insert(next);
            }
        }
        let mut edges = Vec::new();
        for (&upstream, _) in rows.iter().filter(|(upstream, _)| **upstream < backends.len()) {
            for backend in 0..backends[upstream] {
                let at = (0..listeners.len()).filter(|listener| reaches(upstream, backend, *listener));
                edges.extend(at.map(|listener| Self { upstream, backend, listener }));
            }
        }
        if edges.is_empty() {
            return edges;
        }
        let leads = |edge: &Self| {
            let from = rows[&edge.upstream];
            let to = listeners[edge.listener].upstreams().into_iter().map(|to| rows[&to.index()]);
            to.map(move |to| (from, to)).collect::<Vec<_>>()
        };
        let reached = closure(rows.len(), edges.iter().flat_map(leads));
        edges.retain(|edge| leads(edge).into_iter().any(|(from, to)| reached[to][from]));
        edges
    }
}

/// Returns what is reached from where in any number of steps, including none.
fn closure(size: usize, edges: impl Iterator<Item = (usize, usize)>) -> Vec<Vec<bool>> {
    let mut reached: Vec<Vec<bool>> = (0..size).map(|row| (0..size).map(|to| to == row).collect()).collect();
    edges.for_each(|(from, to)| reached[from][to] = true);
    for through in 0..size {
        let beyond = reached[through].clone();
        for row in reached.iter_mut().filter(|row| row[through]) {
            row.iter_mut().zip(&beyond).for_each(|(reaches, more)| *reaches |= more);
        }
    }
    reached
}

impl Config {
    /// Returns the configuration with the numbers of interfaces instead of their names; `None` if it names
    /// none.
    ///
    /// # Errors
    ///
    /// Fails with the name of an interface that `index` does not know.
    pub fn with_zones(&self, index: impl Fn(&str) -> Option<u32>) -> Result<Option<Self>, String> {
        let numbered = |address: &ZonedAddress| match index(&address.zone) {
            Some(index) => Ok(SocketAddrV6::new(address.ip, address.port, 0, index).into()),
            None => Err(address.zone.clone()),
        };
        let mut config = self.clone();
        let mut changed = false;
        for listener in &mut config.listeners {
            if let ListenAddress::Zoned(address) = &listener.address {
                (listener.address, changed) = (ListenAddress::Tcp(numbered(address)?), true);
            }
        }
        if let Some(ListenAddress::Zoned(address)) = &config.admin.listen_address {
            (config.admin.listen_address, changed) = (Some(ListenAddress::Tcp(numbered(address)?)), true);
        }
        for backend in config.upstreams.iter_mut().flat_map(|upstream| &mut upstream.backends) {
            if let BackendAddress::Zoned(address) = &backend.address {
                (backend.address, changed) = (BackendAddress::Ip(numbered(address)?), true);
            }
        }
        Ok(changed.then_some(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_compared_without_detours() {
        for (one, two, same) in [
            ("/run/x", "/run/../run/x", true),
            ("/run/x", "/run//x", true),
            ("/run/x", "/run/./x", true),
            ("/run/x", "/../run/x", true),
            ("/run/x", "/run/x/y", false),
        ] {
            assert_eq!(cleaned(Path::new(one)) == cleaned(Path::new(two)), same, "{one} {two}");
        }
    }

    #[test]
    fn a_closure_has_every_way() {
        let reached = closure(4, [(0, 1), (1, 2)].into_iter());
        assert!(reached[0][2] && reached[0][0] && !reached[2][0] && !reached[0][3]);
    }
}
