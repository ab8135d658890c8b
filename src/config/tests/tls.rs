//! The sections `tls`: what is wrong with files, dates and keys, and what of their content is a change.

use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize, date_time_ymd};

use super::*;
use crate::config::testing::{Ca, Folder, Pem};

const WEB: &str = "certificates: [{certificate: web.pem, key: web-key.pem}]";

struct Fixture {
    ca: Ca,
    clients: Ca,
    web: Pem,
    folder: Folder,
}

fn fixture() -> Fixture {
    let (ca, clients) = (Ca::new("CA"), Ca::new("clients"));
    let web = ca.leaf(&["web.example.com"]);
    let folder = Folder::default()
        .with_pem("web", &web)
        .with("ca.pem", &ca.pem)
        .with("clients.pem", &clients.pem)
        .with("revoked.pem", clients.crl(&[2], 2030));
    Fixture { ca, clients, web, folder }
}

/// The problems, of which each has to have these words.
#[track_caller]
fn assert_problems(read: Result<Parsed, Report>, severity: Severity, words: &[&str], what: &str) {
    let report = read.map_or_else(|report| report, |parsed| parsed.report);
    let problems = report.problems();
    assert_eq!(problems.len(), words.len(), "{what}: {report}");
    for (problem, words) in problems.iter().zip(words) {
        assert!(problem.message.contains(words) && problem.severity == severity, "{what}: {words}: {report}");
        assert!(problem.path.contains("tls"), "{what}: {}", problem.path);
    }
}

fn until(ca: &Ca, (year, month, day): (i32, u8, u8)) -> Pem {
    let change = |params: &mut CertificateParams| params.not_after = date_time_ymd(year, month, day);
    ca.leaf_with(&["web.example.com"], KeyPair::generate().expect("a key"), change)
}

#[test]
fn files_that_are_something_else_are_named() {
    let Fixture { ca, web, folder, .. } = fixture();
    let (certificate, key) = (&web.certificate, &web.key);
    let other = ca.leaf(&["other"]);
    let damaged = certificate.replacen("MII", "!!!", 1);
    let der: Vec<u8> = vec![0x30, 0x82, 1, 0];
    let half = &certificate[..certificate.len() / 2];
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (content, private, path, words) in [
        ("", &**key, "certificate", "`web.pem` is not PEM; the file is empty"),
        ("hello", key, "certificate", "write a file that has `-----BEGIN CERTIFICATE-----`"),
        (key, key, "certificate", "`web.pem` has no `CERTIFICATE`, but a private key"),
        (&damaged, key, "certificate", "`web.pem` is damaged PEM"),
        (half, key, "certificate", "`web.pem` is damaged PEM"),
        (nonsense, key, "certificate", "certificate 1 in `web.pem` is damaged"),
        (
            &certificate.replace("CERTIFICATE", "CERTIFICATE REQUEST"),
            key,
            "certificate",
            "but a request; have a CA sign it",
        ),
        (certificate, certificate, "key", "`web-key.pem` has no `PRIVATE KEY`, but a certificate"),
        (certificate, "", "key", "`web-key.pem` is not PEM"),
        (
            certificate,
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "key",
            "`openssl pkey -in OLD -out NEW`",
        ),
        (
            certificate,
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----\n",
            "key",
            "has a password",
        ),
        (
            certificate,
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "key",
            "of a kind that is not supported; use ECDSA",
        ),
        (certificate, &other.key, "certificate", "are no pair"),
        (
            &format!("{}{certificate}", ca.pem),
            key,
            "certificate",
            "is that of certificate 2 in `web.pem`; move that one to the front",
        ),
    ] {
        let folder = folder.clone().with("web.pem", content).with("web-key.pem", private);
        let read = folder.listener(&format!("{{{WEB}}}"));
        let paths: Vec<_> =
            read.as_ref().expect_err(words).problems().iter().map(|one| one.path.clone()).collect();
        assert_eq!(paths, [format!("loadbalancer.tls.certificates[0].{path}")], "{words}");
        assert_problems(read, Severity::Error, &[words], words);
    }
    let read = folder.clone().with("web.pem", der).listener(&format!("{{{WEB}}}"));
    assert_problems(read, Severity::Error, &["it looks like DER; convert it"], "DER");
    let read = folder.listener("{certificates: [{certificate: gone.pem, key: gone-key.pem}]}");
    assert_problems(
        read,
        Severity::Error,
        &["gone.pem: cannot be read", "gone-key.pem: cannot be read"],
        "gone",
    );
    // Text around the sections, a chain, and other line ends are as good.
    let chain = format!("Web\n{certificate}\n{}", ca.pem).replace('\n', "\r\n");
    let parsed = folder.with("web.pem", chain).listener(&format!("{{{WEB}}}")).expect("valid");
    let tls = parsed.config.listeners[0].tls.clone().expect("it is written");
    let identity = tls.certificates[0].identity.as_ref().expect("it was read");
    assert_eq!((identity.chain.len(), identity.name()), (2, "web.example.com"));
}

