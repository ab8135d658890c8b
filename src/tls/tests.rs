//! Handshakes in memory, with certificates that the configuration has read.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{KeyPair, PKCS_RSA_SHA256};
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConnection, SupportedProtocolVersion,
};

use super::verifier::Trusted;
use super::*;
use crate::config::testing::{Ca, Folder, Pem};

/// What came of a handshake.
#[derive(Debug)]
struct Done {
    kind: HandshakeKind,
    /// The certificate of the server.
    certificate: CertificateDer<'static>,
    protocol: Option<Vec<u8>>,
}

/// Moves bytes until both sides have nothing more to say. Fails with what one of them says.
fn shake(client: &mut ClientConnection, server: &mut ServerConnection) -> Result<Done, String> {
    for _ in 0..20 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).expect("memory");
        }
        let mut read = &bytes[..];
        while !read.is_empty() {
            server.read_tls(&mut read).expect("memory");
            if let Err(error) = server.process_new_packets() {
                return Err(format!("the server: {error}"));
            }
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).expect("memory");
        }
        let mut read = &bytes[..];
        while !read.is_empty() {
            client.read_tls(&mut read).expect("memory");
            client.process_new_packets().map_err(|error| format!("the client: {error}"))?;
        }
        if bytes.is_empty() && !client.wants_write() {
            break;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(Done {
        kind: server.handshake_kind().expect("it is over"),
        certificate: client.peer_certificates().expect("a certificate")[0].clone().into_owned(),
        protocol: server.alpn_protocol().map(<[u8]>::to_vec),
    })
}

/// A client that believes a CA.
struct Client {
    config: ClientConfig,
}

impl Client {
    fn new(ca: &str, versions: &[&'static SupportedProtocolVersion], own: Option<&Pem>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).expect("PEM")).expect("a CA");
        let builder = ClientConfig::builder_with_provider(provider());
        let builder =
            builder.with_protocol_versions(versions).expect("versions").with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let certificate = CertificateDer::from_pem_slice(pem.certificate.as_bytes()).expect("PEM");
                let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).expect("PEM");
                builder.with_client_auth_cert(vec![certificate], key).expect("a pair")
            }
        };
        Self { config }
    }

    fn any(ca: &str) -> Self {
        Self::new(ca, &[&TLS13, &TLS12], None)
    }

    fn shake(&self, name: &str, settings: &ServerSettings) -> Result<Done, String> {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let mut client = ClientConnection::new(Arc::new(self.config.clone()), name).expect("a client");
        shake(&mut client, &mut ServerConnection::new(Arc::clone(settings.config())).expect("a server"))
    }
}

fn settings_of(listener: &str, folder: &Folder, tls: &str, tickets: &Arc<Tickets>) -> ServerSettings {
    let parsed = folder.listener(tls).unwrap_or_else(|report| panic!("{report}"));
    let tls = parsed.config.listeners[0].tls.as_ref().expect("it is written");
    ServerSettings::new(listener, tls, tickets).unwrap_or_else(|error| panic!("{error}"))
}

fn settings(folder: &Folder, tls: &str) -> ServerSettings {
    settings_of("web", folder, tls, &Arc::default())
}

fn der(pem: &Pem) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.certificate.as_bytes()).expect("PEM")
}

#[test]
fn a_client_gets_the_certificate_for_its_name() {
    let ca = Ca::new("CA");
    let first = ca.leaf(&["a.example.com", "b.example.com"]);
    let (wide, own) = (ca.leaf(&["*.example.com"]), ca.leaf(&["Own.example.com"]));
    let folder = Folder::default().with_pem("first", &first).with_pem("wide", &wide).with_pem("own", &own);
    let settings = settings(
        &folder,
        "{certificates: [{certificate: first.pem, key: first-key.pem}, {certificate: wide.pem, key: wide-key.pem}, \
         {certificate: own.pem, key: own-key.pem}]}",
    );
    for (name, expected) in [
        ("a.example.com", &first),
        ("B.example.COM", &first),
        ("own.example.com", &own),
        ("x.example.com", &wide),
    ] {
        let done =
            Client::any(&ca.pem).shake(name, &settings).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(done.certificate, der(expected), "{name}");
    }
    // Of these the first one is for none, and the client says so.
    for name in ["x.y.example.com", "example.com", "other.net", "192.0.2.1"] {
        let error = Client::any(&ca.pem).shake(name, &settings).expect_err(name);
        assert!(
            error.contains("the client: invalid peer certificate: certificate not valid for name"),
            "{error}"
        );
        assert!(error.contains("a.example.com"), "{error}");
    }
}

