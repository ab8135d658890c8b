//! What is in files of certificates, keys and lists of revoked certificates (PEM), and what is wrong with it.

use std::net::IpAddr;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::revocation_list::CertificateRevocationList;

use super::model::{Identity, KeyKind};
use super::section::Read;
use super::text::date_text;

/// How long before its end a certificate is worth a warning, seconds.
const SOON: i64 = 14 * 24 * 3_600;

/// Why a certificate and its key cannot be used.
pub(super) enum Unfit {
    /// The file with the certificate.
    Certificate(String),
    /// The file with the key.
    Key(String),
}

/// What is to be said of dates.
pub(super) enum Dated {
    /// It cannot be used.
    Error(String),
    /// It can be used for now.
    Warning(String),
}

/// Reads the certificates in a file that messages call `shown`; at least one.
pub(super) fn certificates(shown: &str, content: &[u8]) -> Read<Vec<CertificateDer<'static>>> {
    let certificates: Vec<CertificateDer<'static>> = sections(shown, content, "CERTIFICATE")?;
    for (position, certificate) in certificates.iter().enumerate() {
        if X509Certificate::from_der(certificate).is_err() {
            let number = position + 1;
            return Err(format!(
                "certificate {number} in {shown} is damaged; copy the file again from where it was made"
            ));
        }
    }
    Ok(certificates)
}

/// Reads the lists of revoked certificates in a file; at least one.
pub(super) fn revoked(shown: &str, content: &[u8]) -> Read<Vec<CertificateRevocationListDer<'static>>> {
    let lists: Vec<CertificateRevocationListDer<'static>> = sections(shown, content, "X509 CRL")?;
    if lists.iter().any(|list| CertificateRevocationList::from_der(list).is_err()) {
        return Err(format!("a list in {shown} is damaged; copy the file again from where it was made"));
    }
    Ok(lists)
}

/// Reads a certificate with its chain, and its key, and checks that they belong together.
pub(super) fn identity(certificate: (&str, &[u8]), key: (&str, &[u8])) -> Result<Identity, Unfit> {
    let chain = certificates(certificate.0, certificate.1).map_err(Unfit::Certificate)?;
    let private = self::key(key.0, key.1).map_err(Unfit::Key)?;
    let signing = any_supported_type(&private).map_err(|_| {
        Unfit::Key(format!(
            "the key in {} is damaged, or of a kind that is not supported; use ECDSA with P-256, P-384 or P-521, RSA \
             with 2048 to 8192 bits, or Ed25519",
            key.0
        ))
    })?;
    let public = signing.public_key();
    let is_of_key = |der: &CertificateDer<'_>| {
        let parsed = X509Certificate::from_der(der);
        parsed.is_ok_and(|(_, parsed)| {
            public.as_ref().is_none_or(|public| public.as_ref() == parsed.tbs_certificate.subject_pki.raw)
        })
    };
    let own = &chain[0];
    if !is_of_key(own) {
        return Err(Unfit::Certificate(match chain.iter().position(is_of_key) {
            Some(position) => format!(
                "the key in {} is that of certificate {} in {}; move that one to the front, in front of those of its CAs",
                key.0,
                position + 1,
                certificate.0
            ),
            None => format!(
                "the certificate in {} and the key in {} are no pair; name the key that the certificate was requested with",
                certificate.0, key.0
            ),
        }));
    }
    let damaged = |_| Unfit::Certificate(format!("the certificate in {} is damaged", certificate.0));
    let (_, parsed) = X509Certificate::from_der(own).map_err(damaged)?;
    let (names, not_after, key_kind) =
        (names(&parsed), parsed.validity().not_after.timestamp(), kind_of(&parsed));
    Ok(Identity { chain, key: private, names, not_after, key_kind })
}

