//! What a ClientHello says, and how far reading one has come.

use super::invalid::Invalid;

/// What a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The host that the client wants, in lower case and without a final dot.
    pub(super) server_name: Option<Box<str>>,
    /// Each protocol behind the byte of its length. Checked.
    pub(super) protocols: Box<[u8]>,
}

impl ClientHello {
    /// Creates what a client with this server name and these protocols would say. A protocol of more than 255 bytes is left
    /// out, and so is an empty one.
    #[must_use]
    pub fn new<'a>(server_name: Option<Box<str>>, protocols: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut bytes = Vec::new();
        for protocol in protocols {
            if let Ok(length @ 1..) = u8::try_from(protocol.len()) {
                bytes.push(length);
                bytes.extend_from_slice(protocol);
            }
        }
        Self { server_name, protocols: bytes.into() }
    }

    /// Returns the host that the client wants, in lower case and without a final dot.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// Iterates over the protocols that the client offers (ALPN), the one that it likes best first.
    pub fn protocols(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &*self.protocols;
        std::iter::from_fn(move || {
            let (&length, after) = rest.split_first()?;
            let (protocol, after) = after.split_at_checked(length.into())?;
            rest = after;
            Some(protocol)
        })
    }
}

/// How far reading a ClientHello has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// These bytes may be the begin of one.
    Incomplete {
        /// The least number of bytes, records and all, that a ClientHello which begins like this has. More than were given.
        least: usize,
    },
    /// It is complete.
    Complete(ClientHello),
    /// No ClientHello begins like this, whatever follows.
    Invalid(Invalid),
}
