//! The one door for everything that changes a running process: signals and the admin API.

use crossbeam_channel::{Receiver, Sender, bounded};

/// An order to the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Goes on accepting for `runtime.shutdown_delay`, then drains, and ends with its last session or at
    /// `runtime.shutdown_timeout`.
    Stop {
        /// What asks for the end.
        by: &'static str,
    },
    /// Like `Stop`, without the delay.
    StopNow {
        /// What asks for the end.
        by: &'static str,
    },
    /// Like `Stop`, but nothing while the process ends already, so that it may be asked for twice.
    Drain,
    /// Opens the log files again, because an operator has renamed them.
    ReopenLog,
    /// Writes records from this level on.
    SetLogLevel(log::LevelFilter),
    /// Loads the configuration again.
    Reload,
    /// Replaces the process by the binary that is on disk now.
    Upgrade,
}

/// The sending end; clones lead to the same process.
#[derive(Clone)]
pub struct Door(Sender<Command>);

/// The receiving end, for the one thread that obeys.
pub type Commands = Receiver<Command>;

/// How many commands may wait.
const WAITING_MAX: usize = 16;

/// Creates a door and its receiving end.
#[must_use]
pub fn door() -> (Door, Commands) {
    let (sender, commands) = bounded(WAITING_MAX);
    (Door(sender), commands)
}

impl Door {
    /// Gives a command. Waits while too many others wait. Returns whether the process still takes commands.
    #[must_use]
    pub fn give(&self, command: Command) -> bool {
        self.0.send(command).is_ok()
    }

    /// Gives a command unless too many others wait. Returns whether the process takes it.
    #[must_use]
    pub fn try_give(&self, command: Command) -> bool {
        self.0.try_send(command).is_ok()
    }
}
