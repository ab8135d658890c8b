//! Version 2: binary.

use std::net::{IpAddr, SocketAddr};

use super::header::{Endpoints, Header, Progress, Version};
use super::invalid::{Invalid, V2_REST_MAX};
use super::tlv::{self, Tlvs};

/// How every header begins.
pub(super) const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and protocol, and the length of the rest.
pub(super) const FIXED: usize = 16;

pub(super) const LOCAL: u8 = 0x20;
pub(super) const PROXY: u8 = 0x21;
pub(super) const TCP4: u8 = 0x11;
pub(super) const TCP6: u8 = 0x21;

/// The bytes of two addresses and two ports.
const INET: usize = 2 * (4 + 2);
const INET6: usize = 2 * (16 + 2);
const UNIX: usize = 2 * 108;

/// Reads a header that begins with [`SIGNATURE`], as far as there are bytes.
pub(super) fn read(bytes: &[u8]) -> Result<Progress<'_>, Invalid> {
    let version_and_command = bytes.get(SIGNATURE.len()).copied();
    let is_local = version_and_command.map(is_local).transpose()?.unwrap_or(false);
    let family = bytes.get(SIGNATURE.len() + 1).copied();
    if let Some(family) = family.filter(|_| !is_local) {
        check_family(family)?;
    }
    let (Some(family), Some(&[high, low])) = (family, bytes.get(FIXED - 2..FIXED)) else {
        return Ok(Progress::Incomplete { least: FIXED });
    };
    let rest = u16::from_be_bytes([high, low]);
    let length = FIXED + usize::from(rest);
    if length > FIXED + V2_REST_MAX {
        return Err(Invalid::TooLong(rest));
    }
    let addresses = if is_local { None } else { address_bytes(family) };
    if addresses.is_some_and(|bytes| bytes > usize::from(rest)) {
        return Err(Invalid::AddressesCut);
    }
    let Some(whole) = bytes.get(..length) else { return Ok(Progress::Incomplete { least: length }) };
    let mut header = Header { version: Version::V2, endpoints: None, tlvs: Tlvs::NONE };
    if let Some(addresses) = addresses {
        let (addresses, _) = whole[FIXED..].split_at(addresses);
        header.endpoints = endpoints(family, addresses);
        header.tlvs = tlv::check(whole, FIXED + addresses.len())?;
    }
    Ok(Progress::Complete { length, header })
}

/// Returns whether the command is LOCAL and not PROXY.
fn is_local(version_and_command: u8) -> Result<bool, Invalid> {
    match version_and_command {
        LOCAL => Ok(true),
        PROXY => Ok(false),
        other if other >> 4 != 2 => Err(Invalid::Version(other >> 4)),
        other => Err(Invalid::Command(other & 0xf)),
    }
}

fn check_family(family: u8) -> Result<(), Invalid> {
    let is_known = family >> 4 <= 3 && family & 0xf <= 2;
    if is_known { Ok(()) } else { Err(Invalid::Family(family)) }
}

/// Returns how long the addresses are; `None` if their family or protocol is unspecified.
fn address_bytes(family: u8) -> Option<usize> {
    match family {
        0x11 | 0x12 => Some(INET),
        0x21 | 0x22 => Some(INET6),
        0x31 | 0x32 => Some(UNIX),
        _ => None,
    }
}

/// Returns the endpoints of a TCP connection; a client of another kind is not one that we could have.
fn endpoints(family: u8, addresses: &[u8]) -> Option<Endpoints> {
    let (client, destination) = match family {
        TCP4 => both::<4>(addresses)?,
        TCP6 => both::<16>(addresses)?,
        _ => return None,
    };
    Some(Endpoints::new(client, destination))
}

/// Reads two addresses of `N` bytes, then two ports.
fn both<const N: usize>(addresses: &[u8]) -> Option<(SocketAddr, SocketAddr)>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = addresses.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (source_port, rest) = rest.split_first_chunk()?;
    let (destination_port, _) = rest.split_first_chunk()?;
    let address = |ip: &[u8; N], port: &[u8; 2]| SocketAddr::new((*ip).into(), u16::from_be_bytes(*port));
    Some((address(source, source_port), address(destination, destination_port)))
}
