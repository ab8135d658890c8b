//! Our answers beside those of two other parsers, with the list of what they do differently, and why we do not.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::{recorded, v2};
use crate::protocol::proxy::{Endpoints, Progress, Tlvs, V2_REST_MAX, read};

/// Length and endpoints of a header that was taken; `None` if it was refused or is not complete.
type Answer = Option<(usize, Option<Endpoints>)>;

/// A difference that is known: what it is about, and whether these bytes have it.
type Known = (&'static str, fn(&[u8]) -> bool);

fn ours(bytes: &[u8]) -> Answer {
    match read(bytes) {
        Progress::Complete { length, header } => Some((length, header.endpoints)),
        Progress::Incomplete { .. } | Progress::Invalid(_) => None,
    }
}

fn of_ppp(bytes: &[u8]) -> Answer {
    use ppp::{HeaderResult, v1, v2};
    let both = |client: SocketAddr, destination: SocketAddr| Some(Endpoints::new(client, destination));
    match HeaderResult::parse(bytes) {
        HeaderResult::V1(header) => {
            let header = header.ok()?;
            let endpoints = match header.addresses {
                v1::Addresses::Tcp4(ip) => both(
                    (ip.source_address, ip.source_port).into(),
                    (ip.destination_address, ip.destination_port).into(),
                ),
                v1::Addresses::Tcp6(ip) => both(
                    (ip.source_address, ip.source_port).into(),
                    (ip.destination_address, ip.destination_port).into(),
                ),
                v1::Addresses::Unknown => None,
            };
            Some((header.header.len(), endpoints))
        }
        HeaderResult::V2(header) => {
            let header = header.ok()?;
            let endpoints = match header.addresses {
                v2::Addresses::IPv4(ip) => both(
                    (ip.source_address, ip.source_port).into(),
                    (ip.destination_address, ip.destination_port).into(),
                ),
                v2::Addresses::IPv6(ip) => both(
                    (ip.source_address, ip.source_port).into(),
                    (ip.destination_address, ip.destination_port).into(),
                ),
                v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
            };
            let is_announced =
                header.command == v2::Command::Proxy && header.protocol == v2::Protocol::Stream;
            Some((header.len(), endpoints.filter(|_| is_announced)))
        }
    }
}

fn of_proxy_protocol_rs(bytes: &[u8]) -> Answer {
    use proxy_protocol_rs::TransportProtocol;
    let (info, length) = proxy_protocol_rs::parse(bytes).ok()?;
    let is_stream = info.transport.is_some_and(|transport| transport.protocol == TransportProtocol::Stream);
    let both = info.source_inet().zip(info.destination_inet()).filter(|_| is_stream);
    Some((length, both.map(|(client, destination)| Endpoints::new(client, destination))))
}

/// Both: the specification asks for "one line of US-ASCII text" but also to ignore anything behind UNKNOWN.
const UNKNOWN_WITH_ANYTHING: Known =
    ("UNKNOWN is followed by a lone CR, too many fields, or what is not UTF-8", |bytes| is_unknown(bytes));

/// Both parse a port as Rust does, with a plus sign; and `proxy-protocol-rs` takes leading zeros, which the specification
/// forbids.
const LENIENT_PORTS: Known = ("a port has a plus sign or a leading zero", |bytes| {
    let line = bytes.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let is_lenient = |field: &[u8]| field.len() > 1 && matches!(field[0], b'+' | b'0');
    is_v1(bytes) && line.split(|&byte| byte == b' ').skip(4).any(is_lenient)
});

/// Neither has a bound below 64 KiB, which a peer that sends slowly could make us keep.
const NO_BOUND: Known = ("more than our bound follows the first 16 bytes", |bytes| {
    rest_length(bytes).is_some_and(|length| length > V2_REST_MAX)
});

const OF_PPP: &[Known] = &[
    UNKNOWN_WITH_ANYTHING,
    LENIENT_PORTS,
    NO_BOUND,
    // "Discard the protocol block including the family which is ignored."
    ("LOCAL: the family has to be valid, and the addresses whole", |bytes| command(bytes) == Some(0x20)),
    // The checksum must be verified by whoever supports it, and its place is only known if the TLVs are whole.
    ("TLVs and checksum are not looked at", |bytes| command(bytes) == Some(0x21) && has_tlvs(bytes)),
    // Valid, but not a combination that has addresses in a known format: those fall back to UNSPEC.
    ("UNSPEC as the protocol: the addresses have to be whole", |bytes| {
        command(bytes) == Some(0x21) && bytes.get(13).is_some_and(|family| family & 0xf == 0)
    }),
];

const OF_PROXY_PROTOCOL_RS: &[Known] = &[
    UNKNOWN_WITH_ANYTHING,
    LENIENT_PORTS,
    NO_BOUND,
    // "The receiver must accept this connection as valid."
    ("LOCAL: a checksum is looked for", |bytes| command(bytes) == Some(0x20)),
    // "The receiver is free to accept the connection anyway", and other senders do send it.
    ("UNSPEC is refused with PROXY", |bytes| {
        command(bytes) == Some(0x21)
            && bytes.get(13).is_some_and(|family| family & 0xf == 0 || family >> 4 == 0)
    }),
    // A name that is no text is malformed, and of two checksums at most one can be right.
    ("names may be any bytes, and there may be several checksums", |bytes| {
        command(bytes) == Some(0x21) && has_odd_values(bytes)
    }),
];

fn is_v1(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PROXY ")
}

fn is_unknown(bytes: &[u8]) -> bool {
    let line = &bytes[..bytes.len().min(107)];
    let end = line.windows(2).position(|pair| pair == b"\r\n").unwrap_or(line.len());
    let line = &line[..end];
    let fields = line.iter().filter(|byte| **byte == b' ').count();
    let is_odd = line.contains(&b'\r') || fields > 5 || str::from_utf8(line).is_err();
    line.starts_with(b"PROXY UNKNOWN") && is_odd
}

fn command(bytes: &[u8]) -> Option<u8> {
    bytes.get(12).copied().filter(|_| bytes.starts_with(b"\r\n\r\n\0\r\nQUIT\n"))
}

fn rest_length(bytes: &[u8]) -> Option<usize> {
    command(bytes)?;
    Some(u16::from_be_bytes([*bytes.get(14)?, *bytes.get(15)?]).into())
}

/// Returns what follows the addresses.
fn tlv_bytes(bytes: &[u8]) -> Option<&[u8]> {
    let addresses = match bytes.get(13)? >> 4 {
        1 => 12,
        2 => 36,
        3 => 216,
        _ => return None,
    };
    bytes.get(16..16 + rest_length(bytes)?)?.get(addresses..)
}

fn has_tlvs(bytes: &[u8]) -> bool {
    tlv_bytes(bytes).is_some_and(|tlvs| !tlvs.is_empty())
}

fn has_odd_values(bytes: &[u8]) -> bool {
    let Some(tlvs) = tlv_bytes(bytes).and_then(|bytes| Tlvs::new(bytes).ok()) else { return false };
    let is_odd = tlvs.iter().any(|(kind, value)| match kind {
        0x02 => str::from_utf8(value).is_err(),
        0x30 => !value.is_ascii(),
        _ => false,
    });
    is_odd || tlvs.iter().filter(|(kind, _)| *kind == 0x03).count() > 1
}

/// Compares the answers; a difference has to be on the list.
fn compare(bytes: &[u8], theirs: Answer, known: &[Known]) -> Result<(), TestCaseError> {
    let ours = ours(bytes);
    let is_known = known.iter().any(|(_, has)| has(bytes));
    prop_assert!(ours == theirs || is_known, "ours {ours:?}, theirs {theirs:?}: {}", bytes.escape_ascii());
    Ok(())
}

/// A header that is mostly valid, with other fields than the recorded ones.
fn any_header() -> impl Strategy<Value = Vec<u8>> {
    let line =
        "PROXY (TCP4|TCP6|UNKNOWN|UDP4)( [0-9]{1,3}\\.[0-9]{1,3}\\.1\\.1){2}( [+0]?[0-9]{1,5}){1,3}\r?\n?";
    let line6 = "PROXY TCP6( [0-9a-f]{0,4}:[0-9a-f]{0,5}::[0-9a-f:.]{0,6}){2}( [0-9]{1,5}){2}\r\n";
    let byte = |usual: &'static [u8]| prop_oneof![8 => proptest::sample::select(usual), 1 => any::<u8>()];
    let binary = (byte(&[0x20, 0x21]), byte(&[0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x10]), tlvs()).prop_map(
        |(command, family, tlvs)| {
            let addresses =
                [0_usize, 12, 36, 216, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][usize::from(family >> 4)];
            let rest = [vec![1; addresses], tlvs].concat();
            v2(command, family, rest.len(), &rest)
        },
    );
    prop_oneof![line.prop_map(String::into_bytes), line6.prop_map(String::into_bytes), binary]
}

fn tlvs() -> impl Strategy<Value = Vec<u8>> {
    let one = (proptest::sample::select(&[1, 2, 3, 4, 5, 0x20, 0x30, 0xe0][..]), any::<Vec<u8>>())
        .prop_map(|(kind, value)| super::tlv(kind, &value));
    proptest::collection::vec(one, 0..3).prop_map(|tlvs| tlvs.concat())
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let header = prop_oneof![any_header(), proptest::sample::select(recorded())];
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (header, changes, any::<Vec<u8>>()).prop_map(|(mut header, changes, payload)| {
        for (index, value) in changes {
            let index = index.index(header.len());
            header[index] = value;
        }
        header.extend(payload);
        header
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_096))]

    #[test]
    fn ppp_agrees(bytes in bytes()) {
        compare(&bytes, of_ppp(&bytes), OF_PPP)?;
    }

    #[test]
    fn proxy_protocol_rs_agrees(bytes in bytes()) {
        compare(&bytes, of_proxy_protocol_rs(&bytes), OF_PROXY_PROTOCOL_RS)?;
    }
}

