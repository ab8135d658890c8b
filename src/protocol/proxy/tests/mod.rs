//! Recorded headers at every split, what is refused and with which words, and what was written is read.

mod oracles;

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn endpoints(client: &str, destination: &str) -> Endpoints {
    Endpoints::new(address(client), address(destination))
}

/// Returns a header of version 2 with this command, family, length and rest.
fn v2(command: u8, family: u8, length: usize, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(length).expect("a length");
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length.to_be_bytes(), rest].concat()
}

/// Returns a header of version 2 for TCP over IPv4 with these TLVs.
fn with_tlvs(tlvs: &[u8]) -> Vec<u8> {
    let rest = [&INET[..], tlvs].concat();
    v2(0x21, 0x11, rest.len(), &rest)
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("a length");
    [&[kind][..], &length.to_be_bytes(), value].concat()
}

/// From 192.0.2.1:4660 to 192.0.2.2:443.
const INET: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 2, 0x12, 0x34, 0x01, 0xbb];

/// The answer to bytes that come in these pieces: the first that is final.
fn read_in_pieces(bytes: &[u8], ends: impl Iterator<Item = usize>) -> Progress<'_> {
    for end in ends {
        match read(&bytes[..end]) {
            Progress::Incomplete { least } => {
                assert!(least > end, "{least} bytes at least, and {end} were there");
                if end == bytes.len() {
                    return Progress::Incomplete { least };
                }
            }
            last => return last,
        }
    }
    unreachable!("the last piece ends with the bytes")
}

fn length_of(bytes: &[u8]) -> usize {
    match read(bytes) {
        Progress::Complete { length, .. } => length,
        other => panic!("{other:?}"),
    }
}

fn endpoints_of(bytes: &[u8]) -> Option<Endpoints> {
    match read(bytes) {
        Progress::Complete { header, .. } => header.endpoints,
        other => panic!("{}: {other:?}", bytes.escape_ascii()),
    }
}

/// Headers as the specification and well-known senders write them, each valid.
fn recorded() -> Vec<Vec<u8>> {
    let line = |text: &str| text.as_bytes().to_vec();
    let unix = [0; 216];
    let ssl = [&[7, 0, 0, 0, 0][..], &tlv(0x21, b"TLSv1.3"), &tlv(0x22, b"a.example")].concat();
    vec![
        line("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"),
        line("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"),
        line("PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n"),
        line("PROXY TCP6 2001:db8::1 ::1 56324 443\r\n"),
        line(
            "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff FFFF:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
        ),
        line("PROXY TCP6 ::ffff:192.0.2.1 ::ffff:c000:202 1 2\r\n"),
        line("PROXY UNKNOWN\r\n"),
        line("PROXY UNKNOWN \r\n"),
        line("PROXY UNKNOWN whatever\rthis\nis\0\r\n"),
        line(
            "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
        ),
        v2(0x20, 0x00, 0, b""),
        v2(0x20, 0x11, 12, &INET),
        v2(0x20, 0xff, 3, b"any"),
        v2(0x21, 0x00, 0, b""),
        v2(0x21, 0x00, 5, b"other"),
        v2(0x21, 0x10, 8, &INET[..8]),
        v2(0x21, 0x01, 0, b""),
        v2(0x21, 0x11, 12, &INET),
        v2(0x21, 0x12, 12, &INET),
        v2(0x21, 0x21, 36, &[1; 36]),
        v2(0x21, 0x22, 36, &[1; 36]),
        v2(0x21, 0x31, 216, &unix),
        v2(0x21, 0x32, 216, &unix),
        with_tlvs(&tlv(0x04, b"")),
        with_tlvs(&[tlv(0x01, b"h2"), tlv(0x02, b"www.example"), tlv(0x05, &[9; 128])].concat()),
        with_tlvs(&[tlv(0x20, &ssl), tlv(0x30, b"blue"), tlv(0xe0, &[0; 300])].concat()),
        write(Version::V2, Some(endpoints("[2001:db8::1]:1", "[2001:db8::2]:2")), &[Tlv::Alpn(b"h2")]),
    ]
}

