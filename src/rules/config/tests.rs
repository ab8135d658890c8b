//! The configuration as a whole: what is accepted, what is refused and with which words, and that no file
//! can hurt. The rows are those of FAULTS 37 and 38.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

const SHORT: &str = include_str!("../../../configs/config.yaml");
const EXAMPLE: &str = include_str!("../../../configs/example.yaml");
const REFERENCE: &str = include_str!("../../../docs/CONFIGURATION.md");

const LONG: &str = "\
listeners:
  - {name: web, address: ':80', upstream: web}
upstreams:
  - name: web
    backends:
      - {address: 10.0.0.1, port: 80}
";

/// Far above what the slowest accepted or refused file takes in a debug build.
const PATIENCE: Duration = Duration::from_secs(20);

#[track_caller]
fn valid(text: &str) -> Config {
    match parse("file", text.as_bytes()) {
        Ok(parsed) => {
            assert_eq!(parsed.report.warnings(), 0, "{}\nof\n{text}", parsed.report);
            parsed.config
        }
        Err(report) => panic!("{report}\nof\n{text}"),
    }
}

/// The headlines of the problems, without the name of the file.
#[track_caller]
fn problems(text: impl AsRef<[u8]>) -> Vec<String> {
    let report = match parse("file", text.as_ref()) {
        Ok(parsed) => parsed.report,
        Err(report) => {
            assert!(report.errors() > 0);
            report
        }
    };
    report.problems().iter().map(|problem| problem.headline().replacen("file:", "", 1)).collect()
}

/// A valid short file with one backend and `lines` after it.
fn short(lines: &str) -> String {
    format!("loadbalancer: {{listen_address: ':80'}}\nbackends: [{{address: a, port: 80}}]\n{lines}")
}

/// A valid long file whose upstream has `lines`, from line 5 on.
fn upstream(lines: &str) -> String {
    let lines: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    format!("listeners: [{{name: w, address: ':80', upstream: w}}]\n\nupstreams:\n  - name: w\n{lines}")
}

mod accepted {
    use super::*;

    #[test]
    fn original_file_is_one_listener_and_one_upstream_called_default() {
        let config = valid(SHORT);
        let ([listener], [upstream]) = (&config.listeners[..], &config.upstreams[..]) else {
            panic!("{config:?}");
        };
        assert_eq!((listener.name.as_str(), upstream.name.as_str()), ("default", "default"));
        assert_eq!(listener.address, ListenAddress::Any { port: 8080 });
        assert_eq!(upstream.algorithm.name, "round_robin");
        let [backend] = &upstream.backends[..] else { panic!("{config:?}") };
        assert_eq!(backend.address, BackendAddress::Host { name: "localhost".into(), port: 8081 });
        assert_eq!(backend.name, "localhost:8081");
        let check = upstream.healthcheck.as_ref().expect("checks are on");
        assert_eq!((check.interval, check.timeout), (Duration::from_secs(30), Duration::from_secs(5)));
    }

    #[test]
    fn short_file_is_the_one_of_the_interface() {
        assert!(SHORT.starts_with("loadbalancer:\n  listen_address: \":8080\"          # \":PORT\" = all"));
    }

    #[test]
    fn example_shows_the_defaults() {
        let bare = "
listeners: [{name: web, address: ':8080', upstream: web}]
upstreams:
  - name: web
    backends:
      - {name: a, address: 127.0.0.1, port: 8081}
      - {address: localhost, port: 8082}
";
        assert_eq!(valid(EXAMPLE).to_yaml(), valid(bare).to_yaml());
    }

    #[test]
    fn example_and_reference_have_every_key() {
        let types = ["http, host: a", "tls, host: a", "send_expect, steps: [{send: a, expect: b}]"];
        let of_types =
            types.map(|kind| valid(&short(&format!("healthcheck: {{type: {kind}, port: 1}}\n"))).to_yaml());
        let pool = "pool: {size: 1, reuse: reset, clients: trusted, reset: {send: a, expect: b}}";
        let without_default = valid(&short(&format!("source: [10.0.0.1, 10.0.0.2]\n{pool}\n"))).to_yaml();
        let all = [valid(EXAMPLE).to_yaml(), of_types.concat(), without_default].concat();
        for line in all.lines().filter(|line| line.contains(':')) {
            let key = line.trim_start_matches(['-', ' ']).split(':').next().unwrap_or_default();
            assert!(EXAMPLE.contains(&format!("{key}:")), "{key}");
            let shown = ["`", "."].map(|before| format!("{before}{key}"));
            assert!(shown.iter().any(|key| REFERENCE.contains(key)), "{key}");
        }
    }

