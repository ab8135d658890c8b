//! Recorded hellos at every split and in every kind of record, what is refused and with which words, and which names count.

mod oracles;

use proptest::prelude::*;

use super::*;

/// Who has sent which bytes, and the name and the protocols in them.
type Recorded = (&'static str, &'static [u8], Option<&'static str>, &'static [&'static str]);

const RECORDED: [Recorded; 6] = [
    ("openssl 1.2", include_bytes!("data/openssl-tls12.bin"), Some("web.example.com"), &[]),
    ("openssl 1.3", include_bytes!("data/openssl-tls13.bin"), Some("web.example.com"), &[]),
    ("openssl alpn", include_bytes!("data/openssl-alpn.bin"), Some("web.example.com"), &["h2", "http/1.1"]),
    ("openssl no name", include_bytes!("data/openssl-no-name.bin"), None, &[]),
    ("curl", include_bytes!("data/curl-h2.bin"), Some("web.example.com"), &["h2", "http/1.1"]),
    ("python", include_bytes!("data/python.bin"), Some("web.example.com"), &[]),
];

/// Puts a length of two bytes before the bytes.
fn behind_u16(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).expect("short").to_be_bytes(), bytes].concat()
}

fn extension(kind: u16, value: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &behind_u16(value)].concat()
}

fn entry(kind: u8, name: &[u8]) -> Vec<u8> {
    [&[kind][..], &behind_u16(name)].concat()
}

pub(super) fn names(entries: &[(u8, &[u8])]) -> Vec<u8> {
    let list: Vec<u8> = entries.iter().flat_map(|(kind, name)| entry(*kind, name)).collect();
    extension(0, &behind_u16(&list))
}

/// Returns a message with these extensions; `None` writes not even their length.
pub(super) fn message(extensions: Option<&[u8]>) -> Vec<u8> {
    let mut body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 0x01], &[1, 0]].concat();
    body.extend(extensions.map(behind_u16).unwrap_or_default());
    let length = u32::try_from(body.len()).expect("short").to_be_bytes();
    [&[1][..], &length[1..], &body].concat()
}

/// Cuts a message into records of at most so many bytes.
pub(super) fn in_records(message: &[u8], most: usize) -> Vec<u8> {
    let record = |fragment: &[u8]| [&[22, 3, 1][..], &behind_u16(fragment)].concat();
    message.chunks(most).flat_map(record).collect()
}

fn hello(extensions: &[u8]) -> Vec<u8> {
    in_records(&message(Some(extensions)), 1 << 14)
}

fn name_in(bytes: &[u8]) -> Result<Option<String>, Invalid> {
    match read(bytes) {
        Progress::Complete(hello) => Ok(hello.server_name().map(str::to_owned)),
        Progress::Invalid(why) => Err(why),
        Progress::Incomplete { least } => panic!("{least} of {}", bytes.len()),
    }
}

fn protocols_of(hello: &ClientHello) -> Vec<String> {
    hello.protocols().map(|protocol| String::from_utf8_lossy(protocol).into_owned()).collect()
}

/// Reads each begin of the bytes, and returns the first answer that is final.
fn read_byte_by_byte(bytes: &[u8]) -> Progress {
    let whole = read(bytes);
    for end in 0..bytes.len() {
        match read(&bytes[..end]) {
            Progress::Incomplete { least } => {
                assert!(least > end, "{least} bytes at least, and {end} were there");
                assert!(least <= RECORDS_MAX, "{least}");
                let is_within = !matches!(whole, Progress::Complete(_)) || least <= bytes.len();
                assert!(is_within, "{least} of {}", bytes.len());
            }
            last => return last,
        }
    }
    whole
}