#[test]
fn of_two_kinds_of_keys_a_client_gets_the_one_that_it_can_check() {
    let ca = Ca::new("CA");
    let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).expect("a key");
    let (curve, rsa) = (ca.leaf(&["a.b"]), ca.leaf_with(&["a.b"], rsa, |_| {}));
    let folder = Folder::default().with_pem("curve", &curve).with_pem("rsa", &rsa);
    let settings = settings(
        &folder,
        "{certificates: [{certificate: curve.pem, key: curve-key.pem}, {certificate: rsa.pem, key: rsa-key.pem}]}",
    );
    let client = Client::any(&ca.pem);
    assert_eq!(client.shake("a.b", &settings).expect("a handshake").certificate, der(&curve));
    // TLS 1.2 with RSA suites only.
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| format!("{:?}", suite.suite()).contains("ECDHE_RSA"));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).expect("PEM")).expect("a CA");
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS12])
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    assert_eq!(Client { config }.shake("a.b", &settings).expect("a handshake").certificate, der(&rsa));
}

#[test]
fn client_certificates_are_required_and_may_be_revoked() {
    let (ca, clients, others) = (Ca::new("CA"), Ca::new("clients"), Ca::new("others"));
    let with_serial = |ca: &Ca, serial: u64| {
        let key = KeyPair::generate().expect("a key");
        ca.leaf_with(&["client"], key, |params| params.serial_number = Some(serial.into()))
    };
    let (good, revoked, foreign) =
        (with_serial(&clients, 1), with_serial(&clients, 2), with_serial(&others, 1));
    let folder = Folder::default()
        .with_pem("web", &ca.leaf(&["web"]))
        .with("clients.pem", &clients.pem)
        .with("both.pem", format!("{}{}", clients.pem, others.pem))
        .with("revoked.pem", clients.crl(&[2], 2030));
    let keys = "{certificates: [{certificate: web.pem, key: web-key.pem}]";
    let plain = settings(&folder, &format!("{keys}, client_ca: clients.pem}}"));
    let listed = settings(&folder, &format!("{keys}, client_ca: clients.pem, client_crl: [revoked.pem]}}"));
    let two = settings(&folder, &format!("{keys}, client_ca: both.pem, client_crl: [revoked.pem]}}"));
    for versions in [&[&TLS13][..], &[&TLS12]] {
        let shake = |own: Option<&Pem>, settings| {
            let done = Client::new(&ca.pem, versions, own).shake("web", settings);
            done.map(|done| done.kind).map_err(|error| error.to_lowercase())
        };
        for settings in [&plain, &listed, &two] {
            assert!(shake(Some(&good), settings).is_ok());
            assert!(shake(None, settings).is_err_and(|error| error.contains("no certificates")));
        }
        assert!(shake(Some(&revoked), &plain).is_ok());
        assert!(shake(Some(&revoked), &listed).is_err_and(|error| error.contains("revoked")));
        assert!(shake(Some(&foreign), &listed).is_err_and(|error| error.contains("unknownissuer")));
        // Nothing is known of the certificates of the other CA, so none of them is good.
        assert!(shake(Some(&foreign), &two).is_err_and(|error| error.contains("unknownrevocationstatus")));
    }
}

