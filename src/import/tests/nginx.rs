//! `nginx.conf`.

use super::*;
use crate::config::TlsVersion;

#[track_caller]
fn nginx(stream: &str) -> (Config, Import) {
    translated(format!("stream {{\n{stream}\n}}\n"), Format::Nginx)
}

#[test]
fn addresses_and_their_options() {
    let (config, import) = nginx(
        "server {\nlisten 80;\nlisten [::]:80;\nlisten 127.0.0.1:81 backlog=9 so_keepalive=30::7;\n\
         listen unix:/run/a;\nlisten [::]:82 ipv6only=off;\nlisten 83 udp;\nlisten 84 ssl;\n\
         listen 85-87;\nlisten 88 proxy_protocol;\nlisten 127.0.0.1;\nlisten 89 rcvbuf=1k;\nproxy_pass 10.0.0.1:1;\n}",
    );
    let addresses: Vec<_> = config.listeners.iter().map(|listener| listener.address.to_string()).collect();
    assert_eq!(addresses, ["0.0.0.0:80", "[::]:80", "127.0.0.1:81", "unix:/run/a", ":82", ":88", ":89"]);
    let announced = config.listeners.iter().filter(|listener| listener.proxy_protocol.is_required());
    assert_eq!(announced.map(|listener| listener.address.to_string()).collect::<Vec<_>>(), [":88"]);
    let keepalive = config.listeners[2].tcp.options.keepalive.as_ref().expect("keepalive");
    assert_eq!((keepalive.idle.as_secs(), keepalive.count), (30, 7));
    for (line, words) in [
        (8, "UDP"),
        (9, "needs its `ssl_certificate_key`"),
        (10, "range"),
        (12, "no port"),
        (13, "rcvbuf=1k"),
    ] {
        reported(&import, line, words);
    }
}

#[test]
fn servers_of_an_upstream() {
    let (config, import) = nginx(
        "upstream u {\nzone z 64k;\nhash $remote_addr consistent;\nserver a.example:1 weight=5 max_conns=7 resolve;\n\
         server unix:/run/b down;\nserver [2001:db8::1]:2 backup;\nserver c.example;\nserver d:1 service=x;\n\
         keepalive 9;\n}\nserver { listen 1; proxy_pass u; }",
    );
    let upstream = &config.upstreams[0];
    let shown: Vec<_> = upstream
        .backends
        .iter()
        .map(|backend| (backend.name.as_str(), backend.address.to_string(), backend.weight, backend.backup))
        .collect();
    assert_eq!(
        shown,
        [
            ("u1", "a.example:1".to_owned(), 5, false),
            ("u2", "unix:/run/b".to_owned(), 0, false),
            ("u3", "[2001:db8::1]:2".to_owned(), 1, true)
        ]
    );
    assert_eq!(upstream.algorithm.name, "source_hash");
    for (line, words) in [(8, "no port"), (9, "SRV"), (10, "no counterpart")] {
        reported(&import, line, words);
    }
}

#[test]
fn algorithms_have_counterparts_or_are_reported() {
    for (line, name) in [
        ("", "round_robin"),
        ("least_conn;", "least_connections"),
        ("random two least_conn;", "random"),
        ("least_time connect;", "peak_ewma"),
        ("hash $remote_addr;", "source_hash"),
        ("hash ${remote_addr}:${remote_port};", "source_hash"),
    ] {
        let (config, import) =
            nginx(&format!("upstream u {{ {line} server a:1; }}\nserver {{ listen 1; proxy_pass u; }}"));
        assert_eq!(config.upstreams[0].algorithm.name, name, "{line}");
        assert!(import.left_out.is_empty(), "{:?}", import.left_out);
    }
    let (_, import) = nginx("upstream u { hash $ssl_name; server a:1; }\nserver { listen 1; proxy_pass u; }");
    reported(&import, 2, "client's address");
}

#[test]
fn servers_of_other_settings_have_an_upstream_of_their_own() {
    let (config, _) = nginx(
        "proxy_connect_timeout 3s;\nupstream u { server a:1; }\nserver { listen 1; proxy_pass u; }\n\
         server { listen 2; proxy_pass u; }\nserver { listen 3; proxy_pass u; proxy_connect_timeout 1m; }",
    );
    let names: Vec<_> = config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    assert_eq!(names, ["u", "u-2"]);
    let of: Vec<_> = config.listeners.iter().map(|listener| listener.upstream.index()).collect();
    assert_eq!(of, [0, 0, 1]);
    let timeouts = &config.upstreams[1].timeouts;
    assert_eq!(timeouts.connect.as_secs(), 60);
    // What three attempts of a minute take.
    assert_eq!(timeouts.establish.map(|time| time.as_secs()), Some(180));
}

#[test]
fn servers_that_need_more_than_tcp_are_left_out() {
    let (config, import) = nginx(
        "server { listen 1; proxy_pass 10.0.0.1:1; }\nserver { listen 2; proxy_pass $name; }\n\
         server { listen 3 udp; proxy_pass a:1; }\nserver { listen 4; return x; }\n\
         server { listen 5; proxy_pass nowhere; }\nserver { listen 6; proxy_pass a:1;\nlimit_conn z 1; }\n\
         include other;\nmap $x $y { a b; }\nupstream unused { server a:1; }",
    );
    assert_eq!(config.listeners.len(), 2);
    for (line, words) in [
        (3, "depends on a variable"),
        (4, "no UDP"),
        (5, "no `proxy_pass`"),
        (6, "no port"),
        (8, "see `per_source`"),
        (9, "nginx -T"),
        (10, "fixed for each listener"),
        (11, "no `server`"),
    ] {
        reported(&import, line, words);
    }
    let yaml = import.yaml.expect("a configuration");
    assert!(yaml.contains("`limit_conn` in line 8 is not taken over: every client gets in"), "{yaml}");
}

