//! The section `proxy_protocol` of a listener.

use std::net::IpAddr;

use ipnet::IpNet;

use super::model::{Accept, ListenAddress, ProxyProtocol, Trusted};
use super::report::quote;
use super::section::{Read, Section};
use super::tree::{Node, Value};
use super::values::{off_or, one_of, text};
use crate::base::limits;
use crate::protocol::proxy::Version;

const ACCEPTS: &[(&str, Accept)] = &[("required", Accept::Required)];

/// Words of `send_proxy`.
pub(super) const VERSIONS: &[(&str, Version)] = &[("v1", Version::V1), ("v2", Version::V2)];

pub(super) fn proxy_protocol(s: &mut Section<'_>, address: &ListenAddress) -> ProxyProtocol {
    s.section_or_off("proxy_protocol", |s| {
        let accept = s.value("accept", None, off_or(one_of(ACCEPTS)));
        let has_trusted = s.has("trusted");
        let read = s.optional("trusted", trusted);
        let is_read = read.is_some() || !has_trusted;
        let proxy = ProxyProtocol { accept, trusted: read.unwrap_or_default() };
        if proxy.is_required() && is_read {
            somebody_is_trusted(s, &proxy, address);
        } else if !proxy.is_required() {
            s.warn_own("trusted", "`trusted` has no effect without `accept: required`");
        }
        proxy
    })
}

/// Refuses a listener that would turn everybody away.
fn somebody_is_trusted(s: &Section<'_>, proxy: &ProxyProtocol, address: &ListenAddress) {
    const SUCH: &str = "list the proxies in front, as in `[10.0.0.1, 10.1.0.0/16]`, or `[any]`";
    if proxy.trusted.is_empty() {
        let what = if s.has("trusted") { "empty" } else { "missing" };
        let message =
            format!("`trusted` is {what}; `accept: required` needs to know whom to believe: {SUCH}");
        return s.error_at("trusted", message);
    }
    let is_of_unix = |trusted: &Trusted| matches!(trusted, Trusted::Unix);
    let message = match address {
        // An empty path stands for an address that is missing, or not known yet.
        ListenAddress::Unix(path) if path.as_os_str().is_empty() => return,
        ListenAddress::Unix(_) if !proxy.trusts(crate::base::ClientAddress::UNIX) => {
            "no client of a `unix:` listener is trusted; add `unix:`".to_owned()
        }
        ListenAddress::Unix(_) => return,
        _ if proxy.trusted.iter().all(is_of_unix) => {
            format!("`unix:` alone trusts nobody on this address; {SUCH}")
        }
        _ => return,
    };
    s.error_at("trusted", message);
}

/// Reads a list of peers.
fn trusted(node: &Node) -> Read<Vec<Trusted>> {
    let most = limits::TRUSTED_MAX;
    match &node.value {
        Value::List(nodes) if nodes.len() > most => {
            Err(format!("{} entries; at most {most} fit", nodes.len()))
        }
        Value::List(nodes) => nodes.iter().map(|node| peer(node)).collect(),
        _ => {
            let shown = quote(text(node)?);
            Err(format!(
                "{shown} is not a list of at most {most} addresses and networks, `unix:` or `any`; write `[...]`"
            ))
        }
    }
}

fn peer(node: &Node) -> Read<Trusted> {
    match text(node)? {
        "any" => Ok(Trusted::Any),
        "unix:" => Ok(Trusted::Unix),
        text => network(text).map(Trusted::Network),
    }
}

/// Reads an address, or a network such as `10.0.0.0/8`; a mapped one is IPv4.
fn network(text: &str) -> Read<IpNet> {
    let shown = quote(text);
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(ip.to_canonical().into());
    }
    let network: IpNet = text.parse().map_err(|_| {
        format!("{shown} is not an address, a network such as `10.0.0.0/8`, `unix:` or `any`")
    })?;
    let network = match (network.addr().to_canonical(), network.prefix_len().checked_sub(96)) {
        (IpAddr::V4(ip), Some(length)) if network.max_prefix_len() == 128 => {
            IpNet::new(ip.into(), length).map_err(|_| format!("{shown} is not a network"))?
        }
        _ => network,
    };
    if network.network() != network.addr() {
        let all = network.trunc();
        return Err(format!("{shown} has bits behind its prefix; write `{all}`, or the address alone"));
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    fn read(listener: &str) -> Result<Vec<String>, String> {
        let text = format!(
            "loadbalancer: {{listen_address: ':1', {listener}}}\nbackends: [{{address: a, port: 1}}]\n"
        );
        let parsed = parse("f", text.as_bytes()).map_err(|report| report.to_string())?;
        let proxy = &parsed.config.listeners[0].proxy_protocol;
        assert!(proxy.is_required() || proxy.trusted.is_empty());
        Ok(proxy.trusted.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn trusted_peers_are_read_and_printed_alike() {
        let list =
            "['10.0.0.0/8', '::ffff:10.1.0.0/112', '::ffff:10.1.2.3', '2001:db8::/32', '::1', 'unix:', any]";
        let read = read(&format!("proxy_protocol: {{accept: required, trusted: {list}}}")).expect("valid");
        assert_eq!(read, ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "2001:db8::/32", "::1", "unix:", "any"]);
    }

    #[test]
    fn who_is_trusted_has_to_be_said_and_to_make_sense() {
        for (listener, words) in [
            ("proxy_protocol: {accept: required}", "`trusted` is missing"),
            ("proxy_protocol: {accept: required, trusted: []}", "`trusted` is empty"),
            ("proxy_protocol: {accept: required, trusted: any}", "write `[...]`"),
            ("proxy_protocol: {accept: required, trusted: ['unix:']}", "`unix:` alone trusts nobody"),
            ("proxy_protocol: {accept: required, trusted: [10.0.0.1/8]}", "write `10.0.0.0/8`"),
            ("proxy_protocol: {accept: required, trusted: [10.0.0.0/33]}", "is not an address, a network"),
            ("proxy_protocol: {accept: required, trusted: [localhost]}", "is not an address, a network"),
            ("proxy_protocol: {accept: v2, trusted: [any]}", "is not `required`, or `off`"),
            ("timeouts: {handshake: 2s}", "write at least `3s`"),
            ("timeouts: {handshake: off}", "is not possible here"),
        ] {
            let report = read(listener).expect_err(listener);
            assert!(report.contains(words) && report.contains("1 error"), "{listener}: {report}");
        }
        assert_eq!(read("proxy_protocol: off"), Ok(Vec::new()));
    }

    #[test]
    fn an_announced_client_has_a_connection_of_its_own() {
        let of = |keys: &str| {
            let text = format!(
                "loadbalancer: {{listen_address: ':1'}}\nbackends: [{{address: a, port: 1}}]\n{keys}\n"
            );
            parse("f", text.as_bytes()).map(|_| ()).map_err(|report| report.to_string())
        };
        assert_eq!(of("send_proxy: v2"), Ok(()));
        assert_eq!(of("send_proxy: v2\npool: off"), Ok(()));
        for keys in ["send_proxy: v2\npool: {size: 1}", "send_proxy: v1\npool: {size: 2, reuse: untouched}"] {
            let report = of(keys).expect_err("pooled");
            assert!(report.contains("with `send_proxy` nothing is pooled"), "{report}");
        }
    }
}