#[test]
fn every_split_of_a_recorded_header_gives_the_answer_of_the_whole() {
    for header in recorded() {
        let payload = b"PROXY \r\n\r\n\0\r\nQUIT\n";
        let with_payload = [&header[..], payload].concat();
        assert_eq!(length_of(&header), header.len(), "{}", header.escape_ascii());
        let whole = read(&header);
        assert_eq!(whole, read(&with_payload), "{}", header.escape_ascii());
        // Byte by byte, and in two pieces split anywhere.
        assert_eq!(whole, read_in_pieces(&with_payload, 0..=with_payload.len()));
        for split in 0..=header.len() {
            assert_eq!(whole, read_in_pieces(&with_payload, [split, with_payload.len()].into_iter()));
        }
    }
}

#[test]
fn addresses_are_read_and_mapped_ones_become_ipv4() {
    for (line, client, destination) in [
        ("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", "192.168.0.1:56324", "192.168.0.11:443"),
        ("PROXY TCP6 2001:db8::1 ::1 0 65535\r\n", "[2001:db8::1]:0", "[::1]:65535"),
        ("PROXY TCP6 ::ffff:192.0.2.1 ::ffff:c000:202 1 2\r\n", "192.0.2.1:1", "192.0.2.2:2"),
    ] {
        let expected = Endpoints { client: address(client), destination: address(destination) };
        assert_eq!(endpoints_of(line.as_bytes()), Some(expected), "{line}");
    }
    let expected = Endpoints { client: address("192.0.2.1:4660"), destination: address("192.0.2.2:443") };
    assert_eq!(endpoints_of(&with_tlvs(b"")), Some(expected));
    let mapped = [[0; 10].as_slice(), &[0xff, 0xff, 192, 0, 2, 1]].concat();
    let rest = [&mapped[..], &mapped, &[0, 1, 0, 2]].concat();
    let expected = Endpoints { client: address("192.0.2.1:1"), destination: address("192.0.2.1:2") };
    assert_eq!(endpoints_of(&v2(0x21, 0x21, 36, &rest)), Some(expected));
}

#[test]
fn header_without_addresses_that_we_use_leaves_the_connection_its_own() {
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(),
        v2(0x20, 0x11, 12, &INET),
        v2(0x20, 0x11, 5, &INET[..5]),
        v2(0x21, 0x00, 12, &INET),
        v2(0x21, 0x10, 12, &INET),
        v2(0x21, 0x12, 12, &INET),
        v2(0x21, 0x31, 216, &[b'/'; 216]),
    ] {
        assert_eq!(endpoints_of(&header), None, "{}", header.escape_ascii());
    }
}

