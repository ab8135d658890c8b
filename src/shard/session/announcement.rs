//! The PROXY header that tells a backend who the client is.

use rustls::{CommonState, HandshakeKind, ProtocolVersion};

use super::record::Record;
use crate::net;
use crate::protocol::client_hello::ClientHello;
use crate::protocol::proxy::{self, Endpoints, Ssl, SslDetails, Tlv};

/// The client speaks TLS with us.
const SSL: u8 = 1;
/// It has given a certificate on this connection.
const CERTIFICATE_HERE: u8 = 2;
/// It has given one on this connection, or on the one that this one resumes.
const CERTIFICATE: u8 = 4;

impl Record {
    /// Returns the header that tells a backend who the client is, and which address it has connected to, if the upstream
    /// wants one; the host that it asks for if that was read; and what is known of its TLS. Where an address is not known, as
    /// with a Unix socket, the header says so.
    pub(super) fn announcement(&self) -> Option<Vec<u8>> {
        let version = self.upstream().config().send_proxy?;
        let session = &self.session;
        let own = || {
            let destination = self.client.with(net::local_address)?;
            Some(Endpoints::new(session.peer.socket_address()?, destination))
        };
        let endpoints = session.announced().or_else(own);
        let name = self.hello().and_then(ClientHello::server_name).map(Tlv::Authority);
        let with_tls = self.client.with_agreed(|agreed| {
            let details = details(agreed);
            let ssl = Tlv::Ssl(Ssl { details: details.tlvs(), ..facts(agreed) });
            let tlvs: Vec<_> =
                agreed.alpn_protocol().map(Tlv::Alpn).into_iter().chain(name).chain([ssl]).collect();
            proxy::write(version, endpoints, &tlvs)
        });
        Some(with_tls.unwrap_or_else(|| proxy::write(version, endpoints, name.as_slice())))
    }
}

/// Whether the client has given a certificate. One that could not be verified ends the handshake.
fn facts(agreed: &CommonState) -> Ssl<'static> {
    let is_resumed = agreed.handshake_kind() == Some(HandshakeKind::Resumed);
    let client = match agreed.peer_certificates() {
        None => SSL,
        Some(_) if is_resumed => SSL | CERTIFICATE,
        Some(_) => SSL | CERTIFICATE | CERTIFICATE_HERE,
    };
    Ssl { client, verify: u32::from(client == SSL), details: proxy::Tlvs::NONE }
}

fn details(agreed: &CommonState) -> SslDetails {
    let version = match agreed.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLSv1.3",
    };
    let cipher = agreed.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
    SslDetails::new(version, &cipher.map(openssl_name).unwrap_or_default())
}

/// Returns the name of a cipher suite as OpenSSL has it, which the specification wants.
fn openssl_name(suite: &str) -> String {
    if let Some(rest) = suite.strip_prefix("TLS13_") {
        return format!("TLS_{rest}");
    }
    let short =
        suite.trim_start_matches("TLS_").replace("_WITH_", "_").replace("AES_", "AES").replace('_', "-");
    match short.strip_suffix("-POLY1305-SHA256") {
        Some(rest) => format!("{rest}-POLY1305"),
        None => short,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cipher_suites_have_the_names_of_openssl() {
        for (suite, name) in [
            ("TLS13_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
            ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"),
            ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-RSA-CHACHA20-POLY1305"),
        ] {
            assert_eq!(openssl_name(suite), name);
        }
    }
}
