//! What is valid, and probably not what was meant.

use super::*;

#[test]
fn warnings_leave_the_file_valid() {
    let text = "\
listeners: [{name: a, address: ':1', upstream: u}]
upstreams:
  - {name: u, backends: [{address: a, port: 1}], healthcheck: {interval: 1s, timeout: 2s, fast_interval: 3s}}
  - {name: v, backends: [{name: s, address: 'unix:/s'}], timeouts: {connect: 20s}, healthcheck: {port: 1}}
";
    let parsed = parse("f", text.as_bytes()).expect("only warnings");
    assert_eq!(parsed.report.warnings(), 5);
    let shown = parsed.report.to_string();
    assert!(shown.ends_with("\nf: configuration is valid"), "{shown}");
    assert!(shown.contains("f:4:12: warning: no listener uses the upstream `v`"), "{shown}");
}

/// Each is taken with one warning, with these words.
#[test]
fn settings_that_do_nothing_beside_the_others() {
    let both = "[{name: a, address: 10.0.0.9, port: 1, max_connections: 2}, {address: b, port: 1, backup: \
                true, max_connections: 3}]";
    let one = "[{address: a, port: 1}]";
    for (backends, keys, words) in [
        (
            both,
            "panic_threshold: 50%\nhealthcheck: off\noutlier: off",
            "`panic_threshold` has no effect while",
        ),
        (both, "slow_start: 5s\nhealthcheck: off\noutlier: off", "`slow_start` has no effect while"),
        (both, "on_down: close\nhealthcheck: off\noutlier: off", "`on_down` has no effect while"),
        (one, "on_up: close", "without both primaries and backups"),
        (one, "retries: 0\nretry_budget: 10%", "has no effect with `retries: 0`"),
        (both, "queue: {max: 9, timeout: 20s}", "`establish`, which covers all attempts, ends that at 15s"),
        (both, "pool: {size: 3}", "more than the `max_connections` of `a`"),
        (one, "pool: {size: 3, clients: trusted}", "has no effect without `reuse: reset`"),
        (
            "[{name: s, address: 'unix:/s'}]",
            "source: [10.0.0.1]",
            "`source` has no effect on `unix:` backends",
        ),
        (
            "[{name: s, address: 'unix:/s'}]",
            "source_ports: per_core",
            "`source_ports` has no effect on `unix:` backends",
        ),
        (
            "[{address: a, port: 1}, {address: b, port: 1, weight: 9}]",
            "algorithm: first",
            "not by their weights",
        ),
    ] {
        let found = problems(upstream(&format!("{keys}\nbackends: {backends}")));
        assert!(
            found.len() == 1 && found[0].contains("warning: ") && found[0].contains(words),
            "{keys}: {found:?}"
        );
    }
    for keys in [
        "slow_start: 5s\noutlier: off",
        "on_up: close",
        "queue: {max: 9}",
        "pool: {size: 2}",
        "queue: off\npool: off",
    ] {
        let found = problems(upstream(&format!("{keys}\nbackends: {both}")));
        assert_eq!(found, [""; 0], "{keys}");
    }
    let hashed = "listeners: [{name: a, address: 'unix:/l', upstream: u}]\n\
                      upstreams: [{name: u, algorithm: maglev, backends: [{address: a, port: 1}, {address: \
                      b, port: 1}]}]\n";
    let parsed = parse("f", hashed.as_bytes()).expect("only a warning");
    assert!(parsed.report.to_string().contains("`maglev` takes all clients of a `unix:` listener for one"));
}

#[test]
fn queue_that_nobody_waits_in_and_sources_of_another_family() {
    let backends = "backends: [{address: 10.0.0.9, port: 1, max_connections: 2}, {address: a, port: 1}]";
    assert_eq!(
        problems(upstream(&format!("queue: {{max: 9}}\n{backends}"))),
        ["5:12: warning: no client waits while `a:1` is up: it has no `max_connections`"]
    );
    assert_eq!(
        problems(upstream(&format!("source: ['fd00::1']\n{backends}"))),
        ["5:13: none of these addresses is IPv4, the family of `10.0.0.9:1`; add one"]
    );
    assert_eq!(
        problems(upstream(&format!("source: [10.0.0.1, 10.0.0.1]\n{backends}"))),
        ["5:13: 10.0.0.1 is listed twice; name each once"]
    );
    assert_eq!(
        problems(upstream(&format!("source: [0.0.0.0]\n{backends}"))),
        ["5:13: `0.0.0.0` is not an address of this host; write one that `ip address` shows"]
    );
}

/// A long file with these `timeouts` of its listener and these lines of its upstream.
fn idle(listener: &str, upstream: &str) -> String {
    format!(
        "listeners: [{{name: l, address: ':80', upstream: u, timeouts: {{{listener}}}}}]\n\
         upstreams: [{{name: u, backends: [{{address: a, port: 80}}], {upstream}}}]\n"
    )
}

