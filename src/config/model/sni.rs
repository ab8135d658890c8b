//! Where clients of TLS go by the name that they ask for, without decryption.

use serde::Serialize;

use super::{Listener, text};
use crate::base::UpstreamId;
use crate::protocol::client_hello::ClientHello;

/// `sni:` of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Sni {
    /// Which names go where. An exact name goes before a wildcard, whatever the order.
    pub routes: Vec<SniRoute>,
    /// The positions of the routes, in the order of their names.
    #[serde(skip)]
    by_name: Vec<usize>,
    /// Whether clients are refused that no route takes: `upstream` of the listener is `close`, and stands for that of the
    /// first route with one.
    #[serde(skip)]
    pub closes_others: bool,
}

/// One entry of `sni.routes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SniRoute {
    /// The name that clients ask for, in any letter case; `*.example.com` is every name with one label more.
    #[serde(rename = "match")]
    pub name: String,
    /// Protocol that a client has to offer (ALPN) for this route; off takes every client. For one name, routes with
    /// protocols go before the one without, in their order.
    #[serde(serialize_with = "text::text_or_off")]
    pub alpn: Option<String>,
    /// Name of the upstream that serves these sessions; `close` resets them.
    #[serde(skip)]
    pub upstream: Target,
}

/// Where a client goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// To this upstream.
    Upstream(UpstreamId),
    /// Nowhere: it is reset.
    Close,
}

impl Sni {
    pub(in super::super) fn new(routes: Vec<SniRoute>, closes_others: bool) -> Self {
        let mut by_name: Vec<usize> = (0..routes.len()).collect();
        by_name.sort_by_key(|position| &routes[*position].name);
        Self { routes, by_name, closes_others }
    }

    /// Returns the route of a client that says this.
    #[must_use]
    pub fn route(&self, hello: &ClientHello) -> Option<&SniRoute> {
        let name = hello.server_name()?;
        self.best(name, hello).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.best(&format!("*.{parent}"), hello)
        })
    }

    /// Returns the first route of this name that wants a protocol which the client offers, else the one that wants none.
    fn best(&self, name: &str, hello: &ClientHello) -> Option<&SniRoute> {
        let all = || self.by_name.iter().map(|position| &self.routes[*position]);
        let from = self.by_name.partition_point(|position| *self.routes[*position].name < *name);
        let own = || all().skip(from).take_while(|route| route.name == name);
        let offers = |wanted: &str| hello.protocols().any(|offered| offered == wanted.as_bytes());
        own()
            .find(|route| route.alpn.as_deref().is_some_and(offers))
            .or_else(|| own().find(|route| route.alpn.is_none()))
    }
}

impl Listener {
    /// Returns where a client goes, by the route that takes it if there is one.
    #[must_use]
    pub fn target(&self, hello: Option<&ClientHello>) -> (Target, Option<&SniRoute>) {
        match hello.and_then(|hello| self.sni.route(hello)) {
            Some(route) => (route.upstream, Some(route)),
            None if self.sni.closes_others => (Target::Close, None),
            None => (Target::Upstream(self.upstream), None),
        }
    }

    /// Returns the positions of all upstreams that clients may go to, each once: `upstream` first.
    #[must_use]
    pub fn upstreams(&self) -> Vec<UpstreamId> {
        let mut all = vec![self.upstream];
        for route in &self.sni.routes {
            if let Target::Upstream(id) = route.upstream
                && !all.contains(&id)
            {
                all.push(id);
            }
        }
        all
    }

    /// Returns whether clients may go to the upstream at this position.
    #[must_use]
    pub fn leads_to(&self, position: usize) -> bool {
        self.upstream.index() == position
            || self
                .sni
                .routes
                .iter()
                .any(|route| matches!(route.upstream, Target::Upstream(id) if id.index() == position))
    }
}
