//! `ssl` of a `bind` and of a `server`.

use super::options::Options;
use crate::import::plan::{Entry, flow_list, scalar};
use crate::import::report::{Findings, Origin};

/// What the servers of an upstream have in common: keys with their values.
pub(super) type Keys = Vec<(&'static str, String)>;

/// Sets `tls` of a listener if its `bind` has `ssl`.
///
/// # Errors
///
/// Why there cannot be such a listener.
pub(super) fn of_bind(
    options: &mut Options,
    entry: &mut Entry,
    origin: &Origin,
    findings: &mut Findings,
) -> Result<(), &'static str> {
    if !options.take_flag("ssl") {
        return Ok(());
    }
    let Some(files) = options.take("crt") else {
        return Err("`ssl` without `crt`; write a listener, and its certificates into `tls.certificates`");
    };
    let pair = |file: &str| format!("{{certificate: {0}, key: {0}}}", scalar(file));
    let pairs: Vec<_> = files.lines().map(pair).collect();
    entry
        .set("tls.certificates", format!("[{}]", pairs.join(", ")), origin)
        .differs("list the files of a folder one by one; a key in a file of its own is `key`");
    client_certificates(options, entry, origin, findings)?;
    if let Some(protocols) = options.take("alpn") {
        entry.set("tls.alpn", flow_list(protocols.split(',')), origin);
    }
    let oldest = options.take("ssl-min-ver");
    if options.take_flag("force-tlsv13") || oldest.is_some_and(|oldest| oldest == "TLSv1.3") {
        entry.set("tls.min_version", "\"1.3\"", origin);
    }
    Ok(())
}

fn client_certificates(
    options: &mut Options,
    entry: &mut Entry,
    origin: &Origin,
    findings: &mut Findings,
) -> Result<(), &'static str> {
    let (ca, lists) = (options.take("ca-file"), options.take("crl-file"));
    match options.take("verify").as_deref() {
        Some("required") => {
            let ca =
                ca.ok_or("`verify required` without `ca-file`; write a listener, and `tls.client_ca`")?;
            entry.set_text("tls.client_ca", &ca, origin);
            if let Some(lists) = lists {
                entry.set("tls.client_crl", flow_list([&*lists]), origin);
            }
        }
        Some("optional") => {
            let why = "verify optional: a certificate is a condition or not asked for; see `tls.client_ca`";
            findings.add(origin, why);
            entry.comment("`verify optional` is not taken over: clients are asked for no certificate");
        }
        _ => {}
    }
    Ok(())
}

/// Takes what a `server` with `ssl` says about its upstream; `None` without.
pub(super) fn of_server(options: &mut Options, origin: &Origin, findings: &mut Findings) -> Option<Keys> {
    if !options.take_flag("ssl") {
        return None;
    }
    let ca = options.take("ca-file").unwrap_or_else(|| "@system-ca".to_owned());
    let mut keys = match options.take("verify").as_deref() {
        Some("none") => vec![("tls.verify", "off".to_owned())],
        _ if ca == "@system-ca" => vec![("tls.ca", "system".to_owned())],
        _ => vec![("tls.ca", scalar(&ca))],
    };
    let asked = options.take("sni");
    let fixed = asked.as_deref().and_then(|sni| sni.strip_prefix("str(")?.strip_suffix(')'));
    if let (Some(sni), None) = (&asked, fixed) {
        findings
            .add(origin, format!("sni {sni}: the name is the same for every client; see `tls.server_name`"));
    }
    let verified = options.take("verifyhost");
    if let Some(name) = verified.as_deref().or(fixed) {
        keys.push(("tls.server_name", scalar(name)));
    }
    if let Some(file) = options.take("crt") {
        keys.extend([("tls.certificate", scalar(&file)), ("tls.key", scalar(&file))]);
    }
    if let Some(protocols) = options.take("alpn") {
        keys.push(("tls.alpn", flow_list(protocols.split(','))));
    }
    Some(keys)
}

/// Sets `tls` of an upstream.
pub(super) fn set(keys: &Keys, entry: &mut Entry, origin: &Origin) {
    for (path, value) in keys {
        entry.set(path, value, origin);
    }
    let has = |wanted: &str| keys.iter().any(|(path, _)| *path == wanted);
    if has("tls.ca") && !has("tls.server_name") {
        entry.comment(
            "HAProxy looked at no name in the certificates; here each has to be for the host name or address of its \
             backend, unless there is a `tls.server_name`",
        );
    }
}
