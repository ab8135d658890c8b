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
    let both = "[{name: a, address: 10.0.0.9, port: 1, max_connections: 2}, {address: b, port: 1, backup: true, max_connections: 3}]";
    let one = "[{address: a, port: 1}]";
    for (backends, keys, words) in [
        (
            both,
            "panic_threshold: 50%\nhealthcheck: off\noutlier: off",
            "`panic_threshold` means nothing while",
        ),
        (both, "slow_start: 5s\nhealthcheck: off\noutlier: off", "`slow_start` means nothing while"),
        (both, "on_down: close\nhealthcheck: off\noutlier: off", "`on_down` means nothing while"),
        (one, "on_up: close", "without primaries and backups"),
        (one, "retries: 0\nretry_budget: 10%", "means nothing with `retries: 0`"),
        (both, "queue: {max: 9, timeout: 20s}", "`establish`, which covers all tries, ends that at 15s"),
        (both, "pool: {size: 3}", "more than the `max_connections` of `a`"),
        (one, "pool: {size: 3, clients: trusted}", "means nothing without `reuse: reset`"),
        ("[{name: s, address: 'unix:/s'}]", "source: [10.0.0.1]", "nothing to `unix:` backends"),
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
                      upstreams: [{name: u, algorithm: maglev, backends: [{address: a, port: 1}, {address: b, port: 1}]}]\n";
    let parsed = parse("f", hashed.as_bytes()).expect("only a warning");
    assert!(parsed.report.to_string().contains("all clients of a `unix:` listener are one to `maglev`"));
}

#[test]
fn queue_that_nobody_waits_in_and_sources_of_another_family() {
    let backends = "backends: [{address: 10.0.0.9, port: 1, max_connections: 2}, {address: a, port: 1}]";
    assert_eq!(
        problems(upstream(&format!("queue: {{max: 9}}\n{backends}"))),
        ["5:12: warning: nobody waits while `a:1` is up: it has no `max_connections`"]
    );
    assert_eq!(
        problems(upstream(&format!("source: ['fd00::1']\n{backends}"))),
        ["5:13: no address here is IPv4, as `10.0.0.9:1` is; add one"]
    );
    assert_eq!(
        problems(upstream(&format!("source: [10.0.0.1, 10.0.0.1]\n{backends}"))),
        ["5:13: 10.0.0.1 is listed twice; name each once"]
    );
    assert_eq!(
        problems(upstream(&format!("source: [0.0.0.0]\n{backends}"))),
        ["5:13: `0.0.0.0` is no address of this host; write one that `ip address` shows"]
    );
}
