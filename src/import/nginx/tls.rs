//! `ssl` of a `listen`, and `proxy_ssl`.

use super::settings::Settings;
use super::tokens::Directive;
use crate::import::plan::{Entry, flow_list, scalar};
use crate::import::report::{Findings, Origin};

/// Sets `tls` of a listener whose `listen` has `ssl`.
///
/// # Errors
///
/// Why there cannot be such a listener.
pub(super) fn of_listen(
    settings: &Settings<'_>,
    entry: &mut Entry,
    origin: &Origin,
    findings: &mut Findings,
) -> Result<(), &'static str> {
    let (certificates, keys) =
        (settings.certificates("ssl_certificate"), settings.certificates("ssl_certificate_key"));
    if certificates.is_empty() || certificates.len() != keys.len() {
        return Err(
            "ssl: each `ssl_certificate` needs its `ssl_certificate_key`; write a listener with `tls.certificates`",
        );
    }
    let is_file = |directive: &&Directive| !directive.argument(0).contains(['$', ':']);
    if !certificates.iter().chain(&keys).all(is_file) {
        return Err("ssl: a certificate has to be a file; write a listener with `tls.certificates`");
    }
    let pair = |(certificate, key): (&&Directive, &&Directive)| {
        format!("{{certificate: {}, key: {}}}", scalar(certificate.argument(0)), scalar(key.argument(0)))
    };
    let pairs: Vec<_> = certificates.iter().zip(&keys).map(pair).collect();
    entry.set("tls.certificates", format!("[{}]", pairs.join(", ")), origin);
    client_certificates(settings, entry, findings)?;
    if let Some(directive) = settings.find("ssl_alpn") {
        let protocols = directive.arguments.iter().map(String::as_str);
        entry.set("tls.alpn", flow_list(protocols), &directive.origin());
    }
    if let Some(directive) = settings.find("ssl_protocols")
        && directive.arguments.iter().all(|version| version == "TLSv1.3")
    {
        entry.set("tls.min_version", "\"1.3\"", &directive.origin());
    }
    Ok(())
}

fn client_certificates(
    settings: &Settings<'_>,
    entry: &mut Entry,
    findings: &mut Findings,
) -> Result<(), &'static str> {
    let Some(asked) = settings.find("ssl_verify_client").filter(|asked| asked.argument(0) != "off") else {
        return Ok(());
    };
    if asked.argument(0) != "on" {
        findings.add(&asked.origin(), "a certificate is a condition or not asked for; see `tls.client_ca`");
        entry.comment(format!(
            "`ssl_verify_client` in line {} is not taken over: clients are asked for no certificate",
            asked.line
        ));
        return Ok(());
    }
    let ca = settings.find("ssl_client_certificate").or_else(|| settings.find("ssl_trusted_certificate"));
    let ca = ca
        .ok_or("ssl_verify_client without `ssl_client_certificate`; write a listener, and `tls.client_ca`")?;
    entry.set_text("tls.client_ca", ca.argument(0), &ca.origin());
    if let Some(lists) = settings.find("ssl_crl") {
        entry.set("tls.client_crl", flow_list([lists.argument(0)]), &lists.origin());
    }
    Ok(())
}

/// Sets `tls` of an upstream, if there is `proxy_ssl on`.
pub(super) fn of_upstream(settings: &Settings<'_>, entry: &mut Entry) {
    let Some(directive) = settings.find("proxy_ssl").filter(|directive| directive.argument(0) == "on") else {
        return;
    };
    let origin = directive.origin();
    let text = |name: &str| {
        settings.find(name).map(|directive| directive.argument(0)).filter(|text| !text.contains('$'))
    };
    match text("proxy_ssl_verify") {
        Some("on") => {
            entry.set_text("tls.ca", text("proxy_ssl_trusted_certificate").unwrap_or("system"), &origin);
            if text("proxy_ssl_name").is_none() {
                entry.comment("each certificate has to be for the host name or address of its backend, unless there is a `tls.server_name`");
            }
        }
        _ => {
            entry
                .set("tls.verify", "off", &origin)
                .differs("as in nginx, which checks none without `proxy_ssl_verify`");
        }
    }
    if let Some(name) = text("proxy_ssl_name") {
        entry.set_text("tls.server_name", name, &origin);
    }
    if let (Some(certificate), Some(key)) = (text("proxy_ssl_certificate"), text("proxy_ssl_certificate_key"))
    {
        entry.set_text("tls.certificate", certificate, &origin);
        entry.set_text("tls.key", key, &origin);
    }
}
