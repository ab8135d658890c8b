//! The section `sni` of a listener.

use std::net::IpAddr;

use super::model::{Sni, SniRoute, Target};
use super::relations::Names;
use super::report::quote;
use super::section::{Read, Section};
use super::tree::Node;
use super::values::{name, off_or, text};
use crate::base::{UpstreamId, limits};
use crate::protocol::client_hello::host_name;

/// Stands for no upstream.
pub(super) const CLOSE: &str = "close";

/// Reads `upstream` and `sni` of a listener: the upstream, and where it does not go.
pub(super) fn routed(s: &mut Section<'_>, upstreams: &mut Names) -> (UpstreamId, Sni) {
    let upstream = s.required("upstream", name);
    let is_routed = s.has("sni") && !s.is_off("sni");
    let routes = if is_routed { s.section("sni", |s| routes(s, upstreams)) } else { Vec::new() };
    let first = routes.iter().find_map(|route| match route.upstream {
        Target::Upstream(id) => Some(id),
        Target::Close => None,
    });
    let closes_others = upstream.as_deref() == Some(CLOSE);
    let upstream = match upstream {
        Some(_) if closes_others && !is_routed => {
            let message = "`close` would refuse every client; name an upstream, or add `sni.routes`";
            s.error_at("upstream", message);
            None
        }
        Some(_) if closes_others => {
            if first.is_none() && !routes.is_empty() {
                s.error_at(
                    "upstream",
                    "`close` here and in every route would refuse every client; name an upstream",
                );
            }
            first
        }
        Some(name) => Some(upstreams.take(s, &name)),
        None => None,
    };
    (upstream.unwrap_or(UpstreamId(0)), Sni::new(routes, closes_others))
}

fn routes(s: &mut Section<'_>, upstreams: &mut Names) -> Vec<SniRoute> {
    let mut routes: Vec<SniRoute> = Vec::new();
    for mut s in s.entries("routes", limits::SNI_ROUTES_MAX, None) {
        let pattern = s.required("match", pattern);
        let alpn = s.value("alpn", None, off_or(protocol));
        let upstream = s.required("upstream", name).map(|name| match &*name {
            CLOSE => Target::Close,
            name => Target::Upstream(upstreams.take(&s, name)),
        });
        if let (Some(name), Some(upstream)) = (pattern, upstream) {
            if routes.iter().any(|route| route.name == name && route.alpn == alpn) {
                let shown = quote(&name);
                let message =
                    format!("{shown} has a route already, with the same `alpn`; remove one of them");
                s.error_at("match", message);
            }
            routes.push(SniRoute { name, alpn, upstream });
        }
        s.finish();
    }
    routes
}

/// Reads a host name, or `*.` before one, as lower case without a final dot.
fn pattern(node: &Node) -> Read<String> {
    let text = text(node)?;
    let (wildcard, name) = text.strip_prefix("*.").map_or(("", text), |name| ("*.", name));
    if name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        let shown = quote(text);
        return Err(format!(
            "{shown} is not a host name, but an address, and no client of TLS asks for one; remove it"
        ));
    }
    if text == "*" {
        return Err(
            "`*` is not possible here; the `upstream` of the listener takes all other names".to_owned()
        );
    }
    let host = name.rsplit_once("://").map_or(name, |(_, host)| host);
    let host = host.split('/').next().unwrap_or_default();
    let is_number = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let host = host.split_once(':').filter(|(_, port)| is_number(port)).map_or(host, |(host, _)| host);
    if host != name && host.parse::<IpAddr>().is_err() && host_name(host.as_bytes()).is_some() {
        return Err(format!("{} is more than a host name; write `{wildcard}{host}`", quote(text)));
    }
    match host_name(name.as_bytes()) {
        Some(name) => Ok(format!("{wildcard}{name}")),
        None if !text.is_ascii() => {
            let shown = quote(text);
            Err(format!("{shown} is not a host name, or `*.` before one; write it in ASCII, as in `xn--...`"))
        }
        None => Err(format!("{} is not a host name, or `*.` before one", quote(text))),
    }
}

