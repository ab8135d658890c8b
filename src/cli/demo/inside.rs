//! The demo's own process, watched from inside.

use std::io;
use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};

use super::super::top::{Feed, Look, Order};
use crate::control::command::Command;
use crate::control::process::{Process, SessionQuery};

/// See the module documentation.
pub(super) struct Inside {
    process: Arc<dyn Process>,
    /// Answers about sessions take a moment.
    runtime: Runtime,
}

impl Inside {
    /// Prepares for watching.
    pub(super) fn new(process: Arc<dyn Process>) -> io::Result<Self> {
        Ok(Self { process, runtime: Builder::new_current_thread().enable_all().build()? })
    }
}

impl Feed for Inside {
    fn look(&mut self, sessions: bool) -> Result<Look, String> {
        let status = self.process.status();
        let all = || self.runtime.block_on(self.process.sessions(SessionQuery::default()));
        let sessions = sessions.then(|| all().map_err(|error| error.to_string()));
        Ok(Look { status, sessions })
    }

    fn give(&mut self, order: &Order) -> Result<(), String> {
        let (given, why) = match order {
            Order::Kill { session, .. } => {
                let killed = self.runtime.block_on(self.process.kill(*session));
                (killed.map_err(|error| error.to_string())?, "there is no such session any more")
            }
            Order::Drain => {
                (self.process.give(Command::Stop { by: "a key" }), "the process takes no commands")
            }
        };
        if given { Ok(()) } else { Err(why.to_owned()) }
    }
}
