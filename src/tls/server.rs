//! The side of a listener: its certificates, what it asks clients for, and its tickets.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};

use super::provider::provider;
use super::tickets::{Owner, Tickets};
use super::unusable::Unusable;
use crate::config::{CaFile, Certificate, ListenerTls, TlsVersion};

/// What handshakes of one version of a listener need.
pub struct ServerSettings {
    config: Arc<ServerConfig>,
    certificates: Arc<ByName>,
    of: Arc<ListenerTls>,
}

impl ServerSettings {
    /// Makes the settings of a listener.
    ///
    /// # Errors
    ///
    /// See [`Unusable`].
    pub fn new(listener: &str, tls: &Arc<ListenerTls>, tickets: &Arc<Tickets>) -> Result<Self, Unusable> {
        let unusable = |error: rustls::Error| Unusable::new(format!("listener {listener}"), error);
        let provider = provider();
        let certificates = Arc::new(ByName::new(tls, &provider).map_err(unusable)?);
        let versions = match tls.min_version {
            TlsVersion::V12 => &[&TLS13, &TLS12][..],
            TlsVersion::V13 => &[&TLS13],
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_protocol_versions(versions).map_err(unusable)?;
        let builder = match &tls.client_ca {
            Some(ca) => builder.with_client_cert_verifier(
                verifier(tls, ca, provider)
                    .map_err(|cause| Unusable::new(format!("listener {listener}"), cause))?,
            ),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::<ByName>::clone(&certificates));
        config.alpn_protocols = tls.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        // Nothing is kept for a session that ends: everything is in its tickets, which open on every core.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = tickets.of(&owner(listener, tls));
        config.send_tls13_tickets = 2;
        // All that are offered are good ones; a fixed choice is what auditors look for.
        config.ignore_client_order = true;
        // Bytes before the end of the handshake can be played again by anybody.
        config.max_early_data_size = 0;
        Ok(Self { config: Arc::new(config), certificates, of: Arc::clone(tls) })
    }

    /// Returns what a connection is made with.
    #[must_use]
    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// Returns the configuration of the listener's TLS.
    #[must_use]
    pub fn of(&self) -> &Arc<ListenerTls> {
        &self.of
    }

    /// Returns the certificates for clients that ask for a name, or for none, of which each client gets the first one that it
    /// can check; and whether they are for that name.
    #[must_use]
    pub fn certificates_for(&self, name: Option<&str>) -> (Vec<&Certificate>, bool) {
        let named = name.and_then(|name| self.certificates.named(name));
        let keys = named.map_or(&*self.certificates.default, Vec::as_slice);
        let has = |key: &CertifiedKey, certificate: &&Certificate| {
            certificate.identity.as_ref().is_some_and(|identity| identity.chain == key.cert)
        };
        let of = |key: &Arc<CertifiedKey>| self.of.certificates.iter().find(|one| has(key, one));
        (keys.iter().filter_map(of).collect(), named.is_some())
    }

    /// Returns the maximum of handshakes at a time.
    #[must_use]
    pub fn handshakes_max(&self) -> u32 {
        self.of.handshakes_max
    }
}

/// Returns whose tickets open at a listener: its own, as long as it asks for the same certificates of clients.
fn owner(listener: &str, tls: &ListenerTls) -> Owner {
    let mut owner = Owner::new(listener);
    for ca in tls.client_ca.iter().flat_map(|ca| ca.certificates.iter()) {
        owner.add(b"ca", ca);
    }
    for list in tls.client_crl.iter().flat_map(|file| file.lists.iter()) {
        owner.add(b"crl", list);
    }
    owner
}

/// Returns what checks the certificates of clients. Where there are lists of revoked certificates, one has to speak of the CA
/// of each client certificate.
fn verifier(
    tls: &ListenerTls,
    ca: &CaFile,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, rustls::server::VerifierBuilderError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(ca.certificates.iter().cloned());
    let lists = tls.client_crl.iter().flat_map(|file| file.lists.iter()).cloned();
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .with_crls(lists)
        .only_check_end_entity_revocation()
        .build()
}

/// The certificates of a listener by the names that they are for.
struct ByName {
    /// In the order of the configuration; the key may be `*.example.com`.
    names: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// For clients that ask for no name, or for one without a certificate: the first certificate, and others for its name.
    default: Vec<Arc<CertifiedKey>>,
}

impl ByName {
    fn new(tls: &ListenerTls, provider: &CryptoProvider) -> Result<Self, rustls::Error> {
        let mut names: HashMap<String, Vec<Arc<CertifiedKey>>> = HashMap::new();
        let mut default = None;
        for identity in tls.certificates.iter().filter_map(|certificate| certificate.identity.as_ref()) {
            let key = CertifiedKey::from_der(identity.chain.clone(), identity.key.clone_key(), provider)?;
            let key = Arc::new(key);
            for name in &identity.names {
                names.entry(name.clone()).or_default().push(Arc::clone(&key));
            }
            default.get_or_insert_with(|| (identity.names.first().cloned(), key));
        }
        let (name, first) = default.ok_or(rustls::Error::NoCertificatesPresented)?;
        let same = name.and_then(|name| names.get(&name)).cloned();
        Ok(Self { names, default: same.unwrap_or_else(|| vec![first]) })
    }

    /// Returns the certificates for a name: those for the name itself, or for all names beside it.
    fn named(&self, name: &str) -> Option<&Vec<Arc<CertifiedKey>>> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let wildcard = || {
            let (_, parent) = name.split_once('.')?;
            self.names.get(&format!("*.{parent}"))
        };
        self.names.get(&name).or_else(wildcard)
    }

    /// Returns the certificates for a name, of which there is one at least: the default if there are no others.
    fn of(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        name.and_then(|name| self.named(name)).unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let all = self.of(hello.server_name());
        let checkable = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        all.iter().find(checkable).or(all.first()).cloned()
    }
}

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names.keys()).finish()
    }
}
