//! TLS with clients, and with backends: what handshakes need, read and checked.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use serde::Serialize;

use super::text;

/// `tls:` of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ListenerTls {
    /// Certificates with their keys: a client gets the one with the name that it asks for, and else the first one.
    pub certificates: Vec<Certificate>,
    /// File with the CAs (PEM) of the certificates that clients need; off asks clients for none.
    #[serde(serialize_with = "text::text_or_off")]
    pub client_ca: Option<CaFile>,
    /// Files with the lists (PEM) of client certificates that were revoked; only beside `client_ca`. With one, each CA
    /// needs a list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub client_crl: Vec<CrlFile>,
    /// Protocols that clients may choose from (ALPN), the best first; off chooses none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alpn: Vec<String>,
    /// Oldest version of TLS that clients may speak.
    pub min_version: TlsVersion,
    /// Handshakes at a time, of the whole listener; clients beyond are reset.
    pub handshakes_max: u32,
}

/// A certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Certificate {
    /// File with the certificate (PEM), its own first and those of the CAs between behind it.
    pub certificate: PathBuf,
    /// File with the key of the certificate (PEM), without a password.
    pub key: PathBuf,
    /// What is in the files; `None` where they were not read.
    #[serde(skip)]
    pub identity: Option<Arc<Identity>>,
}

/// A certificate with the CAs between, and its key, which belong together.
#[derive(PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The certificate, and those of the CAs between.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key.
    pub key: PrivateKeyDer<'static>,
    /// The names that the certificate is for, in lower case: DNS names, such as `*.example.com`, and addresses.
    pub names: Vec<String>,
    /// Until when it is valid, in seconds since 1970.
    pub not_after: i64,
    /// What its key is.
    pub key_kind: KeyKind,
}

/// What a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA, with so many bits.
    Rsa(usize),
    /// An elliptic curve.
    Curve,
}

impl Identity {
    /// Returns the name that stands for the certificate where one has to.
    #[must_use]
    pub fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// Returns what tells this certificate from another one: the name, the last day, and a fingerprint.
    #[must_use]
    pub fn summary(&self) -> String {
        format!("{} until {} ({})", self.name(), text::date_text(self.not_after), fingerprint(&self.chain))
    }
}

impl fmt::Debug for Identity {
    /// Leaves out the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.summary())
    }
}

/// A file with certificates of CAs, or what the system has.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CaFile {
    /// The file; `None` stands for that of the system.
    pub path: Option<PathBuf>,
    /// The certificates; none where the file was not read.
    pub certificates: Arc<[CertificateDer<'static>]>,
}

impl CaFile {
    /// Returns what tells these certificates from others.
    #[must_use]
    pub fn summary(&self) -> String {
        let count = crate::base::counted(self.certificates.len() as u64, "CA");
        format!("{count} ({})", fingerprint(&self.certificates))
    }
}

impl fmt::Display for CaFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.as_deref().unwrap_or(Path::new(text::SYSTEM)).display())
    }
}

impl fmt::Debug for CaFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CaFile({self}, {})", self.summary())
    }
}

/// A file with lists of revoked certificates.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CrlFile {
    /// The file.
    pub path: PathBuf,
    /// The lists; none where the file was not read.
    pub lists: Arc<[CertificateRevocationListDer<'static>]>,
}

impl CrlFile {
    /// Returns what tells these lists from others.
    #[must_use]
    pub fn summary(&self) -> String {
        format!("{} ({})", crate::base::counted(self.lists.len() as u64, "list"), fingerprint(&self.lists))
    }
}

impl Serialize for CrlFile {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> text::Done<S> {
        self.path.serialize(serializer)
    }
}

impl fmt::Debug for CrlFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CrlFile({}, {})", self.path.display(), self.summary())
    }
}

/// Returns a number that changes with the content.
fn fingerprint<T: AsRef<[u8]>>(content: &[T]) -> String {
    let mut hasher = DefaultHasher::new();
    content.iter().for_each(|one| one.as_ref().hash(&mut hasher));
    format!("{:08x}", hasher.finish() >> 32)
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[serde(rename = "1.2")]
    V12,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V13,
}

/// `tls:` of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct UpstreamTls {
    /// File with the CAs (PEM) that backend certificates come from; `system` takes those of the system.
    #[serde(serialize_with = "text::text")]
    pub ca: CaFile,
    /// Name that backend certificates have to be for, and that backends are asked for (SNI); off takes the host name of
    /// each backend, or its address. Required for `unix:` backends.
    #[serde(serialize_with = "text::text_or_off")]
    pub server_name: Option<String>,
    /// The certificate that backends get.
    #[serde(flatten)]
    pub identity: Option<Certificate>,
    /// Protocols that backends are offered (ALPN); `same` offers what the client and its listener agreed on, off nothing.
    /// `same` is not for an upstream with a `pool`.
    #[serde(serialize_with = "BackendAlpn::written")]
    pub alpn: BackendAlpn,
    /// Whether backend certificates are checked; `off` takes any, and is a warning.
    pub verify: bool,
}

/// The protocols that backends are offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendAlpn {
    /// None.
    Off,
    /// The one that the client and its listener agreed on.
    Same,
    /// These.
    List(Vec<String>),
}

impl BackendAlpn {
    fn written<S: serde::Serializer>(&self, serializer: S) -> text::Done<S> {
        match self {
            Self::Off => serializer.serialize_str(text::OFF),
            Self::Same => serializer.serialize_str(text::SAME),
            Self::List(protocols) => protocols.serialize(serializer),
        }
    }
}