/// Returns what is to be said of the dates of a certificate and its chain at a time: of the certificate itself that it has
/// expired, begins later, or expires soon; of the CAs that they have expired, which clients with another way may not mind.
pub(super) fn dated(shown: &str, chain: &[CertificateDer<'_>], now: i64) -> Vec<Dated> {
    let parsed = chain.iter().filter_map(|der| Some(X509Certificate::from_der(der).ok()?.1));
    let dated = parsed.enumerate().filter_map(|(position, parsed)| {
        let validity = parsed.validity();
        let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        match position {
            0 => own_dates(shown, from, until, now),
            _ if until < now => Some(Dated::Warning(format!(
                "certificate {} in {shown}, of a CA, has expired on {}; get the chain anew from the CA",
                position + 1,
                date_text(until)
            ))),
            _ => None,
        }
    });
    dated.collect()
}

fn own_dates(shown: &str, from: i64, until: i64, now: i64) -> Option<Dated> {
    let (first, last) = (date_text(from), date_text(until));
    if until < now {
        return Some(Dated::Error(format!("the certificate in {shown} has expired on {last}; renew it")));
    }
    if from > now {
        let message = format!(
            "the certificate in {shown} is not valid before {first}; set the clock, or use another one"
        );
        return Some(Dated::Error(message));
    }
    (until - now < SOON)
        .then(|| Dated::Warning(format!("the certificate in {shown} expires on {last}; renew it")))
}

/// Returns what is to be said of CAs that have expired.
pub(super) fn expired_ca(shown: &str, certificates: &[CertificateDer<'_>], now: i64) -> Option<String> {
    let parsed = certificates.iter().filter_map(|der| Some(X509Certificate::from_der(der).ok()?.1));
    let last = parsed.map(|parsed| parsed.validity().not_after.timestamp()).max()?;
    (last < now).then(|| {
        format!(
            "every CA in {shown} has expired, the last one on {}; no certificate is good",
            date_text(last)
        )
    })
}

/// Returns what is to be said of a list of revoked certificates that should have been replaced.
pub(super) fn stale(shown: &str, lists: &[CertificateRevocationListDer<'_>], now: i64) -> Option<String> {
    let parsed = lists.iter().filter_map(|der| Some(CertificateRevocationList::from_der(der).ok()?.1));
    let first = parsed.filter_map(|list| Some(list.next_update()?.timestamp())).min()?;
    (first < now).then(|| {
        let day = date_text(first);
        format!("{shown} should have been replaced by {day}, and is used on; get the next list from the CA")
    })
}

/// Returns the key in a file.
fn key(shown: &str, content: &[u8]) -> Read<PrivateKeyDer<'static>> {
    // Editors of other systems put it there.
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let has = |word: &str| content.windows(word.len()).any(|window| window == word.as_bytes());
    if has("ENCRYPTED") {
        return Err(format!(
            "the key in {shown} has a password, which nobody could type at a start; remove it: `openssl pkey -in OLD -out NEW`"
        ));
    }
    let keys: Vec<PrivateKeyDer<'static>> = sections(shown, content, "PRIVATE KEY")?;
    keys.into_iter().next().ok_or_else(|| format!("{shown} has no key"))
}

/// Returns the sections of one kind, whose markers have the word `what`; at least one.
fn sections<T: PemObject>(shown: &str, content: &[u8], what: &str) -> Read<Vec<T>> {
    let has = |word: &str| content.windows(word.len()).any(|window| window == word.as_bytes());
    if !has("-----BEGIN ") {
        let remedy = match content.first() {
            None => "the file is empty".to_owned(),
            // A sequence of DER.
            Some(0x30) => {
                "it looks like DER; convert it: `openssl x509 -inform der -in OLD -out NEW`, `openssl pkey` \
                           for a key, `openssl crl` for a list"
                    .to_owned()
            }
            Some(_) => format!("write a file that has `-----BEGIN {what}-----`"),
        };
        return Err(format!("{shown} is not PEM; {remedy}"));
    }
    let sections: Result<Vec<T>, _> = T::pem_slice_iter(content).collect();
    let sections = sections.map_err(|_| format!("{shown} is damaged PEM; copy the file again"))?;
    if !sections.is_empty() {
        return Ok(sections);
    }
    let others = [
        ("CERTIFICATE REQUEST", "a request; have a CA sign it, and name the certificate that comes back"),
        ("TRUSTED CERTIFICATE", "one in OpenSSL's own format; convert it: `openssl x509 -in OLD -out NEW`"),
        ("PRIVATE KEY", "a private key"),
        ("X509 CRL", "a list of revoked certificates"),
        ("CERTIFICATE", "a certificate"),
    ];
    let instead = others.iter().find(|(marker, _)| has(&format!("{marker}-----")));
    let instead = instead.map_or("something else", |(_, instead)| instead);
    Err(format!("{shown} has no `{what}`, but {instead}; name another file"))
}

/// Returns the names that a certificate is for; its common name where it has no others.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    let names = extension.into_iter().flat_map(|extension| &extension.value.general_names);
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.trim_end_matches('.').to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => ip(bytes).map(|ip| ip.to_string()),
        _ => None,
    };
    let names: Vec<_> = names.filter_map(text).collect();
    if !names.is_empty() {
        return names;
    }
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    common.map(str::to_ascii_lowercase).collect()
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn kind_of(certificate: &X509Certificate<'_>) -> KeyKind {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => KeyKind::Rsa(key.key_size()),
        _ => KeyKind::Curve,
    }
}
