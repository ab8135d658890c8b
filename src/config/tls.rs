//! The sections `tls` of a listener and of an upstream.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, crypto};

use super::files::Files;
use super::model::{
    Backend, BackendAddress, BackendAlpn, CaFile, Certificate, CrlFile, Identity, KeyKind, ListenerTls,
    TlsVersion, UpstreamTls,
};
use super::pem::{self, Dated, Unfit};
use super::report::quote;
use super::section::{Read, Section};
use super::sni::protocol;
use super::text::{SAME, SYSTEM};
use super::tree::{Node, Value};
use super::values::{boolean, file_path, number, off_or, one_of, text};
use crate::base::limits;

const VERSIONS: &[(&str, TlsVersion)] = &[("1.2", TlsVersion::V12), ("1.3", TlsVersion::V13)];

/// Where systems have the certificates of their CAs: Debian and Alpine, RHEL, SUSE, others.
const SYSTEM_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Reads `tls` of a listener; `off` and an absent one leave TLS to clients and backends.
pub(super) fn of_listener(s: &mut Section<'_>) -> Option<Arc<ListenerTls>> {
    if s.is_off("tls") || !s.has("tls") {
        return None;
    }
    s.section("tls", |s| {
        let certificates = certificates(s);
        let client_ca = s.optional("client_ca", off_or(file_path)).flatten();
        let client_ca = client_ca.map(|path| client_ca_file(s, path));
        let client_crl = client_crl(s, client_ca.as_ref());
        let alpn = s.list("alpn", ("protocols", limits::ALPN_MAX), |node, _| protocol(node));
        Some(Arc::new(ListenerTls {
            certificates,
            client_ca,
            client_crl,
            alpn,
            min_version: s.value("min_version", TlsVersion::V12, one_of(VERSIONS)),
            handshakes_max: s.value("handshakes_max", 4_096, number(1..=limits::TLS_HANDSHAKES_MAX)),
        }))
    })
}

/// Reads `tls` of an upstream; `off` and an absent one send what clients send.
pub(super) fn of_upstream(s: &mut Section<'_>, backends: &[Backend]) -> Option<Arc<UpstreamTls>> {
    if s.is_off("tls") || !s.has("tls") {
        return None;
    }
    s.section("tls", |s| {
        let path = s.value("ca", None, file_or_system);
        let server_name = s.value("server_name", None, off_or(server_name));
        let has_identity = s.has("certificate") || s.has("key");
        let identity = own_certificate(s, has_identity);
        let alpn = s.value("alpn", BackendAlpn::Off, backend_alpn);
        let verify = s.value("verify", true, boolean);
        if !verify {
            let message = "with `verify: off` any certificate is taken, so whoever is between can pose as the backend; name \
                           its CA as `ca` instead";
            s.warn_at("verify", message);
            s.warn_own("ca", "`ca` has no effect with `verify: off`");
        }
        let ca = backend_ca(s, path, verify);
        if server_name.is_none() && !s.has("server_name") {
            backends.iter().for_each(|backend| named(s, backend));
        }
        Some(Arc::new(UpstreamTls { ca, server_name, identity, alpn, verify }))
    })
}

fn certificates(s: &mut Section<'_>) -> Vec<Certificate> {
    let (mut certificates, mut taken) = (Vec::new(), BTreeSet::new());
    for mut s in s.entries("certificates", limits::CERTIFICATES_MAX, None) {
        if let Some(certificate) = certificate(&mut s) {
            if let Some(identity) = &certificate.identity {
                names_apart(&s, identity, &mut taken);
            }
            certificates.push(certificate);
        }
        s.finish();
    }
    certificates
}

/// Warns about a name that an earlier certificate is for. Of an ECDSA and an RSA certificate, each client gets the one that it
/// can check.
fn names_apart(s: &Section<'_>, identity: &Identity, taken: &mut BTreeSet<(bool, String)>) {
    let is_rsa = matches!(identity.key_kind, KeyKind::Rsa(_));
    let names = || identity.names.iter().map(|name| (is_rsa, name.clone()));
    if let Some((_, name)) = names().find(|name| taken.contains(name)) {
        let shown = quote(&name);
        let message = format!(
            "an earlier certificate is for {shown} too, and clients get that one; remove one of them"
        );
        s.warn_at("certificate", message);
    }
    taken.extend(names());
}