#[test]
fn rules_on_clients_are_taken_over_where_their_order_allows_it() {
    let lists = |rules: &str| {
        let (config, import) =
            nginx(&format!("deny 192.0.2.9;\nserver {{ listen 6; proxy_pass a:1; {rules} }}"));
        let listener = &config.listeners[0];
        let words = |list: &crate::config::AccessList| {
            list.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        (words(&listener.allow), words(&listener.deny), import)
    };
    let of = |rules: &str| {
        let (allow, deny, _) = lists(rules);
        format!("{allow}|{deny}")
    };
    assert_eq!(of(""), "|192.0.2.9/32", "those of `stream`");
    assert_eq!(of("allow 10.0.0.0/8; deny all;"), "10.0.0.0/8|");
    assert_eq!(
        of("deny 10.6.0.0/16; allow 10.0.0.0/8; allow unix:; deny all;"),
        "10.0.0.0/8 unix:|10.6.0.0/16"
    );
    assert_eq!(of("deny 10.6.0.0/16; allow all; deny all;"), "|10.6.0.0/16");
    assert_eq!(of("allow 10.0.0.0/8;"), "|");
    assert_eq!(of("deny all;"), "|any");
    let (allow, deny, import) = lists("allow 10.6.6.6; deny 10.6.0.0/16;");
    assert_eq!((allow.as_str(), deny.as_str()), ("", ""));
    reported(&import, 3, "put those first");
    assert!(
        import
            .yaml
            .is_some_and(|yaml| yaml.contains("`deny` in line 3 is not taken over: every client gets in"))
    );
}

#[test]
fn quotes_comments_and_faults_of_syntax() {
    let text = "events{worker_connections 64;}# {\nworker_processes 2;\nstream{server{listen '1';proxy_pass \"a:1\";}}\n}\n\
                a \"b;\n";
    let (config, import) = translated(text, Format::Nginx);
    assert_eq!(config.runtime.max_connections.map(u32::from), Some(64));
    reported(&import, 4, "closes no block");
    reported(&import, 5, "not ended");
}

#[test]
fn tls_is_that_of_listeners_and_upstreams() {
    let (config, import) = nginx(
        "ssl_certificate old.pem;\nssl_certificate_key old-key.pem;\nssl_protocols TLSv1.3;\n\
         server { listen 1 ssl; proxy_pass a:1; }\n\
         server { listen 2 ssl; listen 3; proxy_pass a:1;\nssl_certificate a.pem; ssl_certificate_key a-key.pem;\n\
         ssl_certificate b.pem; ssl_certificate_key b-key.pem; ssl_alpn h2 http/1.1; ssl_protocols TLSv1.2 TLSv1.3;\n\
         ssl_client_certificate ca.pem; ssl_verify_client on; ssl_crl crl.pem; }",
    );
    assert!(import.left_out.is_empty(), "{:?}", import.left_out);
    let tls = |at: usize| config.listeners[at].tls.as_deref();
    let files = |at: usize| {
        let all = tls(at).expect("it is taken over").certificates.iter();
        all.map(|one| format!("{} {}", one.certificate.display(), one.key.display())).collect::<Vec<_>>()
    };
    assert_eq!(files(0), ["old.pem old-key.pem"]);
    assert_eq!(files(1), ["a.pem a-key.pem", "b.pem b-key.pem"]);
    let (one, two) = (tls(0).expect("it is there"), tls(1).expect("it is there"));
    assert_eq!([one.min_version, two.min_version], [TlsVersion::V13, TlsVersion::V12]);
    assert_eq!((two.alpn.len(), two.client_crl.len(), two.client_ca.is_some()), (2, 1, true));
    assert!(tls(2).is_none());

    let upstream = |lines: &str| {
        let (config, _) = nginx(&format!("server {{ listen 1; proxy_pass a:1; proxy_ssl on; {lines} }}"));
        config.upstreams[0].tls.as_deref().expect("it is taken over").clone()
    };
    assert!(!upstream("").verify);
    let checked = upstream(
        "proxy_ssl_verify on; proxy_ssl_trusted_certificate ca.pem; proxy_ssl_name a.b; proxy_ssl_certificate c.pem; \
         proxy_ssl_certificate_key k.pem;",
    );
    assert_eq!((checked.ca.to_string().as_str(), checked.server_name.as_deref()), ("ca.pem", Some("a.b")));
    assert!(checked.verify && checked.identity.is_some());
    let (_, import) = nginx(
        "server { listen 1; listen 2 ssl; proxy_pass a:1;\nssl_certificate $name.pem; ssl_certificate_key k.pem; }\n\
         server { listen 3 ssl; proxy_pass a:1; ssl_certificate c; ssl_certificate_key k;\nssl_verify_client optional; }",
    );
    reported(&import, 2, "has to be a file");
    reported(&import, 5, "see `tls.client_ca`");
}
