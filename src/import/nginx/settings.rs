//! What a `server` of `stream` says about its sessions, with what `stream` says for all of them.

use super::reasons::keeps_out;
use super::tokens::Directive;
use crate::import::plan::{Entry, flow_list};
use crate::import::report::{Findings, Origin};
use crate::import::units::{Millis, establish, nginx_time};

/// The directives that count for a server by their names; of each the last one.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings<'a> {
    known: Vec<&'a Directive>,
    /// What keeps clients out, and is not taken over.
    rules: Vec<&'a Directive>,
    /// `allow` and `deny`, in their order.
    access: Vec<&'a Directive>,
    /// Whether these are those of `stream`, which count only if the server has none.
    inherits_access: bool,
    /// `ssl_certificate` and `ssl_certificate_key`, in their order.
    certificates: Vec<&'a Directive>,
    /// Whether these are those of `stream`, which count only if the server has none.
    inherits_certificates: bool,
}

/// Directives that a server inherits from `stream`, and that are taken over.
const INHERITED: [&str; 23] = [
    "proxy_timeout",
    "proxy_connect_timeout",
    "proxy_next_upstream",
    "proxy_next_upstream_tries",
    "proxy_next_upstream_timeout",
    "proxy_bind",
    "proxy_socket_keepalive",
    "proxy_half_close",
    "proxy_buffer_size",
    "tcp_nodelay",
    "proxy_ssl",
    "proxy_ssl_verify",
    "proxy_ssl_trusted_certificate",
    "proxy_ssl_name",
    "proxy_ssl_certificate",
    "proxy_ssl_certificate_key",
    "ssl_client_certificate",
    "ssl_trusted_certificate",
    "ssl_verify_client",
    "ssl_crl",
    "ssl_alpn",
    "ssl_protocols",
    "proxy_protocol",
];

impl<'a> Settings<'a> {
    /// Adds a directive, if it is one of these.
    pub(super) fn add(&mut self, directive: &'a Directive) -> bool {
        if matches!(directive.name.as_str(), "allow" | "deny") {
            if std::mem::take(&mut self.inherits_access) {
                self.access.clear();
            }
            self.access.push(directive);
            return true;
        }
        if matches!(directive.name.as_str(), "ssl_certificate" | "ssl_certificate_key") {
            if std::mem::take(&mut self.inherits_certificates) {
                self.certificates.clear();
            }
            self.certificates.push(directive);
            return true;
        }
        let known = INHERITED.contains(&directive.name.as_str());
        if known {
            self.known.retain(|other| other.name != directive.name);
            self.known.push(directive);
        }
        known
    }

    /// Returns these settings as those that a server inherits.
    pub(super) fn inherited(&self) -> Self {
        Self { inherits_access: true, inherits_certificates: true, ..self.clone() }
    }

    /// Notes a directive that is not taken over: one that keeps clients out is named at the listener.
    pub(super) fn note(&mut self, directive: &'a Directive) {
        if keeps_out(&directive.name) {
            self.rules.push(directive);
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<&'a Directive> {
        self.known.iter().copied().find(|directive| directive.name == name)
    }

    fn is(&self, name: &str, word: &str) -> bool {
        self.find(name).is_some_and(|directive| directive.argument(0) == word)
    }

    /// Returns the directives with this name of those that name certificates and keys.
    pub(super) fn certificates(&self, name: &str) -> Vec<&'a Directive> {
        self.certificates.iter().copied().filter(|directive| directive.name == name).collect()
    }

    /// Sets the keys of a listener.
    pub(super) fn listener(&self, entry: &mut Entry, findings: &mut Findings) {
        if let Some((time, origin)) = self.time("proxy_timeout", findings) {
            entry.set("timeouts.client_idle", time.text_or_off(), &origin);
        }
        self.nodelay(entry);
        self.access(entry, findings);
        for Directive { name, line, .. } in &self.rules {
            entry.comment(format!("`{name}` in line {line} is not taken over: every client gets in"));
        }
    }