fn own_certificate(s: &mut Section<'_>, is_written: bool) -> Option<Certificate> {
    if is_written {
        return certificate(s);
    }
    s.optional("certificate", file_path);
    s.optional("key", file_path);
    None
}

/// Reads `certificate` and `key`, and what is in their files.
fn certificate(s: &mut Section<'_>) -> Option<Certificate> {
    let (certificate, key) = (s.required("certificate", file_path), s.required("key", file_path));
    let (certificate, key) = (certificate?, key?);
    let contents = (content(s, "certificate", &certificate), content(s, "key", &key));
    let identity = match contents {
        (Some(chain), Some(private)) => identity(s, (&certificate, chain), (&key, private)),
        _ => None,
    };
    Some(Certificate { certificate, key, identity: identity.map(Arc::new) })
}

fn identity(s: &Section<'_>, certificate: (&Path, &[u8]), key: (&Path, &[u8])) -> Option<Identity> {
    let (shown, key_shown) = (shown(certificate.0), shown(key.0));
    let identity = match pem::identity((&shown, certificate.1), (&key_shown, key.1)) {
        Ok(identity) => identity,
        Err(Unfit::Certificate(message)) => {
            s.error_at("certificate", message);
            return None;
        }
        Err(Unfit::Key(message)) => {
            s.error_at("key", message);
            return None;
        }
    };
    for dated in s.files().now().into_iter().flat_map(|now| pem::dated(&shown, &identity.chain, now)) {
        match dated {
            Dated::Error(message) => s.error_at("certificate", message),
            Dated::Warning(message) => s.warn_at("certificate", message),
        }
    }
    Some(identity)
}

/// Returns the content of a file that `key` names, or reports why there is none; `None` also where it was not read yet.
fn content<'a>(s: &Section<'a>, key: &str, path: &Path) -> Option<&'a [u8]> {
    match s.files().get(path) {
        Ok(content) => content,
        Err(why) => {
            s.error_at(key, why);
            None
        }
    }
}

fn shown(path: &Path) -> String {
    quote(&path.display().to_string())
}

fn client_ca_file(s: &Section<'_>, path: PathBuf) -> CaFile {
    let certificates = content(s, "client_ca", &path).map(|content| (path.as_path(), content));
    let certificates = certificates.and_then(|file| cas(s, "client_ca", file));
    CaFile { path: Some(path), certificates: certificates.unwrap_or_default().into() }
}

/// Reads the CAs in a file that `key` names.
fn cas(s: &Section<'_>, key: &str, (path, content): (&Path, &[u8])) -> Option<Vec<CertificateDer<'static>>> {
    let shown = shown(path);
    let usable = pem::certificates(&shown, content).and_then(|certificates| {
        let mut roots = RootCertStore::empty();
        match roots.add_parsable_certificates(certificates.iter().cloned()) {
            (0, _) => Err(format!("{shown} has no certificate that a CA could have; name another file")),
            _ => Ok(certificates),
        }
    });
    let certificates = usable.map_err(|message| s.error_at(key, message)).ok()?;
    let now = s.files().now();
    if let Some(message) = now.and_then(|now| pem::expired_ca(&shown, &certificates, now)) {
        s.warn_at(key, message);
    }
    Some(certificates)
}

fn client_crl(s: &mut Section<'_>, ca: Option<&CaFile>) -> Vec<CrlFile> {
    let files = s.list("client_crl", ("paths of files", limits::CRL_FILES_MAX), crl_file);
    if !files.is_empty() && ca.is_none() {
        let message = "`client_crl` is for certificates of clients, who are asked for none; add `client_ca`, or remove it";
        s.error_at("client_crl", message);
        return files;
    }
    let now = s.files().now();
    for file in &files {
        if let Some(message) = now.and_then(|now| pem::stale(&shown(&file.path), &file.lists, now)) {
            s.warn_at("client_crl", message);
        }
    }
    let lists = files.iter().flat_map(|file| file.lists.iter()).cloned();
    let certificates = ca.into_iter().flat_map(|ca| ca.certificates.iter()).cloned();
    if let Some(message) = unusable(certificates, lists) {
        s.error_at("client_crl", message);
    }
    files
}

/// Returns why lists cannot be used, as far as the certificates of the CAs are there.
fn unusable(
    cas: impl Iterator<Item = CertificateDer<'static>>,
    lists: impl Iterator<Item = rustls::pki_types::CertificateRevocationListDer<'static>>,
) -> Option<String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(cas);
    if roots.is_empty() {
        return None;
    }
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).with_crls(lists);
    let error = verifier.build().err()?;
    Some(format!(
        "a list cannot be used ({error}); have the CA write a whole list, not one of changes or of a part"
    ))
}