#[test]
fn dates_are_judged_when_the_files_are_read() {
    let Fixture { ca, clients, folder, .. } = fixture();
    let read = |pem: &Pem| folder.clone().with_pem("web", pem).listener(&format!("{{{WEB}}}"));
    let expired = read(&until(&ca, (2026, 5, 31)));
    assert_problems(expired, Severity::Error, &["`web.pem` has expired on 2026-05-31; renew it"], "expired");
    let later = |params: &mut CertificateParams| params.not_before = date_time_ymd(2026, 6, 2);
    let later = read(&ca.leaf_with(&["web"], KeyPair::generate().expect("a key"), later));
    assert_problems(later, Severity::Error, &["is not valid before 2026-06-02"], "later");
    let soon = read(&until(&ca, (2026, 6, 14)));
    assert_problems(soon, Severity::Warning, &["expires on 2026-06-14; renew it"], "soon");
    let good = until(&ca, (2026, 6, 16));
    assert_problems(read(&good), Severity::Warning, &[], "good");
    let chain = format!("{}{}", good.certificate, until(&ca, (2026, 1, 1)).certificate);
    let chained = read(&Pem { certificate: chain, key: good.key });
    assert_problems(
        chained,
        Severity::Warning,
        &["certificate 2 in `web.pem`, of a CA, has expired"],
        "chain",
    );
    let stale = folder.clone().with("revoked.pem", clients.crl(&[2], 2026));
    let stale = stale.listener(&format!("{{{WEB}, client_ca: clients.pem, client_crl: [revoked.pem]}}"));
    assert_problems(stale, Severity::Warning, &["should have been replaced by 2026-01-01"], "stale");
    let old_ca = folder.with("old.pem", until(&ca, (2026, 1, 1)).certificate);
    let old_ca = old_ca.listener(&format!("{{{WEB}, client_ca: old.pem}}"));
    assert_problems(old_ca, Severity::Warning, &["every CA in `old.pem` has expired"], "old CA");
}

#[test]
fn keys_of_a_listener_have_to_make_sense() {
    let Fixture { ca, folder, .. } = fixture();
    let folder = folder.with_pem("same", &ca.leaf(&["x", "web.example.com"]));
    for (tls, words) in [
        ("{}", "`certificates` is missing"),
        ("{certificates: []}", "the list is empty"),
        ("{certificates: [{certificate: web.pem}]}", "`key` is missing"),
        ("{certificates: [{certificate: '', key: web-key.pem}]}", "is not the path of a file"),
        (&format!("{{{WEB}, client_crl: [revoked.pem]}}"), "add `client_ca`, or remove it"),
        (&format!("{{{WEB}, client_ca: revoked.pem}}"), "has no `CERTIFICATE`, but a list of revoked"),
        (
            &format!("{{{WEB}, client_ca: clients.pem, client_crl: [ca.pem]}}"),
            "has no `X509 CRL`, but a certificate",
        ),
        (&format!("{{{WEB}, client_ca: clients.pem, client_crl: revoked.pem}}"), "write `[...]`"),
        (&format!("{{{WEB}, alpn: h2}}"), "write `[...]`"),
        (&format!("{{{WEB}, alpn: ['h 2']}}"), "is not the name of a protocol"),
        (&format!("{{{WEB}, min_version: 1.1}}"), "`1.1` is not `1.2` or `1.3`"),
        (&format!("{{{WEB}, handshakes_max: 0}}"), "is not a whole number from 1"),
        (&format!("{{{WEB}, ca: ca.pem}}"), "unknown key `ca`"),
    ] {
        assert_problems(folder.listener(tls), Severity::Error, &[words], tls);
    }
    let twice = "{certificates: [{certificate: web.pem, key: web-key.pem}, {certificate: same.pem, key: same-key.pem}]}";
    let words = ["an earlier certificate is for `web.example.com` too"];
    assert_problems(folder.listener(twice), Severity::Warning, &words, "twice");
    let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).expect("a key");
    let both = folder.clone().with_pem("same", &ca.leaf_with(&["web.example.com"], rsa, |_| {}));
    assert_problems(both.listener(twice), Severity::Warning, &[], "an ECDSA and an RSA certificate");
    assert!(folder.listener("off").expect("valid").config.listeners[0].tls.is_none());
    let all = format!(
        "{{{WEB}, client_ca: clients.pem, client_crl: [revoked.pem], alpn: [h2], min_version: \"1.3\", handshakes_max: 9}}"
    );
    let config = folder.listener(&all).expect("valid").config;
    let again = folder.parse(&config.to_yaml()).expect("valid").config;
    assert_eq!((config.listeners, config.upstreams), (again.listeners, again.upstreams));
}

