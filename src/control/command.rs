//! The one door for everything that changes a running process: signals today, other ways to ask later.

use crossbeam_channel::{Receiver, Sender, bounded};

/// What a process is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Goes on accepting for `runtime.shutdown_delay`, then drains, and ends with its last session or at
    /// `runtime.shutdown_timeout`.
    Stop {
        /// What asks for it.
        by: &'static str,
    },
    /// The same without the delay.
    StopNow {
        /// What asks for it.
        by: &'static str,
    },
    /// Opens the log anew, for whoever has renamed the file.
    ReopenLog,
    /// Loads the configuration anew.
    Reload,
    /// Runs the binary that is on disk now.
    Upgrade,
}

/// The way in; clones lead to the same process.
#[derive(Clone)]
pub struct Door(Sender<Command>);

/// Where commands come out: for the one thread that obeys.
pub type Commands = Receiver<Command>;

/// How many commands may wait.
const WAITING_MAX: usize = 16;

/// A door and what comes through it.
#[must_use]
pub fn door() -> (Door, Commands) {
    let (sender, commands) = bounded(WAITING_MAX);
    (Door(sender), commands)
}

impl Door {
    /// Gives a command. Waits while too many others do. Returns whether the process still takes commands.
    #[must_use]
    pub fn give(&self, command: Command) -> bool {
        self.0.send(command).is_ok()
    }
}
