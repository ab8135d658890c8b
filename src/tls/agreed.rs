//! What both sides of a connection have agreed on.

use rustls::{CipherSuite, CommonState, HandshakeKind, ProtocolVersion};

/// See the module documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    version: ProtocolVersion,
    cipher: CipherSuite,
    /// Whether the session goes on from an earlier one.
    pub resumed: bool,
}

impl Agreed {
    /// Returns what a connection has agreed on; `None` before its handshake is over.
    #[must_use]
    pub fn of(state: &CommonState) -> Option<Self> {
        let cipher = state.negotiated_cipher_suite()?.suite();
        let resumed = matches!(state.handshake_kind()?, HandshakeKind::Resumed);
        Some(Self { version: state.protocol_version()?, cipher, resumed })
    }

    /// Returns the version, as HAProxy and nginx write it.
    #[must_use]
    pub fn version(self) -> &'static str {
        match self.version {
            ProtocolVersion::TLSv1_2 => "TLSv1.2",
            ProtocolVersion::TLSv1_3 => "TLSv1.3",
            _ => "TLS",
        }
    }

    /// Returns the name of the cipher suite in the registry of IANA.
    #[must_use]
    pub fn cipher(self) -> String {
        let name = self.cipher.as_str().unwrap_or_default();
        name.strip_prefix("TLS13_").map_or_else(|| name.to_owned(), |rest| format!("TLS_{rest}"))
    }
}
