//! The running process as the admin API sees it: what stands in cells is read there, the rest is asked of the shards.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::explain;
use crate::base::{SessionPhase, ShardId, limits};
use crate::config::{Change, Edit};
use crate::control::command::{Command, Door, Outcome, Refused, Reply};
use crate::control::process::{
    Answer, ExplainError, ExplainQuery, Explanation, Exposition, NoAnswer, Process, Readiness, SessionPage,
    SessionQuery, SessionState, SessionStatus, SessionsError, Unknown,
};
use crate::control::status::Phase;
use crate::control::{Source, Status, lock};
use crate::shard::{
    Killed, OpenSession, Question, SHARD_BITS, SessionsFound, SessionsWanted, ShardHandle, shard_of,
};
use crate::upstream::Snapshot;

/// How long a shard may take for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

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

    fn readiness(&self, listener: Option<&str>) -> Option<Readiness> {
        let (snapshot, states) = (self.source.current.get(), Arc::clone(&self.source.states.borrow()));
        let mut listeners = snapshot.config().listeners.iter();
        let has_eligible =
            |listener| snapshot.upstreams_of(listener).any(|shared| Source::has_eligible(shared, &states));
        let finds_backend = match listener {
            None => listeners.any(has_eligible),
            Some(name) => has_eligible(listeners.find(|listener| listener.name == name)?),
        };
        Some(match finds_backend {
            _ if self.source.phase.get() != Phase::Running => Readiness::Stops,
            true => Readiness::Ready,
            false => Readiness::NoBackend,
        })
    }

    fn metrics(&self, exposition: Exposition) -> String {
        crate::control::metrics::expose(self.source.status(), exposition)
    }

    fn config(&self) -> String {
        self.source.current.get().config().to_yaml()
    }

    fn give(&self, command: Command) -> bool {
        self.door.as_ref().is_some_and(|door| door.try_give(command))
    }

    fn knows(&self, upstream: &str, backend: Option<&str>) -> Result<(), Unknown> {
        let snapshot = self.source.current.get();
        let upstreams = &snapshot.config().upstreams;
        let found = upstreams.iter().find(|known| known.name == upstream).ok_or(Unknown("upstream"))?;
        let is_there = backend.is_none_or(|name| found.backends.iter().any(|known| known.name == name));
        is_there.then_some(()).ok_or(Unknown("backend"))
    }

    fn reload(&self) -> Answer<Outcome> {
        order(self.door.as_ref(), Command::Reload)
    }

    fn edit(&self, edit: Edit) -> Answer<Outcome> {
        order(self.door.as_ref(), |reply| Command::Edit(edit, reply))
    }

    fn upgrade(&self) -> Answer<Outcome> {
        order(self.door.as_ref(), Command::Upgrade)
    }

    fn differences(&self) -> Vec<Change> {
        let written = lock(&self.source.written);
        written.overlay.differences(&written.file)
    }

    fn sessions(&self, query: SessionQuery) -> Answer<Result<SessionPage, SessionsError>> {
        let (source, handles) = (Arc::clone(&self.source), Arc::clone(&self.handles));
        Box::pin(async move { page(&source, &handles, query).await })
    }

    fn kill(&self, session: u64) -> Answer<Result<bool, NoAnswer>> {
        let handles = Arc::clone(&self.handles);
        Box::pin(async move {
            let Some(handle) = handles.get(shard_of(session).index()) else { return Ok(false) };
            let mut from = 0;
            loop {
                match ask(handle, |reply| Question::Kill(session, from, reply)).await? {
                    Some(Killed::Yes) => return Ok(true),
                    Some(Killed::NotBefore(next)) => from = next,
                    Some(Killed::No) | None => return Ok(false),
                }
            }
        })
    }

    fn explain(&self, query: ExplainQuery) -> Answer<Result<Explanation, ExplainError>> {
        let (source, handles) = (Arc::clone(&self.source), Arc::clone(&self.handles));
        Box::pin(async move {
            let wanted = explain::Wanted::parse(&query, source.current.get())?;
            let question =
                |reply| Question::Preview(wanted.id(), (wanted.client, wanted.hello.clone()), reply);
            let preview = ask(&handles[0], question).await?.flatten().ok_or(NoAnswer)?;
            // A thousand backends take a while to read and to put into words.
            let explained = spawn_blocking(move || explain::explain(&source, &wanted, &preview)).await;
            Ok(explained.map_err(|_| NoAnswer)?)
        })
    }
}

/// Gives a command at once, and returns what becomes of it. It goes on when nobody waits for that any more.
fn order(door: Option<&Door>, command: impl FnOnce(Reply) -> Command) -> Answer<Outcome> {
    let (sender, outcome) = oneshot::channel();
    let reply = Reply::to(move |outcome| {
        // Whoever asked may have left.
        let _ = sender.send(outcome);
    });
    let is_taken = door.is_some_and(|door| door.try_give(command(reply)));
    Box::pin(async move {
        if !is_taken {
            let cause = "the process takes no orders now: it is about to end, or too many wait; try again";
            return Err(Refused::because(cause));
        }
        let ended = "the process has ended before this was done; `ringway ctl status` says what runs now";
        outcome.await.unwrap_or_else(|_| Err(Refused::because(ended)))
    })
}

/// Asks a shard, and returns its answer; `None` if the shard has ended.
async fn ask<T: Send + 'static>(
    handle: &ShardHandle,
    question: impl FnOnce(Box<dyn FnOnce(T) + Send>) -> Question,
) -> Result<Option<T>, NoAnswer> {
    let (reply, answer) = oneshot::channel();
    let question = question(Box::new(|answer| {
        // Nobody waits any more if the time is up.
        let _ = reply.send(answer);
    }));
    if !handle.ask(question) {
        return Err(NoAnswer);
    }
    // What would take the answer is dropped by the end of a shard.
    timeout(PATIENCE, answer).await.map(Result::ok).map_err(|_| NoAnswer)
}

