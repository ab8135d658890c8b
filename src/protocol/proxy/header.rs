//! What a header says, and how far reading one has come.

use std::net::SocketAddr;

use serde::Serialize;

use super::invalid::Invalid;
use super::tlv::Tlvs;

/// The version of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// Who has connected to whom, in the words of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The client. Never a mapped address.
    pub client: SocketAddr,
    /// The address that it has connected to. Never a mapped address.
    pub destination: SocketAddr,
}

impl Endpoints {
    /// Creates endpoints; mapped addresses become IPv4.
    #[must_use]
    pub fn new(client: SocketAddr, destination: SocketAddr) -> Self {
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        Self { client: canonical(client), destination: canonical(destination) }
    }
}

/// A complete header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The version that it is written in.
    pub version: Version,
    /// `None` if the connection's own addresses are the ones to use.
    pub endpoints: Option<Endpoints>,
    /// What else it says; empty in version 1.
    pub tlvs: Tlvs<'a>,
}

/// How far reading a header has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// These bytes may be the begin of a header.
    Incomplete {
        /// The least number of bytes that a header which begins like this has. More than were given.
        least: usize,
    },
    /// The header ends here; what follows is the client's.
    Complete {
        /// Its length, bytes.
        length: usize,
        /// What it says.
        header: Header<'a>,
    },
    /// No header begins like this, whatever follows.
    Invalid(Invalid),
}