#[test]
fn what_is_wrong_is_refused_as_soon_as_it_is_there() {
    use Invalid::{
        Address, AddressesCut, Byte, Checksum, Command, Family, Fields, LineTooLong, NoHeader, Port,
        Protocol, TooLong, Version,
    };
    let line = |text: &str| text.as_bytes().to_vec();
    let checksum = |value: u32| tlv(0x03, &value.to_be_bytes());
    let cases = [
        (line("GET / HTTP/1.1\r\n"), NoHeader),
        (line("PROXX"), NoHeader),
        (line("proxy TCP4"), NoHeader),
        (line("PROXY\tTCP4"), NoHeader),
        (line("\r\n\r\n\0\r\nQUIX"), NoHeader),
        (line("\r\nGET"), NoHeader),
        (line("PROXY UDP4 1.1.1.1 1.1.1.1 1 1\r\n"), Protocol),
        (line("PROXY TCP5 "), Protocol),
        (line("PROXY TCP4\r\n"), Protocol),
        (line("PROXY TCP44"), Protocol),
        (line("PROXY  TCP4"), Protocol),
        (line("PROXY UNKNOWNX\r\n"), Protocol),
        (line("PROXY UNKNOWN\n"), Protocol),
        (line("PROXY tcp4 "), Protocol),
        (line("PROXY TCP4 1.1.1.1 1.1.1.1 1 1\n"), Byte(b'\n')),
        (line("PROXY TCP4 1.1.1.1 1.1.1.1 1 1\rx"), Byte(b'\r')),
        (line("PROXY TCP4 1.1.1.1 1.1.1.1 +1"), Byte(b'+')),
        (line("PROXY TCP6 fe80::1%"), Byte(b'%')),
        (line("PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n"), Fields),
        (line("PROXY TCP4 1.1.1.1 1.1.1.1 1 1 \r\n"), Fields),
        (line("PROXY TCP4  1.1.1.1 1.1.1.1 1 1\r\n"), Fields),
        (line("PROXY TCP4 \r\n"), Fields),
        (line("PROXY TCP4 01.1.1.1 1.1.1.1 1 1\r\n"), Address),
        (line("PROXY TCP4 256.1.1.1 1.1.1.1 1 1\r\n"), Address),
        (line("PROXY TCP4 1.1.1 1.1.1.1 1 1\r\n"), Address),
        (line("PROXY TCP4 ::1 ::1 1 1\r\n"), Address),
        (line("PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n"), Address),
        (line("PROXY TCP6 1:2:3:4:5:6:7 ::1 1 1\r\n"), Address),
        (line("PROXY TCP6 ::1::2 ::1 1 1\r\n"), Address),
        (line("PROXY TCP6 00001::2 ::1 1 1\r\n"), Address),
        (line("PROXY TCP4 1.1.1.1 1.1.1.1 65536 1\r\n"), Port),
        (line("PROXY TCP4 1.1.1.1 1.1.1.1 01 1\r\n"), Port),
        (line("PROXY TCP4 1.1.1.1 1.1.1.1 1 f\r\n"), Port),
        (line("PROXY TCP4 1.1.1.1 1.1.1.1 1 00\r\n"), Port),
        (format!("PROXY UNKNOWN {}\r\n", "x".repeat(92)).into_bytes(), LineTooLong),
        (format!("PROXY TCP4 {}", "1".repeat(96)).into_bytes(), LineTooLong),
        (v2(0x11, 0x11, 12, &INET), Version(1)),
        (v2(0x31, 0x11, 12, &INET), Version(3)),
        (v2(0x22, 0x11, 12, &INET), Command(2)),
        (v2(0x2f, 0x11, 12, &INET), Command(15)),
        (v2(0x21, 0x41, 12, &INET), Family(0x41)),
        (v2(0x21, 0x13, 12, &INET), Family(0x13)),
        (v2(0x21, 0x11, 4097, b""), TooLong(4097)),
        (v2(0x20, 0x00, 65535, b""), TooLong(65535)),
        (v2(0x21, 0x11, 11, b""), AddressesCut),
        (v2(0x21, 0x21, 35, b""), AddressesCut),
        (v2(0x21, 0x31, 215, b""), AddressesCut),
        (with_tlvs(&[0x04]), Invalid::Tlv(0x04)),
        (with_tlvs(&[0x04, 0]), Invalid::Tlv(0x04)),
        (with_tlvs(&[0xe0, 0, 2, 1]), Invalid::Tlv(0xe0)),
        (with_tlvs(&[&tlv(0x04, b"")[..], &[0x04, 1, 0]].concat()), Invalid::Tlv(0x04)),
        (with_tlvs(&tlv(0x02, b"\xff")), Invalid::Tlv(0x02)),
        (with_tlvs(&tlv(0x03, b"123")), Invalid::Tlv(0x03)),
        (with_tlvs(&tlv(0x05, &[0; 129])), Invalid::Tlv(0x05)),
        (with_tlvs(&tlv(0x20, &[1, 0, 0, 0])), Invalid::Tlv(0x20)),
        (with_tlvs(&tlv(0x20, &[1, 0, 0, 0, 0, 0x21, 0, 9])), Invalid::Tlv(0x20)),
        (with_tlvs(&tlv(0x30, "blå".as_bytes())), Invalid::Tlv(0x30)),
        (with_tlvs(&checksum(0)), Checksum),
        (with_tlvs(&[checksum(0), checksum(0)].concat()), Checksum),
    ];
    for (bytes, reason) in cases {
        let whole = read(&bytes);
        assert_eq!(whole, Progress::Invalid(reason), "{}", bytes.escape_ascii());
        for split in 0..=bytes.len() {
            let split = read_in_pieces(&bytes, [split, bytes.len()].into_iter());
            assert_eq!(whole, split, "{}", bytes.escape_ascii());
        }
        let more = [&bytes[..], b"\r\n more"].concat();
        assert_eq!(whole, read_in_pieces(&more, 0..=more.len()), "{}", more.escape_ascii());
    }
}