#[test]
fn sessions_are_resumed_at_the_same_listener_only() {
    let (ca, clients) = (Ca::new("CA"), Ca::new("clients"));
    let folder = Folder::default()
        .with_pem("web", &ca.leaf(&["web"]))
        .with_pem("renewed", &ca.leaf(&["web"]))
        .with("clients.pem", &clients.pem)
        .with("more.pem", format!("{}{}", clients.pem, ca.pem))
        .with("revoked.pem", clients.crl(&[2], 2030));
    let keys = |name: &str, more: &str| {
        format!("{{certificates: [{{certificate: {name}.pem, key: {name}-key.pem}}]{more}}}")
    };
    let own = clients.leaf(&["client"]);
    let tickets = Arc::new(Tickets::default());
    let with_ca = keys("web", ", client_ca: clients.pem");
    for version in [&TLS13, &TLS12] {
        let first = settings_of("web", &folder, &with_ca, &tickets);
        let again = |listener: &str, keys: &str, tickets: &Arc<Tickets>| {
            let client = Client::new(&ca.pem, &[version], Some(&own));
            assert_eq!(client.shake("web", &first).expect("a handshake").kind, HandshakeKind::Full);
            let other = settings_of(listener, &folder, keys, tickets);
            client.shake("web", &other).expect("a handshake").kind
        };
        assert_eq!(again("web", &with_ca, &tickets), HandshakeKind::Resumed);
        let renewed = keys("renewed", ", client_ca: clients.pem");
        assert_eq!(again("web", &renewed, &tickets), HandshakeKind::Resumed);
        let handed = Arc::new(Tickets::inherit(&tickets.hand_on()).expect("it makes sense"));
        assert_eq!(again("web", &with_ca, &handed), HandshakeKind::Resumed);
        for (listener, more) in [
            ("other", ", client_ca: clients.pem"),
            ("web", ""),
            ("web", ", client_ca: more.pem"),
            ("web", ", client_ca: clients.pem, client_crl: [revoked.pem]"),
        ] {
            assert_eq!(
                again(listener, &keys("web", more), &tickets),
                HandshakeKind::Full,
                "{listener} {more}"
            );
        }
        assert_eq!(again("web", &with_ca, &Arc::default()), HandshakeKind::Full);
    }
}

#[test]
fn versions_and_protocols_are_as_the_file_says() {
    let ca = Ca::new("CA");
    let folder = Folder::default().with_pem("web", &ca.leaf(&["web"]));
    let keys = "certificates: [{certificate: web.pem, key: web-key.pem}]";
    let strict = settings(&folder, &format!("{{{keys}, min_version: \"1.3\"}}"));
    let old = Client::new(&ca.pem, &[&TLS12], None);
    assert!(old.shake("web", &strict).is_err_and(|error| error.contains("the server")));
    assert!(Client::any(&ca.pem).shake("web", &strict).is_ok());
    assert!(old.shake("web", &settings(&folder, &format!("{{{keys}}}"))).is_ok());

    let settings = settings(&folder, &format!("{{{keys}, alpn: [h2, http/1.1], handshakes_max: 7}}"));
    assert_eq!(settings.handshakes_max(), 7);
    let with = |protocols: &[&str]| {
        let mut client = Client::any(&ca.pem);
        client.config.alpn_protocols =
            protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        client.shake("web", &settings).map(|done| done.protocol)
    };
    assert_eq!(with(&["http/1.1", "h2"]), Ok(Some(b"h2".to_vec())), "what the listener likes best");
    assert_eq!(with(&["http/1.1"]), Ok(Some(b"http/1.1".to_vec())));
    assert_eq!(with(&[]), Ok(None));
    assert!(with(&["ftp"]).is_err_and(|error| error.contains("the server")));
}

/// Returns what comes of a handshake of a backend with an upstream of these keys.
fn with_backend(
    folder: &Folder,
    tls: &str,
    backend: &str,
    server: &str,
    asked: Option<&[u8]>,
) -> Result<Done, String> {
    let parsed = folder.upstream(tls, "", backend).unwrap_or_else(|report| panic!("{report}"));
    let upstream = &parsed.config.upstreams[0];
    let tls = upstream.tls.as_ref().expect("it is written");
    let own =
        ClientSettings::new("u", tls, &upstream.backends, None).unwrap_or_else(|error| panic!("{error}"));
    let backend = own.backend(&upstream.backends[0].name).expect("it is there");
    let (config, name) = (Arc::clone(backend.config()), backend.name().clone());
    let mut client =
        ClientConnection::new_with_alpn(config, name, backend.offers(asked)).expect("a connection");
    let server = settings(folder, server);
    shake(&mut client, &mut ServerConnection::new(Arc::clone(server.config())).expect("a server"))
}

