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
            "11:1: unknown key `unknown`; known here: runtime, logging, loadbalancer, backends, \
                 healthcheck, outlier, panic_threshold, slow_start, on_down, on_up, retries, retry_budget, queue, pool, source, resolve",
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

/// Each is refused with one problem, at this place and with these words.
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
        ("healthcheck: {type: https}", "3:21", "is not `tcp`, `http`, `tls` or `send_expect`, or `off`"),
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

/// Whether there is one problem, a circle; anything else fails.
#[track_caller]
fn is_circle(text: &str) -> bool {
    let found = problems(text);
    assert!(found.iter().all(|problem| problem.contains("go in a circle")), "{text}{found:?}");
    assert!(found.len() <= 1, "{text}{found:?}");
    !found.is_empty()
}

#[test]
fn a_listener_is_no_backend_of_its_own() {
    for (listener, backend, circle) in [
        (":80", "address: localhost, port: 80", true),
        (":80", "address: localhost., port: 80", true),
        (":80", "address: LocalHost, port: 80", true),
        (":80", "address: '::1', port: 80", true),
        (":80", "address: 127.0.0.2, port: 80", true),
        (":80", "address: '::ffff:127.0.0.1', port: 80", true),
        (":80", "address: 127.0.0.1, port: 81", false),
        (":80", "address: 10.0.0.1, port: 80", false),
        ("10.0.0.1:80", "address: 10.0.0.1, port: 80", true),
        ("10.0.0.1:80", "address: '::ffff:10.0.0.1', port: 80", true),
        ("10.0.0.1:80", "address: localhost, port: 80", false),
        ("127.0.0.1:80", "address: localhost, port: 80", true),
        ("127.0.0.53:80", "address: localhost, port: 80", false),
        ("[::1]:80", "address: localhost, port: 80", true),
        ("[::]:80", "address: '::1', port: 80", true),
        ("[::]:80", "address: 127.0.0.1, port: 80", false),
        ("[::ffff:127.0.0.1]:80", "address: 127.0.0.1, port: 80", true),
        ("0.0.0.0:80", "address: 127.0.0.1, port: 80", true),
        ("0.0.0.0:80", "address: '::ffff:127.0.0.1', port: 80", true),
        ("[fe80::1%eth0]:80", "address: 'fe80::1%eth0', port: 80", true),
        ("[fe80::1%eth0]:80", "address: 'fe80::1%eth1', port: 80", false),
        ("[fe80::1%2]:80", "address: 'fe80::1%3', port: 80", false),
        ("unix:/run/x", "name: x, address: 'unix:/run/x'", true),
        ("unix:/run/x", "name: x, address: 'unix:/run/../run//x'", true),
    ] {
        for text in [
            format!("loadbalancer: {{listen_address: '{listener}'}}\nbackends: [{{{backend}}}]\n"),
            format!(
                "listeners: [{{name: l, address: '{listener}', upstream: u}}]\n\
                 upstreams: [{{name: u, backends: [{{{backend}}}]}}]\n"
            ),
        ] {
            assert_eq!(is_circle(&text), circle, "{text}");
        }
    }
    // What only the system would understand is refused, and looked at all the same.
    let found =
        problems("loadbalancer: {listen_address: ':80'}\nbackends: [{address: 0x7f000001, port: 80}]\n");
    assert!(found.len() == 2 && found[1].contains("go in a circle"), "{found:?}");
}

