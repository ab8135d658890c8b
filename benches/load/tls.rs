//! TLS as the generator speaks it, and the certificate that every balancer shows.
//!
//! The client offers one version, one cipher suite and one group, so that all balancers do the same arithmetic:
//! TLS 1.3, TLS_AES_256_GCM_SHA384 and X25519 are what OpenSSL and rustls agree on by themselves, but for the post-quantum
//! group that OpenSSL 3.0 lacks. It always asks for tickets. It looks whether the certificate is the right one, but not at
//! the signature beneath: that is the client's work, and the client shares its core with the backend.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, NamedGroup, SignatureScheme};

/// The name in the certificate.
const NAME: &str = "ringway.example";

/// The files of a certificate: ECDSA P-256, signed by itself.
pub(crate) struct Certificate {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// Both in one file, for HAProxy.
    pub(crate) both: PathBuf,
}

impl Certificate {
    pub(crate) fn make(directory: &Path) -> Result<Certificate, String> {
        let made =
            rcgen::generate_simple_self_signed([NAME.to_owned()]).map_err(|error| error.to_string())?;
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let write = |name: &str, text: &str| {
            let file = directory.join(name);
            std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
            Ok::<PathBuf, String>(file)
        };
        Ok(Certificate {
            certificate: write("certificate.pem", &certificate)?,
            key: write("key.pem", &key)?,
            both: write("both.pem", &format!("{certificate}{key}"))?,
        })
    }
}

/// The client's side of all connections of a run.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) name: ServerName<'static>,
}

impl Client {
    /// `certificate` is the file of the only one that is accepted; `resume` keeps tickets.
    pub(crate) fn new(certificate: &Path, resume: bool) -> Result<Client, String> {
        let trusted = CertificateDer::from_pem_file(certificate)
            .map_err(|error| format!("{}: {error}", certificate.display()))?;
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384];
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
        let verifier = Pinned { trusted, provider: aws_lc_rs::default_provider() };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.resumption = Resumption::store(Arc::new(Tickets { keep: resume, kept: Mutex::default() }));
        let name = ServerName::try_from(NAME).map_err(|error| error.to_string())?;
        Ok(Client { config: Arc::new(config), name })
    }
}

/// Accepts one certificate.
#[derive(Debug)]
struct Pinned {
    trusted: CertificateDer<'static>,
    provider: CryptoProvider,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.trusted {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::General("another certificate".to_owned()))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 was not offered".to_owned()))
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
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The tickets of the one server there is. Each is used once; without `keep` the client asks for tickets, as every client
/// does, and drops them.
#[derive(Debug)]
struct Tickets {
    keep: bool,
    kept: Mutex<VecDeque<Tls13ClientSessionValue>>,
}

/// More than there are handshakes at a time.
const TICKETS_KEPT: usize = 512;

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _name: ServerName<'static>, _group: NamedGroup) {}

    fn kx_hint(&self, _name: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _name: ServerName<'static>, _value: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _name: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _name: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if self.keep && kept.len() < TICKETS_KEPT {
            kept.push_back(value);
        }
    }

    fn take_tls13_ticket(&self, _name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}
