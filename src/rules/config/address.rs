//! Addresses of listeners and backends, as the operator writes them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::model::{BackendAddress, ListenAddress};
use super::report::quote;
use super::section::Read;
use super::tree::Node;
use super::values::{port_text, text};
use crate::words::limits;

/// The address of a listener: `:PORT`, `IP:PORT`, `[IPV6]:PORT` or `unix:/PATH`.
pub(super) fn listen(node: &Node) -> Read<ListenAddress> {
    let text = text(node)?;
    if let Some(path) = text.strip_prefix("unix:") {
        return socket_path(path).map(ListenAddress::Unix);
    }
    let shown = quote(text);
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(format!("{shown} has no port; write `:PORT`, `IP:PORT`, `[IPV6]:PORT` or `unix:/PATH`"));
    };
    let port = port_text(port)?;
    if host.is_empty() {
        return Ok(ListenAddress::Any { port });
    }
    if host == "*" {
        return Err(format!("{shown} is not an address; write `:{port}` for all addresses"));
    }
    if let Ok(address) = text.parse() {
        return Ok(ListenAddress::Tcp(address));
    }
    if host.contains(':') {
        return Err(format!(
            "{shown} is not an address; an IPv6 address with a port is written `[::1]:{port}`"
        ));
    }
    Err(format!(
        "{shown} is not an address; write an IP address, or `:{port}` for all; host names are not looked up here"
    ))
}

/// The address of a backend from its `address` and, where written, its `port`.
pub(super) fn backend(address: &str, port: Option<u16>) -> Read<BackendAddress> {
    let shown = quote(address);
    if let Some(path) = address.strip_prefix("unix:") {
        if port.is_some() {
            return Err(format!("{shown} has no port; remove `port`"));
        }
        return socket_path(path).map(BackendAddress::Unix);
    }
    let (host, inside) = split_port(address)?;
    let port = match (inside, port) {
        (Some(inside), Some(port)) if inside == port => {
            return Err(format!("the port stands in {shown} and in `port`; remove one"));
        }
        (Some(inside), Some(port)) => {
            return Err(format!("{shown} says port {inside} and `port` says {port}; remove one"));
        }
        (Some(port), None) | (None, Some(port)) => port,
        (None, None) => return Err(format!("{shown} has no port; add `port`")),
    };
    if let Ok(address) = format!("{}:{port}", bracketed(host)).parse::<SocketAddr>() {
        let ip = address.ip();
        if ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::from([255; 4]) {
            return Err(format!(
                "{shown} is no address of a single host; write the backend's own, such as 127.0.0.1"
            ));
        }
        return Ok(BackendAddress::Ip(address));
    }
    if !is_host_name(host) {
        return Err(format!("{shown} is neither an IP address nor a host name"));
    }
    Ok(BackendAddress::Host { name: host.to_owned(), port })
}

/// The header `Host`: a host name, an IPv4 address or an IPv6 one in brackets, and perhaps a port.
pub(super) fn host_header(node: &Node) -> Read<String> {
    let text = text(node)?;
    let (host, _) = split_port(text)?;
    let ipv6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_ip = ipv6.map_or(host.parse::<Ipv4Addr>().is_ok(), |ip| ip.parse::<Ipv6Addr>().is_ok());
    if is_ip || is_host_name(host) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{} is not a host; write one as in `example.com`, `example.com:8080` or `[::1]`",
        quote(text)
    ))
}

/// A name for TLS: a host name, or an IP address, which asks for none.
pub(super) fn server_name(node: &Node) -> Read<String> {
    let text = text(node)?;
    if text.parse::<IpAddr>().is_ok() || is_host_name(text) {
        return Ok(text.to_owned());
    }
    Err(format!("{} is not a server name; write a host name, or an IP address to send none", quote(text)))
}

/// Host and port of `HOST`, `HOST:PORT`, `IPV6`, `[IPV6]` or `[IPV6]:PORT`.
fn split_port(address: &str) -> Read<(&str, Option<u16>)> {
    let bare = address.matches(':').count() > 1 && !address.starts_with('[');
    match address.rsplit_once(':') {
        Some((host, port)) if !bare && (!host.starts_with('[') || host.ends_with(']')) => {
            Ok((host, Some(port_text(port)?)))
        }
        _ => Ok((address, None)),
    }
}

/// A bare IPv6 address in the brackets that a socket address needs.
fn bracketed(host: &str) -> String {
    let bare = host.split('%').next().is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok());
    if bare { format!("[{host}]") } else { host.to_owned() }
}

/// RFC 1123, with the underscore that names inside container networks have. A last label of digits only
/// is an IPv4 address that did not parse.
fn is_host_name(host: &str) -> bool {
    const LONGEST: usize = 253;
    let label = |label: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        (1..=63).contains(&label.len())
            && label.chars().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    let digits = name.rsplit('.').next().is_some_and(|last| last.chars().all(|c| c.is_ascii_digit()));
    host.len() <= LONGEST && name.split('.').all(label) && !digits
}

fn socket_path(path: &str) -> Read<PathBuf> {
    let shown = quote(path);
    if !path.starts_with('/') || path.contains(char::is_control) {
        return Err(format!(
            "{shown} is not the path of a socket; write an absolute one, as in `unix:/run/x.sock`"
        ));
    }
    if path.len() > limits::SOCKET_PATH_BYTES {
        let (length, most) = (path.len(), limits::SOCKET_PATH_BYTES);
        return Err(format!("{shown} is {length} bytes long; the path of a socket has at most {most}"));
    }
    Ok(PathBuf::from(path))
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any { port } => write!(f, ":{port}"),
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for BackendAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl ListenAddress {
    /// Whether both would receive the same connections. `[::]` is IPv6 alone, unlike `:PORT`.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unix(one), Self::Unix(two)) => one == two,
            (Self::Unix(_), _) | (_, Self::Unix(_)) => false,
            (Self::Any { port }, Self::Any { port: other }) => port == other,
            (Self::Any { port }, Self::Tcp(address)) | (Self::Tcp(address), Self::Any { port }) => {
                *port == address.port()
            }
            (Self::Tcp(one), Self::Tcp(two)) => {
                let same_family = one.is_ipv4() == two.is_ipv4();
                let whole_family = one.ip().is_unspecified() || two.ip().is_unspecified();
                one.port() == two.port() && (one == two || (same_family && whole_family))
            }
        }
    }

    /// Whether a connection from this machine to a backend of this address would come back here. Of the machine's own
    /// addresses only the loopback ones are known to be its own.
    #[must_use]
    pub fn is_reached_by(&self, backend: &BackendAddress) -> bool {
        let local = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
        match (self, backend) {
            (Self::Unix(one), BackendAddress::Unix(two)) => one == two,
            (Self::Any { port }, BackendAddress::Ip(address)) => {
                *port == address.port() && local(address.ip().to_canonical())
            }
            (Self::Any { port }, BackendAddress::Host { name, port: other }) => {
                port == other && name == "localhost"
            }
            (Self::Tcp(listener), BackendAddress::Ip(backend)) => {
                let same_family = listener.is_ipv4() == backend.is_ipv4();
                let any = listener.ip().is_unspecified() && same_family && local(backend.ip());
                listener == backend || (any && listener.port() == backend.port())
            }
            (Self::Tcp(listener), BackendAddress::Host { name, port }) => {
                listener.port() == *port && name == "localhost" && local(listener.ip())
            }
            (Self::Unix(_), _) | (_, BackendAddress::Unix(_)) => false,
        }
    }
}
