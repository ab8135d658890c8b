//! `haproxy.cfg`.

use super::*;
use crate::config::{BackendAlpn, CheckKind, OverLimit, TlsVersion};

#[track_caller]
fn haproxy(text: &str) -> (Config, Import) {
    translated(text, Format::Haproxy)
}

/// A proxy with one address and one server, and `lines` from line 4 on.
fn listen(lines: &str) -> String {
    format!("listen a\nbind 127.0.0.1:80\nserver b 10.0.0.1:1 check\n{lines}\n")
}

#[track_caller]
fn addresses(binds: &str) -> Vec<String> {
    let (config, _) = haproxy(&format!("listen a\n{binds}\nserver b 10.0.0.1:1\n"));
    config.listeners.iter().map(|listener| listener.address.to_string()).collect()
}

#[test]
fn each_address_of_a_bind_is_a_listener() {
    assert_eq!(addresses("bind :80,127.0.0.1:81\nbind *:82"), [":80", "127.0.0.1:81", ":82"]);
    assert_eq!(addresses("bind :::80 v4v6\nbind [::1]:81\nbind ::1:82"), [":80", "[::1]:81", "[::1]:82"]);
    assert_eq!(
        addresses("bind ipv4@10.0.0.9:80\nbind 0.0.0.0:9\nbind unix@/run/a mode 600\nbind /run/b"),
        ["10.0.0.9:80", "0.0.0.0:9", "unix:/run/a", "unix:/run/b"]
    );
}

#[test]
fn every_ipv4_address_stays_apart_from_ipv6() {
    assert_eq!(addresses("bind :80\nbind :::80 v6only"), ["0.0.0.0:80", "[::]:80"]);
    assert_eq!(addresses("bind :80\nbind [2001:db8::1]:80"), ["0.0.0.0:80", "[2001:db8::1]:80"]);
}

#[test]
fn bind_that_would_mean_something_else_is_left_out() {
    let binds = "listen a\nbind :1\nbind :443 ssl\nbind :2 accept-proxy\nbind :1000-1010\nbind abns@x\n\
                 bind name.example:3\nbind \"$ADDRESS\":4\nbind :5 interface eth0 maxconn 9 tfo defer-accept mss 9\nserver b 10.0.0.1:1\n";
    let (config, import) = haproxy(binds);
    assert_eq!(config.listeners.len(), 3);
    assert_eq!(
        [0, 1, 2].map(|at: usize| config.listeners[at].proxy_protocol.is_required()),
        [false, true, false]
    );
    let last = &config.listeners[2];
    assert_eq!((last.max_connections.map(u32::from), last.over_limit), (Some(9), OverLimit::Wait));
    assert_eq!(last.tcp.interface.as_deref(), Some("eth0"));
    assert!(last.tcp.options.fast_open && last.tcp.defer_accept.is_some());
    for (line, words) in [
        (3, "`ssl` without `crt`"),
        (5, "range of ports"),
        (6, "abns@"),
        (7, "host names are not looked up"),
        (8, "environment variable"),
        (9, "mss 9"),
    ] {
        reported(&import, line, words);
    }
}

#[test]
fn proxies_take_the_defaults_before_them_or_those_they_name() {
    let text = "defaults one\n timeout connect 1s\ndefaults two\n timeout connect 2s\n\
                listen a\n bind :1\n server b 10.0.0.1:1\n\
                listen c from one\n bind :2\n server b 10.0.0.1:1\n\
                defaults three from one\n retries 7\nlisten d\n bind :3\n server b 10.0.0.1:1\n";
    let (config, _) = haproxy(text);
    let connect: Vec<_> =
        config.upstreams.iter().map(|upstream| upstream.timeouts.connect.as_secs()).collect();
    assert_eq!(connect, [2, 1, 1]);
    assert_eq!(config.upstreams[2].retries, 7);
}

#[test]
fn units_are_those_of_haproxy() {
    for (written, millis) in [("1500", 1_500), ("3s", 3_000), ("2m", 120_000), ("10us", 1), ("250ms", 250)] {
        let (config, _) = haproxy(&listen(&format!("timeout connect {written}")));
        assert_eq!(config.upstreams[0].timeouts.connect.as_millis(), millis, "{written}");
    }
    let (_, import) = haproxy(&listen("timeout connect 5x\ntimeout client 0"));
    reported(&import, 4, "not a time");
    assert!(import.yaml.is_some_and(|yaml| yaml.contains("client_idle: off")));
}

