//! The PROXY protocol of a listener, and whose headers are believed.

use serde::Serialize;

use super::{AccessList, text};

/// `proxy_protocol:` of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ProxyProtocol {
    /// Whether each connection begins with a PROXY header, version 1 or 2, which says who the client is; `required`
    /// refuses a connection without one.
    #[serde(serialize_with = "text::or_off")]
    pub accept: Option<Accept>,
    /// Whose headers are believed; all others are reset at once, as `untrusted`. Required beside `accept: required`.
    #[serde(skip_serializing_if = "AccessList::is_empty")]
    pub trusted: AccessList,
}

/// What becomes of connections without a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Accept {
    /// They are refused: the specification forbids to guess whether there is a header.
    Required,
}

impl ProxyProtocol {
    /// Returns whether connections begin with a header.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.accept.is_some()
    }
}
