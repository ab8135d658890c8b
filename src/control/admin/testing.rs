//! A process for tests.

use std::sync::Mutex;
use std::sync::mpsc::Receiver;

use super::super::command::Command;
use super::super::process::{
    Answer, ExplainError, ExplainQuery, Explanation, Exposition, NoAnswer, Process, Readiness, SessionPage,
    SessionQuery, SessionsError,
};
use super::super::status::Status;

/// Is ready, takes no commands, has no metrics, and no shard of it answers.
#[derive(Default)]
pub(super) struct Fake {
    /// Metrics wait for the end of this channel.
    pub(super) gate: Option<Mutex<Receiver<()>>>,
}

impl Process for Fake {
    fn status(&self) -> Status {
        unreachable!("nobody asks")
    }

    fn readiness(&self, _listener: Option<&str>) -> Option<Readiness> {
        Some(Readiness::Ready)
    }

    fn metrics(&self, _exposition: Exposition) -> String {
        let _ = self.gate.as_ref().map(|gate| gate.lock().unwrap().recv());
        "# EOF\n".to_owned()
    }

    fn config(&self) -> String {
        String::new()
    }

    fn give(&self, _command: Command) -> bool {
        false
    }

    fn sessions(&self, _query: SessionQuery) -> Answer<Result<SessionPage, SessionsError>> {
        Box::pin(std::future::pending())
    }

    fn kill(&self, _session: u64) -> Answer<Result<bool, NoAnswer>> {
        Box::pin(async { Err(NoAnswer) })
    }

    fn explain(&self, _query: ExplainQuery) -> Answer<Result<Explanation, ExplainError>> {
        Box::pin(async { Err(NoAnswer.into()) })
    }
}
