//! What is refused, where and with which words.

use super::*;

#[test]
fn every_problem_at_once_in_the_order_of_the_file() {
    let text = "\
loadbalancer:
  listen_adress: \":8080\"
  algorithm: round_robbin
backends:
  - address: localhost
    port: 70000
    wieght: 1
healthcheck:
  interval: 30
  timeout: -5s
unknown: 1
";
    assert_eq!(
        problems(text),
        [
            "1:1: `listen_address` is missing; add it",
            "2:3: unknown key `listen_adress`; did you mean `listen_address`?",
            "3:14: `round_robbin` is not an algorithm; did you mean `round_robin`?",
            "6:11: `70000` is not a port from 1 to 65535",
            "7:5: unknown key `wieght`; did you mean `weight`?",
            "9:13: `30` has no unit; write a duration such as `250ms`, `30s`, `5m` or `1h`",
            "10:12: `-5s` is negative; write a duration such as `250ms`, `30s`, `5m` or `1h`",
            "11:1: unknown key `unknown`; known here: runtime, logging, admin, loadbalancer, \
                 backends, healthcheck, outlier, panic_threshold, slow_start, on_down, on_up, retries, retry_budget, \
                 queue, pool, send_proxy, source, source_ports, resolve",
        ]
    );
}

#[test]
fn report_shows_line_caret_and_path() {
    let text = upstream("retires: 1\nbackends:\n  - address: a\n    port: 70000");
    let report = parse("dir/f.yaml", text.as_bytes()).expect_err("a wrong port");
    assert_eq!(
        report.to_string(),
        "\
dir/f.yaml:5:5: unknown key `retires`; did you mean `retries`?
    5 |     retires: 1
      |     ^^^^^^^ upstreams[0].retires
dir/f.yaml:8:15: `70000` is not a port from 1 to 65535
    8 |         port: 70000
      |               ^^^^^ upstreams[0].backends[0].port
dir/f.yaml: 2 errors"
    );
}

/// Each is refused with one problem, at this line and column and with these words.
#[test]
fn single_values() {
    for (line, place, words) in [
        ("retries: 101", "3:10", "from 0 to 100"),
        ("retries: 0x10", "3:10", "not a whole number"),
        ("retry_budget: 101%", "3:15", "not a percentage"),
        ("retry_budget: 20", "3:15", "not a percentage from 1% to 100%, or `off`"),
        ("queue: {max: 65536}", "3:14", "from 0 to 65535"),
        ("queue: {timeout: off}", "3:18", "not possible here; write a duration"),
        ("queue: 5", "3:8", "not a section"),
        (
            "source: 10.0.0.1",
            "3:9",
            "`10.0.0.1` is not a list of at most 256 IP addresses, or `off`; write `[...]`",
        ),
        ("source: [10.0.0.1, a.b]", "3:9", "`a.b` is not an IP address"),
        ("retries: 010", "3:10", "not a whole number"),
        ("retries: [1]", "3:10", "a list where a single value belongs"),
        ("retries:", "3:1", "no value"),
        ("resolve: 0s", "3:10", "too short; write at least `1ms`, or `off`"),
        ("resolve: 9999999999999999999h", "3:10", "too long"),
        ("resolve: 5 s", "3:10", "not a duration"),
        ("resolve: 1s1m", "3:10", "not a duration"),
        ("healthcheck: 1", "3:14", "not a section"),
        ("healthcheck: {rise: 0}", "3:21", "from 1 to"),
        ("healthcheck: {interval: off}", "3:25", "not possible here"),
        (
            "healthcheck: {type: https}",
            "3:21",
            "is not `tcp`, `http`, `tls`, `send_expect`, `redis`, `postgres`, `mysql` or `smtp`, or `off`",
        ),
        ("healthcheck: {jitter: 0.1}", "3:23", "not a percentage"),
        ("healthcheck: {path: /}", "3:15", "this check is of type tcp"),
        ("outlier: {consecutive_failures: 0, max_ejected: 100%}", "3:33", "from 1 to 1000"),
        ("outlier: {ejection_time: off, max_ejected: 100%}", "3:26", "not possible here"),
        ("outlier: {ejection_time: 5, max_ejected: 100%}", "3:26", "has no unit"),
        ("outlier: {max_ejected: 0%}", "3:24", "not a percentage from 1% to 100%"),
        ("outlier: {max_ejected: off}", "3:24", "not a percentage from 1% to 100%"),
        ("outlier: {failures: 5, max_ejected: 100%}", "3:11", "unknown key"),
        ("panic_threshold: 50", "3:18", "not a percentage from 1% to 100%, or `off`"),
        ("panic_threshold: 101%", "3:18", "not a percentage"),
        ("slow_start: 0s", "3:13", "too short; write at least `1ms`, or `off`"),
        ("on_down: drop", "3:10", "is not `keep` or `close`"),
        ("on_up: off", "3:8", "is not `keep` or `close`"),
        ("runtime: {cores: 0}", "3:18", "a number of cores from 1"),
        ("runtime: {cores: 3-1}", "3:18", "a range such as `0-3`"),
        ("runtime: {cores: '0-3,2'}", "3:18", "CPU 2 is listed twice"),
        ("runtime: {cores: '0-4000000000'}", "3:18", "not a CPU number"),
        ("runtime: {relay: {buffers_per_core: 100}}", "3:37", "write 64 or 128"),
        ("runtime: {relay: {buffer_size: 16KB}}", "3:32", "not a size"),
        ("runtime: {relay: {buffer_size: 2MiB}}", "3:32", "is not a size from 1KiB to 1MiB"),
        ("logging: {level: loud}", "3:18", "is not `error`, `warn`, `info`, `debug` or `trace`"),
        ("logging: {target: stdout}", "3:19", "write `stderr` or the path of a file"),
        ("logging: {target: \"a\\0b\"}", "3:19", "is not `stderr` or the path of a file"),
        ("tcp: {}", "3:1", "unknown key"),
        ("listeners: []", "3:12", "list is empty"),
        ("<<: {a: 1}", "3:1", "merge keys"),
        ("[a]: 1", "3:1", "not a key"),
        ("retries: !!int 1", "3:10", "tags are not supported"),
        ("retries: *x", "3:10", "unknown anchor"),
        ("resolve: &x [*x]", "3:14", "alias inside"),
        ("retries: 1\nretries: 2", "4:1", "written twice, first at 3:1"),
    ] {
        let found = problems(short(&format!("{line}\n")));
        let hit =
            found.iter().any(|problem| problem.starts_with(&format!("{place}: ")) && problem.contains(words));
        let alone = found.len() == 1 || line.starts_with("listeners");
        assert!(hit && alone, "{line}: {found:#?}");
    }
}

