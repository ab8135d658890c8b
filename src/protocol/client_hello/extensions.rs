//! The extensions that say which server a client wants.

use super::hello::ClientHello;
use super::invalid::Invalid;
use super::name::host_name;
use super::reader::Reader;

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

/// The type of a host name among those of names.
const HOST_NAME: u8 = 0;

/// Reads the body of a ClientHello, to its end.
pub(super) fn body(bytes: &[u8]) -> Result<ClientHello, Invalid> {
    let mut reader = Reader(bytes);
    fixed(&mut reader).ok_or(Invalid::Fields)?;
    if reader.is_empty() {
        return Ok(ClientHello::default());
    }
    let all = reader.behind_u16().filter(|_| reader.is_empty()).ok_or(Invalid::Extensions)?;
    let (mut name, mut protocols) = (None, None);
    let mut extensions = Reader(all);
    while !extensions.is_empty() {
        let kind = extensions.u16().ok_or(Invalid::Extensions)?;
        let value = extensions.behind_u16().ok_or(Invalid::Extensions)?;
        let before = match kind {
            SERVER_NAME => name.replace(server_name(value).ok_or(Invalid::ServerName)?).is_some(),
            ALPN => protocols.replace(protocol_names(value).ok_or(Invalid::Protocols)?).is_some(),
            _ => false,
        };
        if before {
            return Err(Invalid::Twice(kind));
        }
    }
    let server_name = name.and_then(host_name);
    Ok(ClientHello { server_name, protocols: protocols.unwrap_or_default().into() })
}

/// Skips the fields before the extensions: version, random, session, cipher suites and compression methods.
fn fixed(reader: &mut Reader<'_>) -> Option<()> {
    reader.take(2 + 32)?;
    reader.behind_u8().filter(|session| session.len() <= 32)?;
    reader.behind_u16().filter(|suites| !suites.is_empty() && suites.len() % 2 == 0)?;
    reader.behind_u8().filter(|methods| !methods.is_empty()).map(|_| ())
}

/// Returns the host name in a list of names; an empty one if there are names of other types only.
fn server_name(value: &[u8]) -> Option<&[u8]> {
    let mut outer = Reader(value);
    let list = outer.behind_u16().filter(|list| !list.is_empty() && outer.is_empty())?;
    let mut names = Reader(list);
    let mut found: Option<&[u8]> = None;
    while !names.is_empty() {
        let kind = names.u8()?;
        let name = names.behind_u16()?;
        if kind == HOST_NAME && (name.is_empty() || found.replace(name).is_some()) {
            return None;
        }
    }
    Some(found.unwrap_or_default())
}

/// Returns the protocols, each behind the byte of its length.
fn protocol_names(value: &[u8]) -> Option<&[u8]> {
    let mut outer = Reader(value);
    let list = outer.behind_u16().filter(|list| !list.is_empty() && outer.is_empty())?;
    let mut names = Reader(list);
    while !names.is_empty() {
        names.behind_u8().filter(|name| !name.is_empty())?;
    }
    Some(list)
}