    /// Sets `allow` and `deny`. In nginx the first rule that has the client decides, and who has none is let in; here `deny`
    /// decides first. Both are the same where all `deny` come first, but for a last `deny all`.
    fn access(&self, entry: &mut Entry, findings: &mut Findings) {
        let decisive = self.access.iter().position(|rule| rule.argument(0) == "all");
        let rules = &self.access[..decisive.map_or(self.access.len(), |last| last + 1)];
        let Some(last) = rules.last() else { return };
        let origin = last.origin();
        let denies_rest = last.name == "deny" && last.argument(0) == "all";
        let listed = |name: &str| {
            let rules = rules.iter().filter(|rule| rule.name == name && rule.argument(0) != "all");
            rules.map(|rule| rule.argument(0)).collect::<Vec<_>>()
        };
        let (allowed, denied) = (listed("allow"), listed("deny"));
        let is_in_order = rules[..denied.len()].iter().all(|rule| rule.name == "deny");
        if !is_in_order {
            let why =
                "the first rule that has a client decides at nginx; here `deny` does, so put those first";
            findings.add(&origin, why);
            entry.comment(format!(
                "`{}` in line {} is not taken over: every client gets in",
                last.name, last.line
            ));
            return;
        }
        if !denied.is_empty() {
            entry.set("deny", flow_list(denied), &origin);
        }
        if denies_rest {
            // Nobody is allowed where no rule says so.
            let nobody = if allowed.is_empty() { "deny" } else { "allow" };
            let list = if allowed.is_empty() { vec!["any"] } else { allowed };
            entry.set(nobody, flow_list(list), &origin);
        }
    }

    /// Sets the keys of an upstream.
    pub(super) fn upstream(&self, entry: &mut Entry, findings: &mut Findings) {
        let connect = self.time("proxy_connect_timeout", findings).filter(|(time, origin)| {
            if time.0 == 0 {
                findings.add(origin, "an attempt always has a limit, 5s by default; see `timeouts.connect`");
            }
            time.0 > 0
        });
        let retries = self.retries(entry, findings);
        if let Some((time, origin)) = self.time("proxy_timeout", findings) {
            entry.set("timeouts.backend_idle", time.text_or_off(), &origin);
        }
        let whole = self.time("proxy_next_upstream_timeout", findings);
        if let Some((time, origin)) = &whole {
            entry.set("timeouts.establish", time.text_or_off(), origin);
        }
        if let Some((time, origin)) = &connect {
            entry.set("timeouts.connect", time.text(), origin);
            let longest = establish(Some(*time), retries, None).filter(|_| whole.is_none());
            if let Some(longest) = longest {
                entry.set("timeouts.establish", longest.text(), origin);
            }
        }
        self.source(entry, findings);
        if self.is("proxy_protocol", "on")
            && let Some(directive) = self.find("proxy_protocol")
        {
            entry.set("send_proxy", "v1", &directive.origin());
        }
        if self.is("proxy_socket_keepalive", "off")
            && let Some(directive) = self.find("proxy_socket_keepalive")
        {
            entry.set("tcp.keepalive", "off", &directive.origin());
        }
        if self.is("proxy_half_close", "off") && self.find("proxy_half_close").is_some() {
            entry.comment(
                "`proxy_half_close off`: here the end of one side reaches the other and ends nothing",
            );
        }
        self.nodelay(entry);
    }

    fn nodelay(&self, entry: &mut Entry) {
        if self.is("tcp_nodelay", "off")
            && let Some(directive) = self.find("tcp_nodelay")
        {
            entry.set("tcp.nodelay", "off", &directive.origin());
        }
    }

    /// Sets the number of retries, which is one less than that of tries, and returns it.
    fn retries(&self, entry: &mut Entry, findings: &mut Findings) -> Option<u64> {
        if let Some(directive) =
            self.find("proxy_next_upstream").filter(|_| self.is("proxy_next_upstream", "off"))
        {
            entry.set("retries", 0, &directive.origin());
            return Some(0);
        }
        let directive = self.find("proxy_next_upstream_tries")?;
        let Ok(tries) = directive.argument(0).parse::<u64>() else {
            findings.add(&directive.origin(), "not a number; write one");
            return None;
        };
        // 0 tries every server.
        let retries = if tries == 0 { 100 } else { (tries - 1).min(100) };
        entry.set("retries", retries, &directive.origin());
        Some(retries)
    }

    fn source(&self, entry: &mut Entry, findings: &mut Findings) {
        let Some(directive) = self.find("proxy_bind") else { return };
        let (origin, text) = (directive.origin(), directive.argument(0));
        if text == "off" {
            return;
        }
        if text.contains('$') || directive.argument(1) == "transparent" {
            findings.add(&origin, "backends see a fixed address of this machine; see `source`");
            return;
        }
        let host = match text.parse::<std::net::IpAddr>() {
            Ok(_) => text,
            Err(_) => text.rsplit_once(':').map_or(text, |(host, _)| host),
        };
        entry.set("source", flow_list([host.trim_start_matches('[').trim_end_matches(']')]), &origin);
    }

    fn time(&self, name: &str, findings: &mut Findings) -> Option<(Millis, Origin)> {
        let directive = self.find(name)?;
        let time = nginx_time(directive.argument(0));
        if time.is_none() {
            findings.add(&directive.origin(), "not a time; write one such as `30s`");
        }
        time.map(|time| (time, directive.origin()))
    }
}