#[test]
fn of_two_idle_limits_the_shorter_one_applies_and_is_named() {
    for (client, backend, words) in [
        (
            "client_idle: 2h",
            "backend_idle: 10m",
            "1:76: warning: `client_idle` is 2h and `backend_idle` is 10m",
        ),
        (
            "client_idle: off",
            "backend_idle: 10m",
            "1:76: warning: `client_idle` is off and `backend_idle` is 10m",
        ),
        ("client_idle: 1s", "backend_idle: off", "`client_idle` is 1s and `backend_idle` is off"),
        ("client_idle: 1s", "backend_idle: 2s", "the shorter one, `client_idle`, ends a session"),
    ] {
        let found = problems(idle(client, &format!("timeouts: {{{backend}}}")));
        assert!(found.len() == 1 && found[0].contains(words), "{client}, {backend}: {found:?}");
        let short = format!(
            "loadbalancer: {{listen_address: ':80', timeouts: {{{client}, {backend}}}}}\nbackends: ['a:1']\n"
        );
        assert_eq!(problems(short).len(), 1, "{client}, {backend}");
    }
}

#[test]
fn limits_that_another_one_comes_before() {
    for (listener, upstream, words) in [
        (
            "session: 10m, client_idle: 20m",
            "",
            "`client_idle` is 20m, but `session` ends every session at 10m",
        ),
        ("half_close: 2h", "", "`half_close` is 2h, longer than the idle limit, 1h"),
        (
            "half_close: 2m",
            "timeouts: {backend_idle: 1m}",
            "`half_close` is 2m, longer than the idle limit, 1m",
        ),
        ("", "pool: {size: 1, max_idle: 2h}", "longer than `backend_idle`, 1h"),
        ("client_idle: 1m", "pool: {size: 1, max_idle: 2m}", "longer than `backend_idle`, 1m"),
        ("", "pool: {size: 1, max_idle: off}, timeouts: {backend_idle: 2h}", "`max_idle` is off"),
    ] {
        let found = problems(idle(listener, upstream));
        assert!(
            found.len() == 1 && found[0].contains("warning: ") && found[0].contains(words),
            "{listener}, {upstream}: {found:?}"
        );
    }
    for (listener, upstream) in [
        ("session: 10m", ""),
        ("client_idle: 10s", ""),
        ("half_close: 2h, client_idle: off", ""),
        ("", "pool: {size: 1, max_idle: off}"),
        ("", "pool: {max_idle: 2h}"),
        ("client_idle: 10s", "pool: {size: 1}"),
        ("client_idle: 10m", "timeouts: {backend_idle: 10m}"),
    ] {
        assert_eq!(problems(idle(listener, upstream)), [""; 0], "{listener}, {upstream}");
    }
}

#[test]
fn admin_endpoints_that_strangers_reach_or_that_settings_miss() {
    for (keys, words) in [
        ("listen_address: ':9900'", "other machines can read the state of this process here"),
        ("listen_address: '10.0.0.1:9900'", "let a firewall choose them, or listen on 127.0.0.1"),
        ("socket_mode: '0666'", "every user of this machine may stop this process"),
        ("socket: off, socket_group: 5", "`socket_group` has no effect with `socket: off`"),
        ("socket: off, socket_mode: '0660'", "`socket_mode` has no effect with `socket: off`"),
    ] {
        let found = problems(short(&format!("admin: {{{keys}}}")));
        assert!(found.len() == 1 && found[0].contains("warning: "), "{keys}: {found:?}");
        assert!(found[0].contains(words), "{keys}: {found:?}");
    }
    for keys in ["listen_address: '127.1.2.3:9900'", "listen_address: '[::1]:1'", "socket_mode: '0660'"] {
        assert_eq!(problems(short(&format!("admin: {{{keys}}}"))), [""; 0], "{keys}");
    }
}

/// A file that was valid before there was an admin API stays so.
#[test]
fn default_admin_address_gives_way_to_a_listener() {
    let text = "loadbalancer: {listen_address: ':9900'}\nbackends: ['a:1']\n";
    let parsed = parse("file", text.as_bytes()).expect("only a warning");
    assert_eq!(parsed.config.admin.listen_address, None);
    let words = "the default of `admin.listen_address`, `127.0.0.1:9900` overlaps with `:9900` of listener \
                 `default`, so it is off";
    assert!(parsed.report.to_string().contains(words), "{}", parsed.report);
    let text = format!("{text}admin: {{listen_address: '127.0.0.1:9900', socket: off}}\n");
    assert_eq!(
        problems(text),
        ["3:25: `127.0.0.1:9900` overlaps with `:9900` of listener `default`; use another port or address, \
          or `off`"]
    );
    let text =
        "loadbalancer: {listen_address: 'unix:/run/x'}\nbackends: ['a:1']\nadmin: {socket: /run/./x}\n";
    assert_eq!(
        problems(text),
        [
            "3:17: `unix:/run/./x` overlaps with `unix:/run/x` of listener `default`; use another path, or `off`"
        ]
    );
}
