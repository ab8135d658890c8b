//! What holds for every file.

use super::*;

/// Parses, which must not panic; what is valid must survive the way through `to_yaml`.
fn check(text: &[u8]) -> Result<(), TestCaseError> {
    match parse("file", text) {
        Err(report) => {
            prop_assert!(report.errors() > 0);
            prop_assert!(!report.to_string().is_empty());
        }
        Ok(parsed) => {
            let yaml = parsed.config.to_yaml();
            prop_assert!(yaml.ends_with('\n'));
            let again = parse("again", yaml.as_bytes())
                .map_err(|report| TestCaseError::fail(format!("{report}\nof\n{yaml}")))?;
            prop_assert_eq!(format!("{:?}", parsed.config), format!("{:?}", again.config));
        }
    }
    Ok(())
}

/// Pieces that matter to YAML or to us.
const PIECES: &[&str] = &[
    "\n",
    "  ",
    "- ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "\"",
    "'",
    "|",
    ">",
    "&a ",
    "*a",
    "!",
    "#",
    "%",
    "@",
    "---\n",
    "...",
    "? ",
    "<<",
    "\t",
    "\r",
    "\0",
    "\u{feff}",
    "é",
    "off",
    "false",
    "0",
    "1",
    "-1",
    "70000",
    "1s",
    "5m",
    "1KiB",
    "10%",
    "0-3",
    "auto",
    "unix:/a",
    "[::1]:80",
    ":80",
    "localhost",
    "name",
    "port",
    "weight",
    "timeouts",
    "tcp",
    "defaults",
    "listeners",
    "upstreams",
    "backends",
    "healthcheck",
    "outlier",
    "slow_start",
    "type",
    "http",
    "send_expect",
    "steps",
    "\\x",
    "loadbalancer",
];

fn mutated() -> impl Strategy<Value = String> {
    let source = prop_oneof![Just(SHORT), Just(EXAMPLE), Just(LONG)];
    let edit = (any::<prop::sample::Index>(), 0..12_usize, prop::sample::select(PIECES));
    (source, prop::collection::vec(edit, 0..4)).prop_map(|(source, edits)| {
        let mut characters: Vec<char> = source.chars().collect();
        for (at, length, piece) in edits {
            let at = at.index(characters.len() + 1);
            let end = (at + length).min(characters.len());
            characters.splice(at..end, piece.chars());
        }
        characters.into_iter().collect()
    })
}

fn any_check() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "off",
        "{type: off, rise: 9}",
        "{jitter: off}",
        "{jitter: 7%, port: 9}",
        "{type: http, path: '/a?b=%20&c=''', host: '[::1]:80', expect_status: '200, 204-599,100'}",
        "{type: http, path: //, host: 'a.b.', expect_status: 200}",
        "{type: tls, host: '::1'}",
        "{type: tls}",
        r#"{type: send_expect, steps: [{expect: ' # '}, {send: '\r\n\t\0\xfF\\\"'}, {send: 'off', expect: "\r\n"}]}"#,
        "{type: send_expect, steps: [{send: '~', expect: 'null'}, {send: '-', expect: '1: {'}]}",
    ])
}

/// Values that are valid where they stand, edges included.
fn valid_file() -> impl Strategy<Value = String> {
    let duration = prop::sample::select(vec!["1ms", "250ms", "90s", "1h30m", "8784h"]);
    let or_off = prop::sample::select(vec!["off", "false", "1ms", "61s", "8784h"]);
    let keepalive =
        prop::sample::select(vec!["off", "1s", "32767s", "{idle: 9s, count: 127}", "{interval: 32767s}"]);
    let listen = prop::sample::select(vec![
        ":3",
        "1.2.3.4:65535",
        "'[::1]:80'",
        "'[fe80::1%3]:80'",
        "'[fe80::1%eth0]:80'",
        "unix:/a b",
    ]);
    let backend = prop::sample::select(vec![
        "address: a.b, port: 1",
        "address: '::1', port: 65535",
        "address: 'fe80::1%7', port: 9",
        "address: 'fe80::1%eth0', port: 9",
        "name: s, address: 'unix:/off', max_connections: 7",
        "name: 'off', address: '127.0.0.1:1', weight: 1000",
        "name: '0x1', address: localhost, port: 1",
    ]);
    let check = any_check();
    let outlier = prop::sample::select(vec![
        "outlier: off",
        "outlier: {consecutive_failures: 1000, ejection_time: 90s}\n    panic_threshold: 7%",
        "outlier: {max_ejected: 100%}\n    slow_start: 1ms\n    on_down: close",
        "outlier: {}\n    panic_threshold: off\n    on_up: close\n    on_down: keep",
    ]);
    let cores = prop::sample::select(vec!["auto", "7", "'1,2,3,9'", "5-5"]);
    let target = prop::sample::select(vec!["stderr", "/a/b: c #", "'no'", "\"~\"", "'12'"]);
    let budget = prop::sample::select(vec!["off", "1%", "100%"]);
    let numbers = (0..=100_u32, 0..=1_000_u32, budget);
    ((duration, or_off, keepalive, listen), (backend, check, outlier, cores, target), numbers).prop_map(
        |(
            (duration, or_off, keepalive, listen),
            (backend, check, outlier, cores, target),
            (retries, limit, budget),
        )| {
            let target = if target.contains(':') { format!("'{target}'") } else { target.to_owned() };
            format!(
                "runtime: {{cores: {cores}, max_connections: {limit}, shutdown_timeout: {or_off}}}
logging: {{target: {target}, format: json, level: warn}}
listeners: [{{name: '1', address: {listen}, upstream: 'true', timeouts: {{half_close: {duration}}}}}]
upstreams:
  - name: 'true'
    retries: {retries}
    retry_budget: {budget}
    queue: {{max: {limit}, timeout: {duration}}}
    source: [10.0.0.1, '::1', \"10.0.0.2\"]
    resolve: {or_off}
    healthcheck: {check}
    tcp: {{keepalive: {keepalive}}}
    {outlier}
    pool:
      {{size: 7, max_idle: {or_off}, reuse: reset, clients: trusted,
      reset: {{send: '\\x00', expect: ok, timeout: {duration}}}}}
    backends: [{{{backend}}}]
"
            )
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        check(&bytes)?;
    }

    #[test]
    fn no_text_of_yaml_pieces_panics(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..80)) {
        check(pieces.concat().as_bytes())?;
    }

    #[test]
    fn no_mutation_of_a_valid_file_panics(text in mutated()) {
        check(text.as_bytes())?;
    }

    #[test]
    fn resolved_configuration_parses_as_the_same(text in valid_file()) {
        if let Err(report) = parse("file", text.as_bytes()) {
            return Err(TestCaseError::fail(report.to_string()));
        }
        check(text.as_bytes())?;
    }
}

#[test]
fn files_of_this_repository_survive_the_way_through_yaml() {
    for text in [SHORT, EXAMPLE, LONG] {
        check(text.as_bytes()).expect("the same configuration");
    }
}