#[test]
fn backends_are_who_they_should_be() {
    let (ca, clients) = (Ca::new("CA"), Ca::new("clients"));
    let folder = Folder::default()
        .with_pem("web", &ca.leaf(&["db.example.com", "192.0.2.1"]))
        .with_pem("own", &clients.leaf(&["ringway"]))
        .with("ca.pem", &ca.pem)
        .with("clients.pem", &clients.pem)
        .with("/etc/ssl/cert.pem", &ca.pem);
    let web = "{certificates: [{certificate: web.pem, key: web-key.pem}]}";
    let named = "{address: DB.example.com., port: 1}";
    let shake = |tls: &str, backend: &str, server: &str| {
        with_backend(&folder, tls, backend, server, None).map(|done| done.kind)
    };
    for (tls, backend) in [
        ("{ca: ca.pem}", named),
        ("{}", named),
        ("{ca: system}", "{address: 192.0.2.1, port: 1}"),
        ("{ca: ca.pem, server_name: db.example.com}", "{name: s, address: 'unix:/s'}"),
        ("{verify: off}", "{address: other.example.com, port: 1}"),
        ("{verify: off}", "{address: 192.0.2.9, port: 1}"),
        ("{ca: ca.pem, server_name: 192.0.2.1}", "{address: other, port: 1}"),
    ] {
        assert_eq!(shake(tls, backend, web), Ok(HandshakeKind::Full), "{tls} {backend}");
    }
    for (tls, backend, words) in [
        ("{ca: ca.pem}", "{address: other.example.com, port: 1}", "not valid for name"),
        ("{ca: ca.pem}", "{address: 192.0.2.9, port: 1}", "not valid for name"),
        ("{ca: clients.pem}", named, "UnknownIssuer"),
    ] {
        let error = shake(tls, backend, web).expect_err(tls);
        assert!(error.contains(words), "{error}");
    }
    let strict = "{certificates: [{certificate: web.pem, key: web-key.pem}], client_ca: clients.pem}";
    assert!(shake("{ca: ca.pem}", named, strict).is_err());
    assert!(shake("{ca: ca.pem, certificate: own.pem, key: own-key.pem}", named, strict).is_ok());
}

/// A certificate that signs itself.
fn own(names: &[&str], change: impl FnOnce(&mut rcgen::CertificateParams)) -> Pem {
    let key = KeyPair::generate().expect("a key");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names).expect("names");
    change(&mut params);
    let certificate = params.self_signed(&key).expect("a certificate").pem();
    Pem { certificate, key: key.serialize_pem() }
}

#[test]
fn a_certificate_that_is_in_the_file_itself_is_good() {
    let ca = Ca::new("CA");
    let is_ca = || rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let web = "{certificates: [{certificate: web.pem, key: web-key.pem}]}";
    let shake = |pem: &Pem, in_ca: &[&str], name: &str| {
        let folder = Folder::default().with_pem("web", pem).with("ca.pem", in_ca.concat());
        let backend = format!("{{address: {name}, port: 1}}");
        with_backend(&folder, "{ca: ca.pem}", &backend, web, None).map(|done| done.kind)
    };
    let leaf = own(&["db"], |params| params.is_ca = rcgen::IsCa::ExplicitNoCa);
    assert_eq!(shake(&leaf, &[&leaf.certificate], "db"), Ok(HandshakeKind::Full));
    // As `openssl req -x509` makes it.
    let both = own(&["db", "192.0.2.1"], |params| params.is_ca = is_ca());
    for (in_ca, name) in [
        (&[&*both.certificate][..], "db"),
        (&[&both.certificate], "192.0.2.1"),
        (&[&ca.pem, &both.certificate], "db"),
        (&[&both.certificate, &ca.pem], "db"),
    ] {
        assert_eq!(shake(&both, in_ca, name), Ok(HandshakeKind::Full), "{name}");
    }
    let error = shake(&both, &[&both.certificate], "other").expect_err("another name");
    assert!(error.contains("not valid for name \"other\""), "{error}");
    let twin = own(&["db", "192.0.2.1"], |params| params.is_ca = is_ca());
    let error = shake(&both, &[&twin.certificate, &ca.pem], "db").expect_err("another certificate");
    assert!(error.contains("CaUsedAsEndEntity"), "{error}");
}

