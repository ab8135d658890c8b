//! What is accepted, and what it means.

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
    let types = [
        "http, host: a",
        "tls, host: a",
        "send_expect, steps: [{send: a, expect: b}]",
        "postgres, user: a, database: b",
        "mysql, user: a",
        "smtp, host: a",
    ];
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
    let keys =
        "{outlier: {max_ejected: 100%}, panic_threshold: 30%, slow_start: 1m, on_down: close, on_up: close";
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
        ("{address: 'fe80::1%eth0', port: 80}", "[fe80::1%eth0]:80"),
        ("{address: '[fe80::1%br-lan.7]:80'}", "[fe80::1%br-lan.7]:80"),
        ("{address: '::ffff:10.0.0.1', port: 80}", "10.0.0.1:80"),
        ("'10.0.0.1:80'", "10.0.0.1:80"),
        ("'[::1]:80'", "[::1]:80"),
        ("'a.b:80'", "a.b:80"),
    ] {
        assert_eq!(address(entry), (expected.to_owned(), expected.to_owned()), "{entry}");
    }
    assert_eq!(address("{name: s, address: 'unix:/run/s'}"), ("s".into(), "unix:/run/s".into()));
}

#[test]
fn cores_durations_and_limits() {
    let runtime = |line: &str| valid(&short(&format!("runtime: {{{line}}}\n"))).runtime;
    assert_eq!(runtime("cores: auto").cores, CoreSelection::Auto);
    assert_eq!(runtime("cores: 2").cores.clone(), CoreSelection::Count(2.try_into().unwrap()));
    assert_eq!(runtime("cores: '8,0-2'").cores, CoreSelection::List(vec![0, 1, 2, 8]));
    assert_eq!(runtime("cores: 3-3").cores, CoreSelection::List(vec![3]));
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
    for settings in
        ["path: /x", "host: a", "steps: [{send: a}]", "expect_status: 200", "user: a, database: b"]
    {
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
        ("{type: smtp}", "type: smtp\n    host: a\n"),
        ("{type: redis}", "type: redis\n"),
        ("{type: tcp}", "type: tcp\n"),
    ] {
        let yaml = valid(&text(own)).to_yaml();
        let expected = format!("healthcheck:\n    {kind}    interval: 30s\n");
        assert!(yaml.contains(&expected) && yaml.contains("rise: 9"), "{own}: {yaml}");
    }
}

#[test]
fn every_word_of_the_registry() {
    for name in crate::balance::names() {
        valid(&upstream(&format!("algorithm: {name}\nbackends: [{{address: a, port: 1}}]")));
    }
}

#[test]
fn mapped_addresses_are_the_ipv4_ones_wherever_they_stand() {
    let config = valid(
        "loadbalancer: {listen_address: '[::ffff:10.0.0.1]:80'}\nbackends: ['[::ffff:10.0.0.2]:80']\n\
         source: ['::ffff:10.0.0.3']\n",
    );
    assert_eq!(config.listeners[0].address.to_string(), "10.0.0.1:80");
    assert_eq!(config.upstreams[0].backends[0].name, "10.0.0.2:80");
    assert_eq!(config.upstreams[0].source, ["10.0.0.3".parse::<std::net::IpAddr>().expect("an address")]);
}

#[test]
fn interfaces_get_their_numbers_from_the_caller() {
    let text = "loadbalancer: {listen_address: '[fe80::1%eth0]:80'}\nbackends: ['[fe80::2%eth1]:80']\n";
    let config = valid(text);
    let numbered = config.with_zones(|name| {
        name.strip_prefix("eth").and_then(|number| number.parse().ok()).map(|n: u32| n + 2)
    });
    let numbered = numbered.expect("both are known").expect("there are some");
    assert_eq!(numbered.listeners[0].address.to_string(), "[fe80::1%2]:80");
    assert_eq!(numbered.upstreams[0].backends[0].address.to_string(), "[fe80::2%3]:80");
    assert_eq!(config.with_zones(|_| None).expect_err("unknown interfaces"), "eth0");
    assert!(valid(SHORT).with_zones(|_| None).expect("there is none").is_none());
}

