//! The side of an upstream: the CAs of its backends, the names that their certificates are for, and the certificate that they
//! get.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ClientConfig, Resumption};
use rustls::pki_types::ServerName;

use super::provider::provider;
use super::stream::Stream;
use super::unusable::Unusable;
use super::verifier::{AnyCertificate, Trusted};
use crate::config::{Backend, BackendAddress, BackendAlpn, UpstreamTls};

/// How many sessions with a backend are kept to be resumed.
const RESUMED_MAX: usize = 256;

/// What handshakes with the backends of one version of an upstream need.
pub struct ClientSettings {
    of: Arc<UpstreamTls>,
    /// By name.
    backends: BTreeMap<String, BackendTls>,
}

/// What handshakes with one backend need.
#[derive(Clone)]
pub struct BackendTls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    /// Whether the backend is offered what the client and its listener have agreed on.
    same_protocol: bool,
}

impl ClientSettings {
    /// Makes the settings of an upstream. Backends go on resuming sessions with those of the version before, if nothing has
    /// changed for them.
    ///
    /// # Errors
    ///
    /// See [`Unusable`].
    pub fn new(
        upstream: &str,
        tls: &Arc<UpstreamTls>,
        backends: &[Backend],
        before: Option<&Self>,
    ) -> Result<Self, Unusable> {
        let before = before.filter(|before| before.of == *tls);
        let config = config(tls).map_err(|error| Unusable::new(format!("upstream {upstream}"), error))?;
        let of = |backend: &Backend| {
            let object = || format!("upstream {upstream}, backend {}", backend.name);
            let name = name_of(tls, backend).ok_or_else(|| Unusable::new(object(), "it has no name"))?;
            let kept = before.and_then(|before| before.backends.get(&backend.name));
            let new = || {
                let mut config = config.clone();
                // Tickets of one backend are of no use to another one, even under the same name.
                config.resumption = Resumption::in_memory_sessions(RESUMED_MAX);
                let same_protocol = tls.alpn == BackendAlpn::Same;
                BackendTls { config: Arc::new(config), name: name.clone(), same_protocol }
            };
            let one = kept.filter(|kept| kept.name == name).cloned().unwrap_or_else(new);
            Ok((backend.name.clone(), one))
        };
        let backends = backends.iter().map(of).collect::<Result<_, _>>()?;
        Ok(Self { of: Arc::clone(tls), backends })
    }

    /// Returns what handshakes with a backend need, which goes by its name.
    #[must_use]
    pub fn backend(&self, name: &str) -> Option<&BackendTls> {
        self.backends.get(name)
    }

    /// Returns the configuration of the upstream's TLS.
    #[must_use]
    pub fn of(&self) -> &Arc<UpstreamTls> {
        &self.of
    }
}

impl PartialEq for BackendTls {
    /// Whether the one is the other: what is made anew may have changed.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config) && self.name == other.name
    }
}

impl BackendTls {
    /// Begins a connection. `protocol` is what the client and its listener have agreed on, which the backend is offered if
    /// the configuration says so.
    ///
    /// # Errors
    ///
    /// There is no randomness.
    pub fn begin(&self, protocol: Option<&[u8]>) -> Result<Stream, rustls::Error> {
        Stream::client(&self.config, self.name.clone(), self.offers(protocol))
    }

    /// Returns the protocols that the backend is offered.
    pub(super) fn offers(&self, protocol: Option<&[u8]>) -> Vec<Vec<u8>> {
        match self.same_protocol {
            true => protocol.map(<[u8]>::to_vec).into_iter().collect(),
            false => self.config.alpn_protocols.clone(),
        }
    }

    /// Returns what connections of checks are made with: each has a full handshake, so that a certificate whose time is over
    /// is seen. They offer these protocols; without them, those that do not depend on a client.
    #[must_use]
    pub fn for_checks(&self, protocols: Option<&[&str]>) -> ClientConfig {
        let mut config = (*self.config).clone();
        config.resumption = Resumption::disabled();
        if let Some(protocols) = protocols {
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        }
        config
    }

    /// Returns what a connection is made with.
    #[must_use]
    pub fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// Returns the name that the certificate of the backend has to be for.
    #[must_use]
    pub fn name(&self) -> &ServerName<'static> {
        &self.name
    }
}

/// Returns the name that the certificate of a backend has to be for.
fn name_of(tls: &UpstreamTls, backend: &Backend) -> Option<ServerName<'static>> {
    let host = |name: &str| ServerName::try_from(name.strip_suffix('.').unwrap_or(name).to_owned()).ok();
    match (&tls.server_name, &backend.address) {
        (Some(name), _) => host(name),
        (None, BackendAddress::Host { name, .. }) => host(name),
        (None, BackendAddress::Ip(address)) => Some(address.ip().into()),
        (None, BackendAddress::Zoned(address)) => Some(IpAddr::from(address.ip).into()),
        (None, BackendAddress::Unix(_)) => None,
    }
}

/// Returns what the handshakes with all backends have in common.
fn config(tls: &UpstreamTls) -> Result<ClientConfig, rustls::Error> {
    let provider = provider();
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let verifier: Arc<dyn ServerCertVerifier> = match tls.verify {
        true => Arc::new(Trusted::new(&tls.ca.certificates, provider)?),
        false => Arc::new(AnyCertificate(provider)),
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let identity = tls.identity.as_ref().and_then(|identity| identity.identity.as_ref());
    let mut config = match identity {
        Some(identity) => builder.with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())?,
        None => builder.with_no_client_auth(),
    };
    if let BackendAlpn::List(protocols) = &tls.alpn {
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    }
    Ok(config)
}