fn crl_file(node: &Node, files: &Files) -> Read<CrlFile> {
    let path = file_path(node)?;
    let lists = match files.get(&path)? {
        Some(content) => pem::revoked(&shown(&path), content)?,
        None => Vec::new(),
    };
    Ok(CrlFile { path, lists: lists.into() })
}

fn backend_alpn(node: &Node) -> Read<BackendAlpn> {
    let most = limits::ALPN_MAX;
    match &node.value {
        _ if node.is_off() => Ok(BackendAlpn::Off),
        Value::List(nodes) if nodes.len() > most => {
            Err(format!("{} protocols; at most {most} fit", nodes.len()))
        }
        Value::List(nodes) if nodes.is_empty() => Err("an empty list offers nothing; write `off`".to_owned()),
        Value::List(nodes) if nodes.iter().any(|node| text(node) == Ok(SAME)) => {
            Err(format!("`{SAME}` is no protocol of a list; write `alpn: {SAME}`"))
        }
        Value::List(nodes) => {
            nodes.iter().map(|node| protocol(node)).collect::<Read<_>>().map(BackendAlpn::List)
        }
        _ if text(node)? == SAME => Ok(BackendAlpn::Same),
        _ => {
            let shown = quote(text(node)?);
            Err(format!(
                "{shown} is not a list of at most {most} protocols, `{SAME}`, or `off`; write `[...]`"
            ))
        }
    }
}

/// Reads the path of a file; `system` is `None`.
fn file_or_system(node: &Node) -> Read<Option<PathBuf>> {
    match text(node)? {
        SYSTEM => Ok(None),
        shown => {
            let path = file_path(node);
            path.map(Some).map_err(|_| format!("{} is not the path of a file, or `{SYSTEM}`", quote(shown)))
        }
    }
}

/// Reads the name of a server: a host name, or an address.
fn server_name(node: &Node) -> Read<String> {
    let text = text(node)?;
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    match ServerName::try_from(name.as_str()) {
        Ok(_) => Ok(name),
        Err(_) => Err(format!("{} is not a host name or an IP address", quote(text))),
    }
}

/// Returns the CAs that backend certificates come from.
fn backend_ca(s: &Section<'_>, path: Option<PathBuf>, verify: bool) -> CaFile {
    let certificates = match &path {
        _ if !verify => None,
        Some(path) => content(s, "ca", path).and_then(|content| cas(s, "ca", (path, content))),
        None => system_ca(s),
    };
    CaFile { path, certificates: certificates.unwrap_or_default().into() }
}

/// Returns the CAs of the first of the system's files that is there.
fn system_ca(s: &Section<'_>) -> Option<Vec<CertificateDer<'static>>> {
    for path in SYSTEM_FILES.map(Path::new) {
        match s.files().get(path) {
            Ok(Some(content)) => return cas(s, "ca", (path, content)),
            // It is asked for first, and the next one only if it is not there.
            Ok(None) => return None,
            Err(_) => {}
        }
    }
    let all = SYSTEM_FILES.map(|file| format!("`{file}`")).join(", ");
    s.error(format!(
        "this system has no CAs: there is none of {all}; install `ca-certificates`, or name a file as `ca`"
    ));
    None
}

/// Reports a backend of which nobody knows the name that its certificate should be for.
fn named(s: &Section<'_>, backend: &Backend) {
    let shown = quote(&backend.name);
    let why = match &backend.address {
        BackendAddress::Ip(_) | BackendAddress::Zoned(_) => return,
        BackendAddress::Unix(_) => format!("the backend {shown} is a socket without a name"),
        BackendAddress::Host { name, .. } => {
            match ServerName::try_from(name.strip_suffix('.').unwrap_or(name)) {
                Ok(_) => return,
                Err(_) => format!("no certificate can be for the host of the backend {shown}"),
            }
        }
    };
    s.error(format!("{why}; add `server_name`, the name in its certificate"));
}
