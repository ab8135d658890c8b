//! The section `proxy_protocol` of a listener.

use super::admission::clients;
use super::model::{Accept, AccessEntry, ListenAddress, ProxyProtocol};
use super::section::{Read, Section};
use super::tree::Node;
use super::values::{off_or, one_of, text};
use crate::protocol::proxy::Version;

const ACCEPTS: &[(&str, Accept)] = &[("required", Accept::Required)];

/// Words of `send_proxy`.
pub(super) const VERSIONS: &[(&str, Version)] = &[("v1", Version::V1), ("v2", Version::V2)];

pub(super) fn proxy_protocol(s: &mut Section<'_>, address: &ListenAddress) -> ProxyProtocol {
    s.section_or_off("proxy_protocol", |s| {
        let accept = s.value("accept", None, accept);
        let proxy = ProxyProtocol { accept, trusted: clients(s, "trusted") };
        if !proxy.is_required() && s.has("accept") && !s.is_off("accept") {
            // Reported, and meant to take headers.
        } else if !proxy.is_required() {
            s.warn_own("trusted", "`trusted` has no effect without `accept: required`");
        } else if !s.has("trusted") {
            let message = "`trusted` is missing; list the proxies in front, as in `[10.0.0.1, 10.1.0.0/16]`, or \
                           write `[any]`";
            s.error(message);
        } else if !proxy.trusted.is_empty() || s.is_empty_list("trusted") {
            somebody_is_trusted(s, &proxy.trusted.0, address);
        }
        proxy
    })
}

fn accept(node: &Node) -> Read<Option<Accept>> {
    off_or(one_of(ACCEPTS))(node).map_err(|rule| match text(node) {
        Ok("v1" | "v2" | "optional" | "on") => {
            format!("{rule}; `required` takes headers of both versions, from those in `trusted` alone")
        }
        _ => rule,
    })
}

/// Refuses a listener that would turn everybody away.
fn somebody_is_trusted(s: &Section<'_>, trusted: &[AccessEntry], address: &ListenAddress) {
    let message = match address {
        // An empty path stands for an address that is missing, or not known yet.
        ListenAddress::Unix(path) if path.as_os_str().is_empty() => return,
        ListenAddress::Unix(_) if !trusted.iter().any(AccessEntry::has_unix) => {
            "no client of a `unix:` listener is trusted; add `unix:`"
        }
        ListenAddress::Unix(_) => return,
        _ if trusted.iter().all(|entry| *entry == AccessEntry::Unix) => {
            "nobody who comes to this address is trusted; list the proxies in front, or write `[any]`"
        }
        // A file may be filled later.
        _ if !trusted.iter().any(AccessEntry::has_addresses) => {
            return s.warn_at("trusted", "the file has no prefix, so every client is reset; add one");
        }
        _ => return,
    };
    s.error_at("trusted", message);
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    fn read(listener: &str) -> Result<bool, String> {
        let text = format!(
            "loadbalancer: {{listen_address: ':1', {listener}}}\nbackends: [{{address: a, port: 1}}]\n"
        );
        let parsed = parse("f", text.as_bytes()).map_err(|report| report.to_string())?;
        Ok(parsed.config.listeners[0].proxy_protocol.is_required())
    }

    #[test]
    fn who_is_trusted_has_to_be_said_and_to_make_sense() {
        for (listener, words) in [
            ("proxy_protocol: {accept: required}", "`trusted` is missing"),
            (
                "proxy_protocol: {accept: required, trusted: []}",
                "nobody who comes to this address is trusted",
            ),
            (
                "proxy_protocol: {accept: required, trusted: off}",
                "nobody who comes to this address is trusted",
            ),
            ("proxy_protocol: {accept: required, trusted: any}", "write `[...]`"),
            (
                "proxy_protocol: {accept: required, trusted: ['unix:']}",
                "nobody who comes to this address is trusted",
            ),
            ("proxy_protocol: {accept: required, trusted: [any, 10.0.0.1/8]}", "write `10.0.0.0/8`"),
            (
                "proxy_protocol: {accept: v2, trusted: [any]}",
                "is not `required`, or `off`; `required` takes headers of both",
            ),
            ("timeouts: {handshake: 2s}", "write at least `3s`"),
            ("timeouts: {handshake: off}", "is not possible here"),
        ] {
            let report = read(listener).expect_err(listener);
            assert!(report.contains(words) && report.contains("1 error"), "{listener}: {report}");
        }
        assert_eq!(read("proxy_protocol: off"), Ok(false));
        assert_eq!(read("proxy_protocol: {accept: required, trusted: [10.0.0.1, '::1/128']}"), Ok(true));
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