#[test]
fn every_split_of_a_recorded_hello_says_what_the_whole_says() {
    for (who, bytes, name, protocols) in RECORDED {
        let Progress::Complete(hello) = read(bytes) else { panic!("{who}") };
        assert_eq!(hello.server_name(), name, "{who}");
        assert_eq!(protocols_of(&hello), protocols, "{who}");
        assert_eq!(read_byte_by_byte(bytes), Progress::Complete(hello.clone()), "{who}");
        for most in [1, 2, 3, 4, 5, 7, 100, 1_000] {
            let cut = in_records(&bytes[5..], most);
            assert_eq!(read_byte_by_byte(&cut), Progress::Complete(hello.clone()), "{who} by {most}");
        }
        let more = [bytes, b"\x17\x03\x03 and so on"].concat();
        assert_eq!(read(&more), Progress::Complete(hello), "{who}");
    }
}

#[test]
fn which_names_count() {
    let long = [b'a'; 63].map(char::from).iter().collect::<String>();
    let longest = format!("{long}.{long}.{long}.{}", &long[..61]);
    let given = |name: &[u8]| name_in(&hello(&names(&[(0, name)])));
    let is = |name: &str, expected: &str| {
        assert_eq!(given(name.as_bytes()), Ok(Some(expected.to_owned())), "{name}");
    };
    is("a.example.com", "a.example.com");
    is("A.Example.COM.", "a.example.com");
    is("xn--mnchen-3ya.de", "xn--mnchen-3ya.de");
    is("_dmarc.a-b.c", "_dmarc.a-b.c");
    is("localhost", "localhost");
    is(&longest, &longest);
    is(&format!("{longest}."), &longest);
    for none in [
        ".",
        "..",
        "a..b",
        ".a",
        "192.0.2.1",
        "2001:db8::1",
        "[::1]",
        "a\0b",
        "a b",
        "m\u{fc}nchen.de",
        "*.a",
    ] {
        assert_eq!(given(none.as_bytes()), Ok(None), "{none}");
    }
    assert_eq!(given(format!("{longest}a").as_bytes()), Ok(None));
    assert_eq!(given(format!("{long}a.b").as_bytes()), Ok(None));
    assert_eq!(given(&[b'a'; 4_000]), Ok(None));
    assert_eq!(given(b"\xff\xfe"), Ok(None));
    assert_eq!(given(b""), Err(Invalid::ServerName));
    assert_eq!(name_in(&hello(&names(&[(0, b"a"), (0, b"b")]))), Err(Invalid::ServerName));
    assert_eq!(name_in(&hello(&names(&[(7, b"\xff"), (0, b"b")]))), Ok(Some("b".to_owned())));
    assert_eq!(name_in(&hello(&names(&[(7, b"b")]))), Ok(None));
}

#[test]
fn other_extensions_are_skipped_whatever_they_hold() {
    let post_quantum = extension(51, &behind_u16(&[&[0x11, 0xec][..], &behind_u16(&[9; 1_216])].concat()));
    let grease = extension(0x3a3a, b"");
    let ech = extension(0xfe0d, &[0; 300]);
    let all = [grease, post_quantum, ech, names(&[(0, b"outer.example")])].concat();
    let bytes = hello(&all);
    assert!(bytes.len() > 1_400, "{}", bytes.len());
    assert_eq!(name_in(&bytes), Ok(Some("outer.example".to_owned())));
    assert_eq!(name_in(&in_records(&message(None), 99)), Ok(None), "TLS 1.0");
    assert_eq!(name_in(&hello(b"")), Ok(None));
}

#[test]
fn the_longest_hello_is_read_and_one_byte_more_is_not() {
    let rest = MESSAGE_MAX - message(Some(&names(&[(0, b"a.b")]))).len() - 4;
    let of = |rest: usize| message(Some(&[extension(21, &vec![0; rest]), names(&[(0, b"a.b")])].concat()));
    assert_eq!(of(rest).len(), MESSAGE_MAX);
    for most in [1 << 14, 1_000, 6] {
        assert_eq!(name_in(&in_records(&of(rest), most)), Ok(Some("a.b".to_owned())), "{most}");
        assert_eq!(
            name_in(&in_records(&of(rest + 1), most)),
            Err(Invalid::TooLong(MESSAGE_MAX + 1)),
            "{most}"
        );
    }
    let cut = in_records(&of(rest), 4);
    assert_eq!(name_in(&cut), Err(Invalid::TooManyRecords));
    assert_eq!(read_byte_by_byte(&cut), Progress::Invalid(Invalid::TooManyRecords));
}

