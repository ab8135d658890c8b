//! Health checks of an upstream.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::text;

/// `healthcheck:` what a backend has to do to be up, and how often it is asked.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HealthCheck {
    /// What a check asks; off takes every backend as up.
    #[serde(flatten)]
    pub kind: CheckKind,
    /// Time between two checks of one backend.
    #[serde(serialize_with = "text::duration")]
    pub interval: Duration,
    /// Time between two checks while the backend changes state, is ejected, or has been down for less than an
    /// `interval`. More than `interval` is a warning.
    #[serde(serialize_with = "text::duration")]
    pub fast_interval: Duration,
    /// Longest check. More than `interval` is a warning.
    #[serde(serialize_with = "text::duration")]
    pub timeout: Duration,
    /// Consecutive successes that bring a backend up.
    pub rise: u32,
    /// Consecutive failures that take a backend down.
    pub fall: u32,
    /// Random change of each interval.
    ///
    /// A fraction of the interval, at most 1.
    #[serde(serialize_with = "text::fraction")]
    pub jitter: f64,
    /// Port that is checked instead of the backend's; a `unix:` backend is checked at its own path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// `type:` of a check, with the keys that belong to it. Each begins with a connection that has to stand.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum CheckKind {
    /// Nothing more.
    Tcp,
    /// A GET of HTTP/1.1 has to be answered, inside of TLS where the upstream has `tls`.
    Http(HttpCheck),
    /// A TLS handshake has to succeed; what the certificate says counts where the upstream has `tls`.
    Tls {
        /// Server name of `tls`; an IP address sends none.
        #[serde(skip_serializing_if = "Option::is_none")]
        host: Option<String>,
    },
    /// Bytes are sent and have to come, one step after the other.
    SendExpect {
        /// What `send_expect` does, one step after the other; each has `send`, `expect` or both.
        #[serde(serialize_with = "text::list")]
        steps: Arc<[Step]>,
    },
    /// A PING of Redis has to be answered.
    Redis,
    /// PostgreSQL has to start a session, or to ask for a password.
    Postgres(PostgresCheck),
    /// MySQL or MariaDB has to answer a login.
    Mysql {
        /// User that has to be let in.
        #[serde(skip_serializing_if = "Option::is_none")]
        user: Option<String>,
    },
    /// A mail server has to take a greeting.
    Smtp {
        /// Name that the check says it is.
        host: String,
    },
}

/// The keys of `type: postgres`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PostgresCheck {
    /// User that `postgres` and `mysql` log in as, without a password; a server that refuses it is down. Without
    /// the key they try `ringway`, and a server that refuses that user is up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Database that `postgres` asks for.
    pub database: String,
}

/// The keys of `type: http`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HttpCheck {
    /// Path and query that `http` asks for; what is no character of a URI is written as `%HH`.
    pub path: String,
    /// Header `Host` of `http`, with or without a port; server name of `tls`, where an IP address sends none;
    /// name that `smtp` says it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Statuses that `http` takes: a status, a range, or a list of both such as `200, 204, 300-399`.
    #[serde(serialize_with = "text::text")]
    pub expect_status: Statuses,
}

/// A set of HTTP statuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses(Vec<RangeInclusive<u16>>);

impl Statuses {
    /// Returns the statuses in any of these ranges.
    ///
    /// # Panics
    ///
    /// Without a range, which no status would be in.
    #[must_use]
    pub fn new(ranges: Vec<RangeInclusive<u16>>) -> Self {
        assert!(!ranges.is_empty(), "a status has to be possible");
        Self(ranges)
    }

    /// Returns true if `status` is one of them.
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

impl fmt::Display for Statuses {
    /// Writes the set as the file does: `200, 204, 300-399`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let (first, last) = (range.start(), range.end());
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{first}")?;
            if first != last {
                write!(f, "-{last}")?;
            }
        }
        Ok(())
    }
}

/// One step of `type: send_expect`: at least one of the two, each of 1 to `limits::CHECK_STEP_BYTES_MAX`
/// bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Step {
    /// Bytes that are sent first.
    #[serde(serialize_with = "text::bytes_if_any", skip_serializing_if = "Option::is_none")]
    pub send: Option<Vec<u8>>,
    /// Bytes that have to come next, at once or after other bytes.
    #[serde(serialize_with = "text::bytes_if_any", skip_serializing_if = "Option::is_none")]
    pub expect: Option<Vec<u8>>,
}