#[test]
fn the_longest_line_and_the_longest_binary_header_are_read_and_one_byte_more_is_refused() {
    let unknown = |bytes: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(bytes - 16)).into_bytes();
    assert_eq!(length_of(&unknown(107)), 107);
    assert_eq!(read(&unknown(108)), Progress::Invalid(Invalid::LineTooLong));
    let padding = tlv(0x04, &vec![0; V2_REST_MAX - INET.len() - 3]);
    assert_eq!(length_of(&with_tlvs(&padding)), 16 + V2_REST_MAX);
}

#[test]
fn every_bit_of_a_header_with_a_checksum_counts() {
    let tlvs = [Tlv::Authority("www.example"), Tlv::Alpn(b"h2")];
    let whole = write(Version::V2, Some(endpoints("192.0.2.1:1", "192.0.2.2:2")), &tlvs);
    assert_eq!(length_of(&whole), whole.len());
    for bit in 0..whole.len() * 8 {
        let mut changed = whole.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let is_local = changed[12] == 0x20;
        let is_unspecified = matches!(changed[13], 0x10 | 0x01);
        // The rest of such a header is not looked at.
        let is_skipped = is_local || is_unspecified;
        // And this one is no checksum any more.
        let is_other_tlv = bit / 8 == whole.len() - 7;
        let is_read = matches!(read(&changed), Progress::Complete { .. });
        assert!(!is_read || is_skipped || is_other_tlv, "bit {bit}: {:?}", read(&changed));
    }
}

#[test]
fn a_second_checksum_is_refused() {
    let one = write(Version::V2, Some(endpoints("192.0.2.1:1", "192.0.2.2:2")), &[]);
    let twice = with_tlvs(&[&one[28..], &one[28..]].concat());
    // The first one is that of another header.
    assert_eq!(read(&twice), Progress::Invalid(Invalid::Checksum));
    let mut right = with_tlvs(&[tlv(0x03, &[0; 4]), tlv(0x03, &[0; 4])].concat());
    let checksum = super::checksum::of(&right, 31);
    right[31..35].copy_from_slice(&checksum.to_be_bytes());
    assert_eq!(read(&right), Progress::Invalid(Invalid::Tlv(0x03)));
}

/// RFC 3720 B.4 has the checksum of 32 zeroes.
#[test]
fn checksum_is_crc32c() {
    let mut zeroes = [0; 32];
    assert_eq!(super::checksum::of(&zeroes, 28), 0x8a91_36aa);
    zeroes[28..].fill(0xff);
    assert_eq!(super::checksum::of(&zeroes, 28), 0x8a91_36aa);
}

