//! What there is: paths, their methods, and on which endpoint they are.

use hyper::Method;
use percent_encoding::percent_decode_str;

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `/`
    Page,
    /// `/healthz`
    Health,
    /// `/readyz` or `/readyz/LISTENER`
    Ready(Option<String>),
    /// `/metrics`
    Metrics,
    /// `/v1/status`
    Status,
    /// `/v1/openapi.json`
    Description,
    /// `/v1/explain`
    Explain,
    /// `/v1/sessions`
    Sessions,
    /// `/v1/sessions/ID`
    Session(String),
    /// `/v1/config`
    Config,
    /// `/v1/drain`
    Drain,
    /// `/v1/log-level`
    LogLevel,
    /// `/v1/diff`
    Diff,
    /// `/v1/reload`
    Reload,
    /// `/v1/upgrade`
    Upgrade,
    /// `/v1/upstreams/UPSTREAM/backends`
    Backends(String),
    /// `/v1/upstreams/UPSTREAM/backends/BACKEND`
    Backend(String, String),
}

/// Where the upstreams stand.
const UPSTREAMS: &str = "/v1/upstreams/";

impl Route {
    /// Returns what a path names.
    pub(super) fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/" => Self::Page,
            "/healthz" => Self::Health,
            "/readyz" => Self::Ready(None),
            "/metrics" => Self::Metrics,
            "/v1/status" => Self::Status,
            "/v1/openapi.json" => Self::Description,
            "/v1/explain" => Self::Explain,
            "/v1/sessions" => Self::Sessions,
            "/v1/config" => Self::Config,
            "/v1/drain" => Self::Drain,
            "/v1/log-level" => Self::LogLevel,
            "/v1/diff" => Self::Diff,
            "/v1/reload" => Self::Reload,
            "/v1/upgrade" => Self::Upgrade,
            _ if path.starts_with(UPSTREAMS) => return Self::of_upstream(&path[UPSTREAMS.len()..]),
            _ => {
                let below =
                    |folder| path.strip_prefix(folder).filter(|name| is_one_part(name)).and_then(decoded);
                let listener = below("/readyz/").map(|name| Self::Ready(Some(name)));
                return listener.or_else(|| below("/v1/sessions/").map(Self::Session));
            }
        })
    }

    /// Returns what a path below that of the upstreams names.
    fn of_upstream(path: &str) -> Option<Self> {
        let parts: Vec<_> = path.split('/').collect();
        let name = |part: &str| decoded(part).filter(|_| is_one_part(part));
        match parts[..] {
            [upstream, "backends"] => Some(Self::Backends(name(upstream)?)),
            [upstream, "backends", backend] => Some(Self::Backend(name(upstream)?, name(backend)?)),
            _ => None,
        }
    }

    /// Returns the methods that it takes, as the header `Allow` has them.
    pub(super) fn allowed(&self) -> &'static str {
        match self {
            Self::Drain | Self::LogLevel | Self::Reload | Self::Upgrade | Self::Backends(_) => "POST",
            Self::Session(_) => "DELETE",
            Self::Backend(..) => "POST, DELETE",
            _ => "GET, HEAD",
        }
    }

    /// Returns whether it takes this method.
    pub(super) fn takes(&self, method: &Method) -> bool {
        self.allowed().split(", ").any(|allowed| allowed == method.as_str())
    }

    /// Returns whether it is on the Unix socket only, because it shows clients or changes something.
    pub(super) fn is_private(&self) -> bool {
        match self {
            Self::Sessions
            | Self::Session(_)
            | Self::Config
            | Self::Drain
            | Self::LogLevel
            | Self::Diff
            | Self::Reload
            | Self::Upgrade
            | Self::Backends(_)
            | Self::Backend(..) => true,
            Self::Page
            | Self::Health
            | Self::Ready(_)
            | Self::Metrics
            | Self::Status
            | Self::Description
            | Self::Explain => false,
        }
    }
}

fn is_one_part(name: &str) -> bool {
    !name.is_empty() && !name.contains('/')
}

fn decoded(part: &str) -> Option<String> {
    percent_decode_str(part).decode_utf8().ok().map(|text| text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_paths_are_decoded() {
        let ready = |name: &str| Some(Route::Ready(Some(name.to_owned())));
        assert_eq!(Route::of("/readyz/web"), ready("web"));
        assert_eq!(Route::of("/readyz/%5B::1%5D:80"), ready("[::1]:80"));
        assert_eq!(Route::of("/readyz/a%25b"), ready("a%b"));
        assert_eq!(Route::of("/v1/sessions/17"), Some(Route::Session("17".into())));
        let backend = |upstream: &str, name: &str| Some(Route::Backend(upstream.into(), name.into()));
        assert_eq!(Route::of("/v1/upstreams/u%2F1/backends"), Some(Route::Backends("u/1".into())));
        assert_eq!(Route::of("/v1/upstreams/u/backends/unix%3A%2Frun%2Fb"), backend("u", "unix:/run/b"));
        assert_eq!(Route::of("/v1/upstreams/backends/backends/backends"), backend("backends", "backends"));
        for nothing in [
            "/v1/upstreams/",
            "/v1/upstreams/u",
            "/v1/upstreams//backends",
            "/v1/upstreams/u/backends/",
            "/v1/upstreams/u/backends/a/b",
            "/v1/upstreams/%ff/backends",
            "/v1/upstreams/u/sessions",
        ] {
            assert_eq!(Route::of(nothing), None, "{nothing}");
        }
        for nothing in
            ["", "/readyz/", "/readyz/a/b", "/readyz/%ff", "/v1", "/v1/", "/v1/sessions/", "/healthz/"]
        {
            assert_eq!(Route::of(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn what_changes_something_is_private_and_takes_no_get() {
        for path in [
            "/v1/drain",
            "/v1/log-level",
            "/v1/sessions/1",
            "/v1/reload",
            "/v1/upgrade",
            "/v1/upstreams/u/backends",
            "/v1/upstreams/u/backends/b",
        ] {
            let route = Route::of(path).unwrap();
            assert!(
                route.is_private() && !route.takes(&Method::GET) && !route.takes(&Method::HEAD),
                "{path}"
            );
        }
        assert!(Route::Diff.is_private() && Route::Diff.takes(&Method::GET));
        assert!(Route::Status.takes(&Method::HEAD) && !Route::Status.takes(&Method::OPTIONS));
    }
}
