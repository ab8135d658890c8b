//! The command line of `ringway ctl`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::super::values::{level, whole};

/// The arguments of `ctl`.
#[derive(Args, Debug)]
#[command(after_help = "Exit status: 0 done, 1 refused, 2 wrong usage, 3 nobody answers on the socket.")]
pub struct CtlArguments {
    /// The admin socket of the process [default: RINGWAY_SOCKET, else /run/ringway/admin.sock, else
    /// $XDG_RUNTIME_DIR/ringway/admin.sock]
    #[arg(long, value_name = "PATH", global = true)]
    pub socket: Option<PathBuf>,

    /// Print the answer of the admin API as it is
    #[arg(long, global = true)]
    pub json: bool,

    /// What to do.
    #[command(subcommand)]
    pub command: CtlCommand,
}

/// What `ctl` does.
#[derive(Debug, Subcommand)]
pub enum CtlCommand {
    /// Show the process, its listeners, upstreams and cores
    Status {
        /// Show it again and again, with rates; 2 seconds apart if no number is given
        #[arg(
            long,
            value_name = "SECONDS",
            num_args = 0..=1,
            default_missing_value = "2",
            value_parser = whole::<1, 86_400>
        )]
        watch: Option<u64>,
    },
    /// Show the backends
    Backends,
    /// Show open sessions
    Sessions(SessionArguments),
    /// Print `ready`, or `unready` with exit status 1, as the process does at /readyz
    Ready {
        /// Ask for this listener only
        listener: Option<String>,
    },
    /// Show which backend a client would get now, and every rule that was asked, in order
    Explain {
        /// IP address of the client; with `hash_key: source_port`, ADDRESS:PORT
        client: String,

        /// The listener it would connect to; needed where there are several
        #[arg(long)]
        listener: Option<String>,
    },
    /// End a session with a reset
    Kill {
        /// Its number, as `sessions` and the access log show it
        #[arg(value_name = "ID", value_parser = whole::<0, { u64::MAX }>)]
        session: u64,
    },
    /// Stop as at TERM: no new sessions, and the end with the last open one or at `runtime.shutdown_timeout`
    Drain,
    /// Write log records from this level on: error, warn, info, debug or trace
    LogLevel {
        /// The level
        #[arg(value_parser = level::<log::Level>)]
        level: log::Level,
    },
    /// Print the configuration that runs, in its long form
    Config,
}

/// Which sessions to show.
#[derive(Args, Debug)]
pub struct SessionArguments {
    /// Only those of this listener
    #[arg(long)]
    pub listener: Option<String>,

    /// Only those on this backend: UPSTREAM/BACKEND, or BACKEND
    #[arg(long)]
    pub backend: Option<String>,

    /// Only those of this client
    #[arg(long, value_name = "ADDRESS")]
    pub client: Option<IpAddr>,

    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = whole::<1, { u64::MAX }>)]
    pub limit: u64,
}
