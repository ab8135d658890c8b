//! The command line of `ringway ctl`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::super::values::{level, whole};
use super::changes::{BackendName, Setting, of_entry, of_running};

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

        /// The host that it asks for, for listeners with `sni`
        #[arg(long, value_name = "NAME")]
        sni: Option<String>,
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
    /// Load the configuration again: the whole of it, or nothing if anything is wrong with it
    Reload,
    /// Show what the file would have to say so that it runs as it does: what `set`, `add` and `remove` have changed
    Diff,
    /// Set values of a backend: weight=N, state=ready|drain|maint, max_connections=N. They survive a reload and an
    /// upgrade, not a restart
    Set {
        /// The names of the upstream and of the backend
        #[arg(value_name = "UPSTREAM/BACKEND")]
        backend: BackendName,

        /// One or several of weight, state and max_connections
        #[arg(value_name = "KEY=VALUE", required = true, value_parser = of_running)]
        values: Vec<Setting>,
    },
    /// Add a backend to an upstream. It survives a reload and an upgrade, not a restart
    Add {
        /// The name of the upstream
        upstream: String,

        /// ADDRESS:PORT, or unix:PATH with a name
        address: String,

        /// Any of name, weight, max_connections and backup
        #[arg(value_name = "KEY=VALUE", value_parser = of_entry)]
        values: Vec<Setting>,
    },
    /// Remove a backend; its open sessions may take `runtime.drain_timeout` to end. It stays removed at a reload and an
    /// upgrade, not at a restart
    Remove {
        /// The names of the upstream and of the backend
        #[arg(value_name = "UPSTREAM/BACKEND")]
        backend: BackendName,
    },
    /// Replace the process by the binary that is on disk now, without losing a client
    Upgrade,
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
