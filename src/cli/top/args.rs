//! The command line of `ringway top`.

use std::path::PathBuf;

use clap::Args;

use super::super::values::whole;

/// The arguments of `top`.
#[derive(Args, Debug)]
pub struct TopArguments {
    /// The admin socket of the process [default: RINGWAY_SOCKET, else /run/ringway/admin.sock, else
    /// $XDG_RUNTIME_DIR/ringway/admin.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Seconds between two readings
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = whole::<1, 3_600>)]
    pub interval: u64,
}
