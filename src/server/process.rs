//! The running process as the admin API sees it.

use std::sync::Arc;

use crate::control::command::{Command, Door};
use crate::control::process::{
    Answer, ExplainError, ExplainQuery, Explanation, Exposition, Process, SessionPage, SessionQuery,
};
use crate::control::status::Phase;
use crate::control::{Source, Status};
use crate::shard::ShardHandle;

/// See the module documentation.
pub(super) struct Running {
    pub(super) source: Arc<Source>,
    pub(super) handles: Arc<[ShardHandle]>,
    /// `None` where nothing obeys commands.
    pub(super) door: Option<Door>,
}

impl Process for Running {
    fn status(&self) -> Status {
        self.source.status()
    }

    fn is_ready(&self, listener: Option<&str>) -> Option<bool> {
        let listeners = &self.source.snapshot.config().listeners;
        let is_running = self.source.phase.get() == Phase::Running;
        let has_eligible = |position| self.source.has_eligible(position);
        match listener {
            None => Some(is_running && (0..listeners.len()).any(has_eligible)),
            Some(name) => {
                let position = listeners.iter().position(|listener| listener.name == name)?;
                Some(is_running && has_eligible(position))
            }
        }
    }

    fn metrics(&self, _exposition: Exposition) -> String {
        String::new()
    }

    fn config(&self) -> String {
        self.source.snapshot.config().to_yaml()
    }

    fn give(&self, command: Command) -> bool {
        self.door.as_ref().is_some_and(|door| door.try_give(command))
    }

    fn sessions(&self, _query: SessionQuery) -> Answer<SessionPage> {
        let _ = &self.handles;
        Box::pin(async { SessionPage::default() })
    }

    fn kill(&self, _session: u64) -> Answer<bool> {
        Box::pin(async { false })
    }

    fn explain(&self, _query: ExplainQuery) -> Answer<Result<Explanation, ExplainError>> {
        Box::pin(async { Err(ExplainError::Shard) })
    }
}
