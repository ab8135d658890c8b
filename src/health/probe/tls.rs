//! The exchange of `type: tls`: a handshake of TLS 1.2 or 1.3.
//!
//! Where TLS passes through, it asks whether the backend completes handshakes, not who it is: the certificate and what is
//! signed with it are taken as they are, so that an expired one, or one of an authority that is not known here, takes no
//! backend out. Where the upstream has `tls`, sessions would fail with such a backend, so a check does.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{self, Instant};

use crate::config::BackendAddress;
use crate::tls::{self, BackendTls};

use super::connection::Connection;
use super::error::ExchangeError;
use super::secured::{Secured, SecuredStream};

/// How long a backend may take to end the connection after the handshake, half of what is left of the check at most.
const PATIENCE: Duration = Duration::from_secs(1);

/// How one backend is asked.
#[derive(Debug)]
pub(crate) struct Handshake {
    secured: Secured,
    /// Whether it counts what the backend makes of our side of the handshake.
    awaits_consent: bool,
}

impl Handshake {
    /// Asks for `host`, or for the name of the backend, and takes any certificate.
    pub(super) fn new(host: Option<&str>, backend: &BackendAddress) -> Self {
        let name = match (host, backend) {
            (Some(host), _) => host,
            (None, BackendAddress::Host { name, .. }) => name,
            (None, BackendAddress::Ip(_) | BackendAddress::Zoned(_) | BackendAddress::Unix(_)) => "",
        };
        // An IP address stands for no name.
        let none = || ServerName::from(IpAddr::from(Ipv4Addr::UNSPECIFIED));
        let name = ServerName::try_from(name.to_owned()).unwrap_or_else(|_| none());
        Self { secured: Secured::with(Arc::clone(&CLIENT), name), awaits_consent: false }
    }

    /// Asks as sessions do, for `host` instead of the name of the backend where that is given.
    pub(super) fn checked(host: Option<&str>, tls: &BackendTls) -> Self {
        let name = host.and_then(|host| ServerName::try_from(host.to_owned()).ok());
        let name = name.unwrap_or_else(|| tls.name().clone());
        Self { secured: Secured::with(Arc::new(tls.for_checks(None)), name), awaits_consent: true }
    }

    /// Shakes hands; `due` is when the check is over.
    pub(super) async fn run(&self, connection: Connection, due: Instant) -> Result<(), ExchangeError> {
        let mut stream = self.secured.shake_hands(connection).await?;
        // Tells the backend that the end is meant. That it cannot be told changes nothing.
        let _ = stream.shutdown().await;
        if self.awaits_consent {
            let left = due.saturating_duration_since(Instant::now());
            consent(&mut stream, PATIENCE.min(left / 2)).await?;
        }
        Ok(())
    }
}

/// Waits until the backend has said something, or ended the connection: in TLS 1.3, our side of the handshake is over before
/// the backend has looked at our certificate. Whoever says nothing has no objection.
async fn consent(stream: &mut SecuredStream, patience: Duration) -> Result<(), ExchangeError> {
    match time::timeout(patience, stream.read(&mut [0])).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
            Err(ExchangeError::of_socket("TLS handshake", &error))
        }
        _ => Ok(()),
    }
}

static CLIENT: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let mut config = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has ciphers for both versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    // Each check is a whole handshake.
    config.resumption = Resumption::disabled();
    Arc::new(config)
});

#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use rustls::pki_types::PrivateKeyDer;
    use rustls::version::{TLS12, TLS13};
    use rustls::{ServerConfig, SupportedProtocolVersion};
    use tokio::net::TcpStream;
    use tokio_rustls::TlsAcceptor;

    use super::super::testing::*;
    use super::super::{ProbeOutcome, Question};
    use super::*;

    fn handshake(host: Option<&str>, backend: &BackendAddress) -> Question {
        Question::Tls(Handshake::new(host, backend))
    }

    fn ip() -> BackendAddress {
        BackendAddress::Ip(([127, 0, 0, 1], 443).into())
    }

    /// A server whose certificate signs itself, is for another name, and ended long ago.
    fn acceptor(versions: &[&'static SupportedProtocolVersion]) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let mut certificate = CertificateParams::new(vec!["other.example".to_owned()]).unwrap();
        certificate.not_before = date_time_ymd(2000, 1, 1);
        certificate.not_after = date_time_ymd(2000, 1, 2);
        let certificate = certificate.self_signed(&key).unwrap();
        let config = ServerConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            );
        TlsAcceptor::from(Arc::new(config.unwrap()))
    }

    /// The outcome with a real server, and the name it was asked for.
    async fn ask_server(
        question: &Question,
        version: &'static SupportedProtocolVersion,
    ) -> (ProbeOutcome, Option<String>) {
        let acceptor = acceptor(&[version]);
        let asked_for = RefCell::new(None);
        let outcome = ask(question, async |stream: TcpStream| {
            let mut stream = acceptor.accept(stream).await.unwrap();
            *asked_for.borrow_mut() = stream.get_ref().1.server_name().map(str::to_owned);
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "an end that is meant");
        });
        let outcome = outcome.await;
        (outcome, asked_for.into_inner())
    }

    #[tokio::test]
    async fn a_handshake_succeeds_whatever_the_certificate() {
        for version in [&TLS12, &TLS13] {
            let (outcome, _) = ask_server(&handshake(None, &ip()), version).await;
            assert_eq!(outcome, ProbeOutcome::Success(0), "{version:?}");
        }
    }

    #[tokio::test]
    async fn the_server_name_is_the_host_or_that_of_the_backend() {
        let named = BackendAddress::Host { name: "a_b.example.com.".to_owned(), port: 443 };
        let file = BackendAddress::Unix("/run/x".into());
        for (host, backend, expected) in [
            (Some("example.com"), &ip(), Some("example.com")),
            (None, &named, Some("a_b.example.com")),
            (Some("10.0.0.1"), &named, None),
            (Some("::1"), &named, None),
            (None, &ip(), None),
            (None, &file, None),
        ] {
            let (outcome, asked_for) = ask_server(&handshake(host, backend), &TLS12).await;
            assert_eq!(
                (outcome, asked_for.as_deref()),
                (ProbeOutcome::Success(0), expected),
                "{host:?} {backend:?}"
            );
        }
    }

    #[tokio::test]
    async fn what_is_no_tls_fails() {
        let garbage = async |mut stream: TcpStream| {
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        };
        let cause = ask_in_vain(&handshake(None, &ip()), garbage).await;
        assert_eq!(cause, "TLS handshake: received corrupt message of type InvalidContentType");
    }

    #[tokio::test]
    async fn an_end_in_the_handshake_fails() {
        let close = async |mut stream: TcpStream| {
            // What was read does not turn the close into a reset.
            let _ = stream.read(&mut [0; 4 << 10]).await.unwrap();
        };
        assert_eq!(ask_in_vain(&handshake(None, &ip()), close).await, "TLS handshake: tls handshake eof");
        let cause = ask_in_vain(&handshake(None, &ip()), reset).await;
        assert_eq!(cause, "TLS handshake: Connection reset by peer");
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_runs_into_the_timeout() {
        let cause = ask_too_long(&handshake(None, &ip()), hang).await;
        assert_eq!(cause, "no end of the TLS handshake in 200ms");
    }
}
