//! What holds for every file: no panic, and a valid configuration or none.

use proptest::prelude::*;

use super::*;

fn check(text: &[u8]) -> Result<(), TestCaseError> {
    let _ = guess(text);
    for format in [Format::Haproxy, Format::Nginx] {
        let import = import("file: \"\u{1}#", text, format);
        prop_assert_eq!(import.yaml.is_some(), import.listeners > 0);
        if let Some(yaml) = &import.yaml {
            let parsed = config::parse("file", yaml.as_bytes());
            prop_assert!(parsed.is_ok(), "{:?}\nof\n{}", parsed.err(), yaml);
        }
        for left in &import.left_out {
            prop_assert!(!left.to_string().contains(char::is_control), "{left:?}");
            prop_assert!(left.why.len() > 5, "{left:?}");
        }
    }
    Ok(())
}

const HAPROXY: &[&str] = &[
    "\n",
    " ",
    "\\",
    "\"",
    "'",
    "#",
    "$",
    "\r",
    "\0",
    "é",
    "\\x",
    "\nglobal\n",
    "\nlisten a\nbind :1\n",
    "\nlisten ",
    "\nfrontend f\nbind :2,:3\ndefault_backend b\n",
    "\nbackend b\n",
    "\ndefaults\n",
    "\ndefaults x from y\n",
    "\nserver a 10.0.0.1:1 ",
    "\nserver b localhost ",
    "\nserver c /run/x ",
    "\nbind ",
    "\nbalance ",
    "\ntimeout ",
    "\noption ",
    "\nmode http\n",
    "client 5s",
    "connect 0",
    "queue 9d",
    "source",
    "first",
    "\nretries 9999\n",
    "\nmaxconn 99999999999\n",
    "tcp-check\n",
    "httpchk GET / \n",
    "\ntcp-check send ",
    "\ntcp-check connect port 1\n",
    "\nhttp-check expect status 2x\n",
    "check ",
    "weight 0 ",
    "backup ",
    "maxconn 0 ",
    "inter 1 ",
    "slowstart 5s ",
    "tfo ",
    "\noption tcp-smart-connect\n",
    "rise 0 ",
    "port 1",
    "0",
    ":65536",
    "[::1]:1",
    "*:1",
    "unix@",
    "@",
    "-",
    "+1",
    ".if x\n",
    ".endif\n",
    "no ",
    "\nsource 10.0.0.1\n",
    "\nsource ::1\n",
    "\nclitcpka-idle 0\n",
    "\nnbthread 0\n",
    "\nhard-stop-after 1000000d\n",
    "on-marked-up shutdown-backup-sessions ",
    "127.0.0.1:1",
    "null",
    "false",
];

const NGINX: &[&str] = &[
    "\n",
    " ",
    ";",
    "{",
    "}",
    "\\",
    "\"",
    "'",
    "#",
    "$",
    "${",
    "\0",
    "é",
    "stream {",
    "stream { server { listen 1; ",
    "server {",
    "upstream u {",
    "server a:1;",
    "server 127.0.0.1:1 weight=0;",
    "server unix:/x down;",
    "listen 1;",
    "listen [::]:1;",
    "listen 1 so_keepalive=0:0:0;",
    "proxy_pass u;",
    "proxy_pass a:1;",
    "proxy_pass 127.0.0.1:1;",
    "proxy_timeout 0;",
    "proxy_timeout 99y;",
    "proxy_connect_timeout 1h;",
    "proxy_next_upstream_tries 0;",
    "proxy_bind ::1;",
    "proxy_bind x;",
    "proxy_buffer_size 3;",
    "worker_processes 9999;",
    "events {",
    "worker_connections 1;",
    "hash $remote_addr;",
    "random;",
    "slow_start=1s",
    "max_fails=0",
    "max_fails=9999",
    "fail_timeout=9y",
    "backup",
    "least_conn;",
    "include x;",
    "http {",
    "backlog=0",
    "zone",
];

fn mutated() -> impl Strategy<Value = String> {
    let source = prop_oneof![
        Just((example("This `haproxy.cfg`\n").0, HAPROXY)),
        Just((example("This part of `nginx.conf`\n").0, NGINX))
    ];
    let edit = (any::<prop::sample::Index>(), 0..12_usize, any::<prop::sample::Index>());
    (source, prop::collection::vec(edit, 0..5)).prop_map(|((source, pieces), edits)| {
        let mut characters: Vec<char> = source.chars().collect();
        for (at, length, piece) in edits {
            let at = at.index(characters.len() + 1);
            let end = (at + length).min(characters.len());
            characters.splice(at..end, piece.get(pieces).chars());
        }
        characters.into_iter().collect()
    })
}

fn pieces(of: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(of), 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        check(&bytes)?;
    }

    #[test]
    fn pieces_of_haproxy_are_valid_or_nothing(text in pieces(HAPROXY)) {
        check(text.as_bytes())?;
    }

    #[test]
    fn pieces_of_nginx_are_valid_or_nothing(text in pieces(NGINX)) {
        check(text.as_bytes())?;
    }

    #[test]
    fn mutations_of_a_file_are_valid_or_nothing(text in mutated()) {
        check(text.as_bytes())?;
    }
}

/// Files that are as large as they may be, of one line or of many, and deep ones.
#[test]
fn large_files_end() {
    let deep = "stream { ".repeat(100_000);
    let servers = format!("listen a\nbind :1\n{}", "server b 10.0.0.1:1\n".repeat(50_000));
    let listens = "listen a\nbind :1\nserver b 10.0.0.1:1\n".repeat(10_000);
    for text in [deep, servers, listens, "\"".repeat(1 << 20), "a ".repeat(500_000)] {
        check(text.as_bytes()).expect("valid, or nothing");
    }
}
