//! The configuration in long form with every key written out: what `ringway config` prints.

use serde::Serialize;
use serde_yaml::Value;

use super::model::{
    Admin, Config, KeyKind, Listener, ListenerTimeouts, Logging, Runtime, SniRoute, Target, Upstream,
};
use super::sni::CLOSE;
use super::text::{self, limit_text};

impl Config {
    /// Returns the long form as YAML. [`super::parse`] reads it as the same configuration.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        serde_yaml::to_string(&self.written())
            .expect("text, numbers and lists with text as keys can be written")
    }

    /// Returns the long form as a tree of values.
    pub(super) fn to_tree(&self) -> Value {
        serde_yaml::to_value(self.written()).unwrap_or_default()
    }

    fn written(&self) -> Written<'_> {
        let listeners = self.listeners.iter().map(|listener| {
            let sni = &listener.sni;
            let name = |target| match target {
                Target::Upstream(id) => self.upstreams[id.index()].name.as_str(),
                Target::Close => CLOSE,
            };
            let upstream = if sni.closes_others { CLOSE } else { name(Target::Upstream(listener.upstream)) };
            let routes =
                sni.routes.iter().map(|route| WrittenRoute { route, upstream: name(route.upstream) });
            let sni = (!sni.routes.is_empty()).then(|| WrittenSni { routes: routes.collect() });
            WrittenListener { listener, upstream, sni }
        });
        Written {
            runtime: &self.runtime,
            logging: &self.logging,
            admin: &self.admin,
            listeners: listeners.collect(),
            upstreams: &self.upstreams,
        }
    }

    /// Returns a line for each listener whose two idle limits are equal and not the default, because the file may
    /// name only one of them, and for each key that makes handshakes slow.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let notes = self.listeners.iter().filter_map(|listener| {
            let idle = listener.timeouts.client_idle;
            let same = self.upstreams[listener.upstream.index()].timeouts.backend_idle == idle;
            (same && idle != Some(ListenerTimeouts::IDLE)).then(|| {
                let (name, idle) = (&listener.name, limit_text(idle));
                format!("listener {name}: `client_idle` and `backend_idle` are {idle}")
            })
        });
        notes.chain(self.slow_keys()).collect()
    }

    /// Returns a line for each RSA key that is larger than anybody needs.
    fn slow_keys(&self) -> impl Iterator<Item = String> {
        /// What CAs ask for at least.
        const RSA_BITS: usize = 2_048;
        let all = self.listeners.iter().flat_map(|listener| {
            let certificates = listener.tls.iter().flat_map(|tls| &tls.certificates);
            certificates.map(|certificate| (&listener.name, certificate))
        });
        all.filter_map(|(name, certificate)| match certificate.identity.as_ref()?.key_kind {
            KeyKind::Rsa(bits) if bits > RSA_BITS => Some(format!(
                "listener {name}: the key of `{}` is RSA with {bits} bits, which makes handshakes several times as dear; \
                 ECDSA P-256 is as safe and far faster",
                certificate.certificate.display()
            )),
            _ => None,
        })
    }
}

#[derive(Serialize)]
struct Written<'c> {
    runtime: &'c Runtime,
    logging: &'c Logging,
    admin: &'c Admin,
    listeners: Vec<WrittenListener<'c>>,
    upstreams: &'c [Upstream],
}

/// A listener with the name of its upstream, of which the model has the position only.
#[derive(Serialize)]
struct WrittenListener<'c> {
    #[serde(flatten)]
    listener: &'c Listener,
    upstream: &'c str,
    #[serde(serialize_with = "text::or_off")]
    sni: Option<WrittenSni<'c>>,
}

#[derive(Serialize)]
struct WrittenSni<'c> {
    routes: Vec<WrittenRoute<'c>>,
}

#[derive(Serialize)]
struct WrittenRoute<'c> {
    #[serde(flatten)]
    route: &'c SniRoute,
    upstream: &'c str,
}