#[test]
fn slow_start_needs_an_algorithm_that_follows_weights() {
    for name in crate::balance::names() {
        let backends = "backends: [{address: a, port: 1}]";
        let text = upstream(&format!("slow_start: 30s\nalgorithm: {name}\n{backends}"));
        let known = crate::balance::find(name).expect("registered");
        let found = problems(&text);
        assert_eq!(found.is_empty(), known.slow_start, "{name}: {found:?}");
        assert!(found.iter().all(|problem| problem.starts_with("5:17: `slow_start`")), "{found:?}");
        valid(&upstream(&format!("slow_start: off\nalgorithm: {name}\n{backends}")));
    }
}

#[test]
fn names_of_the_long_form() {
    let text = "\
listeners:
  - {name: a, address: ':1', upstream: wbe}
  - {name: a, address: ':2', upstream: nothing_like_it}
  - {address: ':3'}
upstreams:
  - {name: web, backends: [{address: a, port: 1}]}
  - {name: web, backends: [{address: a, port: 1}]}
";
    assert_eq!(
        problems(text),
        [
            "2:40: no upstream is called `wbe`; did you mean `web`?",
            "3:12: the name `a` is already taken at 2:12; give each entry its own",
            "3:40: no upstream is called `nothing_like_it`; add it to `upstreams`",
            "4:5: `name` is missing; add it",
            "4:5: `upstream` is missing; add it",
            "6:12: warning: no listener uses the upstream `web`; remove it, or name it in a listener",
            "7:12: the name `web` is already taken at 6:12; give each entry its own",
        ]
    );
}

#[test]
fn half_of_a_form() {
    let listeners = &LONG[..LONG.find("upstreams").unwrap_or_default()];
    assert_eq!(problems(listeners), ["1:1: `upstreams` is missing; add it"]);
    assert_eq!(problems("backends: [{address: 'a:1'}]").len(), 1);
    assert_eq!(problems("loadbalancer: {listen_address: ':1'}"), ["1:1: `backends` is missing; add it"]);
}

#[test]
fn mixed_forms() {
    let found = problems(format!("{LONG}backends: []\nloadbalancer: {{}}\nretries: 1\n"));
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(found.iter().all(|problem| problem.contains("use one form in a file")), "{found:#?}");
}

#[test]
fn problem_in_the_defaults_is_reported_there_and_once() {
    let text = "\
defaults:
  listener: {nmae: x, name: y, backlog: 0, timeouts: {half_close: off}}
listeners:
  - {name: a, address: ':1', upstream: u}
  - {name: b, address: ':2', upstream: u}
upstreams: [{name: u, backends: [{address: a, port: 1}]}]
";
    let report = parse("f", text.as_bytes()).expect_err("problems");
    let paths: Vec<&str> = report.problems().iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "defaults.listener.nmae",
            "defaults.listener.name",
            "defaults.listener.backlog",
            "defaults.listener.timeouts.half_close"
        ]
    );
}