#[test]
fn a_caller_that_waits_for_the_least_asks_a_few_dozen_times() {
    let rest = extension(21, &[0; 5_000]);
    let whole = message(Some(&[rest, names(&[(0, b"a.b")])].concat()));
    for most in [1, 3, 100, 1 << 14] {
        let bytes = in_records(&whole, most);
        let (mut end, mut asked) = (1, 0);
        while let Progress::Incomplete { least } = read(&bytes[..end]) {
            (end, asked) = (least, asked + 1);
        }
        assert_eq!(name_in(&bytes[..end]), Ok(Some("a.b".to_owned())));
        assert!(asked <= 60, "{asked} times by {most}");
    }
}

#[test]
fn refused_at_the_first_byte_that_does_not_fit() {
    let valid = hello(&names(&[(0, b"a.b")]));
    let with = |at: usize, byte: u8| {
        let mut bytes = valid.clone();
        bytes[at] = byte;
        let short = read(&bytes[..=at.max(4)]);
        (short, name_in(&bytes))
    };
    let invalid = |why| (Progress::Invalid(why), Err(why));
    assert_eq!(read(b"G"), Progress::Invalid(Invalid::NotTls));
    assert_eq!(read(b"\x80\x2e\x01\x03\x01"), Progress::Invalid(Invalid::NotTls), "SSLv2");
    assert_eq!(read(b"\x15\x03\x01"), Progress::Invalid(Invalid::NotTls), "an alert");
    assert_eq!(read(b"\x16\x02"), Progress::Invalid(Invalid::NotTls));
    assert_eq!(read(b"\x16\x03\x01\0\0"), Progress::Invalid(Invalid::RecordLength(0)));
    assert_eq!(read(b"\x16\x03\x01\x40\x01"), Progress::Invalid(Invalid::RecordLength(0x4001)));
    assert_eq!(with(5, 2), invalid(Invalid::MessageType(2)));
    let (_, long) = with(6, 1);
    assert!(matches!(long, Err(Invalid::TooLong(_))), "{long:?}");
    let mut two = in_records(&message(None), 20);
    two[25] = 20;
    assert_eq!(read(&two[..26]), Progress::Invalid(Invalid::RecordType(20)), "another between");
    for (extensions, why) in [
        (vec![0], Invalid::Extensions),
        (vec![0, 0, 0, 1], Invalid::Extensions),
        (extension(0, b""), Invalid::ServerName),
        (extension(0, b"\0\0"), Invalid::ServerName),
        (extension(0, b"\0\x05\0\0\x01a"), Invalid::ServerName),
        (extension(16, b"\0\0"), Invalid::Protocols),
        (extension(16, b"\0\x01\0"), Invalid::Protocols),
        (extension(16, b"\0\x02\x05h"), Invalid::Protocols),
        ([names(&[(0, b"a")]), names(&[(0, b"a")])].concat(), Invalid::Twice(0)),
    ] {
        assert_eq!(name_in(&hello(&extensions)), Err(why), "{extensions:?}");
    }
    let mut odd_suites = message(None);
    odd_suites[40] = 1;
    assert_eq!(name_in(&in_records(&odd_suites, 999)), Err(Invalid::Fields));
}

proptest! {
    #[test]
    fn whatever_comes_the_answer_is_that_of_its_begins(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        recorded in 0..RECORDED.len(),
        changes in proptest::collection::vec((0usize..600, any::<u8>()), 0..4),
        most in 1usize..600,
    ) {
        prop_assert_eq!(read_byte_by_byte(&bytes), read(&bytes));
        let mut changed = in_records(&RECORDED[recorded].1[5..], most);
        for (at, byte) in changes {
            let at = at % changed.len();
            changed[at] = byte;
        }
        prop_assert_eq!(read_byte_by_byte(&changed), read(&changed));
    }
}