/// A difference that is gone must leave the list.
#[test]
fn each_known_difference_is_one() {
    let line = |text: &[u8]| text.to_vec();
    let long = v2(0x21, 0x11, 4200, &[&[1; 12][..], &super::tlv(4, &[0; 4185])].concat());
    let unspecified = v2(0x21, 0x10, 0, b"");
    let local = v2(0x20, 0x11, 7, &[3, 0, 4, 0, 0, 0, 0]);
    let odd = super::with_tlvs(&super::tlv(0x02, b"\xff"));
    let samples = [
        line(b"PROXY UNKNOWN \xff\r\n"),
        line(b"PROXY TCP4 1.1.1.1 1.1.1.1 +1 1\r\n"),
        long,
        local,
        odd,
        unspecified,
    ];
    let differs = |bytes: &[u8], theirs: fn(&[u8]) -> Answer| ours(bytes) != theirs(bytes);
    for known in OF_PPP {
        let shown = samples.iter().any(|bytes| known.1(bytes) && differs(bytes, of_ppp));
        assert!(shown, "ppp: {}", known.0);
    }
    for known in OF_PROXY_PROTOCOL_RS {
        let shown = samples.iter().any(|bytes| known.1(bytes) && differs(bytes, of_proxy_protocol_rs));
        assert!(shown, "proxy-protocol-rs: {}", known.0);
    }
}