#[test]
fn written_headers_are_those_of_the_specification() {
    let text = |version, endpoints| String::from_utf8(write(version, endpoints, &[])).expect("text");
    for (client, destination, line) in [
        ("192.0.2.1:1", "192.0.2.2:65535", "PROXY TCP4 192.0.2.1 192.0.2.2 1 65535\r\n"),
        ("[2001:db8::1]:1", "[::1]:2", "PROXY TCP6 2001:db8::1 ::1 1 2\r\n"),
        ("[::ffff:192.0.2.1]:1", "192.0.2.2:2", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"),
        ("192.0.2.1:1", "[2001:db8::2]:2", "PROXY TCP6 ::ffff:c000:201 2001:db8::2 1 2\r\n"),
    ] {
        assert_eq!(text(Version::V1, Some(endpoints(client, destination))), line);
    }
    assert_eq!(text(Version::V1, None), "PROXY UNKNOWN\r\n");
    assert_eq!(write(Version::V2, None, &[Tlv::Alpn(b"h2")]), v2(0x20, 0, 0, b""));
    let header = write(Version::V2, Some(endpoints("192.0.2.1:4660", "192.0.2.2:443")), &[]);
    let rest = [&INET[..], &[3, 0, 4]].concat();
    assert_eq!(header[..31], v2(0x21, 0x11, 19, &rest)[..31]);
    assert_eq!(header.len(), 35);
}

#[test]
fn tlv_without_room_is_left_out() {
    let (long, short) = (vec![0; V2_REST_MAX - 20], b"short");
    let both = [Tlv::UniqueId(short), Tlv::Other { kind: 0xe0, value: &long }, Tlv::Alpn(b"h2")];
    let header = write(Version::V2, Some(endpoints("192.0.2.1:1", "192.0.2.2:2")), &both);
    let Progress::Complete { header, .. } = read(&header) else { panic!("{:?}", read(&header)) };
    let known: Vec<_> = header.tlvs.known().take(2).collect();
    assert_eq!(known, [Tlv::UniqueId(short), Tlv::Alpn(b"h2")]);
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    any::<(std::net::IpAddr, u16)>().prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

proptest! {
    #[test]
    fn written_endpoints_are_read(client in any_address(), destination in any_address(), v1 in any::<bool>()) {
        let version = if v1 { Version::V1 } else { Version::V2 };
        let endpoints = Endpoints::new(client, destination);
        let bytes = write(version, Some(endpoints), &[]);
        // The smallest segment that every host takes.
        prop_assert!(bytes.len() <= 536);
        let Progress::Complete { length, header } = read(&bytes) else { panic!("{:?}", read(&bytes)) };
        prop_assert_eq!((length, header.version, header.endpoints), (bytes.len(), version, Some(endpoints)));
    }

    #[test]
    fn written_tlvs_are_read(
        alpn in any::<Vec<u8>>(),
        name in "[ -~]{0,255}",
        id in proptest::collection::vec(any::<u8>(), 0..=128),
        verify in any::<u32>(),
        payload in any::<Vec<u8>>(),
    ) {
        let details = tlv(0x21, b"TLSv1.3");
        let ssl = Ssl { client: 1, verify, details: Tlvs::new(&details).expect("one TLV") };
        let tlvs = [Tlv::Alpn(&alpn), Tlv::Authority(&name), Tlv::UniqueId(&id), Tlv::Ssl(ssl), Tlv::Netns(&name)];
        let bytes = write(Version::V2, Some(endpoints("192.0.2.1:1", "192.0.2.2:2")), &tlvs);
        let whole = [&bytes[..], &payload].concat();
        let Progress::Complete { length, header } = read(&whole) else { panic!("{:?}", read(&whole)) };
        prop_assert_eq!(length, bytes.len());
        let known: Vec<_> = header.tlvs.known().collect();
        prop_assert_eq!(&known[..5], &tlvs);
        prop_assert!(matches!(known[5..], [Tlv::Crc32c(_)]));
    }

    /// Whatever comes, an answer never changes with more bytes, and there is one in bounded time.
    #[test]
    fn any_bytes_in_any_pieces_give_the_answer_of_the_whole(
        template in 0..recorded().len(),
        cut in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        tail in any::<Vec<u8>>(),
        pieces in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut bytes = recorded()[template].clone();
        bytes.truncate(cut.index(bytes.len()) + 1);
        for (index, value) in changes {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        bytes.extend(tail);
        let mut ends: Vec<_> = pieces.iter().map(|piece| piece.index(bytes.len())).collect();
        ends.sort_unstable();
        ends.dedup();
        ends.push(bytes.len());
        let whole = read(&bytes);
        prop_assert_eq!(whole, read_in_pieces(&bytes, ends.into_iter()));
        prop_assert_eq!(whole, read_in_pieces(&bytes, 0..=bytes.len()));
        if let Progress::Incomplete { least } = whole {
            prop_assert!(bytes.len() < least && least <= 16 + V2_REST_MAX);
        }
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in any::<Vec<u8>>(), v2 in any::<bool>()) {
        let begin: &[u8] = if v2 { b"\r\n\r\n\0\r\nQUIT\n" } else { b"PROXY TCP4 " };
        let whole = [begin, &bytes].concat();
        prop_assert_eq!(read(&whole), read_in_pieces(&whole, 0..=whole.len()));
    }
}
