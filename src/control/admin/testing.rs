//! A process for tests.

use std::sync::Mutex;
use std::sync::mpsc::Receiver;

use super::super::command::{Applied, Command, Outcome, Refused};
use super::super::process::{
    Answer, ExplainError, ExplainQuery, Explanation, Exposition, NoAnswer, Process, Readiness, SessionPage,
    SessionQuery, SessionsError, Unknown,
};
use super::super::status::Status;
use crate::config::{Change, Edit};

/// Is ready, takes no commands, has no metrics, and no shard of it answers. It has the upstream `u/1` with the backend `b`.
/// A reload has no end, an edit is refused, an upgrade is done.
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

    fn knows(&self, upstream: &str, backend: Option<&str>) -> Result<(), Unknown> {
        match (upstream, backend) {
            ("u/1", None | Some("b")) => Ok(()),
            ("u/1", Some(_)) => Err(Unknown("backend")),
            _ => Err(Unknown("upstream")),
        }
    }

    fn reload(&self) -> Answer<Outcome> {
        Box::pin(std::future::pending())
    }

    fn edit(&self, edit: Edit) -> Answer<Outcome> {
        let errors = vec![format!("{edit:?}"), "the other reason".to_owned()];
        Box::pin(async { Err(Refused { errors }) })
    }

    fn upgrade(&self) -> Answer<Outcome> {
        Box::pin(async { Ok(Applied { generation: 7, changes: Vec::new() }) })
    }

    fn differences(&self) -> Vec<Change> {
        vec![Change {
            what: "listeners.a".to_owned(),
            before: None,
            after: Some(":80, upstream a".to_owned()),
        }]
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