const LISTEN: &str = "loadbalancer:\n  listen_address: \":8080\"\n";
const BACKENDS: &str = "backends:\n  - {address: localhost, port: 8081}\n";

/// What people write by mistake, or bring along from other programs: each is refused, and the first problem
/// names the cure.
#[test]
fn mistakes_are_named() {
    let listen = |text: &str| format!("loadbalancer:\n  listen_address: {text}\n{BACKENDS}");
    let backend = |text: &str| format!("{LISTEN}backends:\n  - {{{text}}}\n");
    let port = |text: &str| backend(&format!("address: localhost, port: {text}"));
    let interval = |text: &str| format!("{LISTEN}{BACKENDS}healthcheck: {{interval: {text}}}\n");
    let more = |text: &str| format!("{LISTEN}{BACKENDS}{text}\n");
    for (text, words) in [
        (format!("{}{BACKENDS}", LISTEN.replace("  l", "\u{a0}\u{a0}l")), "2:1: no-break space U+00A0"),
        (backend("address: localhost, port:\u{a0}8081"), "4:31: no-break space U+00A0"),
        (port("\u{201c}8081\u{201d}"), "typographic quotes"),
        (listen("\u{201e}:8080\u{201c}"), "typographic quotes"),
        (more("\u{201c}runtime\u{201d}: {}"), "typographic quotes"),
        (listen("[::]:8080"), "2:19: a value that begins with `[` needs quotes: `\"[::]:8080\"`"),
        (listen("*:8080"), "2:19: a value that begins with `*` needs quotes; all addresses are `\":8080\"`"),
        (listen("@x"), "2:19: a value that begins with `@` needs quotes"),
        (port("08080"), "without the leading zero"),
        (port("0x1F90"), "hexadecimal; write it with decimal digits"),
        (port("8_080"), "without `_`"),
        (port("'8,080'"), "without `,`"),
        (port("8080.0"), "without a point"),
        (port("+80"), "without `+`"),
        (port("-80"), "it is negative"),
        (port("8000-8005"), "a range needs an entry for each"),
        (port("\"${PORT}\""), "variable, which is not expanded"),
        (port("$PORT"), "variable, which is not expanded"),
        (port("'%PORT%'"), "variable, which is not expanded"),
        (backend("address: \"${HOST}\", port: 80"), "variable, which is not expanded"),
        (more("source: ['$(hostname -i)']"), "variable, which is not expanded"),
        (more("logging: {target: \"${LOGS}/r.log\"}"), "variable, which is not expanded"),
        (format!("{LISTEN}backends: ${{BACKENDS}}\n"), "variable, which is not expanded"),
        (format!("{LISTEN}backends:\n  - address: a\n    port: {{{{ port }}}}\n"), "5:11: a template"),
        (more("{% if x %}"), "a template"),
        (interval("30"), "has no unit"),
        (interval("1d"), "write `24h`"),
        (interval("30sec"), "write `30s`"),
        (interval("1.5s"), "write `1500ms`"),
        (interval("5 s"), "write `5s`"),
        (interval("500us"), "write one such as"),
        (interval("-1"), "is negative"),
        (both("timeouts: {client_idle: 0}"), "write `off`"),
        (both("timeouts: {client_idle: none}"), "write `off`"),
        (both("tcp: {nodelay: on}"), "write `true`"),
        (both("tcp: {nodelay: Yes}"), "write `true`"),
        (both("tcp: {nodelay: no}"), "write `false`"),
        (both("algorithm: leastconn"), "did you mean `least_connections`"),
        (both("algorithm: static-rr"), "did you mean `round_robin`"),
        (both("algorithm: source"), "did you mean `source_hash`"),
        (
            backend("address: a, port: 80, weight: 0.5"),
            "not a whole number from 0 to 1000; write it without a point",
        ),
        (more("runtime: {relay: {buffer_size: 0x10KiB}}"), "hexadecimal"),
    ] {
        assert_named(&text, words);
    }
}

/// A short form whose listener has these keys, too.
fn both(text: &str) -> String {
    format!("loadbalancer: {{listen_address: ':8080', {text}}}\n{BACKENDS}")
}

fn assert_named(text: &str, words: &str) {
    let found = problems(text);
    assert!(found.iter().any(|problem| problem.contains(words)), "{text}{found:#?}");
}