    #[test]
    fn defaults_are_merged_key_by_key_into_nested_sections() {
        let config = valid(
            "
defaults:
  listener: {upstream: u, backlog: 9, timeouts: {client_idle: 7s, session: 9s}, tcp: {nodelay: off}}
  upstream: {retries: 7, healthcheck: {rise: 9, fall: 9}, timeouts: {connect: 1s}}
listeners:
  - {name: a, address: ':1', timeouts: {client_idle: 8s}}
upstreams:
  - {name: u, healthcheck: {rise: 1}, backends: [{address: a, port: 1}]}
",
        );
        let listener = &config.listeners[0];
        assert_eq!(listener.backlog, 9);
        assert_eq!(listener.timeouts.client_idle, Some(Duration::from_secs(8)));
        assert_eq!(listener.timeouts.session, Some(Duration::from_secs(9)));
        assert!(!listener.tcp.options.nodelay);
        let upstream = &config.upstreams[0];
        let check = upstream.healthcheck.as_ref().expect("checks are on");
        assert_eq!((upstream.retries, check.rise, check.fall), (7, 1, 9));
        assert_eq!(upstream.timeouts.connect, Duration::from_secs(1));
    }

    #[test]
    fn off_in_an_entry_hides_the_section_of_the_defaults_and_the_other_way_round() {
        let text = |default: &str, own: &str| {
            format!(
                "defaults: {{upstream: {{healthcheck: {default}}}}}\n\
                 listeners: [{{name: a, address: ':1', upstream: u}}]\n\
                 upstreams: [{{name: u, healthcheck: {own}, backends: [{{address: a, port: 1}}]}}]\n"
            )
        };
        assert!(valid(&text("{rise: 9}", "off")).upstreams[0].healthcheck.is_none());
        let config = valid(&text("off", "{fall: 1}"));
        assert_eq!(config.upstreams[0].healthcheck.as_ref().map(|check| check.fall), Some(1));
    }

    #[test]
    fn passive_health_in_both_forms_and_from_the_defaults() {
        let keys = "{outlier: {max_ejected: 100%}, panic_threshold: 30%, slow_start: 1m, on_down: close, on_up: close";
        let long = format!(
            "defaults: {{upstream: {keys}}}}}\nlisteners: [{{name: a, address: ':1', upstream: u}}]\n\
             upstreams: [{{name: u, outlier: {{ejection_time: 1s}}, backends: [{{address: a, port: 1}}]}}]\n"
        );
        let short = "loadbalancer: {listen_address: ':1'}\n\
                     backends: [{address: a, port: 1}, {address: b, port: 1, backup: true}]\n\
                     outlier: {max_ejected: 100%, ejection_time: 1s}\npanic_threshold: 30%\nslow_start: 1m\n\
                     on_down: close\non_up: close\n";
        for text in [long, short.to_owned()] {
            let upstream = &valid(&text).upstreams[0];
            let outlier = upstream.outlier.as_ref().expect("outlier is on");
            assert_eq!((outlier.consecutive_failures, outlier.max_ejected), (5, 100));
            assert_eq!(outlier.ejection_time, Duration::from_secs(1));
            assert_eq!(
                (upstream.panic_threshold, upstream.slow_start),
                (Some(30), Some(Duration::from_secs(60)))
            );
            assert_eq!((upstream.on_down, upstream.on_up), (OpenSessions::Close, OpenSessions::Close));
        }
        assert!(valid(&self::short("")).upstreams[0].outlier.is_some());
        assert!(valid(&self::short("outlier: off")).upstreams[0].outlier.is_none());
    }

    #[test]
    fn byte_order_mark_carriage_returns_and_aliases_are_fine() {
        valid(&format!("\u{feff}{}", SHORT.replace('\n', "\r\n")));
        valid(&format!("---\n{SHORT}...\n"));
        let config = valid(&short("healthcheck: {rise: &n 4, fall: *n}\nlogging:\nruntime: # nothing yet\n"));
        assert_eq!(config.upstreams[0].healthcheck.as_ref().map(|check| check.fall), Some(4));
    }