#[test]
fn circles_over_several_listeners() {
    let chain = |last: u16, more: &str| {
        format!(
            "listeners: [{{name: a, address: ':1', upstream: a}}, {{name: b, address: ':2', upstream: b}}, \
             {{name: c, address: ':3', upstream: c}}]\n\
             upstreams:\n  - {{name: a, backends: [{{address: 10.0.0.1, port: 1}}, {{address: localhost, port: 2}}]{more}}}\n  \
             - {{name: b, backends: [{{address: '127.0.0.1:3'}}]}}\n  - {{name: c, backends: [{{address: '::1', port: {last}}}]}}\n"
        )
    };
    assert_eq!(problems(chain(9, "")), [""; 0], "a chain has an end");
    let found = problems(chain(1, ""));
    assert!(found.len() == 3 && found.iter().all(|problem| problem.contains("leads back here")), "{found:?}");
    assert!(
        found[0].starts_with(
            "3:66: the backend `localhost:2` is the listener `:2`, whose upstream `b` leads back here"
        ),
        "{found:?}"
    );
    let found = problems(chain(2, ""));
    assert_eq!(found.len(), 2, "from the second to the third and back, not from the first: {found:?}");
    // A check of the next listener's port may be, one of the own port never.
    assert_eq!(problems(chain(9, ", healthcheck: {port: 3}")), [""; 0]);
    let found = problems(chain(9, ", healthcheck: {port: 1}"));
    assert!(found.len() == 1 && found[0].contains("asks the listener `:1`"), "{found:?}");
}

#[test]
fn addresses_of_listeners() {
    for (address, words) in [
        ("8080", "has no port"),
        (":0", "not a port"),
        (":70000", "not a port"),
        ("localhost:80", "host names are not looked up"),
        ("*:80", "write `:80`"),
        ("::1:80", "written `[::1]:80`"),
        ("10.0.0.256:80", "not an address"),
        ("unix:x.sock", "write an absolute one"),
        ("unix:@x", "abstract socket name, which is not supported"),
        ("/run/x", "a Unix socket is written `unix:/PATH`"),
        ("tcp://0.0.0.0:80", "has a scheme; write it without `tcp://`"),
        ("0x7f000001:80", "write `127.0.0.1:80`"),
        ("224.0.0.1:80", "an address of many hosts"),
        ("255.255.255.255:80", "an address of many hosts"),
        ("[ff02::1%2]:80", "only a link-local address"),
        ("[ff02::1]:80", "an address of many hosts"),
        ("[fe80::1]:80", "needs its interface; write it as in `fe80::1%eth0`"),
        (":8000-8999", "a range needs an entry for each"),
        ("", "has no port"),
    ] {
        let text =
            format!("loadbalancer: {{listen_address: '{address}'}}\nbackends: [{{address: a, port: 1}}]\n");
        let found = problems(text);
        assert!(found.len() == 1 && found[0].contains(words), "{address}: {found:#?}");
    }
    let text = format!(
        "loadbalancer: {{listen_address: 'unix:/{}'}}\nbackends: [{{address: a, port: 1}}]\n",
        "x".repeat(200)
    );
    assert!(problems(text)[0].contains("at most 107"));
}

