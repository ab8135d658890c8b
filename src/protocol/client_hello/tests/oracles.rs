//! The same hellos read by others: rustls, which serves them, and `tls-parser`.
//!
//! Where they differ, and why:
//!
//! * rustls refuses what it would not serve: a message without extensions it needs, duplicates of any extension, bytes behind
//!   the message. Here only names and protocols are looked at, because the backend decides on the rest.
//! * rustls takes a name in upper case as it is; here it is in lower case. Of a name with a final dot it keeps the dot out, too.
//! * rustls looks at the first entry of a list of names; here the whole list has to be one.
//! * `tls-parser` reads one record, checks no lengths across records, and gives names as bytes, also such as are none.

use std::io::Cursor;
use std::sync::Arc;

use proptest::prelude::*;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::server::Acceptor;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tls_parser::{TlsExtension, TlsMessage, TlsMessageHandshake, parse_tls_extensions, parse_tls_plaintext};

use super::*;

/// Returns the name and the protocols, or nothing if they refuse the message.
type Said = Option<(Option<String>, Vec<String>)>;

fn said_by_us(bytes: &[u8]) -> Said {
    match read(bytes) {
        Progress::Complete(hello) => Some((hello.server_name().map(str::to_owned), protocols_of(&hello))),
        _ => None,
    }
}

fn said_by_rustls(bytes: &[u8]) -> Said {
    let mut acceptor = Acceptor::default();
    let mut bytes = Cursor::new(bytes);
    loop {
        if acceptor.read_tls(&mut bytes).ok()? == 0 {
            return None;
        }
        if let Some(accepted) = acceptor.accept().ok()? {
            let hello = accepted.client_hello();
            let words = |protocol: &[u8]| String::from_utf8_lossy(protocol).into_owned();
            let protocols = hello.alpn().into_iter().flatten().map(words).collect();
            return Some((hello.server_name().map(str::to_lowercase), protocols));
        }
    }
}

fn said_by_tls_parser(bytes: &[u8]) -> Said {
    let (_, record) = parse_tls_plaintext(bytes).ok()?;
    let Some(TlsMessage::Handshake(TlsMessageHandshake::ClientHello(hello))) = record.msg.first() else {
        return None;
    };
    let (mut name, mut protocols) = (None, Vec::new());
    let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    for extension in parse_tls_extensions(hello.ext.unwrap_or_default()).ok()?.1 {
        match extension {
            TlsExtension::SNI(names) => name = names.first().map(|(_, name)| words(name).to_lowercase()),
            TlsExtension::ALPN(all) => protocols = all.into_iter().map(words).collect(),
            _ => {}
        }
    }
    Some((name, protocols))
}

/// Returns what a client of rustls says first.
fn hello_of_rustls(name: &str, protocols: &[&str]) -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions");
    let mut config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("memory");
    bytes
}

#[test]
fn all_read_the_same_in_recorded_hellos() {
    let own = [("a.example.com", &["h2", "acme-tls/1"][..]), ("192.0.2.1", &[])]
        .map(|(name, protocols)| hello_of_rustls(name, protocols));
    assert_eq!(name_in(&own[0]), Ok(Some("a.example.com".to_owned())));
    assert_eq!(name_in(&own[1]), Ok(None));
    for bytes in RECORDED.iter().map(|(_, bytes, ..)| *bytes).chain(own.iter().map(|bytes| &**bytes)) {
        let said = said_by_us(bytes);
        assert!(said.is_some());
        assert_eq!(said_by_rustls(bytes), said);
        assert_eq!(said_by_tls_parser(bytes), said);
        for most in [1, 50] {
            assert_eq!(said_by_rustls(&in_records(&bytes[5..], most)), said, "{most}");
        }
    }
}

proptest! {
    #[test]
    fn what_rustls_takes_is_read_here_as_well(
        recorded in 0..RECORDED.len(),
        changes in proptest::collection::vec((5usize..600, any::<u8>()), 0..3),
    ) {
        let mut bytes = RECORDED[recorded].1.to_vec();
        for (at, byte) in changes {
            let at = 5 + at % (bytes.len() - 5);
            bytes[at] = byte;
        }
        if let Some((name, protocols)) = said_by_rustls(&bytes) {
            if matches!(read(&bytes), Progress::Invalid(Invalid::ServerName)) {
                // A list whose later entries are broken.
                return Ok(());
            }
            let (ours, our_protocols) = said_by_us(&bytes).expect("rustls takes it");
            prop_assert_eq!(&our_protocols, &protocols);
            let is_same = ours == name
                // An odd name is none on either side, by rules of their own.
                || ours.is_none() || name.is_none();
            prop_assert!(is_same, "{:?} and {:?}", ours, name);
        }
    }
}