    #[test]
    fn addresses_of_backends_in_every_form() {
        let address = |entry: &str| {
            let config = valid(&format!("loadbalancer: {{listen_address: ':8080'}}\nbackends: [{entry}]\n"));
            let backend = &config.upstreams[0].backends[0];
            (backend.name.clone(), backend.address.to_string())
        };
        for (entry, expected) in [
            ("{address: 10.0.0.1, port: 80}", "10.0.0.1:80"),
            ("{address: '10.0.0.1:80'}", "10.0.0.1:80"),
            ("{address: '::1', port: 80}", "[::1]:80"),
            ("{address: '[::1]', port: 80}", "[::1]:80"),
            ("{address: '[::1]:80'}", "[::1]:80"),
            ("{address: 'fe80::1%2', port: 80}", "[fe80::1%2]:80"),
            ("{address: a_b.example.com., port: 80}", "a_b.example.com.:80"),
            ("{address: 'localhost:80'}", "localhost:80"),
        ] {
            assert_eq!(address(entry), (expected.to_owned(), expected.to_owned()), "{entry}");
        }
        assert_eq!(address("{name: s, address: 'unix:/run/s'}"), ("s".into(), "unix:/run/s".into()));
    }

    #[test]
    fn cores_durations_and_limits() {
        let runtime = |line: &str| valid(&short(&format!("runtime: {{{line}}}\n"))).runtime;
        assert_eq!(runtime("cores: auto").cores, Cores::Auto);
        assert_eq!(runtime("cores: 2").cores.clone(), Cores::Count(2.try_into().unwrap()));
        assert_eq!(runtime("cores: '8,0-2'").cores, Cores::List(vec![0, 1, 2, 8]));
        assert_eq!(runtime("cores: 3-3").cores, Cores::List(vec![3]));
        assert_eq!(runtime("max_connections: 0").max_connections, None);
        assert_eq!(runtime("shutdown_delay: false").shutdown_delay, None);
        assert_eq!(runtime("shutdown_delay: 1h30m").shutdown_delay, Some(Duration::from_secs(5400)));
        assert_eq!(runtime("relay: {buffer_size: 4KiB}").relay.buffer_bytes, 4096);
    }

    #[test]
    fn one_address_twice_with_two_names() {
        let config = valid(&upstream(
            "backends: [{name: a, address: h, port: 1}, {name: b, address: h, port: 1, weight: 0}]",
        ));
        assert_eq!(config.upstreams[0].backends.len(), 2);
    }

    #[test]
    fn settings_of_a_check_that_is_off_are_kept() {
        for settings in ["path: /x", "host: a", "steps: [{send: a}]", "expect_status: 200"] {
            let config = valid(&short(&format!("healthcheck: {{type: off, {settings}}}\n")));
            assert!(config.upstreams[0].healthcheck.is_none(), "{settings}");
        }
    }

    #[test]
    fn another_type_than_that_of_the_defaults_hides_their_keys() {
        let text = |own: &str| {
            format!(
                "defaults: {{upstream: {{healthcheck: {{type: http, path: /x, host: a, rise: 9}}}}}}\n\
                 listeners: [{{name: a, address: ':1', upstream: u}}]\n\
                 upstreams: [{{name: u, healthcheck: {own}, backends: [{{address: a, port: 1}}]}}]\n"
            )
        };
        for (own, kind) in [
            ("{}", "type: http\n    path: /x\n    host: a\n    expect_status: 200-399\n"),
            ("{host: b}", "type: http\n    path: /x\n    host: b\n    expect_status: 200-399\n"),
            ("{type: tls}", "type: tls\n    host: a\n"),
            ("{type: tcp}", "type: tcp\n"),
        ] {
            let yaml = valid(&text(own)).to_yaml();
            let expected = format!("healthcheck:\n    {kind}    interval: 30s\n");
            assert!(yaml.contains(&expected) && yaml.contains("rise: 9"), "{own}: {yaml}");
        }
    }

    #[test]
    fn every_word_of_the_registry() {
        for name in crate::rules::balance::names() {
            valid(&upstream(&format!("algorithm: {name}\nbackends: [{{address: a, port: 1}}]")));
        }
    }
}