#[test]
fn addresses_of_backends() {
    for (entry, words) in [
        ("address: a", "has no port; add `port`"),
        ("port: 1", "`address` is missing"),
        ("address: a, port: 0", "not a port"),
        ("address: 'a:1', port: 1", "stands in `a:1` and in `port`"),
        ("address: 'a:1', port: 2", "says port 1 and `port` says 2"),
        ("address: '[::1]:1', port: 2", "says port 1 and `port` says 2"),
        ("address: '::1:80:zz', port: 1", "is not an IP address, a host name or `unix:/PATH`"),
        ("address: 10.0.0.256, port: 1", "is not an IP address, a host name or `unix:/PATH`"),
        ("address: 'a b', port: 1", "is not an IP address, a host name or `unix:/PATH`"),
        ("address: 'http://a', port: 1", "has a scheme; write it without `http://`"),
        ("address: 'tcp://a:1'", "has a scheme; write it without `tcp://`"),
        ("address: fe80::1, port: 1", "needs its interface; write it as in `fe80::1%eth0`"),
        ("address: 'fe80::1%0', port: 1", "needs its interface"),
        ("address: 'fe80::1%et/h', port: 1", "needs its interface"),
        ("address: '::1%eth0', port: 1", "only a link-local address (fe80::/10) has an interface"),
        ("address: '[10.0.0.1]:1'", "is not an IP address, a host name or `unix:/PATH`"),
        ("address: 224.0.0.1, port: 1", "no address of a single host"),
        ("address: '::ffff:0.0.0.0', port: 1", "no address of a single host"),
        ("address: 0x7f000001, port: 1", "write `127.0.0.1`"),
        ("address: 127.0.0.0x1, port: 1", "write `127.0.0.1`"),
        ("address: '010.0.0.1:1'", "write `8.0.0.1:1`"),
        ("address: '127.1:1'", "write `127.0.0.1:1`"),
        ("address: a.0xq, port: 1", "is not an IP address, a host name or `unix:/PATH`"),
        ("address: /run/x", "a Unix socket is written `unix:/PATH`"),
        ("name: s, address: 'unix:@x'", "abstract socket name, which is not supported"),
        ("name: s, address: '@x'", "abstract socket name, which is not supported"),
        ("name: s, address: 'abns@x'", "abstract socket name, which is not supported"),
        ("address: '', port: 1", "is not an IP address, a host name or `unix:/PATH`"),
        ("address: 0.0.0.0, port: 1", "no address of a single host"),
        ("address: 'unix:/x'", "a `unix:` backend needs one"),
        ("name: s, address: 'unix:/x', port: 1", "remove `port`"),
        ("name: 'a b', address: a, port: 1", "not a name"),
        ("name: a/b, address: a, port: 1", "not a name"),
        ("address: a, port: 1, weight: 1001", "from 0 to 1000"),
        ("address: a, port: 1, weight: 0", "every weight is 0"),
    ] {
        let found = problems(upstream(&format!("backends: [{{{entry}}}]")));
        assert!(found.len() == 1 && found[0].contains(words), "{entry}: {found:#?}");
    }
    for (backends, words) in [
        ("", "`backends` is missing"),
        ("backends:", "the list is empty"),
        ("backends: a", "not a list"),
        ("backends: [a]", "`a` has no port"),
        ("backends: ['a:0']", "`0` is not a port"),
        ("backends: ['unix:/x']", "a `unix:` backend needs a name"),
        ("backends: [[a]]", "not an entry; write `HOST:PORT`, or `key: value` pairs"),
        ("backends: ['tcp://a:1']", "write it without `tcp://`"),
        ("backends: ['a:1', 'a:1']", "`a:1` is a backend already, at 5:16"),
        ("backends: [{address: a, port: 1}, {address: 'a:1'}]", "`a:1` is a backend already, at 5:26"),
        (
            "backends: [{name: x, address: a, port: 1}, {name: x, address: b, port: 1}]",
            "the name `x` is taken, at 5:23",
        ),
    ] {
        let found = problems(upstream(backends));
        assert!(found.len() == 1 && found[0].contains(words), "{backends}: {found:#?}");
    }
}

#[test]
fn no_cpu_receives_the_connections_of_a_socket_file() {
    let file = |address: &str, tcp: &str, defaults: &str| {
        format!(
            "listeners: [{{name: a, address: '{address}', upstream: web, tcp: {{{tcp}}}}}]\n\
                 defaults: {{listener: {{tcp: {{{defaults}}}}}}}\n{}",
            &LONG[LONG.find("upstreams").unwrap_or_default()..]
        )
    };
    let on = "steer_by_cpu: true";
    assert!(valid(&file(":80", on, "")).listeners[0].tcp.steer_by_cpu);
    assert!(valid(&file(":80", "", on)).listeners[0].tcp.steer_by_cpu);
    assert!(!valid(&file("unix:/a", "steer_by_cpu: off", on)).listeners[0].tcp.steer_by_cpu);
    let message =
        "no CPU receives the connections of `unix:/a`; write `steer_by_cpu: off` here, or listen on a port";
    for text in [file("unix:/a", on, ""), file("unix:/a", "", on)] {
        assert!(
            matches!(&problems(&text)[..], [problem] if problem.contains(message)),
            "{:?}",
            problems(text)
        );
    }
    let short = "loadbalancer: {listen_address: 'unix:/a', tcp: {steer_by_cpu: true}}\n\
                     backends: [{address: a, port: 80}]\n";
    assert!(problems(short).iter().any(|problem| problem.contains(message)));
    assert!(!problems(upstream("tcp: {steer_by_cpu: true}\n")).is_empty(), "it is of listeners alone");
}

