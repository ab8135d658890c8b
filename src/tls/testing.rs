//! A certificate for tests, and settings with it.

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

/// Returns the settings of a server that is called `a.example`, and of a client that believes it.
pub(crate) fn configs(version: &'static SupportedProtocolVersion) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["a.example".to_owned()]).expect("names");
    let certificate = params.self_signed(&key).expect("a certificate").der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a root");
    let provider = || Arc::new(aws_lc_rs::default_provider());
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let mut server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .expect("ciphers")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a pair");
    // A client that closes before it has read them resets the connection.
    server.send_tls13_tickets = 0;
    let client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .expect("ciphers")
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}