mod refused {
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
                "6:11: `70000` is not a port; a port is a number from 1 to 65535",
                "7:5: unknown key `wieght`; did you mean `weight`?",
                "9:13: `30` has no unit; write a duration such as `250ms`, `30s`, `5m` or `1h`",
                "10:12: `-5s` is not a duration; write one such as `250ms`, `30s`, `5m` or `1h`",
                "11:1: unknown key `unknown`; known here: runtime, logging, loadbalancer, backends, \
                 healthcheck, outlier, panic_threshold, slow_start, on_down, on_up, retries, retry_budget, queue, pool, source, resolve",
            ]
        );
    }

    /// A time alone is a dead peer noticed within two minutes; where `user_timeout` decides, probes are often enough for it.
    #[test]
    fn keepalive_is_a_time_or_all_of_it() {
        let all = |tcp: &str| {
            let text = upstream(&format!("backends: [{{address: a, port: 1}}]\ntcp: {{{tcp}}}"));
            let keepalive = valid(&text).upstreams[0].tcp.keepalive?;
            Some((keepalive.idle.as_secs(), keepalive.interval.as_secs(), keepalive.count))
        };
        assert_eq!(all(""), Some((60, 15, 4)));
        assert_eq!(all("keepalive: off"), None);
        assert_eq!(all("keepalive: 2s"), Some((2, 2, 4)));
        assert_eq!(all("keepalive: 10s, user_timeout: 9s"), Some((10, 3, 4)));
        assert_eq!(all("keepalive: 10s, user_timeout: 1s"), Some((10, 1, 4)));
        assert_eq!(all("keepalive: {}"), Some((60, 15, 4)));
        assert_eq!(all("keepalive: {idle: 30s, interval: 7s, count: 9}"), Some((30, 7, 9)));
        assert_eq!(all("keepalive: {idle: 90s, interval: 20s}, user_timeout: 9s"), Some((90, 20, 4)));
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
dir/f.yaml:8:15: `70000` is not a port; a port is a number from 1 to 65535
    8 |         port: 70000
      |               ^^^^^ upstreams[0].backends[0].port
dir/f.yaml: 2 errors"
        );
    }

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

    /// Each is refused with one problem, at this place and with these words.
    #[test]
    fn single_values() {
        for (line, place, words) in [
            ("retries: 101", "3:10", "from 0 to 100"),
            ("retries: 0x10", "3:10", "not a whole number"),
            ("retry_budget: 101%", "3:15", "not a percentage"),
            ("retry_budget: 20", "3:15", "not a percentage; write `1%` to `100%`, or `off`"),
            ("queue: {max: 65536}", "3:14", "from 0 to 65535"),
            ("queue: {timeout: off}", "3:18", "not possible here; write a duration"),
            ("queue: 5", "3:8", "not a section"),
            ("source: 10.0.0.1", "3:9", "`source` is a list; write `[...]`, or `off`"),
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
            ("healthcheck: {type: https}", "3:21", "write tcp or http or tls or send_expect, or `off`"),
            ("healthcheck: {jitter: 0.1}", "3:23", "not a percentage"),
            ("healthcheck: {path: /}", "3:15", "this check is of type tcp"),
            ("outlier: {consecutive_failures: 0, max_ejected: 100%}", "3:33", "from 1 to 1000"),
            ("outlier: {ejection_time: off, max_ejected: 100%}", "3:26", "not possible here"),
            ("outlier: {ejection_time: 5, max_ejected: 100%}", "3:26", "has no unit"),
            ("outlier: {max_ejected: 0%}", "3:24", "write `1%` to `100%`"),
            ("outlier: {max_ejected: off}", "3:24", "not a percentage; write `1%` to `100%`"),
            ("outlier: {failures: 5, max_ejected: 100%}", "3:11", "unknown key"),
            ("panic_threshold: 50", "3:18", "not a percentage; write `1%` to `100%`, or `off`"),
            ("panic_threshold: 101%", "3:18", "not a percentage"),
            ("slow_start: 0s", "3:13", "too short; write at least `1ms`, or `off`"),
            ("on_down: drop", "3:10", "write keep or close"),
            ("on_up: off", "3:8", "write keep or close"),
            ("runtime: {cores: 0}", "3:18", "a number of cores from 1"),
            ("runtime: {cores: 3-1}", "3:18", "a range such as `0-3`"),
            ("runtime: {cores: '0-3,2'}", "3:18", "CPU 2 is listed twice"),
            ("runtime: {cores: '0-4000000000'}", "3:18", "not a CPU number"),
            ("runtime: {relay: {buffers_per_core: 100}}", "3:37", "write 64 or 128"),
            ("runtime: {relay: {buffer_size: 16KB}}", "3:32", "not a size"),
            ("runtime: {relay: {buffer_size: 2MiB}}", "3:32", "from `1KiB` to `1MiB`"),
            ("logging: {level: loud}", "3:18", "write error or warn or info"),
            ("logging: {target: stdout}", "3:19", "write `stderr` or the path of a file"),
            ("logging: {target: \"a\\0b\"}", "3:19", "not a path"),
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
            let hit = found
                .iter()
                .any(|problem| problem.starts_with(&format!("{place}: ")) && problem.contains(words));
            let alone = found.len() == 1 || line.starts_with("listeners");
            assert!(hit && alone, "{line}: {found:#?}");
        }
    }

    #[test]
    fn slow_start_needs_an_algorithm_that_follows_weights() {
        for name in crate::rules::balance::names() {
            let backends = "backends: [{address: a, port: 1}]";
            let text = upstream(&format!("slow_start: 30s\nalgorithm: {name}\n{backends}"));
            let known = crate::rules::balance::find(name).expect("registered");
            let found = problems(&text);
            assert_eq!(found.is_empty(), known.slow_start, "{name}: {found:?}");
            assert!(found.iter().all(|problem| problem.starts_with("5:17: `slow_start`")), "{found:?}");
            valid(&upstream(&format!("slow_start: off\nalgorithm: {name}\n{backends}")));
        }
    }

    #[test]
    fn a_listener_is_no_backend_of_its_own() {
        for (listener, backend, circle) in [
            (":80", "address: localhost, port: 80", true),
            (":80", "address: '::1', port: 80", true),
            (":80", "address: 127.0.0.1, port: 81", false),
            (":80", "address: 10.0.0.1, port: 80", false),
            ("10.0.0.1:80", "address: 10.0.0.1, port: 80", true),
            ("10.0.0.1:80", "address: localhost, port: 80", false),
            ("0.0.0.0:80", "address: 127.0.0.1, port: 80", true),
            ("unix:/run/x", "name: x, address: 'unix:/run/x'", true),
        ] {
            for text in [
                format!("loadbalancer: {{listen_address: '{listener}'}}\nbackends: [{{{backend}}}]\n"),
                format!(
                    "listeners: [{{name: l, address: '{listener}', upstream: u}}]\n\
                     upstreams: [{{name: u, backends: [{{{backend}}}]}}]\n"
                ),
            ] {
                let found = problems(&text);
                assert_eq!(found.len(), usize::from(circle), "{text}{found:?}");
                assert!(found.iter().all(|problem| problem.contains("go in a circle")), "{text}{found:?}");
            }
        }
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
            ("", "has no port"),
        ] {
            let text = format!(
                "loadbalancer: {{listen_address: '{address}'}}\nbackends: [{{address: a, port: 1}}]\n"
            );
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
            ("address: '::1:80:zz', port: 1", "neither an IP address nor a host name"),
            ("address: 10.0.0.256, port: 1", "neither an IP address nor a host name"),
            ("address: 'a b', port: 1", "neither an IP address nor a host name"),
            ("address: 'http://a', port: 1", "not a port"),
            ("address: '', port: 1", "neither an IP address nor a host name"),
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
            ("backends: [a]", "not an entry"),
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
        let message = "no CPU receives the connections of `unix:/a`; write `steer_by_cpu: off` here, or listen on a port";
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
}

