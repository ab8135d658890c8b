//! Why a server does not start, or does not run another configuration.

use std::io;

use super::budget::TooFewDescriptors;
use super::cores::CoresError;
use crate::base::Plain;
use crate::control::admin::BindError;
use crate::net::ListenError;
use crate::telemetry::log::LogError;
use crate::upstream::BuildError;
use crate::uring::Missing;

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel or the sandbox lacks something.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The cores are not available.
    #[error(transparent)]
    Cores(#[from] CoresError),
    /// An address names an interface that does not exist.
    #[error("there is no interface {0} here; `ip link` lists them")]
    NoInterface(String),
    /// An address cannot be listened on.
    #[error("listener {name}: {error}")]
    Listen {
        /// The listener.
        name: String,
        /// What is wrong with its address.
        error: ListenError,
    },
    /// The kernel does not take an option of the backend sockets.
    #[error("upstream {name}: {}", Plain(error))]
    Options {
        /// The upstream.
        name: String,
        /// What it refuses.
        error: io::Error,
    },
    /// An endpoint of the admin API that the file names does not work.
    #[error(transparent)]
    Admin(#[from] BindError),
    /// Too few descriptors.
    #[error(transparent)]
    Descriptors(#[from] TooFewDescriptors),
    /// Something that has to happen before anything is accepted failed.
    #[error("{0}")]
    Listening(String),
    /// The access log cannot be written.
    #[error("logging.access_log: {0}")]
    AccessLog(#[from] LogError),
    /// The configuration has more objects than there are numbers, or TLS cannot be set up.
    #[error(transparent)]
    Snapshot(#[from] BuildError),
    /// A thread or a doorbell cannot be made.
    #[error("cannot start: {}", Plain(.0))]
    System(#[from] io::Error),
}
