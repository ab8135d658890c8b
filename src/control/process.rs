//! What the admin API asks of the running process: the seam between the control plane, which answers operators, and
//! the shards, which it must not know.

use std::net::IpAddr;
use std::pin::Pin;

use serde::{Deserialize, Serialize};

use super::command::{Command, Outcome};
use super::status::Status;
use crate::config::{Change, Edit};

/// An answer that takes a moment, because shards are asked.
pub type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The running process. The assembly implements it.
pub trait Process: Send + Sync {
    /// Returns the current status.
    fn status(&self) -> Status;

    /// Returns whether a listener would find an eligible backend for a client, `None` if there is no such listener;
    /// without a name, whether any listener would. Never while the process drains or is about to.
    fn readiness(&self, listener: Option<&str>) -> Option<Readiness>;

    /// Returns all metrics.
    fn metrics(&self, exposition: Exposition) -> String;

    /// Returns the resolved configuration as YAML.
    fn config(&self) -> String;

    /// Gives a command to the process. Returns whether the process takes it.
    fn give(&self, command: Command) -> bool;

    /// Returns whether there is a backend of this name in an upstream of this name; without a backend, whether there
    /// is the upstream.
    ///
    /// # Errors
    ///
    /// One of them is not there.
    fn knows(&self, upstream: &str, backend: Option<&str>) -> Result<(), Unknown>;

    /// Loads the configuration again.
    fn reload(&self) -> Answer<Outcome>;

    /// Changes what runs, beside the file.
    fn edit(&self, edit: Edit) -> Answer<Outcome>;

    /// Replaces the process by the binary that is on disk now.
    fn upgrade(&self) -> Answer<Outcome>;

    /// Returns what the file would have to say so that it runs as it does.
    fn differences(&self) -> Vec<Change>;

    /// Returns open sessions.
    fn sessions(&self, query: SessionQuery) -> Answer<Result<SessionPage, SessionsError>>;

    /// Ends a session with a reset. Returns whether there was such a session.
    fn kill(&self, session: u64) -> Answer<Result<bool, NoAnswer>>;

    /// Explains which backend a client would get now.
    fn explain(&self, query: ExplainQuery) -> Answer<Result<Explanation, ExplainError>>;
}

/// Whether a client that comes now would find a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It would.
    Ready,
    /// The process drains, or is about to.
    Stops,
    /// No backend is eligible.
    NoBackend,
}

/// A format of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// The Prometheus text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

/// Which open sessions are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionQuery {
    /// Maximum number of sessions of the answer, 1 to 1,000.
    #[serde(default)]
    pub limit: Option<usize>,
    /// Where the page before ended: its `next`.
    #[serde(default)]
    pub after: Option<u64>,
    /// Only those of this listener.
    #[serde(default)]
    pub listener: Option<String>,
    /// Only those on this backend: `UPSTREAM/BACKEND` or `BACKEND`.
    #[serde(default)]
    pub backend: Option<String>,
    /// Only those of this client address.
    #[serde(default)]
    pub client: Option<IpAddr>,
}

/// A page of open sessions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SessionPage {
    /// In no particular order.
    pub sessions: Vec<SessionStatus>,
    /// The `after` of the next page; `None` if this one is the last.
    pub next: Option<u64>,
}

/// An open session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Its number, which no other session of the process has; access log records carry it too.
    pub id: u64,
    /// Address and port of the client; `unix:` for a client of a Unix socket.
    pub client: String,
    /// The name of its listener.
    pub listener: String,
    /// The name of its upstream.
    pub upstream: String,
    /// The name of its backend, once it has one.
    pub backend: Option<String>,
    /// The CPU whose shard serves it.
    pub core: usize,
    /// What it does.
    pub state: SessionState,
    /// Time since the accept.
    pub age_seconds: f64,
    /// Bytes delivered to the backend.
    pub to_backend_bytes: u64,
    /// Bytes delivered to the client.
    pub to_client_bytes: u64,
    /// Bytes a second delivered to the backend, on average since the accept.
    pub to_backend_bytes_per_second: f64,
    /// Bytes a second delivered to the client, on average since the accept.
    pub to_client_bytes_per_second: f64,
}

/// What an open session does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionState {
    /// Its client has still to say who it is.
    Handshake,
    /// It waits for a permit of a backend.
    Queued,
    /// It connects to a backend.
    Connecting,
    /// It relays.
    Relaying,
    /// It delivers the last bytes before its end.
    Ending,
}

/// For which client an explanation is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainQuery {
    /// The address of the client; the port matters with `hash_key: source_port` only.
    pub client: String,
    /// The name of the listener; may be missing where there is only one.
    #[serde(default)]
    pub listener: Option<String>,
    /// The host that the client asks for in its ClientHello.
    #[serde(default)]
    pub sni: Option<String>,
}

/// Why a client would get a backend, or none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The client.
    pub client: String,
    /// The listener.
    pub listener: String,
    /// The upstream.
    pub upstream: String,
    /// The backend that the client would get now; `None` if it would get none, or would wait.
    pub backend: Option<String>,
    /// The shard's CPU that was asked: with some algorithms each shard has its own turn.
    pub core: usize,
    /// Every rule that was asked, in order.
    pub rules: Vec<AskedRule>,
}

/// A rule that was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedRule {
    /// Its name, such as `max_connections` or `health`.
    pub rule: String,
    /// What it decided, in a sentence.
    pub verdict: String,
}

/// Why there is no explanation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// The client is no address.
    #[error("`client` is {0}; write an IP address, or ADDRESS:PORT")]
    Client(String),
    /// The name is no host name.
    #[error("`{0}` is not a host name; write `sni` as in `a.example.com`")]
    Name(String),
    /// There is no such listener, or none was named where there are several.
    #[error("{0}")]
    Listener(String),
    /// The shard did not answer.
    #[error(transparent)]
    Shard(#[from] NoAnswer),
}

/// No listener, upstream or backend has a name that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no {0} has this name; `ringway ctl backends`, `ringway ctl status` and `/v1/status` list them")]
pub struct Unknown(pub &'static str);

/// Why there is no page of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionsError {
    /// The filter names a listener or a backend that is not there.
    #[error(transparent)]
    Unknown(#[from] Unknown),
    /// The shard did not answer.
    #[error(transparent)]
    Shard(#[from] NoAnswer),
}

/// A shard did not answer, so nothing true can be said of its sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a shard did not answer within a second; try again, and look in `/v1/status` for a core that is stuck"
)]
pub struct NoAnswer;