mod hostile {
    use super::*;

    #[track_caller]
    fn refused_soon(text: impl AsRef<[u8]>, headline: &str) {
        let start = Instant::now();
        let found = problems(text);
        assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
        assert!(found[0].starts_with(headline), "{found:#?}");
    }

    #[test]
    fn bytes_that_are_no_text() {
        refused_soon("", "1:1: the file is empty");
        refused_soon("# nothing\n", "1:1: the file is empty");
        refused_soon("---\n", "1:1: the file is empty");
        refused_soon("a: b\0c\n", "1:5: control character U+0000");
        refused_soon("a: \u{1b}[2J\n", "1:4: control character U+001B");
        refused_soon("a: 1\nb: \u{feff}\n", "2:4: control character U+FEFF");
        refused_soon(b"a: 1\n\xc3\xa9: \xff\n", "2:4: byte 0xff is not UTF-8; save");
        refused_soon(b"\xff\xfea\0", "1:1: byte 0xff is not UTF-8; it looks like UTF-16");
        refused_soon("a:\n\tb: 1\n", "2:1: a tab in the indentation");
        refused_soon("a:\n  \tb: 1\n", "2:3: a tab in the indentation");
        refused_soon("[a]", "1:1: not a configuration");
        refused_soon("hello", "1:1: not a configuration");
        refused_soon("a: {", "2:1: not YAML");
        refused_soon("a: 1\n---\nb: 2\n", "2:1: a second document");
    }

