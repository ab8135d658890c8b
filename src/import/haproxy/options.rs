//! The words behind the address of a `server` or `bind`: flags, and options with a value.

use std::collections::BTreeMap;

use super::words::Line;

/// Options with their values; a flag has an empty one.
#[derive(Clone, Debug, Default)]
pub(super) struct Options(BTreeMap<String, String>);

const FLAGS: [&str; 32] = [
    "backup",
    "check",
    "disabled",
    "enabled",
    "ssl",
    "send-proxy",
    "send-proxy-v2",
    "send-proxy-v2-ssl",
    "send-proxy-v2-ssl-cn",
    "check-ssl",
    "check-send-proxy",
    "check-via-socks4",
    "agent-check",
    "allow-0rtt",
    "tfo",
    "stick",
    "non-stick",
    "accept-proxy",
    "defer-accept",
    "transparent",
    "v4v6",
    "v6only",
    "strict-sni",
    "prefer-client-ciphers",
    "generate-certificates",
    "accept-netscaler-cip",
    "expose-fd",
    "sslv3",
    "force-tlsv12",
    "force-tlsv13",
    "check-reuse-pool",
    "quic-force-retry",
];

impl Options {
    /// Adds the words of a line from one on. `no-` takes a flag back.
    pub(super) fn add(&mut self, line: &Line, from: usize) {
        let mut words = line.from(from);
        while let Some(word) = words.next() {
            if let Some(flag) = word.strip_prefix("no-")
                && FLAGS.contains(&flag)
            {
                self.0.remove(flag);
            } else if FLAGS.contains(&word) || word.starts_with("no-") {
                self.0.insert(word.to_owned(), String::new());
            } else {
                let value = words.next().unwrap_or_default();
                match self.0.get_mut(word) {
                    // Of a `bind`, each is one more.
                    Some(before) if word == "crt" && line.word(0) == "bind" => {
                        before.push('\n');
                        before.push_str(value);
                    }
                    _ => {
                        self.0.insert(word.to_owned(), value.to_owned());
                    }
                }
            }
        }
    }

    /// Takes an option; a flag has an empty value.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// Takes a flag.
    pub(super) fn take_flag(&mut self, name: &str) -> bool {
        self.0.remove(name).is_some()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Returns the options that nobody took.
    pub(super) fn into_rest(self) -> impl Iterator<Item = (String, String)> {
        self.0.into_iter()
    }
}
