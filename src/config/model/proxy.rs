//! The PROXY protocol of a listener, and whose headers are believed.

use std::fmt;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::text;
use crate::base::ClientAddress;

/// `proxy_protocol:` of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ProxyProtocol {
    /// Whether each connection begins with a PROXY header, version 1 or 2, which says who the client is; `required`
    /// refuses a connection without one.
    #[serde(serialize_with = "text::or_off")]
    pub accept: Option<Accept>,
    /// Whose headers are believed; all others are reset at once, as `untrusted`. Required beside `accept: required`.
    pub trusted: Vec<Trusted>,
}

/// What becomes of connections without a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Accept {
    /// They are refused: the specification forbids to guess whether there is a header.
    Required,
}

/// Peers whose headers are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trusted {
    /// All.
    Any,
    /// The clients of a Unix socket.
    Unix,
    /// Those with an address in this network. No mapped one: those are written as IPv4.
    Network(IpNet),
}

impl ProxyProtocol {
    /// Returns whether connections begin with a header.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.accept.is_some()
    }

    /// Returns whether the header of a peer is believed.
    #[must_use]
    pub fn trusts(&self, peer: ClientAddress) -> bool {
        self.trusted.iter().any(|trusted| match (trusted, peer.ip()) {
            (Trusted::Any, _) | (Trusted::Unix, None) => true,
            (Trusted::Network(network), Some(ip)) => network.contains(&ip),
            (Trusted::Unix, Some(_)) | (Trusted::Network(_), None) => false,
        })
    }
}

impl fmt::Display for Trusted {
    /// Writes it as the file does; a single address without the length of its prefix.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Unix => f.write_str("unix:"),
            Self::Network(network) if network.prefix_len() == network.max_prefix_len() => {
                network.addr().fmt(f)
            }
            Self::Network(network) => network.fmt(f),
        }
    }
}

impl Serialize for Trusted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_trusted_by_network_and_kind() {
        let rules = |trusted: &[Trusted]| ProxyProtocol { trusted: trusted.to_vec(), ..Default::default() };
        let network = |text: &str| Trusted::Network(text.parse().expect("a network"));
        let peer = |text: &str| ClientAddress::from(Some(text.parse().expect("an address")));
        let both = rules(&[network("10.0.0.0/8"), network("2001:db8::/32")]);
        assert!(both.trusts(peer("10.1.2.3:4")) && both.trusts(peer("[2001:db8::1]:4")));
        // A dual-stack listener has mapped peers.
        assert!(both.trusts(peer("[::ffff:10.1.2.3]:4")));
        assert!(!both.trusts(peer("11.1.2.3:4")) && !both.trusts(peer("[2001:db9::1]:4")));
        assert!(!both.trusts(ClientAddress::UNIX) && !rules(&[]).trusts(peer("10.1.2.3:4")));
        assert!(rules(&[Trusted::Unix]).trusts(ClientAddress::UNIX));
        assert!(!rules(&[Trusted::Unix]).trusts(peer("10.1.2.3:4")));
        assert!(rules(&[Trusted::Any]).trusts(peer("10.1.2.3:4")));
        assert!(rules(&[Trusted::Any]).trusts(ClientAddress::UNIX));
    }
}