    #[test]
    fn depth_and_number_of_values_are_bounded() {
        // The scanner looks ahead here, and has a bound of its own.
        refused_soon("[".repeat(1 << 19), "1:256: not YAML: recursion limit");
        refused_soon(format!("{}{}", "[".repeat(40), "]".repeat(40)), "1:33: nested deeper");
        refused_soon("- ".repeat(1 << 19), "1:65: nested deeper");
        refused_soon("{a: ".repeat(1 << 18), "1:1021: not YAML: recursion limit");
        refused_soon(format!("a: [{}]", "a,".repeat(1 << 18)), "1:199999: more than 100000 values");
        let bomb: String = (1..30).map(|n| format!("k{n}: &k{n} [*k{0}, *k{0}, *k{0}]\n", n - 1)).collect();
        refused_soon(format!("k0: &k0 a\n{bomb}"), "11:17: more than 100000 values");
        let nested: String = (1..50).map(|n| format!("k{n}: &k{n} [*k{}]\n", n - 1)).collect();
        refused_soon(format!("k0: &k0 a\n{nested}"), "32:12: nested deeper");
        refused_soon(vec![b'#'; (1 << 20) + 1], "1:1: larger than 1048576 bytes");
    }

    #[test]
    fn thousands_of_problems_are_counted_and_a_hundred_kept() {
        let keys: String = (0..40_000).map(|n| format!("key{n}: 1\n")).collect();
        let start = Instant::now();
        let report = parse("f", short(&keys).as_bytes()).expect_err("unknown keys");
        assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
        assert_eq!((report.errors(), report.problems().len()), (40_000, limits::CONFIG_PROBLEMS));
        assert!(report.to_string().ends_with("f: 39900 more not shown\nf: 40000 errors"));
    }

    #[test]
    fn wrong_defaults_of_many_entries_are_read_in_bounded_time() {
        let defaults: String = (0..20_000).map(|n| format!("    k{n}: 1\n")).collect();
        let entries: String = (0..2_000).map(|n| format!("  - {{name: n{n}, backends: []}}\n")).collect();
        let text = format!("defaults:\n  upstream:\n{defaults}upstreams:\n{entries}");
        refused_soon(text, "3:5: unknown key");
    }

    #[test]
    fn report_on_hostile_text_is_short_and_plain() {
        let key = format!("\"\\e[2J\\n\\u202e{}\"", "x".repeat(1_000_000));
        let report = parse("f\u{1b}[2J", short(&format!("{key}: 1\n")).as_bytes()).expect_err("unknown key");
        let shown = report.to_string();
        assert!(shown.len() < 1_000, "{}", shown.len());
        assert!(!shown.contains(|c: char| (c.is_control() && c != '\n') || c == '\u{202e}'), "{shown:?}");
    }
}

mod properties {
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

    /// Values that are valid where they stand, edges included.
    fn valid_file() -> impl Strategy<Value = String> {
        let duration = prop::sample::select(vec!["1ms", "250ms", "90s", "1h30m", "8784h"]);
        let or_off = prop::sample::select(vec!["off", "false", "1ms", "61s", "8784h"]);
        let keepalive =
            prop::sample::select(vec!["off", "1s", "32767s", "{idle: 9s, count: 127}", "{interval: 32767s}"]);
        let listen =
            prop::sample::select(vec![":3", "1.2.3.4:65535", "'[::1]:80'", "'[fe80::1%3]:80'", "unix:/a b"]);
        let backend = prop::sample::select(vec![
            "address: a.b, port: 1",
            "address: '::1', port: 65535",
            "address: 'fe80::1%7', port: 9",
            "name: s, address: 'unix:/off', max_connections: 7",
            "name: 'off', address: '127.0.0.1:1', weight: 1000",
            "name: '0x1', address: localhost, port: 1",
        ]);
        let check = prop::sample::select(vec![
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
        ]);
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
    pool: {{size: 7, max_idle: {or_off}, reuse: reset, clients: trusted, reset: {{send: '\\x00', expect: ok, timeout: {duration}}}}}
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
            prop_assert!(parse("file", text.as_bytes()).is_ok(), "{}", parse("file", text.as_bytes()).unwrap_err());
            check(text.as_bytes())?;
        }
    }

    #[test]
    fn files_of_this_repository_survive_the_way_through_yaml() {
        for text in [SHORT, EXAMPLE, LONG] {
            check(text.as_bytes()).expect("the same configuration");
        }
    }
}