#[test]
fn overlapping_listeners() {
    let overlap = |one: &str, two: &str| {
        let text = format!(
            "listeners: [{{name: a, address: '{one}', upstream: web}}, {{name: b, address: '{two}', upstream: web}}]\n{}",
            &LONG[LONG.find("upstreams").unwrap_or_default()..]
        );
        match &problems(text)[..] {
            [] => false,
            [problem] if problem.contains("overlaps with") => true,
            others => panic!("{others:?}"),
        }
    };
    for (one, two, expected) in [
        (":80", ":80", true),
        (":80", "127.0.0.1:80", true),
        (":80", "[::]:80", true),
        ("0.0.0.0:80", "127.0.0.1:80", true),
        ("[::]:80", "[::1]:80", true),
        ("unix:/a", "unix:/a", true),
        (":80", ":81", false),
        ("[::]:80", "127.0.0.1:80", false),
        ("127.0.0.1:80", "127.0.0.2:80", false),
        ("unix:/a", "unix:/b", false),
    ] {
        assert_eq!((overlap(one, two), overlap(two, one)), (expected, expected), "{one} {two}");
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
            "3:12: the name `a` is taken, at 2:12; give each its own",
            "3:40: no upstream is called `nothing_like_it`; add it to `upstreams`",
            "4:5: `name` is missing; add it",
            "4:5: `upstream` is missing; add it",
            "6:12: warning: no listener uses the upstream `web`",
            "7:12: the name `web` is taken, at 6:12; give each its own",
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

/// What people write by mistake, or bring along from other programs: each is refused, and the first problem names the cure.
#[test]
fn mistakes_are_named() {
    const LISTEN: &str = "loadbalancer:\n  listen_address: \":8080\"\n";
    const BACKENDS: &str = "backends:\n  - {address: localhost, port: 8081}\n";
    let listen = |text: &str| format!("loadbalancer:\n  listen_address: {text}\n{BACKENDS}");
    let backend = |text: &str| format!("{LISTEN}backends:\n  - {{{text}}}\n");
    let port = |text: &str| backend(&format!("address: localhost, port: {text}"));
    let both = |text: &str| format!("loadbalancer: {{listen_address: ':8080', {text}}}\n{BACKENDS}");
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
        (port("\"${PORT}\""), "variable; they are not expanded"),
        (port("$PORT"), "variable; they are not expanded"),
        (port("'%PORT%'"), "variable; they are not expanded"),
        (backend("address: \"${HOST}\", port: 80"), "variable; they are not expanded"),
        (more("source: ['$(hostname -i)']"), "variable; they are not expanded"),
        (more("logging: {target: \"${LOGS}/r.log\"}"), "variable; they are not expanded"),
        (format!("{LISTEN}backends: ${{BACKENDS}}\n"), "variable; they are not expanded"),
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
        (more("healthcheck: {type: redis}"), "not there yet; `send_expect` can do much of it"),
        // Keys of elsewhere, of others, and of later.
        (
            more("timeouts: {connect: 2s}"),
            "unknown key `timeouts`; it belongs in `loadbalancer`, or in the long form in `listeners[]` and",
        ),
        (
            both("connect: 2s"),
            "belongs in `loadbalancer.timeouts`, or in the long form in `upstreams[].timeouts`",
        ),
        (both("max_connections: 10"), "`runtime.max_connections` limits the whole process"),
        (more("max_connections: 10"), "`max_connections`; it belongs in `runtime` and `backends[]`"),
        (both("port: 80"), "the port of a listener stands in its address"),
        (both("healthcheck: off"), "`healthcheck`; it belongs at the top of the file"),
        (more("cores: 2"), "`cores`; it belongs in `runtime`"),
        (both("proxy_protocol: v2"), "`proxy_protocol`; it is not supported yet"),
        (more("admin: {}"), "`admin`; it is not supported yet"),
        (format!("{LISTEN}servers: []\n"), "did you mean `backends`?"),
        (backend("ip: 10.0.0.1, port: 80"), "did you mean `address`?"),
        (backend("address: a, port: 80, maxconn: 5"), "did you mean `max_connections`?"),
    ] {
        let found = problems(&text);
        assert!(found.iter().any(|problem| problem.contains(words)), "{text}{found:#?}");
    }
}