/// Reads the name of a protocol (ALPN).
pub(super) fn protocol(node: &Node) -> Read<String> {
    let text = text(node)?;
    let is_one = (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    match is_one {
        true => Ok(text.to_owned()),
        false => Err(format!("{} is not the name of a protocol, as in `h2`", quote(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use crate::config::{Config, Target};
    use crate::protocol::client_hello::ClientHello;

    fn read(upstream: &str, sni: &str) -> Result<Config, String> {
        let text = format!(
            "listeners: [{{name: l, address: ':1', upstream: {upstream}, sni: {sni}}}]\nupstreams:\n\
             \x20 - {{name: a, backends: ['h:1']}}\n  - {{name: b, backends: ['h:1']}}\n  - {{name: c, backends: ['h:1']}}\n"
        );
        parse("f", text.as_bytes()).map(|parsed| parsed.config).map_err(|report| report.to_string())
    }

    const ROUTES: &str =
        "{routes: [{match: '*.Example.com.', upstream: b}, {match: a.example.com, upstream: close},
        {match: h.example.com, upstream: c}, {match: h.example.com, alpn: h2, upstream: b},
        {match: only.example.com, alpn: h3, upstream: c}]}";

    /// Returns the name of the upstream, or `close`.
    fn target(config: &Config, name: Option<&str>, protocols: &[&str]) -> String {
        let protocols = protocols.iter().map(|protocol| protocol.as_bytes());
        let hello = ClientHello::new(name.map(Into::into), protocols);
        match config.listeners[0].target(Some(&hello)).0 {
            Target::Upstream(id) => config.upstreams[id.index()].name.clone(),
            Target::Close => "close".to_owned(),
        }
    }

    #[test]
    fn the_most_specific_route_wins_whatever_the_order() {
        let config = read("a", ROUTES).expect("valid");
        for (name, protocols, expected) in [
            (Some("x.example.com"), &[][..], "b"),
            (Some("a.example.com"), &[], "close"),
            (Some("example.com"), &[], "a"),
            (Some("x.y.example.com"), &[], "a"),
            (Some("other.net"), &[], "a"),
            (None, &["h2"], "a"),
            (Some("h.example.com"), &[], "c"),
            (Some("h.example.com"), &["http/1.1"], "c"),
            (Some("h.example.com"), &["http/1.1", "h2"], "b"),
            (Some("only.example.com"), &["h3"], "c"),
            // No route of the name itself takes it.
            (Some("only.example.com"), &["h2"], "b"),
        ] {
            assert_eq!(target(&config, name, protocols), expected, "{name:?} {protocols:?}");
        }
        let closes = read("close", ROUTES).expect("valid");
        assert_eq!(target(&closes, Some("other.net"), &[]), "close");
        assert_eq!(target(&closes, Some("x.example.com"), &[]), "b");
        for config in [config, closes] {
            let again = parse("f", config.to_yaml().as_bytes()).expect("valid").config;
            assert_eq!((again.listeners, again.upstreams), (config.listeners, config.upstreams));
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (upstream, sni, words) in [
            ("a", "{}", "`routes` is missing"),
            ("a", "{routes: []}", "the list is empty"),
            ("a", "{routes: [{match: a.b, upstream: nobody}]}", "no upstream is called `nobody`"),
            ("a", "{routes: [{match: a.b}]}", "`upstream` is missing"),
            ("a", "{routes: [{upstream: a}]}", "`match` is missing"),
            ("a", "{routes: [{match: 192.0.2.1, upstream: a}]}", "no client of TLS asks for one"),
            ("a", "{routes: [{match: '::1', upstream: a}]}", "no client of TLS asks for one"),
            ("a", "{routes: [{match: '*', upstream: a}]}", "takes all other names"),
            ("a", "{routes: [{match: 'a.*.b', upstream: a}]}", "is not a host name"),
            ("a", "{routes: [{match: 'a.b:443', upstream: a}]}", "write `a.b`"),
            ("a", "{routes: [{match: 'https://a.b/c', upstream: a}]}", "write `a.b`"),
            ("a", "{routes: [{match: '2001:db8::/32', upstream: a}]}", "is not a host name"),
            ("a", "{routes: [{match: '10.0.0.1:443', upstream: a}]}", "is not a host name"),
            ("a", "{routes: [{match: *.b.c, upstream: a}]}", "begins with `*` needs quotes: `\"*.b.c\"`"),
            ("a", "{routes: [{match: m\u{fc}nchen.de, upstream: a}]}", "`xn--...`"),
            ("a", "{routes: [{match: a.b, alpn: 'h 2', upstream: a}]}", "is not the name of a protocol"),
            ("a", "{routes: [{match: a.b, upstream: a}, {match: A.B., upstream: b}]}", "has a route already"),
            ("close", "off", "`close` would refuse every client"),
            ("close", "{routes: [{match: a.b, upstream: close}]}", "in every route"),
        ] {
            let report = read(upstream, sni).expect_err(sni);
            assert!(report.contains(words) && report.contains("1 error"), "{sni}: {report}");
        }
        let many: Vec<_> = (0..1_025).map(|number| format!("{{match: n{number}, upstream: a}}")).collect();
        let report = read("a", &format!("{{routes: [{}]}}", many.join(", "))).expect_err("too many");
        assert!(report.contains("1025 entries; at most 1024 fit"), "{report}");
        let close = "listeners: [{name: l, address: ':1', upstream: close}]\n\
                     upstreams: [{name: close, backends: ['h:1']}]\n";
        let report = parse("f", close.as_bytes()).expect_err("a name that means something else").to_string();
        assert!(report.contains("`close` stands for no upstream"), "{report}");
        let short = "loadbalancer: {listen_address: ':1', sni: {routes: []}}\nbackends: ['h:1']\n";
        let report = parse("f", short.as_bytes()).expect_err("the short form").to_string();
        assert!(report.contains("`sni` does not belong here"), "{report}");
    }
}
