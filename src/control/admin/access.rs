//! Who asks, and whether a browser was led here.
//!
//! A page of a stranger can make a browser on this machine ask `127.0.0.1:9900`, under a name of the stranger's that
//! suddenly resolves to 127.0.0.1 (DNS rebinding). The browser then sends that name as `Host`, and the stranger's
//! page as `Origin`. So on loopback only names count that no stranger has: IP addresses and `localhost`.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use hyper::header::{HOST, HeaderName, ORIGIN};
use hyper::{Request, Version};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// Somebody on the TCP endpoint.
    Tcp {
        /// Whether the endpoint is reached from this machine only.
        is_loopback: bool,
    },
    /// A user of this machine, on the Unix socket.
    Socket {
        /// His number, if the kernel tells.
        uid: Option<u32>,
    },
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { .. } => f.write_str("a client on TCP"),
            Self::Socket { uid: Some(uid) } => write!(f, "uid {uid}"),
            Self::Socket { uid: None } => f.write_str("an unknown user"),
        }
    }
}

/// Why a request is refused whatever it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// No `Host`, or several.
    #[error("a request names one host; send one `Host` header")]
    Host,
    /// The name of a stranger.
    #[error(
        "this endpoint answers to IP addresses and `localhost` only, against DNS rebinding; use one of these in \
         the URL"
    )]
    ForeignHost,
    /// The page of a stranger.
    #[error("a page of another origin may not ask this process; open the page that Ringway serves at `/`")]
    ForeignOrigin,
}

/// Judges the headers of a request, and the host of its target if that has one.
pub(super) fn judge<B>(peer: Peer, request: &Request<B>) -> Result<(), Refusal> {
    let one = |name: HeaderName| {
        let mut values = request.headers().get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => value.to_str().map(Some).map_err(|_| Refusal::Host),
            _ => Err(Refusal::Host),
        }
    };
    let (host, origin) = (one(HOST)?, one(ORIGIN)?);
    if host.is_none() && request.version() != Version::HTTP_10 {
        return Err(Refusal::Host);
    }
    let target = request.uri().authority().map(hyper::http::uri::Authority::as_str);
    if peer == (Peer::Tcp { is_loopback: true })
        && !host.into_iter().chain(target).all(|host| !is_foreign(host))
    {
        return Err(Refusal::ForeignHost);
    }
    match origin {
        Some(origin) if !is_same(origin, host) => Err(Refusal::ForeignOrigin),
        _ => Ok(()),
    }
}

/// Returns whether a host, with or without a port, may be a name of a stranger.
fn is_foreign(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        let Some((ip, port)) = rest.split_once(']') else { return true };
        return ip.parse::<Ipv6Addr>().is_err() || !(port.is_empty() || port.starts_with(':'));
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    name.parse::<Ipv4Addr>().is_err() && !name.eq_ignore_ascii_case("localhost")
}

/// Returns whether an `Origin` is the host that was asked.
fn is_same(origin: &str, host: Option<&str>) -> bool {
    let authority = ["http://", "https://"].iter().find_map(|scheme| origin.strip_prefix(scheme));
    authority.zip(host).is_some_and(|(authority, host)| authority.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: Peer = Peer::Tcp { is_loopback: true };
    const OTHER: Peer = Peer::Tcp { is_loopback: false };
    const SOCKET: Peer = Peer::Socket { uid: Some(0) };

    fn judged(peer: Peer, headers: &[(&str, &str)]) -> Result<(), Refusal> {
        let mut request = Request::get("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        judge(peer, &request.body(()).unwrap())
    }

    #[test]
    fn on_loopback_only_names_that_no_stranger_has_are_answered() {
        for host in
            ["127.0.0.1:9900", "127.0.0.1", "10.1.2.3:1", "localhost", "LocalHost:9900", "[::1]", "[::1]:9"]
        {
            assert_eq!(judged(LOOPBACK, &[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "example.com",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "127.1",
            "0x7f000001",
            "",
            "[::1",
            "[::1]x",
            "[example.com]",
            "::1",
            "user@127.0.0.1",
        ] {
            assert_eq!(judged(LOOPBACK, &[("host", host)]), Err(Refusal::ForeignHost), "{host}");
            assert_eq!(judged(OTHER, &[("host", host)]), Ok(()), "{host}");
            assert_eq!(judged(SOCKET, &[("host", host)]), Ok(()), "{host}");
        }
    }

    #[test]
    fn target_with_a_host_counts_like_the_header() {
        let request = Request::get("http://example.com/").header("host", "127.0.0.1").body(()).unwrap();
        assert_eq!(judge(LOOPBACK, &request), Err(Refusal::ForeignHost));
        assert_eq!(judge(OTHER, &request), Ok(()));
    }

    #[test]
    fn request_has_one_host_but_for_http_1_0() {
        assert_eq!(judged(SOCKET, &[]), Err(Refusal::Host));
        assert_eq!(judged(SOCKET, &[("host", "a"), ("host", "b")]), Err(Refusal::Host));
        let old = Request::get("/").version(Version::HTTP_10).body(()).unwrap();
        assert_eq!(judge(LOOPBACK, &old), Ok(()));
    }

    #[test]
    fn origin_is_the_host_itself() {
        for peer in [LOOPBACK, OTHER, SOCKET] {
            let of = |origin| judged(peer, &[("host", "127.0.0.1:9900"), ("origin", origin)]);
            assert_eq!(of("http://127.0.0.1:9900"), Ok(()));
            assert_eq!(of("https://127.0.0.1:9900"), Ok(()));
            for origin in
                ["http://127.0.0.1", "http://127.0.0.1:99", "http://example.com", "null", "file://", ""]
            {
                assert_eq!(of(origin), Err(Refusal::ForeignOrigin), "{origin}");
            }
        }
    }
}
