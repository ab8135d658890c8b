//! The one door for everything that changes a running process: signals and the admin API.

use std::fmt;

use crossbeam_channel::{Receiver, Sender, bounded};
use serde::{Deserialize, Serialize};

use crate::config::{Change, Edit};

/// An order to the process.
#[derive(Debug)]
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
    Reload(Reply),
    /// Changes what runs, beside the file.
    Edit(Edit, Reply),
    /// Replaces the process by the binary that is on disk now.
    Upgrade(Reply),
}

impl Command {
    /// Returns whether it asks for the end of the process.
    #[must_use]
    pub fn ends(&self) -> bool {
        matches!(self, Self::Stop { .. } | Self::StopNow { .. } | Self::Drain)
    }
}

/// What was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The generation of the configuration that runs now.
    pub generation: u64,
    /// What is different from the generation before; empty if nothing is.
    pub changes: Vec<Change>,
}

/// Why nothing was changed: a sentence for each reason, with its remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// At least one.
    pub errors: Vec<String>,
}

impl Refused {
    /// Refuses for one reason.
    #[must_use]
    pub fn because(reason: impl Into<String>) -> Self {
        Self { errors: vec![reason.into()] }
    }
}

/// What became of a command.
pub type Outcome = Result<Applied, Refused>;

/// Takes the outcome of a command; dropped without one if the process ends before.
pub struct Reply(Option<Box<dyn FnOnce(Outcome) + Send>>);

impl Reply {
    /// Gives the outcome to nobody; the log tells of it.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// Gives the outcome to `taker`, which must not block.
    #[must_use]
    pub fn to(taker: impl FnOnce(Outcome) + Send + 'static) -> Self {
        Self(Some(Box::new(taker)))
    }

    /// Gives the outcome.
    pub fn give(self, outcome: Outcome) {
        if let Some(taker) = self.0 {
            taker(outcome);
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
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
