//! Addresses of listeners and backends, as the operator writes them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;

use super::hints;
use super::model::{BackendAddress, ListenAddress, ZonedAddress};
use super::report::quote;
use super::section::Read;
use super::tree::Node;
use super::values::{port_text, text};
use crate::base::limits;

/// Reads the address of a listener: `:PORT`, `IP:PORT`, `[IPV6]:PORT` or `unix:/PATH`.
pub(super) fn listen(node: &Node) -> Read<ListenAddress> {
    let text = text(node)?;
    refuse_foreign(text)?;
    if let Some(path) = text.strip_prefix("unix:") {
        return socket_path(path).map(ListenAddress::Unix);
    }
    let shown = quote(text);
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(format!(
            "{shown} is not `:PORT`, `IP:PORT`, `[IPV6]:PORT` or `unix:/PATH`; it has no port"
        ));
    };
    let port = port_text(port)?;
    if host.is_empty() {
        return Ok(ListenAddress::Any { port });
    }
    if host == "*" {
        return Err(format!("{shown} is not an address; write `:{port}` for all addresses"));
    }
    if host.contains(':') && !host.starts_with('[') {
        return Err(format!(
            "{shown} is not an address; an IPv6 address with a port is written `[::1]:{port}`"
        ));
    }
    if let Some(literal) = literal(host, port, &shown) {
        return match literal? {
            Literal::Ip(address) if is_many(address.ip()) => Err(format!(
                "{shown} is a multicast or broadcast address; write one of this machine's, or `:{port}` for \
                 all"
            )),
            Literal::Ip(address) => Ok(ListenAddress::Tcp(address)),
            Literal::Zoned(address) => Ok(ListenAddress::Zoned(address)),
        };
    }
    if let Some(ip) = hints::loose_ipv4(host) {
        return Err(format!("{shown} is not an address in decimal notation; write `{ip}:{port}`"));
    }
    Err(format!(
        "{shown} is not an address; write an IP address, or `:{port}` for all; host names are not looked up \
         here"
    ))
}

/// Reads the address of an endpoint that is on a port: `:PORT`, `IP:PORT` or `[IPV6]:PORT`.
pub(super) fn listen_on_port(node: &Node) -> Read<ListenAddress> {
    match listen(node) {
        Ok(ListenAddress::Unix(path)) => {
            let shown = quote(&format!("unix:{}", path.display()));
            Err(format!("{shown} is not `:PORT`, `IP:PORT` or `[IPV6]:PORT`; `socket` takes a path"))
        }
        read => {
            read.map_err(|message| message.replace(", `[IPV6]:PORT` or `unix:/PATH`", " or `[IPV6]:PORT`"))
        }
    }
}

/// Reads the address of a backend from its `address` and, where written, its `port`.
pub(super) fn backend(address: &str, port: Option<u16>) -> Read<BackendAddress> {
    refuse_foreign(address)?;
    let shown = quote(address);
    if let Some(path) = address.strip_prefix("unix:") {
        if port.is_some() {
            return Err(format!("{shown} has no port; remove `port`"));
        }
        return socket_path(path).map(BackendAddress::Unix);
    }
    let (host, inside) = split_port(address)?;
    if literal(host, 1, &shown).is_none() && !is_host_name(host) {
        return Err(format!("{shown} is not an IP address, a host name or `unix:/PATH`"));
    }
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
    if let Some(literal) = literal(host, port, &shown) {
        return match literal? {
            Literal::Ip(address) if address.ip().is_unspecified() || is_many(address.ip()) => Err(format!(
                "{shown} is not the address of a single host; write the backend's own, such as 127.0.0.1"
            )),
            Literal::Ip(address) => Ok(BackendAddress::Ip(address)),
            Literal::Zoned(address) => Ok(BackendAddress::Zoned(address)),
        };
    }
    Ok(BackendAddress::Host { name: host.to_owned(), port })
}

/// Returns the IPv4 address, with its port if any, that the system would read in a backend's `address` with
/// hexadecimal, octal or missing parts, and the message about it.
pub(super) fn loose_backend(address: &str) -> Option<(String, String)> {
    let (host, port) = split_port(address).ok()?;
    let ip = hints::loose_ipv4(host).filter(|_| host.parse::<Ipv4Addr>().is_err())?;
    let meant = port.map_or_else(|| ip.to_string(), |port| format!("{ip}:{port}"));
    let message = format!(
        "{} is neither an IP address in decimal notation nor a host name (hexadecimal, octal or missing \
         parts); write `{meant}`",
        quote(address)
    );
    Some((meant, message))
}

/// Refuses what other programs take for an address.
fn refuse_foreign(text: &str) -> Read<()> {
    let shown = quote(text);
    if hints::is_abstract_name(text) {
        return Err(format!(
            "{shown} is an abstract socket name, which is not supported; write `unix:/PATH`"
        ));
    }
    if let Some(scheme) = hints::scheme(text).filter(|scheme| *scheme != "unix") {
        return Err(format!("{shown} has a scheme; write it without `{scheme}://`"));
    }
    if text.starts_with('/') || text.starts_with("./") {
        return Err(format!("{shown} looks like a path; a Unix socket is written `unix:/PATH`"));
    }
    Ok(())
}