/// Collects a page from shard after shard. `after` holds the shard in its lowest bits, as the number of a session does,
/// and above it a position in the table of that shard.
async fn page(
    source: &Source,
    handles: &[ShardHandle],
    query: SessionQuery,
) -> Result<SessionPage, SessionsError> {
    let limit = query.limit.unwrap_or(limits::SESSIONS_LISTED).clamp(1, limits::SESSIONS_LISTED_MAX);
    let snapshot = source.current.get();
    let mut wanted = wanted(&snapshot, &query)?;
    let after = query.after.unwrap_or(0);
    let (mut shard, mut from) = (shard_of(after).index(), position_of(after));
    let mut page = SessionPage::default();
    while let Some(handle) = handles.get(shard) {
        (wanted.from, wanted.limit) = (from, limit - page.sessions.len());
        let asked = wanted.clone();
        let found: SessionsFound =
            ask(handle, |reply| Question::Sessions(asked, reply)).await?.unwrap_or_default();
        page.sessions.extend(found.sessions.iter().map(|open| status(source, &snapshot, open)));
        (shard, from) = match found.next {
            Some(next) => (shard, next),
            None => (shard + 1, 0),
        };
        if page.sessions.len() == limit && shard < handles.len() {
            page.next = Some(cursor(shard, from));
            return Ok(page);
        }
    }
    Ok(page)
}

fn cursor(shard: usize, from: usize) -> u64 {
    (from as u64) << SHARD_BITS | shard as u64
}

fn position_of(cursor: u64) -> usize {
    usize::try_from(cursor >> SHARD_BITS).unwrap_or(usize::MAX)
}

/// Turns names into numbers, those of what was removed, too.
fn wanted(snapshot: &Snapshot, query: &SessionQuery) -> Result<SessionsWanted, SessionsError> {
    let names = snapshot.names();
    let listener = match &query.listener {
        Some(name) => Some(names.listener_named(name).ok_or(Unknown("listener"))?),
        None => None,
    };
    let backends = match &query.backend {
        Some(name) => {
            let found = names.backends_named(name);
            if found.is_empty() {
                return Err(Unknown("backend").into());
            }
            Some(found)
        }
        None => None,
    };
    Ok(SessionsWanted {
        from: 0,
        limit: 0,
        listener,
        backends,
        client: query.client.map(|ip| ip.to_canonical()),
    })
}

/// Names what was removed, too.
fn status(source: &Source, snapshot: &Snapshot, open: &OpenSession) -> SessionStatus {
    let names = snapshot.names();
    let backend = open.backend.and_then(|number| names.of_backend(open.upstream, number));
    let age = open.age_micros as f64 / 1e6;
    let rate = |bytes: u64| if age > 0.0 { bytes as f64 / age } else { 0.0 };
    SessionStatus {
        id: open.id,
        client: open.client.to_string(),
        listener: names.of_listener(open.listener).unwrap_or("-").to_owned(),
        upstream: names.of_upstream(open.upstream).unwrap_or("-").to_owned(),
        backend: backend.map(str::to_owned),
        core: source.cpus.get(ShardId::index(shard_of(open.id))).copied().unwrap_or_default(),
        state: match open.phase {
            SessionPhase::Handshake => SessionState::Handshake,
            SessionPhase::Queued => SessionState::Queued,
            SessionPhase::Connecting => SessionState::Connecting,
            SessionPhase::Relaying => SessionState::Relaying,
            SessionPhase::Ending => SessionState::Ending,
        },
        age_seconds: age,
        to_backend_bytes: open.to_backend,
        to_client_bytes: open.to_client,
        to_backend_bytes_per_second: rate(open.to_backend),
        to_client_bytes_per_second: rate(open.to_client),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::command::{Applied, door};

    /// Returns the outcome of a reload that has already been decided.
    fn outcome(order: Answer<Outcome>) -> Outcome {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(order)
    }

    fn reason(order: Answer<Outcome>) -> String {
        outcome(order).expect_err("refused").errors.join("; ")
    }

    #[test]
    fn outcome_of_an_order_comes_back() {
        let (door, commands) = door();
        let order = order(Some(&door), Command::Reload);
        let Ok(Command::Reload(reply)) = commands.try_recv() else { panic!("a reload") };
        let applied = Applied { generation: 2, changes: Vec::new() };
        reply.give(Ok(applied.clone()));
        assert_eq!(outcome(order), Ok(applied));
    }

    #[test]
    fn order_that_nobody_obeys_is_refused() {
        let (door, commands) = door();
        let waiting: Vec<_> =
            std::iter::repeat_with(|| order(Some(&door), Command::Upgrade)).take(64).collect();
        let last = waiting.into_iter().next_back().expect("one");
        assert!(reason(last).contains("takes no orders now"), "the door is full");
        drop(commands);
        assert!(
            reason(order(Some(&door), Command::Upgrade)).contains("takes no orders now"),
            "nobody listens"
        );
        assert!(reason(order(None, Command::Upgrade)).contains("takes no orders now"), "no door");
    }

    #[test]
    fn order_that_ends_with_the_process_says_so() {
        let (door, commands) = door();
        let order = order(Some(&door), Command::Reload);
        drop(commands.try_recv());
        assert!(reason(order).contains("has ended before this was done"));
    }
}
