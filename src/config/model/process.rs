//! What concerns the whole process: `runtime`, `logging` and `admin`.

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::{ListenAddress, text};

/// `runtime:` cores, limits and memory of the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Runtime {
    /// CPUs that run a shard: `auto` takes every CPU this process may use, a number takes that many of them, different
    /// physical cores before siblings and one memory node before the next, a list exactly those. A single CPU is
    /// written `3-3`.
    pub cores: CoreSelection,
    /// Client sessions of the process at a time; 0 allows as many as there are descriptors for.
    #[serde(serialize_with = "text::limit")]
    pub max_connections: Option<NonZeroU32>,
    /// How long the listeners go on accepting after a TERM.
    #[serde(serialize_with = "text::duration_or_off")]
    pub shutdown_delay: Option<Duration>,
    /// How long open sessions are served once accepting has ended; off serves them as long as it takes.
    #[serde(serialize_with = "text::duration_or_off")]
    pub shutdown_timeout: Option<Duration>,
    /// How long open sessions of a removed listener or backend are served, and those of the old process after an
    /// upgrade; off serves them as long as it takes.
    #[serde(serialize_with = "text::duration_or_off")]
    pub drain_timeout: Option<Duration>,
    /// Buffers and pipes of the relay.
    pub relay: Relay,
}

/// `runtime.cores:` which cores get a shard, always within the CPUs this process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoreSelection {
    /// Every CPU this process may use.
    Auto,
    /// That many of them, one of each physical core first.
    Count(NonZeroU32),
    /// Exactly these CPU numbers, ascending and without repetition.
    List(Vec<u32>),
}

impl Serialize for CoreSelection {
    fn serialize<S: Serializer>(&self, serializer: S) -> text::Done<S> {
        let list = match self {
            Self::Auto => return text::number_or_auto(&None, serializer),
            Self::Count(count) => return serializer.serialize_u32(count.get()),
            Self::List(list) => list,
        };
        // A range even for one CPU, which alone would be a number of cores.
        let runs = list.chunk_by(|a, b| a + 1 == *b);
        let texts = runs.map(|run| format!("{}-{}", run[0], run[run.len() - 1]));
        serializer.serialize_str(&texts.collect::<Vec<_>>().join(","))
    }
}

/// `runtime.relay:` buffers and pipes of the relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Relay {
    /// Size of one buffer.
    #[serde(rename = "buffer_size", serialize_with = "text::size")]
    pub buffer_bytes: u32,
    /// Number of buffers of a core. Memory is touched only when a buffer is used.
    pub buffers_per_core: u32,
    /// With `auto`, bulk goes through a pipe inside the kernel and everything else is copied; off copies
    /// everything.
    #[serde(serialize_with = "text::auto_or_off")]
    pub splice: bool,
    /// Size of one pipe; the kernel rounds it up to a power of two. More than `fs.pipe-max-size` needs
    /// `CAP_SYS_RESOURCE`.
    #[serde(rename = "pipe_size", serialize_with = "text::size")]
    pub pipe_bytes: u32,
    /// Pipes of a core; a session that finds none free copies. `auto` divides what `fs.pipe-user-pages-soft`
    /// allows by the cores, and takes at most 32; `CAP_SYS_RESOURCE` and `CAP_SYS_ADMIN` lift the kernel's
    /// bound.
    #[serde(serialize_with = "text::number_or_auto")]
    pub pipes_per_core: Option<NonZeroU32>,
}

/// `logging:` which log records are written, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Logging {
    /// Least severe level that is written.
    #[serde(serialize_with = "text::lowercase")]
    pub level: log::LevelFilter,
    /// One readable line for each record, or one JSON object.
    pub format: LogFormat,
    /// Where records go; a file named `stdout` is written `./stdout`.
    pub target: LogTarget,
    /// Where the access log goes, which has one record for each session, at its end.
    #[serde(serialize_with = "text::or_off")]
    pub access_log: Option<LogTarget>,
    /// The line that HAProxy writes for TCP, or one JSON object a line.
    pub access_format: AccessFormat,
    /// Which sessions the access log has: all of them, or those that did not end normally or needed a retry.
    pub access_filter: AccessFilter,
}

/// How a record of the access log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessFormat {
    /// The line that HAProxy writes for TCP.
    Tcplog,
    /// One object a line.
    Json,
}

/// Which sessions the access log has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessFilter {
    /// All.
    All,
    /// Those that did not end normally or needed a retry.
    Errors,
}

/// How a log record looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where log records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// The standard error stream.
    Stderr,
    /// A file that is appended to, and opened again on USR1.
    File(PathBuf),
}

impl Serialize for LogTarget {
    fn serialize<S: Serializer>(&self, serializer: S) -> text::Done<S> {
        match self {
            Self::Stderr => serializer.serialize_str("stderr"),
            Self::File(path) => serializer.collect_str(&path.display()),
        }
    }
}

/// `admin:` the endpoints of the admin API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Admin {
    /// Address of the endpoint that changes nothing and shows no clients; off has none. It has no
    /// authentication, so an address that other machines reach is a warning.
    #[serde(serialize_with = "text::text_or_off")]
    pub listen_address: Option<ListenAddress>,
    /// Unix socket of the endpoint that shows and changes everything; off has none. Its folder is created;
    /// without the right to, the default is `$XDG_RUNTIME_DIR/ringway/admin.sock`.
    #[serde(serialize_with = "text::or_off")]
    pub socket: Option<PathBuf>,
    /// Who may connect to the socket, as chmod(1) takes it. Access for everybody is a warning.
    #[serde(serialize_with = "text::mode")]
    pub socket_mode: u32,
    /// Group of the socket; off leaves that of the process.
    #[serde(serialize_with = "text::or_off")]
    pub socket_group: Option<SocketGroup>,
    /// Which endpoints the file names.
    #[serde(skip)]
    pub written: WrittenEndpoints,
}

impl Admin {
    /// The path of the socket where none is written.
    pub const SOCKET: &str = "/run/ringway/admin.sock";
    /// The port of the endpoint where no address is written.
    pub const PORT: u16 = 9_900;
    /// The mode of the socket where none is written.
    pub(in super::super) const SOCKET_MODE: u32 = 0o600;

    /// Returns the number of endpoints.
    #[must_use]
    pub fn endpoints(&self) -> usize {
        usize::from(self.listen_address.is_some()) + usize::from(self.socket.is_some())
    }
}

/// Which endpoints of the admin API the file names: one that it names must work, a default one may fail.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct WrittenEndpoints {
    /// `listen_address`.
    pub listen_address: bool,
    /// `socket`.
    pub socket: bool,
}

impl fmt::Debug for WrittenEndpoints {
    /// Writes the same for all: a printed configuration names both endpoints, and reads as the same one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WrittenEndpoints")
    }
}

/// A group of users of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum SocketGroup {
    /// By its name, which is looked up at the start.
    Name(String),
    /// By its number.
    Number(u32),
}