#[test]
fn words_are_read_as_haproxy_reads_them() {
    let check = r#"option tcp-check
tcp-check send PING\r\n
tcp-check expect string "+PO\x4eG # \"x\""
tcp-check send-binary 00ff \
  # the rest of a continued line
tcp-check expect string 'a\b'
tcp-check expect rstring ^x"#;
    let (config, import) = haproxy(&listen(check));
    reported(&import, 10, "plain bytes");
    assert_eq!(config.upstreams[0].healthcheck.as_ref().map(|check| check.interval.as_secs()), Some(2));
    let (_, import) = haproxy(&listen(check.rsplit_once('\n').expect("lines").0));
    let yaml = import.yaml.expect("a configuration");
    for words in
        [r#"send: "PING\\r\\n""#, r#"expect: "+PONG # \\\"x\\\"""#, r#"send: "\\x00\\xff""#, r#""a\\\\b""#]
    {
        assert!(yaml.contains(words), "{words} is not in\n{yaml}");
    }
}

#[test]
fn checks_go_through_tls_where_sessions_do() {
    let import = |rules: &str, server: &str| {
        haproxy(&format!("listen a\nbind :1\n{rules}server b 10.0.0.1:1 check {server}\n"))
    };
    let kind = |rules: &str, server: &str| {
        let (config, import) = import(rules, server);
        assert!(import.left_out.is_empty(), "{:?}", import.left_out);
        config.upstreams[0].healthcheck.as_ref().expect("it is on").kind.clone()
    };
    let ssl = "ssl verify none";
    assert!(matches!(kind("option httpchk\n", ssl), CheckKind::Http(_)));
    assert!(matches!(kind("option httpchk\n", &format!("{ssl} check-ssl")), CheckKind::Http(_)));
    assert!(matches!(kind("option redis-check\n", ssl), CheckKind::Redis));
    assert!(matches!(kind("", ssl), CheckKind::Tls { .. }));
    assert!(matches!(kind("", ""), CheckKind::Tcp));
    let (config, without) = import("option httpchk\n", "check-ssl");
    assert!(matches!(
        config.upstreams[0].healthcheck.as_ref().expect("it is on").kind,
        CheckKind::Tls { .. }
    ));
    reported(&without, 4, "there is no HTTPS in checks of an upstream without `tls`");
    let (_, other_port) = import("option httpchk\n", &format!("{ssl} port 8080"));
    reported(&other_port, 4, "those of HAProxy at another port do not");
}

#[test]
fn unchecked_servers_stay_unchecked() {
    let (config, _) = haproxy("listen a\nbind :1\noption tcp-check\nserver b 10.0.0.1:1\n");
    assert!(config.upstreams[0].healthcheck.is_none());
}

#[test]
fn algorithms_have_counterparts_or_are_reported() {
    for (balance, name) in [
        ("roundrobin", "round_robin"),
        ("static-rr", "round_robin"),
        ("leastconn", "least_connections"),
        ("first", "first"),
        ("random(3)", "random"),
        ("source", "source_hash"),
        ("hash src", "source_hash"),
    ] {
        let (config, import) = haproxy(&listen(&format!("balance {balance}")));
        assert_eq!(config.upstreams[0].algorithm.name, name, "{balance}");
        assert!(import.left_out.is_empty(), "{:?}", import.left_out);
    }
    let (_, import) = haproxy(&listen("balance rdp-cookie\nbalance url_param x"));
    reported(&import, 5, "looks into the bytes");
}

#[test]
fn servers_that_need_more_than_tcp_are_left_out() {
    let text = "listen a\nbind :1\nserver a 10.0.0.1:1 socks4 10.0.0.8:1\nserver b 10.0.0.2:2 socks4 10.0.0.9:1\n\
                server c 10.0.0.3\nserver d 10.0.0.4:+1 weight 0 backup\nserver e 10.0.0.5:5 disabled maxconn 3\n\
                server f \"${HOST}\":1\nserver g unix@/run/g\n";
    let (config, import) = haproxy(text);
    let shown = |at: usize| config.upstreams[0].backends[at].address.to_string();
    // The port that clients come to, and one above.
    assert_eq!(
        [shown(0), shown(1), shown(2), shown(3)],
        ["10.0.0.3:1", "10.0.0.4:2", "10.0.0.5:5", "unix:/run/g"]
    );
    reported(&import, 3, "no SOCKS");
    reported(&import, 4, "no SOCKS");
    reported(&import, 8, "environment variable");
}

#[test]
fn tls_of_clients_is_that_of_the_listener() {
    let keys = |bind: &str| {
        let (config, import) = haproxy(&format!("listen a\nbind :1 {bind}\nbind :2\nserver b 10.0.0.1:1\n"));
        let tls = config.listeners[0].tls.as_ref().map(|tls| (**tls).clone());
        (tls, import)
    };
    let (tls, import) = keys(
        "ssl crt /etc/a.pem crt b.pem ca-file ca.pem verify required crl-file crl.pem alpn h2,http/1.1 ssl-min-ver TLSv1.3",
    );
    let tls = tls.expect("it is taken over");
    let files = tls.certificates.iter().map(|one| (one.certificate.display().to_string(), one.key.clone()));
    assert_eq!(
        files.collect::<Vec<_>>(),
        [("/etc/a.pem".to_owned(), "/etc/a.pem".into()), ("b.pem".to_owned(), "b.pem".into())]
    );
    assert_eq!(tls.client_ca.as_ref().map(ToString::to_string).as_deref(), Some("ca.pem"));
    assert_eq!(
        (tls.client_crl.len(), &*tls.alpn, tls.min_version),
        (1, &["h2", "http/1.1"].map(String::from)[..], TlsVersion::V13)
    );
    assert!(import.left_out.is_empty(), "{:?}", import.left_out);
    let (tls, import) = keys("ssl crt a.pem verify optional ca-file ca.pem ciphers AES crt-list x");
    assert!(tls.is_some_and(|tls| tls.client_ca.is_none()));
    for words in ["see `tls.client_ca`", "always what is safe today", "crt-list x: list its certificates"] {
        reported(&import, 2, words);
    }
    for (bind, words) in
        [("ssl", "`ssl` without `crt`"), ("ssl crt a.pem verify required", "without `ca-file`")]
    {
        let (tls, import) = keys(bind);
        assert!(tls.is_none());
        reported(&import, 2, words);
    }
    // What cannot be taken over leaves no listener without TLS behind.
    let (config, import) = haproxy("listen a\nbind :1 ssl crt a.pem alpn ''\nbind :2\nserver b 10.0.0.1:1\n");
    assert_eq!(config.listeners.len(), 1);
    reported(&import, 2, "is not the name of a protocol");
}

#[test]
fn tls_of_servers_is_that_of_the_upstream() {
    let keys = |servers: &str| {
        let (config, import) = haproxy(&format!("listen a\nbind :1\n{servers}"));
        let tls = config.upstreams[0].tls.as_ref().map(|tls| (**tls).clone());
        (tls, config.upstreams[0].backends.len(), import)
    };
    let (tls, ..) =
        keys("server a 10.0.0.1:1 ssl verify required ca-file ca.pem sni str(a.b) crt own.pem alpn h2\n");
    let tls = tls.expect("it is taken over");
    assert_eq!(
        (tls.ca.to_string().as_str(), tls.server_name.as_deref(), tls.verify),
        ("ca.pem", Some("a.b"), true)
    );
    assert_eq!(
        tls.identity.map(|own| (own.certificate, own.key)),
        Some(("own.pem".into(), "own.pem".into()))
    );
    assert_eq!(tls.alpn, BackendAlpn::List(vec!["h2".to_owned()]));
    let (tls, ..) = keys("default-server ssl verifyhost c.d\nserver a 10.0.0.1:1\nserver b 10.0.0.2:1\n");
    assert!(
        tls.is_some_and(|tls| tls.ca.to_string() == "system" && tls.server_name.as_deref() == Some("c.d"))
    );
    let (tls, backends, import) =
        keys("server a 10.0.0.1:1 ssl verify none sni req.hdr(host)\nserver b 10.0.0.2:1\n");
    assert!(tls.is_some_and(|tls| !tls.verify) && backends == 1);
    reported(&import, 3, "the name is the same for every client");
    reported(&import, 4, "this server differs from the first one");
}

#[test]
fn backends_are_announced_to_as_all_servers_want_it() {
    let version = |servers: &str| {
        let (config, import) = haproxy(&format!("listen a\nbind :1\n{servers}"));
        (config.upstreams[0].send_proxy, import)
    };
    use crate::protocol::proxy::Version::{V1, V2};
    assert_eq!(version("server a 10.0.0.1:1 send-proxy check check-send-proxy\n").0, Some(V1));
    assert_eq!(
        version("default-server send-proxy-v2\nserver a 10.0.0.1:1\nserver b 10.0.0.2:1\n").0,
        Some(V2)
    );
    let (of_tls, import) = version("server a 10.0.0.1:1 send-proxy-v2-ssl\n");
    assert_eq!(of_tls, Some(V2));
    reported(&import, 3, "says nothing of TLS");
    let (mixed, import) = version("server a 10.0.0.1:1 send-proxy\nserver b 10.0.0.2:1\n");
    assert_eq!(mixed, None);
    reported(&import, 4, "these servers differ in it");
}

#[test]
fn fast_open_is_for_backends_that_all_want_it() {
    let fast_open = |servers: &str| {
        let (config, import) = haproxy(&format!("listen a\nbind :1\n{servers}\n"));
        (config.upstreams[0].tcp.fast_open, import)
    };
    let all = "default-server tfo\nserver a 10.0.0.1:1\nserver b 10.0.0.2:1";
    let (of_all, import) = fast_open(all);
    assert!(of_all && import.left_out.is_empty(), "{:?}", import.left_out);
    assert!(import.yaml.is_some_and(|yaml| yaml.contains("`client_first` of a listener waits for them")));
    for (servers, line, words) in [
        (format!("{all} no-tfo"), 4, "other servers are without"),
        ("server a 10.0.0.1:1\nserver b 10.0.0.2:1 tfo".to_owned(), 4, "other servers are without"),
        ("server a 10.0.0.1:1 tfo send-proxy".to_owned(), 3, "beside TLS or a PROXY header"),
        ("server a 10.0.0.1:1 tfo ssl verify none".to_owned(), 3, "beside TLS or a PROXY header"),
    ] {
        let (mixed, import) = fast_open(&servers);
        assert!(!mixed, "{servers}");
        reported(&import, line, words);
        assert_eq!(import.left_out.len(), 1, "{:?}", import.left_out);
    }
    let (without, import) = fast_open("server a 10.0.0.1:1");
    assert!(!without && import.left_out.is_empty(), "{:?}", import.left_out);
}

#[test]
fn smart_accept_and_smart_connect_spare_an_acknowledgement_on_their_side_alone() {
    let quick_acks = |text: &str| {
        let (config, import) = haproxy(text);
        (config.listeners[0].tcp.options.quick_ack, config.upstreams[0].tcp.quick_ack, import)
    };
    let sides = |defaults: &str, front: &str, back: &str| {
        let front = format!("frontend f\n bind :1\n default_backend b\n {front}\n");
        let back = format!("backend b\n server a 10.0.0.1:1\n {back}\n");
        quick_acks(&format!("defaults\n {defaults}\n{front}{back}"))
    };
    let (accept, connect) = ("option tcp-smart-accept", "option tcp-smart-connect");
    for (defaults, front, back, expected) in [
        ("", "", "", (true, true)),
        (accept, "", "", (false, true)),
        (connect, "", "", (true, false)),
        ("", accept, connect, (false, false)),
        (accept, "no option tcp-smart-accept", "", (true, true)),
    ] {
        let (listener, upstream, import) = sides(defaults, front, back);
        assert_eq!((listener, upstream), expected, "{defaults}; {front}; {back}");
        assert!(import.left_out.is_empty(), "{:?}", import.left_out);
    }
    let (listener, upstream, _) = quick_acks(&listen(&format!("{accept}\n{connect}")));
    assert!(!listener && !upstream);
    // HAProxy ignores them on the other side, with a warning.
    let (listener, upstream, import) = sides("", connect, accept);
    assert!(listener && upstream);
    reported(&import, 6, "no effect in a frontend");
    reported(&import, 9, "no effect in a backend");
}

#[test]
fn limits_of_a_frontend_are_those_of_its_listeners() {
    let (config, _) = haproxy("listen a\nbind :1\nmaxconn 9\nrate-limit sessions 50\nserver b 10.0.0.1:1\n");
    let listener = &config.listeners[0];
    assert_eq!((listener.max_connections.map(u32::from), listener.over_limit), (Some(9), OverLimit::Wait));
    assert_eq!(listener.rate_limit.map(|limit| limit.rate.to_string()), Some("50/s".to_owned()));
}

#[test]
fn what_nobody_asked_for_is_reported() {
    let lines = "acl x src 10.0.0.0/8\ntcp-request connection reject if x\nuse_backend c if x\nstick-table type ip\n\
                 fullconn 9\nrate-limit x\noption httplog\ntimeout tarpit 1s\nsomething new\nlog global\nstats enable";
    let (_, import) = haproxy(&listen(lines));
    for line in 4..=14 {
        reported(&import, line, ": ");
    }
    let yaml = import.yaml.expect("a configuration");
    assert!(yaml.contains("the rule in line 5 is not taken over: every client gets in"), "{yaml}");
    assert!(yaml.contains("`use_backend` in line 6"), "{yaml}");
}

#[test]
fn conditions_and_what_follows_a_section_in_one_are_reported() {
    let text = ".if defined(X)\nlisten z\n bind :9\n.endif\n retries 3\n".to_owned() + &listen(".notice x");
    let (config, import) = haproxy(&text);
    assert_eq!(config.listeners.len(), 1);
    for line in [1, 2, 3, 4, 5, 9] {
        reported(&import, line, ": ");
    }
}

#[test]
fn frontend_needs_a_backend_that_is_taken_over() {
    let text = "frontend a\n bind :1\n default_backend h\nfrontend b\n bind :2\n use_backend t if x\n\
                backend h\n mode http\n server x 10.0.0.1:1\nbackend t\n server x 10.0.0.1:1\n\
                frontend c\n bind :3\n default_backend t\n timeout server 1s\n";
    let (config, import) = haproxy(text);
    assert_eq!(config.listeners.len(), 1);
    reported(&import, 1, "`default_backend` h is not taken over");
    reported(&import, 4, "no `default_backend`");
    reported(&import, 7, "mode http");
    reported(&import, 15, "no effect in a frontend");
}

#[test]
fn what_the_configuration_refuses_is_taken_out_with_its_words() {
    let text = "listen a\n bind :1\n retries 500\n server a 10.0.0.1:1\n server b 10.0.0.2:99999\n\
                listen c\n bind :1\n server a 10.0.0.1:1\n\
                listen d\n bind 127.0.0.1:7\n server a 127.0.0.1:7\n";
    let (config, import) = haproxy(text);
    assert_eq!((config.listeners.len(), config.upstreams[0].backends.len()), (1, 1));
    reported(&import, 3, "whole number from 0 to 100");
    reported(&import, 5, "not a port");
    reported(&import, 7, "overlaps");
    reported(&import, 11, "circle");
    reported(&import, 10, "nobody would serve it");
}

#[test]
fn checks_of_a_protocol_keep_user_and_name() {
    for (line, words) in [
        ("option redis-check", &["type: redis", "is up here"][..]),
        ("option pgsql-check user lb", &["type: postgres", "user: lb"]),
        ("option mysql-check", &["type: mysql", "may be denied"]),
        ("option mysql-check user lb post-80", &["type: mysql", "user: lb"]),
        ("option smtpchk", &["type: smtp"]),
        ("option smtpchk EHLO lb.example", &["type: smtp", "host: lb.example"]),
    ] {
        let (_, import) = haproxy(&listen(line));
        let yaml = import.yaml.expect("a configuration");
        assert!(words.iter().all(|words| yaml.contains(words)), "{words:?} are not in\n{yaml}");
    }
    let (_, import) = haproxy(&listen("option mysql-check user lb pre-41"));
    reported(&import, 4, "older than MySQL 4.1");
}

#[test]
fn http_checks_keep_path_host_and_status() {
    let lines =
        "option httpchk HEAD /up HTTP/1.1\\r\\nHost:\\ example.com\nhttp-check expect status 200-299,301";
    let (_, import) = haproxy(&listen(lines));
    let yaml = import.yaml.expect("a configuration");
    for words in ["path: /up", "host: example.com", "200-299, 301", "HAProxy asked with HEAD"] {
        assert!(yaml.contains(words), "{words} is not in\n{yaml}");
    }
    let (_, import) = haproxy(&listen("option httpchk\nhttp-check expect string ok\nhttp-check send-state"));
    reported(&import, 5, "status alone");
    reported(&import, 6, "no counterpart");
}
