//! What a header of version 2 says beyond its addresses: types, lengths and values.

use super::checksum;
use super::invalid::Invalid;

const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
const UNIQUE_ID: u8 = 0x05;
const SSL: u8 = 0x20;
const SSL_VERSION: u8 = 0x21;
const SSL_CIPHER: u8 = 0x23;
const NETNS: u8 = 0x30;

/// Type and length.
const PREFIX: usize = 3;
/// The longest unique id, bytes.
const UNIQUE_ID_MAX: usize = 128;

/// One TLV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tlv<'a> {
    /// The protocol that the client and the proxy have agreed on.
    Alpn(&'a [u8]),
    /// The host name that the client asked for: the server name of its TLS.
    Authority(&'a str),
    /// The checksum of the header.
    Crc32c(u32),
    /// What the proxy calls the connection.
    UniqueId(&'a [u8]),
    /// What is known of the client's TLS.
    Ssl(Ssl<'a>),
    /// The network namespace of the proxy.
    Netns(&'a str),
    /// One that is not used here.
    Other {
        /// Its type.
        kind: u8,
        /// Its value.
        value: &'a [u8],
    },
}

/// The client's TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ssl<'a> {
    /// Bits: 1 the client uses TLS, 2 it gave a certificate on this connection, 4 it gave one in this session.
    pub client: u8,
    /// 0 if the client gave a certificate that was verified.
    pub verify: u32,
    /// Version, cipher, names and so on.
    pub details: Tlvs<'a>,
}

/// What a header says of the client's TLS in detail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SslDetails(Vec<u8>);

impl SslDetails {
    /// Takes the version, as in `TLSv1.3`, and the name that OpenSSL has for the cipher.
    #[must_use]
    pub fn new(version: &str, cipher: &str) -> Self {
        let mut bytes = Vec::with_capacity(2 * PREFIX + version.len() + cipher.len());
        for (kind, value) in [(SSL_VERSION, version), (SSL_CIPHER, cipher)] {
            Tlv::Other { kind, value: value.as_bytes() }.write(&mut bytes);
        }
        Self(bytes)
    }

    /// Returns them as TLVs.
    #[must_use]
    pub fn tlvs(&self) -> Tlvs<'_> {
        Tlvs(&self.0)
    }
}

/// TLVs one after the other, none of which is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tlvs<'a>(&'a [u8]);

impl<'a> Tlvs<'a> {
    /// None at all.
    pub const NONE: Self = Self(&[]);

    /// Takes these bytes for TLVs.
    ///
    /// # Errors
    ///
    /// [`Invalid::Tlv`]: one of them is longer than the bytes.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Invalid> {
        let mut rest = bytes;
        while let [kind, ..] = *rest {
            rest = split(rest).ok_or(Invalid::Tlv(kind))?.2;
        }
        Ok(Self(bytes))
    }

    /// Iterates over types and values.
    pub fn iter(self) -> impl Iterator<Item = (u8, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (kind, value, after) = split(rest)?;
            rest = after;
            Some((kind, value))
        })
    }

    /// Iterates over the TLVs of a header, which has checked them.
    pub fn known(self) -> impl Iterator<Item = Tlv<'a>> {
        self.iter().filter_map(|(kind, value)| Tlv::read(kind, value).ok())
    }
}

/// Returns type and value of the first TLV, and what follows.
fn split(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[kind, high, low], rest) = bytes.split_first_chunk::<PREFIX>()?;
    let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
    Some((kind, value, rest))
}

impl<'a> Tlv<'a> {
    fn read(kind: u8, value: &'a [u8]) -> Result<Self, Invalid> {
        let malformed = || Invalid::Tlv(kind);
        Ok(match kind {
            ALPN => Self::Alpn(value),
            AUTHORITY => Self::Authority(str::from_utf8(value).map_err(|_| malformed())?),
            CRC32C => Self::Crc32c(u32::from_be_bytes(value.try_into().map_err(|_| malformed())?)),
            UNIQUE_ID if value.len() <= UNIQUE_ID_MAX => Self::UniqueId(value),
            UNIQUE_ID => return Err(malformed()),
            SSL => Self::Ssl(Ssl::read(value).ok_or_else(malformed)?),
            NETNS => {
                let name = str::from_utf8(value).ok().filter(|name| name.is_ascii());
                Self::Netns(name.ok_or_else(malformed)?)
            }
            kind => Self::Other { kind, value },
        })
    }

    /// Appends the TLV.
    pub(super) fn write(&self, bytes: &mut Vec<u8>) {
        let mut put = |kind: u8, parts: &[&[u8]]| {
            let length: usize = parts.iter().map(|part| part.len()).sum();
            bytes.push(kind);
            bytes.extend(u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
            parts.iter().for_each(|part| bytes.extend_from_slice(part));
        };
        match *self {
            Self::Alpn(protocol) => put(ALPN, &[protocol]),
            Self::Authority(name) => put(AUTHORITY, &[name.as_bytes()]),
            Self::Crc32c(checksum) => put(CRC32C, &[&checksum.to_be_bytes()]),
            Self::UniqueId(id) => put(UNIQUE_ID, &[id]),
            Self::Ssl(ssl) => put(SSL, &[&[ssl.client], &ssl.verify.to_be_bytes(), ssl.details.0]),
            Self::Netns(name) => put(NETNS, &[name.as_bytes()]),
            Self::Other { kind, value } => put(kind, &[value]),
        }
    }
}

impl<'a> Ssl<'a> {
    fn read(value: &'a [u8]) -> Option<Self> {
        let (&[client], rest) = value.split_first_chunk()?;
        let (verify, details) = rest.split_first_chunk()?;
        Some(Self { client, verify: u32::from_be_bytes(*verify), details: Tlvs::new(details).ok()? })
    }
}

/// Checks the TLVs of a header, which begin at this position: each by itself, and the checksum, of which
/// there may be one.
pub(super) fn check(header: &[u8], begin: usize) -> Result<Tlvs<'_>, Invalid> {
    let tlvs = Tlvs::new(header.get(begin..).unwrap_or_default())?;
    let mut position = begin;
    let mut has_checksum = false;
    for (kind, value) in tlvs.iter() {
        let field = position + PREFIX;
        position = field + value.len();
        if let Tlv::Crc32c(expected) = Tlv::read(kind, value)? {
            if std::mem::replace(&mut has_checksum, true) {
                return Err(Invalid::Tlv(kind));
            }
            if checksum::of(header, field) != expected {
                return Err(Invalid::Checksum);
            }
        }
    }
    Ok(tlvs)
}