/// A literal address with its port.
enum Literal {
    Ip(SocketAddr),
    Zoned(ZonedAddress),
}

/// Reads an IP address, IPv6 with or without brackets and zone; returns `None` for any other text. An IPv4
/// address written as IPv6 (`::ffff:10.0.0.1`) is read as the IPv4 address.
fn literal(host: &str, port: u16, shown: &str) -> Option<Read<Literal>> {
    let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let text = inside.unwrap_or(host);
    let (ip, zone) = text.split_once('%').map_or((text, None), |(ip, zone)| (ip, Some(zone)));
    let ip = match ip.parse::<IpAddr>().ok()? {
        IpAddr::V4(_) if inside.is_some() || zone.is_some() => return None,
        ip => ip.to_canonical(),
    };
    let local = match ip {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Some(ip),
        _ => None,
    };
    Some(match (local, zone) {
        (None, None) => Ok(Literal::Ip(SocketAddr::new(ip, port))),
        (None, Some(zone)) => Err(format!(
            "only a link-local address (fe80::/10) has an interface; write {shown} without `%{zone}`"
        )),
        (Some(ip), Some(zone)) if zone.parse::<u32>().is_ok_and(|index| index > 0) => {
            let index = zone.parse().unwrap_or_default();
            Ok(Literal::Ip(SocketAddrV6::new(ip, port, 0, index).into()))
        }
        (Some(ip), Some(zone)) if is_interface(zone) => {
            Ok(Literal::Zoned(ZonedAddress { ip, zone: zone.to_owned(), port }))
        }
        (Some(ip), _) => Err(format!(
            "{shown} is a link-local address, which needs its interface; write it as in `{ip}%eth0`"
        )),
    })
}

/// Returns true if an interface may have this name; whether there is one is known at the start.
fn is_interface(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    // IFNAMSIZ without its NUL, netdevice(7).
    (1..=15).contains(&name.len()) && name.chars().all(plain) && name.contains(|c: char| !c.is_ascii_digit())
}

/// Returns true for multicast and broadcast addresses.
fn is_many(ip: IpAddr) -> bool {
    ip.is_multicast() || ip == IpAddr::from([255; 4])
}

/// Reads the header `Host`: a host name, an IPv4 address or an IPv6 one in brackets, with or without a port.
pub(super) fn host_header(node: &Node) -> Read<String> {
    let text = text(node)?;
    let (host, _) = split_port(text)?;
    let ipv6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_ip = ipv6.map_or(host.parse::<Ipv4Addr>().is_ok(), |ip| ip.parse::<Ipv6Addr>().is_ok());
    if is_ip || is_host_name(host) {
        return Ok(text.to_owned());
    }
    Err(format!("{} is not a host such as `example.com`, `example.com:8080` or `[::1]`", quote(text)))
}

/// Reads a server name for TLS: a host name, or an IP address, which the handshake leaves out.
pub(super) fn server_name(node: &Node) -> Read<String> {
    let text = text(node)?;
    if text.parse::<IpAddr>().is_ok() || is_host_name(text) {
        return Ok(text.to_owned());
    }
    Err(format!("{} is not a host name or an IP address", quote(text)))
}

/// Splits `HOST`, `HOST:PORT`, `IPV6`, `[IPV6]` or `[IPV6]:PORT` into host and port.
fn split_port(address: &str) -> Read<(&str, Option<u16>)> {
    let bare = address.matches(':').count() > 1 && !address.starts_with('[');
    match address.rsplit_once(':') {
        Some((host, port)) if !bare && (!host.starts_with('[') || host.ends_with(']')) => {
            Ok((host, Some(port_text(port)?)))
        }
        _ => Ok((address, None)),
    }
}

/// Returns true for a host name by RFC 1123, with the underscore that names inside container networks have. A
/// last label of digits only, or a hexadecimal one, is an IPv4 address that did not parse, and the system's
/// resolver would take it for one.
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
    let last = name.rsplit('.').next().unwrap_or_default();
    let digits = last.chars().all(|c| c.is_ascii_digit());
    let hexadecimal = last.len() > 1 && (last.starts_with("0x") || last.starts_with("0X"));
    host.len() <= LONGEST && name.split('.').all(label) && !digits && !hexadecimal
}

fn socket_path(path: &str) -> Read<PathBuf> {
    let shown = quote(path);
    if !path.starts_with('/') || path.contains(char::is_control) {
        return Err(format!(
            "{shown} is not the path of a socket; write an absolute one, as in `unix:/run/x.sock`"
        ));
    }
    if path.len() > limits::SOCKET_PATH_BYTES_MAX {
        let (length, most) = (path.len(), limits::SOCKET_PATH_BYTES_MAX);
        return Err(format!("{shown} is {length} bytes long; the path of a socket has at most {most}"));
    }
    Ok(PathBuf::from(path))
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any { port } => write!(f, ":{port}"),
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Zoned(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for ZonedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}%{}]:{}", self.ip, self.zone, self.port)
    }
}

impl fmt::Display for BackendAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Zoned(address) => write!(f, "{address}"),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