#[test]
fn keys_of_an_upstream_have_to_make_sense() {
    let Fixture { folder, .. } = fixture();
    let (named, unix) = ("{address: h, port: 1}", "{name: s, address: 'unix:/s'}");
    for (tls, keys, backend, words) in [
        ("{ca: gone.pem}", "", named, "gone.pem: cannot be read"),
        ("{}", "", named, "this system has no CAs"),
        ("{ca: ca.pem}", "", unix, "the backend `s` is a socket without a name; add `server_name`"),
        ("{ca: ca.pem, server_name: 'a b'}", "", named, "is not a host name or an IP address, or `off`"),
        ("{ca: ca.pem, certificate: web.pem}", "", named, "`key` is missing"),
        (
            "{ca: ca.pem, certificate: web.pem, key: ca.pem}",
            "",
            named,
            "has no `PRIVATE KEY`, but a certificate",
        ),
        ("{ca: ca.pem, alpn: []}", "", named, "write `off`"),
        ("{ca: ca.pem, alpn: h2}", "", named, "write `[...]`"),
        ("{ca: ca.pem, alpn: same}", ", pool: {size: 2}", named, "with `alpn: same` nothing is pooled"),
        ("{ca: ca.pem, verify: no}", "", named, "`no` is not `true`, `false` or `off`"),
    ] {
        assert_problems(folder.upstream(tls, keys, backend), Severity::Error, &[words], tls);
    }
    let off = folder.upstream("{verify: off}", "", named);
    assert_problems(off, Severity::Warning, &["so whoever is between can pose as the backend"], "off");
    for (tls, keys, backend) in [
        ("{ca: ca.pem, server_name: x.example.com}", ", send_proxy: v2", unix),
        (
            "{ca: ca.pem, alpn: [h2, http/1.1], certificate: web.pem, key: web-key.pem}",
            ", pool: {size: 2}",
            named,
        ),
        ("{ca: ca.pem, alpn: same}", "", "{address: 192.0.2.1, port: 1}"),
        ("off", "", named),
    ] {
        let parsed = folder.upstream(tls, keys, backend).unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(parsed.report.warnings(), 0, "{}", parsed.report);
        let again = folder.parse(&parsed.config.to_yaml()).expect("valid").config;
        let config = parsed.config;
        assert_eq!((config.listeners, config.upstreams), (again.listeners, again.upstreams));
    }
    let short = short("tls: {ca: ca.pem}\n");
    assert!(problems(&short).iter().any(|line| line.contains("TLS with backends needs the long form")));
}

#[test]
fn a_large_rsa_key_is_noted() {
    let Fixture { ca, folder, .. } = fixture();
    let noted = |bits| {
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, bits).expect("a key");
        let folder = folder.clone().with_pem("web", &ca.leaf_with(&["web"], key, |_| {}));
        folder.listener(&format!("{{{WEB}}}")).expect("valid").config.notes()
    };
    assert_eq!(noted(RsaKeySize::_2048), Vec::<String>::new());
    let large = noted(RsaKeySize::_3072);
    assert!(large.len() == 1 && large[0].contains("the key of `web.pem` is RSA with 3072 bits"), "{large:?}");
}

#[test]
fn a_renewed_certificate_is_a_change_and_no_key_is_ever_shown() {
    let Fixture { ca, web, folder, .. } = fixture();
    let all = format!("{{{WEB}, client_ca: clients.pem, client_crl: [revoked.pem]}}");
    let read = |folder: &Folder| folder.listener(&all).expect("valid").config;
    let before = read(&folder);
    let renewed = until(&ca, (2027, 1, 1));
    let shown = |after: &Config| changes(&before, after).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(shown(&before), Vec::<String>::new());
    let after = shown(&read(&folder.clone().with_pem("web", &renewed)));
    assert_eq!(after.len(), 1, "{after:?}");
    assert!(
        after[0].starts_with("~ listeners.default.tls.certificates.web.pem: web.example.com until "),
        "{after:?}"
    );
    assert!(after[0].contains("-> web.example.com until 2027-01-01 ("), "{after:?}");
    let after = shown(&read(&folder.clone().with("clients.pem", &ca.pem)));
    assert!(after.len() == 1 && after[0].contains("tls.client_ca: clients.pem, 1 CA ("), "{after:?}");
    let lists = fixture().clients.crl(&[2, 3], 2030);
    let after = shown(&read(&folder.clone().with("revoked.pem", lists)));
    assert!(after.len() == 1 && after[0].contains("tls.client_crl.revoked.pem: 1 list ("), "{after:?}");

    let upstream = |folder: &Folder| {
        let tls = "{ca: ca.pem, certificate: web.pem, key: web-key.pem}";
        folder.upstream(tls, "", "{address: h, port: 1}").expect("valid").config
    };
    let (one, two) = (upstream(&folder), upstream(&folder.clone().with_pem("web", &renewed)));
    let found = changes(&one, &two);
    assert!(found.len() == 1 && found[0].what == "upstreams.u.tls.certificate.web.pem", "{found:?}");

    let secret: String = web.key.lines().skip(1).take(1).collect();
    let texts = [format!("{before:?}{one:?}"), before.to_yaml(), one.to_yaml(), format!("{found:?}")];
    assert!(texts.iter().all(|text| !text.contains(&secret) && !text.contains("PRIVATE KEY")));
    assert!(texts[0].len() < 12_000, "keys and certificates are not written out");
}
