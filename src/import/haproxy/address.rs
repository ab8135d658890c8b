//! Addresses as HAProxy writes them.

use crate::import::listen::Accept;

/// An address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Server {
    /// A host and how its port is written, if it is.
    Tcp(String, Option<String>),
    /// A Unix socket.
    Unix(String),
}

const NO_COUNTERPART: [&str; 12] =
    ["abns", "abnsz", "fd", "sockpair", "udp", "udp4", "udp6", "uxdg", "quic4", "quic6", "mptcp", "rhttp"];

/// Splits the family off an address.
fn family(text: &str) -> Result<(&str, bool), String> {
    if text.contains('$') {
        return Err("has a variable: write its value, and import again".to_owned());
    }
    let Some((family, rest)) = text.split_once('@') else { return Ok((text, text.starts_with('/'))) };
    match family {
        "unix" | "uxst" => Ok((rest, true)),
        "ipv4" | "ipv6" | "tcp" | "tcp4" | "tcp6" | "stream+ipv4" | "stream+ipv6" => Ok((rest, false)),
        family if NO_COUNTERPART.contains(&family) => {
            Err(format!("addresses of type `{family}@` have no counterpart; use TCP or a Unix socket"))
        }
        _ => Err(format!("`{family}@` is not known; write the address without it")),
    }
}

/// Reads one address of a `bind`.
pub(super) fn bind(text: &str, options: &[&str]) -> Result<Accept, String> {
    let (rest, is_unix) = family(text)?;
    if is_unix {
        return Ok(Accept::Unix(rest.to_owned()));
    }
    let Some((host, port)) = rest.rsplit_once(':') else {
        return Err(format!("{rest} has no port; write one"));
    };
    if port.contains('-') {
        return Err(format!("{port} is a range of ports; write a `bind` for each port, and import again"));
    }
    let port = port.parse().map_err(|_| format!("{port} is not a port from 1 to 65535; write one"))?;
    // Linux gives an IPv6 socket both families unless it is told otherwise.
    Ok(Accept::new(host, port, !options.contains(&"v6only")))
}

/// Reads the address of a server.
pub(super) fn server(text: &str) -> Result<Server, String> {
    let (rest, is_unix) = family(text)?;
    if is_unix {
        return Ok(Server::Unix(rest.to_owned()));
    }
    let is_alone = rest.ends_with(']') || !rest.contains(':');
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !is_alone => (host, Some(port.to_owned())),
        _ => (rest, None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if matches!(host, "" | "*" | "0.0.0.0" | "::") {
        return Err("leads to where the client wanted to go; write the address of a backend".to_owned());
    }
    Ok(Server::Tcp(host.to_owned(), port.filter(|port| !port.is_empty())))
}
