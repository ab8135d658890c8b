//! Makes a header.

use std::fmt;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use super::checksum;
use super::header::{Endpoints, Version};
use super::invalid::V2_REST_MAX;
use super::tlv::Tlv;
use super::v2;

/// The bytes of a checksum with type and length.
const CHECKSUM: usize = 3 + 4;

/// Returns a header that announces a connection.
///
/// Without endpoints it is the one that every receiver takes for "use the connection's own addresses":
/// `UNKNOWN` or LOCAL. With them, version 2 has the given TLVs and a checksum behind the addresses; a TLV for
/// which there is no room is left out. An IPv4 and an IPv6 address together are announced as IPv6.
#[must_use]
pub fn write(version: Version, endpoints: Option<Endpoints>, tlvs: &[Tlv<'_>]) -> Vec<u8> {
    match (version, endpoints) {
        (Version::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
        (Version::V1, Some(endpoints)) => line(endpoints),
        (Version::V2, None) => binary(v2::LOCAL, 0, &[]),
        (Version::V2, Some(endpoints)) => announcement(endpoints, tlvs),
    }
}

fn line(endpoints: Endpoints) -> Vec<u8> {
    let (client, destination) = pair(endpoints);
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (Hexadecimal(client.ip()), Hexadecimal(destination.ip()));
    let mut line = Vec::with_capacity(128);
    // A vector takes everything.
    let _ = write!(line, "PROXY {family} {from} {to} {} {}\r\n", client.port(), destination.port());
    line
}

fn announcement(endpoints: Endpoints, tlvs: &[Tlv<'_>]) -> Vec<u8> {
    let (client, destination) = pair(endpoints);
    let mut rest = Vec::with_capacity(64);
    for address in [client, destination] {
        match address.ip() {
            IpAddr::V4(ip) => rest.extend(ip.octets()),
            IpAddr::V6(ip) => rest.extend(ip.octets()),
        }
    }
    rest.extend([client, destination].iter().flat_map(|address| address.port().to_be_bytes()));
    for tlv in tlvs {
        let before = rest.len();
        tlv.write(&mut rest);
        if rest.len() > V2_REST_MAX - CHECKSUM {
            rest.truncate(before);
        }
    }
    Tlv::Crc32c(0).write(&mut rest);
    let family = if client.is_ipv4() { v2::TCP4 } else { v2::TCP6 };
    let mut header = binary(v2::PROXY, family, &rest);
    let field = header.len() - 4;
    let checksum = checksum::of(&header, field);
    header[field..].copy_from_slice(&checksum.to_be_bytes());
    header
}

fn binary(version_and_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut header = Vec::with_capacity(v2::FIXED + rest.len());
    header.extend(v2::SIGNATURE);
    header.extend([version_and_command, family]);
    header.extend(u16::try_from(rest.len()).unwrap_or(u16::MAX).to_be_bytes());
    header.extend_from_slice(rest);
    header
}

/// Returns both addresses in one family.
fn pair(Endpoints { client, destination }: Endpoints) -> (SocketAddr, SocketAddr) {
    if client.is_ipv4() == destination.is_ipv4() {
        return (client, destination);
    }
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    (mapped(client), mapped(destination))
}

/// An address as version 1 wants it: IPv6 in hexadecimal digits alone, even a mapped one.
struct Hexadecimal(IpAddr);

impl fmt::Display for Hexadecimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => {
                let [.., high, low] = ip.segments();
                write!(f, "::ffff:{high:x}:{low:x}")
            }
            ip => ip.fmt(f),
        }
    }
}