#[test]
fn a_certificate_that_is_in_the_file_itself_has_its_time() {
    let verify = |from: i32, until: i32, now: u64| {
        let pem = own(&["db"], |params| {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.not_before = rcgen::date_time_ymd(from, 1, 1);
            params.not_after = rcgen::date_time_ymd(until, 1, 1);
        });
        let certificates = Arc::from([der(&pem)]);
        let verifier = Trusted::new(&certificates, provider()).expect("a CA");
        let name = ServerName::try_from("db").expect("a name");
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        let verified = verifier.verify_server_cert(&certificates[0], &[], &name, &[], now);
        verified.map(|_| ()).map_err(|error| words(&error))
    };
    // 2026-06-01.
    let now = 1_780_272_000;
    assert_eq!(verify(2026, 2027, now), Ok(()));
    assert_eq!(verify(2020, 2026, now), Err("the certificate has expired on 2026-01-01".to_owned()));
    assert_eq!(verify(2027, 2028, now), Err("the certificate is not valid before 2027-01-01".to_owned()));
}

#[test]
fn backends_are_offered_what_the_file_says() {
    let ca = Ca::new("CA");
    let folder = Folder::default().with_pem("web", &ca.leaf(&["db"])).with("ca.pem", &ca.pem);
    let web = "{certificates: [{certificate: web.pem, key: web-key.pem}], alpn: [h2, http/1.1]}";
    let offered = |alpn: &str, asked: Option<&[u8]>| {
        let tls = format!("{{ca: ca.pem, alpn: {alpn}}}");
        let done = with_backend(&folder, &tls, "{address: db, port: 1}", web, asked);
        done.expect("a handshake").protocol.map(|protocol| String::from_utf8(protocol).expect("text"))
    };
    assert_eq!(offered("off", Some(b"h2")), None);
    assert_eq!(offered("[http/1.1]", Some(b"h2")).as_deref(), Some("http/1.1"));
    assert_eq!(offered("same", Some(b"http/1.1")).as_deref(), Some("http/1.1"));
    assert_eq!(offered("same", None), None);
}

#[test]
fn what_has_not_changed_goes_on_resuming() {
    let ca = Ca::new("CA");
    let folder = Folder::default().with_pem("web", &ca.leaf(&["db"])).with("ca.pem", &ca.pem);
    let upstream = |tls: &str, backends: &str| {
        let parsed = folder.upstream(tls, "", backends).unwrap_or_else(|report| panic!("{report}"));
        parsed.config.upstreams[0].clone()
    };
    let make = |upstream: &crate::config::Upstream, before: Option<&ClientSettings>| {
        let tls = upstream.tls.as_ref().expect("it is written");
        ClientSettings::new("u", tls, &upstream.backends, before).expect("settings")
    };
    let before = make(&upstream("{ca: ca.pem}", "{address: db, port: 1}, {address: c, port: 1}"), None);
    let config =
        |settings: &ClientSettings, name: &str| Arc::clone(settings.backend(name).expect(name).config());
    assert!(!Arc::ptr_eq(&config(&before, "db:1"), &config(&before, "c:1")), "a ticket is of one backend");
    let more =
        make(&upstream("{ca: ca.pem}", "{address: new, port: 1}, {address: db, port: 1}"), Some(&before));
    assert!(Arc::ptr_eq(&config(&before, "db:1"), &config(&more, "db:1")));
    let other = make(&upstream("{ca: ca.pem, alpn: [h2]}", "{address: db, port: 1}"), Some(&before));
    assert!(!Arc::ptr_eq(&config(&before, "db:1"), &config(&other, "db:1")));
    assert!(other.backend("c:1").is_none());
}
