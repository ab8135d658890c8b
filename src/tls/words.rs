//! Why a handshake with a backend failed, in words for whoever runs it.

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, OtherError};

use crate::config::date_text;

/// Names of a certificate in a text; a certificate may have thousands.
const NAMES_SHOWN: usize = 4;
/// Characters of a name in a text.
const NAME_CHARS: usize = 80;

/// Returns why a handshake with a backend failed. What comes from the backend is escaped and cut.
#[must_use]
pub fn words(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => certificate(error),
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the backend wants a certificate; add `certificate` and `key` to `tls` of the upstream".to_owned()
        }
        Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            "the backend speaks none of the protocols that it is offered".to_owned()
        }
        Error::AlertReceived(
            alert @ (AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA),
        ) => format!("the backend refuses the certificate that it gets ({alert:?})"),
        Error::AlertReceived(alert) => format!("the backend ends the connection ({alert:?})"),
        other => other.to_string(),
    }
}

fn certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::NotValidForNameContext { expected, presented } => {
            format!("the certificate is for {}, not for {}", names(presented), expected.to_str())
        }
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("the certificate has expired on {}", day(*not_after))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("the certificate is not valid before {}", day(*not_before))
        }
        CertificateError::UnknownIssuer => {
            "the certificate comes from no CA in `ca` of the upstream".to_owned()
        }
        CertificateError::BadSignature => {
            "a signature is wrong: the certificate was changed, or comes from another CA of the same name as in `ca`".to_owned()
        }
        CertificateError::Other(error) if is_ca(error) => {
            "the certificate is that of a CA, and is not in `ca` of the upstream".to_owned()
        }
        CertificateError::Other(error) if is_old(error) => {
            "the certificate is not of version 3 of X.509, the only one that can be verified: sign it anew with an extension, such as \
             subjectAltName"
                .to_owned()
        }
        other => format!("the certificate is not good: {other}"),
    }
}

/// Returns whether a CA's certificate was presented as that of a server. The type of the error is of the library behind
/// rustls.
fn is_ca(error: &OtherError) -> bool {
    format!("{error:?}").contains("CaUsedAsEndEntity")
}

/// Returns whether a certificate is of version 1 or 2.
fn is_old(error: &OtherError) -> bool {
    format!("{error:?}").contains("UnsupportedCertVersion")
}

/// Returns names as `DnsName("a.example")` and `IpAddress(192.0.2.1)` tell them.
fn names(presented: &[String]) -> String {
    let plain = |text: &String| {
        let inside = text.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
        let name = inside.unwrap_or(text).trim_matches('"');
        name.chars().take(NAME_CHARS).flat_map(char::escape_debug).collect::<String>()
    };
    let shown: Vec<_> = presented.iter().take(NAMES_SHOWN).map(plain).collect();
    match presented.len().checked_sub(NAMES_SHOWN).filter(|more| *more > 0) {
        _ if shown.is_empty() => "no name".to_owned(),
        Some(more) => format!("{} and {more} more", shown.join(", ")),
        None => shown.join(", "),
    }
}

fn day(moment: UnixTime) -> String {
    date_text(i64::try_from(moment.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;

    use super::*;

    #[test]
    fn names_of_strangers_are_few_and_escaped() {
        let of = |presented: &[&str]| {
            let expected = ServerName::try_from("a.example").expect("a name");
            let presented = presented.iter().map(|name| (*name).to_owned()).collect();
            let error = CertificateError::NotValidForNameContext { expected, presented };
            words(&Error::InvalidCertificate(error))
        };
        assert_eq!(of(&[]), "the certificate is for no name, not for a.example");
        assert_eq!(
            of(&["DnsName(\"other.example\")", "IpAddress(192.0.2.1)"]),
            "the certificate is for other.example, 192.0.2.1, not for a.example"
        );
        assert_eq!(of(&["DnsName(\"a\nb\")"]), "the certificate is for a\\nb, not for a.example");
        let many = vec!["DnsName(\"x\")"; 7];
        assert_eq!(of(&many), "the certificate is for x, x, x, x and 3 more, not for a.example");
        let long = format!("DnsName(\"{}\")", "y".repeat(200));
        assert!(of(&[&long]).len() < 150);
    }
}
