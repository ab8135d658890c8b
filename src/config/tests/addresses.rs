//! Addresses that are refused, alone and beside each other, where and with which words.

use super::*;

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
             upstreams:\n  - {{name: a, backends: [{{address: 10.0.0.1, port: 1}}, {{address: localhost, \
             port: 2}}]{more}}}\n  \
             - {{name: b, backends: [{{address: '127.0.0.1:3'}}]}}\n  - {{name: c, backends: [{{address: \
             '::1', port: {last}}}]}}\n"
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
        ("224.0.0.1:80", "a multicast or broadcast address"),
        ("255.255.255.255:80", "a multicast or broadcast address"),
        ("[ff02::1%2]:80", "only a link-local address"),
        ("[ff02::1]:80", "a multicast or broadcast address"),
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
        ("address: 224.0.0.1, port: 1", "not the address of a single host"),
        ("address: '::ffff:0.0.0.0', port: 1", "not the address of a single host"),
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
        ("address: 0.0.0.0, port: 1", "not the address of a single host"),
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
        ("backends: ['a:1', 'a:1']", "`a:1` is already a backend at 5:16"),
        ("backends: [{address: a, port: 1}, {address: 'a:1'}]", "`a:1` is already a backend at 5:26"),
        (
            "backends: [{name: x, address: a, port: 1}, {name: x, address: b, port: 1}]",
            "the name `x` is already taken at 5:23",
        ),
    ] {
        let found = problems(upstream(backends));
        assert!(found.len() == 1 && found[0].contains(words), "{backends}: {found:#?}");
    }
}

#[test]
fn overlapping_listeners() {
    let overlap = |one: &str, two: &str| {
        let text = format!(
            "listeners: [{{name: a, address: '{one}', upstream: web}}, {{name: b, address: '{two}', \
             upstream: web}}]\n{}",
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
fn no_cpu_receives_the_connections_of_a_unix_socket() {
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
    let message = "`steer_by_cpu` has no effect on `unix:/a`; write `off` here, or listen on a port";
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