/// One mistake is one message.
#[test]
fn value_in_the_form_of_something_else_is_answered_with_what_was_meant() {
    let defaults = "defaults: {upstream: {tls: on}}\nlisteners: [{name: l, address: ':1', upstream: u}]\nupstreams: [{name: u, \
                    backends: ['h:1']}]\n";
    for (text, words) in [
        (both("per_source: 10"), "below it, such as `{max_connections: 10}`"),
        (both("tls: on"), "below it, such as `{certificates: [{certificate: FILE, key: FILE}]}`"),
        (both("bandwidth: 10MiB/s"), "below it, such as `{to_client: 10MiB/s}`"),
        (
            both("timeouts: {handshake: 0}"),
            "has no unit; write a duration of at least `3s`, such as `30s` or `5m`",
        ),
        (both("allow: [10.0.0.0/255.0.0.0]"), "write `10.0.0.0/8`"),
        (both("allow: ['[::1]']"), "write `::1`"),
        (both("allow: ['[2001:db8::]/32']"), "write `2001:db8::/32`"),
        (both("allow: [10.1.2.3/255.0.0.0]"), "write `10.0.0.0/8`"),
        (defaults.to_owned(), "such as `{ca: FILE}`"),
    ] {
        let found = problems(&text);
        assert!(found.len() == 1 && found[0].contains(words), "{text}{found:#?}");
    }
}

/// Keys that belong elsewhere, that others have, and that come later.
#[test]
fn unknown_keys_are_named_with_where_they_belong() {
    let backend = |text: &str| format!("{LISTEN}backends:\n  - {{{text}}}\n");
    let more = |text: &str| format!("{LISTEN}{BACKENDS}{text}\n");
    for (text, words) in [
        (
            more("timeouts: {connect: 2s}"),
            "unknown key `timeouts`; it belongs in `loadbalancer`, or in the long form in `listeners[]` and",
        ),
        (
            both("connect: 2s"),
            "belongs in `loadbalancer.timeouts`, or in the long form in `upstreams[].timeouts`",
        ),
        (
            more("max_connections: 10"),
            "`max_connections`; it belongs in `runtime`, `loadbalancer` and `backends[]`",
        ),
        (both("port: 80"), "the port of a listener stands in its address"),
        (both("healthcheck: off"), "`healthcheck`; it belongs at the top of the file"),
        (more("cores: 2"), "`cores`; it belongs in `runtime`"),
        (both("proxy_protocol: v2"), "below it, such as `{accept: required, trusted: [10.0.0.0/8]}`"),
        (more("socket: /run/a.sock"), "`socket`; it belongs in `admin`"),
        (
            more("admin: {max_connections: 3}"),
            "`max_connections`; it belongs in `runtime`, `loadbalancer` and `backends[]`",
        ),
        (format!("{LISTEN}servers: []\n"), "did you mean `backends`?"),
        (backend("ip: 10.0.0.1, port: 80"), "did you mean `address`?"),
        (backend("address: a, port: 80, maxconn: 5"), "did you mean `max_connections`?"),
    ] {
        assert_named(&text, words);
    }
}

/// Numbers that were not meant as octal would open the socket to others, so the mode is written in full.
#[test]
fn admin_endpoints_that_cannot_be() {
    for (keys, words) in [
        ("socket_mode: 600", "is not a mode of four octal digits from 0000 to 0777; write `\"0600\"`"),
        ("socket_mode: 0o660", "write `\"0660\"`"),
        ("socket_mode: 384", "write `\"0600\"`"),
        ("socket_mode: '0880'", "write `\"0600\"`"),
        ("socket_mode: '7777'", "write `\"0600\"`"),
        ("socket_mode: rw", "write `\"0600\"`"),
        ("socket_mode: off", "write `\"0600\"`"),
        ("socket: admin.sock", "`admin.sock` is not an absolute path of a socket"),
        ("socket: 'unix:/run/x'", "write it without `unix:`"),
        ("socket: '@ringway'", "is an abstract socket name"),
        ("socket_group: 'a b'", "`a b` is not the name or the number of a group"),
        ("socket_group: -1", "`-1` is not the name or the number of a group"),
        ("listen_address: 'unix:/run/x'", "or `[IPV6]:PORT`, or `off`; `socket` takes a path"),
        ("listen_address: '9900'", "is not `:PORT`, `IP:PORT` or `[IPV6]:PORT`, or `off`; it has no port"),
        ("listen_address: 'localhost:9900'", "host names are not looked up here"),
    ] {
        let found = problems(short(&format!("admin: {{{keys}}}")));
        assert!(found.len() == 1 && found[0].contains(words), "{keys}: {found:?}");
    }
    let long = format!("socket: /{}", "x".repeat(107));
    assert!(problems(short(&format!("admin: {{{long}}}")))[0].contains("is 108 bytes long"));
}