#[test]
fn short_form_takes_timeouts_and_tcp_of_both_sides() {
    let config = valid(
        "loadbalancer: {listen_address: ':80', timeouts: {connect: 2s, establish: 9s, client_idle: 5m, \
         half_close: 7s}, tcp: {nodelay: off, keepalive: 9s, steer_by_cpu: true}}\nbackends: ['a:1']\n",
    );
    let (listener, upstream) = (&config.listeners[0], &config.upstreams[0]);
    assert_eq!(upstream.timeouts.connect, Duration::from_secs(2));
    assert_eq!(upstream.timeouts.establish, Some(Duration::from_secs(9)));
    assert_eq!(listener.timeouts.half_close, Duration::from_secs(7));
    assert_eq!(upstream.timeouts.backend_idle, Some(Duration::from_secs(300)));
    for tcp in [&listener.tcp.options, &upstream.tcp] {
        assert!(
            !tcp.nodelay
                && tcp.keepalive.as_ref().is_some_and(|keepalive| keepalive.idle == Duration::from_secs(9))
        );
    }
    assert!(listener.tcp.steer_by_cpu);
}

#[test]
fn an_idle_limit_that_is_written_alone_is_that_of_both_sides() {
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let text = |first: &str, second: &str, upstream: &str| {
        format!(
            "listeners: [{{name: a, address: ':1', upstream: u, timeouts: {{{first}}}}}, \
             {{name: b, address: ':2', upstream: u, timeouts: {{{second}}}}}]\n\
             upstreams: [{{name: u, backends: ['h:1'], timeouts: {{{upstream}}}}}]\n"
        )
    };
    for (first, second, upstream, limits) in [
        ("", "", "", [seconds(3600); 3]),
        ("", "", "backend_idle: 8h", [seconds(28_800); 3]),
        ("", "", "backend_idle: off", [None; 3]),
        ("client_idle: 8h", "", "", [seconds(28_800), seconds(3600), seconds(28_800)]),
        ("client_idle: 5s", "client_idle: off", "", [seconds(5), None, None]),
        ("client_idle: 5s", "client_idle: 7s", "", [seconds(5), seconds(7), seconds(7)]),
        ("client_idle: 5s", "", "backend_idle: 5s", [seconds(5); 3]),
    ] {
        let config = valid(&text(first, second, upstream));
        let found = [
            config.listeners[0].timeouts.client_idle,
            config.listeners[1].timeouts.client_idle,
            config.upstreams[0].timeouts.backend_idle,
        ];
        assert_eq!(found, limits, "{first}, {second}, {upstream}");
        let noted = config.notes();
        assert_eq!(
            noted.is_empty(),
            limits == [seconds(3600); 3],
            "{first}, {second}, {upstream}: {noted:?}"
        );
    }
}

/// A time alone is a dead peer noticed within two minutes; where `user_timeout` decides, probes are often
/// enough for it.
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
fn comments_may_say_anything() {
    for comment in ["# port: {{ port }}", "# was: [::]:8080", "  # if: {% if %}", "# @x: *:80"] {
        valid(&format!("{comment}\n{}", short("")));
    }
}

#[test]
fn odd_value_without_quotes_is_an_error_and_no_panic() {
    for value in ["*é]:8080", "- *é]:8080", "[é]:80", "*:é", "*:8é"] {
        let text = format!("loadbalancer:\n  listen_address: {value}\nbackends: [{{address: a, port: 1}}]\n");
        assert!(super::super::parse("f", text.as_bytes()).is_err(), "{value}");
    }
}

#[test]
fn admin_endpoints_and_whether_the_file_names_them() {
    let admin = |lines: &str| valid(&short(lines)).admin;
    let default = admin("");
    assert_eq!(default.written, WrittenEndpoints::default());
    assert_eq!((default.endpoints(), default.socket_mode, default.socket_group), (2, 0o600, None));
    let written = admin("admin: {listen_address: '[::1]:99', socket: off}");
    assert_eq!(written.written, WrittenEndpoints { listen_address: true, socket: true });
    assert_eq!((written.endpoints(), written.socket), (1, None));
    // Quoted or not, it is the same text.
    for mode in ["0660", "'0660'"] {
        assert_eq!(admin(&format!("admin: {{socket_mode: {mode}}}")).socket_mode, 0o660);
    }
    assert_eq!(admin("admin: {socket_group: 27}").socket_group, Some(SocketGroup::Number(27)));
    assert_eq!(admin("admin: {socket_group: adm}").socket_group, Some(SocketGroup::Name("adm".into())));
}
