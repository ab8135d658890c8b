//! Version 1: a line of text.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::header::{Endpoints, Header, Progress, Version};
use super::invalid::Invalid;
use super::tlv::Tlvs;

/// How every line begins.
pub(super) const WORD: &[u8] = b"PROXY ";
/// The longest line, with its end.
const LINE_MAX: usize = 107;
/// The shortest line, with its end.
const LINE_MIN: usize = b"PROXY UNKNOWN\r\n".len();

/// The protocols that a line may announce.
const PROTOCOLS: [&[u8]; 3] = [b"TCP4", b"TCP6", b"UNKNOWN"];

/// Reads a line that begins with [`WORD`], as far as there are bytes.
pub(super) fn read(bytes: &[u8]) -> Result<Progress<'_>, Invalid> {
    let incomplete = Ok(Progress::Incomplete { least: LINE_MIN.max(bytes.len() + 1) });
    let line = &bytes[..bytes.len().min(LINE_MAX)];
    let Some(rest) = line.get(WORD.len()..) else { return incomplete };
    let Some((protocol, rest)) = protocol(rest)? else { return incomplete };
    let Some(fields) = fields(rest, protocol == b"UNKNOWN")? else {
        return if bytes.len() < LINE_MAX { incomplete } else { Err(Invalid::LineTooLong) };
    };
    let endpoints = match protocol {
        b"TCP4" => Some(endpoints::<Ipv4Addr>(fields)?),
        b"TCP6" => Some(endpoints::<Ipv6Addr>(fields)?),
        _ => None,
    };
    let length = WORD.len() + protocol.len() + fields.len() + b"\r\n".len();
    let header = Header { version: Version::V1, endpoints, tlvs: Tlvs::NONE };
    Ok(Progress::Complete { length, header })
}

/// The announced protocol, and what follows it.
type Announced<'a> = (&'a [u8], &'a [u8]);

/// Returns the announced protocol; `None` while more bytes are needed.
fn protocol(rest: &[u8]) -> Result<Option<Announced<'_>>, Invalid> {
    for name in PROTOCOLS {
        if let Some(after) = rest.strip_prefix(name) {
            return match after.first() {
                Some(b' ') => Ok(Some((name, after))),
                Some(b'\r') if name == b"UNKNOWN" => Ok(Some((name, after))),
                Some(_) => Err(Invalid::Protocol),
                None => Ok(None),
            };
        }
    }
    let is_begin = PROTOCOLS.iter().any(|name| name.starts_with(rest));
    if is_begin { Ok(None) } else { Err(Invalid::Protocol) }
}

/// Returns what is before the end of the line; `None` while there is no end. Anything may stand there behind UNKNOWN;
/// elsewhere a byte that belongs to no address and no port is refused at once.
fn fields(rest: &[u8], is_unknown: bool) -> Result<Option<&[u8]>, Invalid> {
    for (index, &byte) in rest.iter().enumerate() {
        match (byte, rest.get(index + 1)) {
            (b'\r', Some(b'\n')) => return Ok(Some(&rest[..index])),
            (b'\r', None) => return Ok(None),
            (b' ' | b'.' | b':', _) => {}
            _ if byte.is_ascii_hexdigit() || is_unknown => {}
            _ => return Err(Invalid::Byte(byte)),
        }
    }
    Ok(None)
}

/// Reads ` SOURCE DESTINATION PORT PORT`.
fn endpoints<A: FromStr + Into<std::net::IpAddr>>(fields: &[u8]) -> Result<Endpoints, Invalid> {
    let text = str::from_utf8(fields).map_err(|_| Invalid::Fields)?;
    let mut fields = text.split(' ');
    let ([Some(""), Some(source), Some(destination), Some(source_port), Some(destination_port)], None) =
        ([(); 5].map(|()| fields.next()), fields.next())
    else {
        return Err(Invalid::Fields);
    };
    let address = |text: &str| text.parse::<A>().map(Into::into).map_err(|_| Invalid::Address);
    let (source, destination) = (address(source)?, address(destination)?);
    Ok(Endpoints::new(
        SocketAddr::new(source, port(source_port)?),
        SocketAddr::new(destination, port(destination_port)?),
    ))
}

fn port(text: &str) -> Result<u16, Invalid> {
    let is_padded = text.len() > 1 && text.starts_with('0');
    if is_padded { Err(Invalid::Port) } else { text.parse().map_err(|_| Invalid::Port) }
}
