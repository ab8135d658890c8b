//! Asks the process what a request wants to know, or tells it what it wants done.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{ACCEPT, HeaderMap};
use hyper::{Method, Request, StatusCode};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::super::command::Command;
use super::super::process::{ExplainError, Exposition, Process, Readiness, SessionsError};
use super::access::{self, Peer, Refusal};
use super::answer::{self, Answer, JSON, TEXT, unavailable};
use super::orders;
use super::query::{self, quote};
use super::route::Route;
use super::under_way::UnderWay;

/// Largest body of a request, bytes.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Bytes of a body that is too large which are read all the same, so that its sender gets to the answer.
const EXCESS_BYTES_MAX: usize = 1 << 20;
/// How long the body of a request may take.
const BODY_PATIENCE: Duration = Duration::from_secs(10);
/// How long the process may take to say what it is asked. Shards answer within a second.
const PATIENCE: Duration = Duration::from_secs(10);
/// Answers that are worked out at a time, each on a thread of its own.
const RENDERINGS_MAX: usize = 2;
/// Answers that clients have not taken yet, all together, KiB: one of a thousand backends has 4,000.
const UNSENT_KIB_MAX: usize = 64 << 10;

const PANICKED: &str = "the answer could not be made; the log of the process says why";

const PAGE: &str = include_str!("page.html");
const DESCRIPTION: &str = include_str!("openapi.json");

/// Answers requests.
pub(super) struct Api {
    process: Arc<dyn Process>,
    pub(super) under_way: UnderWay,
    renderings: Arc<Semaphore>,
    unsent: Arc<Semaphore>,
}

/// A body that counts as unsent until its connection drops it.
struct Unsent {
    body: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Unsent {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Api {
    pub(super) fn new(process: Arc<dyn Process>, under_way: UnderWay) -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        let (renderings, unsent) = (semaphore(RENDERINGS_MAX), semaphore(UNSENT_KIB_MAX));
        Self { process, under_way, renderings, unsent }
    }

    /// Answers a request, whatever it is.
    pub(super) async fn answer<B>(&self, peer: Peer, request: Request<B>) -> Answer
    where
        B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send,
    {
        if let Err(refusal) = access::judge(peer, &request) {
            let status =
                if refusal == Refusal::Host { StatusCode::BAD_REQUEST } else { StatusCode::FORBIDDEN };
            return answer::failure(status, &refusal.to_string());
        }
        let Some(route) = Route::of(request.uri().path()) else {
            let sentence = format!(
                "there is no {} here; `/v1/openapi.json` lists what there is",
                quote(request.uri().path())
            );
            return answer::failure(StatusCode::NOT_FOUND, &sentence);
        };
        if !route.takes(request.method()) {
            return answer::not_allowed(route.allowed());
        }
        if route.is_private() && matches!(peer, Peer::Tcp { .. }) {
            let sentence = "this is not on the TCP endpoint, which changes nothing and shows no clients; use the \
                            Unix socket of `admin.socket`, for instance with `ringway ctl`";
            return answer::failure(StatusCode::FORBIDDEN, sentence);
        }
        let query = request.uri().query().unwrap_or_default().to_owned();
        match route {
            Route::Page => answer::page(PAGE),
            Route::Health => answer::of(StatusCode::OK, TEXT, "ok\n"),
            Route::Ready(listener) => self.ready(listener.as_deref()),
            Route::Metrics => self.metrics(request.headers()).await,
            Route::Status => self.rendered(|process| answer::json(StatusCode::OK, &process.status())).await,
            Route::Description => answer::of(StatusCode::OK, JSON, DESCRIPTION),
            Route::Explain => self.explain(&query).await,
            Route::Sessions => self.sessions(&query).await,
            Route::Session(id) => self.kill(peer, &id).await,
            Route::Config => self.config(request.headers()).await,
            Route::Drain => self.drain(peer),
            Route::LogLevel => self.set_level(peer, request.into_body()).await,
            Route::Diff => self.differences().await,
            Route::Reload => orders::reload(&*self.process, peer).await,
            Route::Upgrade => orders::upgrade(&*self.process, peer).await,
            Route::Backends(upstream) => match read(request.into_body()).await {
                Ok(body) => orders::add(&*self.process, peer, &upstream, &body).await,
                Err(answer) => *answer,
            },
            Route::Backend(upstream, backend) if request.method() == Method::DELETE => {
                orders::remove(&*self.process, peer, &upstream, &backend).await
            }
            Route::Backend(upstream, backend) => match read(request.into_body()).await {
                Ok(body) => orders::set(&*self.process, peer, (&upstream, &backend), &body).await,
                Err(answer) => *answer,
            },
        }
    }

    async fn differences(&self) -> Answer {
        let render = |process: &dyn Process| {
            answer::json(StatusCode::OK, &json!({ "changes": process.differences() }))
        };
        self.rendered(render).await
    }

    fn ready(&self, listener: Option<&str>) -> Answer {
        let not_ready = |body: &'static str| answer::of(StatusCode::SERVICE_UNAVAILABLE, TEXT, body);
        match self.process.readiness(listener) {
            Some(Readiness::Ready) => answer::of(StatusCode::OK, TEXT, "ready\n"),
            Some(Readiness::Stops) => not_ready("not ready: the process is about to end, or drains\n"),
            Some(Readiness::NoBackend) => not_ready(
                "not ready: no backend is eligible; `ringway ctl backends` and the page at `/` show the last \
                 check of each\n",
            ),
            None => {
                let name = quote(listener.unwrap_or_default());
                let sentence =
                    format!("no listener is called {name}; `ringway ctl status` and `/v1/status` list them");
                answer::failure(StatusCode::NOT_FOUND, &sentence)
            }
        }
    }

    async fn metrics(&self, headers: &HeaderMap) -> Answer {
        let (exposition, kind) = if query::wants_open_metrics(&accepted(headers)) {
            (Exposition::OpenMetrics, "application/openmetrics-text; version=1.0.0; charset=utf-8")
        } else {
            (Exposition::Text, "text/plain; version=0.0.4; charset=utf-8")
        };
        self.rendered(move |process| answer::of(StatusCode::OK, kind, process.metrics(exposition))).await
    }

    async fn config(&self, headers: &HeaderMap) -> Answer {
        let wants_yaml = query::wants_yaml(&accepted(headers));
        let render = move |process: &dyn Process| {
            let yaml = process.config();
            if wants_yaml {
                return answer::of(StatusCode::OK, "application/yaml", yaml);
            }
            match serde_yaml::from_str::<serde_yaml::Value>(&yaml) {
                Ok(value) => answer::json(StatusCode::OK, &value),
                Err(error) => unavailable(&format!("the configuration cannot be written as JSON: {error}")),
            }
        };
        self.rendered(render).await
    }

    async fn explain(&self, query: &str) -> Answer {
        let wanted = match query::explain(query) {
            Ok(wanted) => wanted,
            Err(sentence) => return answer::failure(StatusCode::BAD_REQUEST, &sentence),
        };
        let is_named = wanted.listener.is_some();
        // The shard works, too, so few may ask at a time; and it works on when the client has gone, so the permit is the
        // task's.
        let Some(permit) = self.permit().await else { return late() };
        let explaining = self.process.explain(wanted);
        let explained = tokio::spawn(async move {
            let _permit = permit;
            explaining.await
        });
        match timeout(PATIENCE, explained).await {
            Ok(Ok(Ok(explanation))) => answer::json(StatusCode::OK, &explanation),
            Ok(Ok(Err(error))) => {
                let status = match &error {
                    ExplainError::Listener(_) if is_named => StatusCode::NOT_FOUND,
                    ExplainError::Client(_) | ExplainError::Name(_) | ExplainError::Listener(_) => {
                        StatusCode::BAD_REQUEST
                    }
                    ExplainError::Shard(_) => StatusCode::SERVICE_UNAVAILABLE,
                };
                answer::failure(status, &error.to_string())
            }
            Ok(Err(_)) => unavailable(PANICKED),
            Err(_) => late(),
        }
    }

    async fn sessions(&self, query: &str) -> Answer {
        let wanted = match query::sessions(query) {
            Ok(wanted) => wanted,
            Err(sentence) => return answer::failure(StatusCode::BAD_REQUEST, &sentence),
        };
        match timeout(PATIENCE, self.process.sessions(wanted)).await {
            Ok(Ok(page)) => answer::json(StatusCode::OK, &page),
            Ok(Err(error)) => {
                let status = match error {
                    SessionsError::Unknown(_) => StatusCode::NOT_FOUND,
                    SessionsError::Shard(_) => StatusCode::SERVICE_UNAVAILABLE,
                };
                answer::failure(status, &error.to_string())
            }
            Err(_) => late(),
        }
    }

    async fn kill(&self, peer: Peer, id: &str) -> Answer {
        let none = || {
            let sentence = format!(
                "no open session has the number {}: it has ended, or never was; `ringway ctl sessions` and \
                 `/v1/sessions` list the open ones",
                quote(id)
            );
            answer::failure(StatusCode::NOT_FOUND, &sentence)
        };
        let Ok(session) = id.parse::<u64>() else { return none() };
        match timeout(PATIENCE, self.process.kill(session)).await {
            Ok(Ok(true)) => {
                log::warn!("admin: {peer} has ended session {session}");
                answer::json(StatusCode::OK, &json!({ "killed": session }))
            }
            Ok(Ok(false)) => none(),
            Ok(Err(error)) => unavailable(&error.to_string()),
            Err(_) => late(),
        }
    }

    fn drain(&self, peer: Peer) -> Answer {
        log::warn!("admin: {peer} drains the process");
        if self.process.give(Command::Drain) {
            return answer::json(StatusCode::ACCEPTED, &json!({ "draining": true }));
        }
        busy()
    }

    async fn set_level<B>(&self, peer: Peer, body: B) -> Answer
    where
        B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send,
    {
        let body = match read(body).await {
            Ok(body) => body,
            Err(answer) => return *answer,
        };
        match query::level(&body) {
            Ok(level) => {
                let name = level.as_str().to_lowercase();
                log::warn!("admin: {peer} sets the log level to {name}");
                if self.process.give(Command::SetLogLevel(level)) {
                    return answer::json(StatusCode::OK, &json!({ "level": name }));
                }
                busy()
            }
            Err(sentence) => answer::failure(StatusCode::BAD_REQUEST, &sentence),
        }
    }

    /// Renders an answer on a thread of its own: that of a thousand backends takes a while.
    async fn rendered(&self, render: impl FnOnce(&dyn Process) -> Answer + Send + 'static) -> Answer {
        let Some(permit) = self.permit().await else { return late() };
        let process = Arc::clone(&self.process);
        // The thread works on when the client has gone, so the permit is the thread's.
        let render = move || (render(&*process), permit);
        let Ok((answer, permit)) = tokio::task::spawn_blocking(render).await else {
            return unavailable(PANICKED);
        };
        // Nothing more is worked out for clients that take nothing.
        let answer = self.unsent(answer).await;
        drop(permit);
        answer
    }

    /// Waits until there is room for one more body that its client has yet to take.
    async fn unsent(&self, answer: Answer) -> Answer {
        let (parts, body) = answer.into_parts();
        let Ok(body) = body.collect().await;
        let body = body.to_bytes();
        let kib = (body.len() >> 10).min(UNSENT_KIB_MAX - 1) + 1;
        let room = Arc::clone(&self.unsent).acquire_many_owned(kib as u32);
        match timeout(PATIENCE, room).await {
            Ok(Ok(permit)) => {
                Answer::from_parts(parts, Bytes::from_owner(Unsent { body, _permit: permit }).into())
            }
            _ => unavailable("the answers of other clients wait to be taken; try again, and look who asks"),
        }
    }

    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        timeout(PATIENCE, Arc::clone(&self.renderings).acquire_owned()).await.ok()?.ok()
    }
}

/// Reads a body as a whole, or says what is wrong with it.
async fn read<B>(body: B) -> Result<Bytes, Box<Answer>>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send,
{
    let body = Limited::new(body, EXCESS_BYTES_MAX);
    let too_large = || {
        let sentence = format!("the body is larger than {} KiB; send less", BODY_BYTES_MAX >> 10);
        Box::new(answer::failure(StatusCode::PAYLOAD_TOO_LARGE, &sentence))
    };
    match timeout(BODY_PATIENCE, body.collect()).await {
        Ok(Ok(body)) => {
            let bytes = body.to_bytes();
            if bytes.len() <= BODY_BYTES_MAX { Ok(bytes) } else { Err(too_large()) }
        }
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => {
            let sentence = format!("the body is not whole: {error}; send it again");
            Err(Box::new(answer::failure(StatusCode::BAD_REQUEST, &sentence)))
        }
        Err(_) => {
            let sentence = format!("the body did not come within {BODY_PATIENCE:?}; send it at once");
            Err(Box::new(answer::failure(StatusCode::REQUEST_TIMEOUT, &sentence)))
        }
    }
}

/// Returns the headers `Accept` as one.
fn accepted(headers: &HeaderMap) -> String {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.collect::<Vec<_>>().join(",")
}

fn late() -> Answer {
    unavailable(&format!("the process did not answer within {PATIENCE:?}; try again"))
}

fn busy() -> Answer {
    unavailable("the process takes no orders now: it is about to end, or too many wait; try again")
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;

    use super::super::testing::Fake;
    use super::*;

    const OPERATOR: Peer = Peer::Socket { uid: None };

    fn request(method: Method, path: &str) -> Request<Empty<Bytes>> {
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        request.body(Empty::new()).unwrap()
    }

    #[tokio::test]
    async fn shard_that_does_not_answer_is_no_missing_session() {
        let api = Api::new(Arc::new(Fake::default()), UnderWay::default());
        for (method, path) in [(Method::DELETE, "/v1/sessions/1"), (Method::GET, "/v1/explain?client=::1")] {
            let answer = api.answer(OPERATOR, request(method, path)).await;
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_nobody_takes_are_few() {
        let api = Api::new(Arc::new(Fake::default()), UnderWay::default());
        let ask = || api.answer(OPERATOR, request(Method::GET, "/metrics"));
        let first = ask().await;
        assert_eq!((first.status(), api.unsent.available_permits()), (StatusCode::OK, UNSENT_KIB_MAX - 1));
        let others = api.unsent.acquire_many(UNSENT_KIB_MAX as u32 - 1).await.unwrap();
        assert_eq!(ask().await.status(), StatusCode::SERVICE_UNAVAILABLE);
        // The one that waited is worked out no more.
        assert_eq!(api.renderings.available_permits(), RENDERINGS_MAX);
        drop(first);
        assert_eq!(ask().await.status(), StatusCode::OK);
        drop(others);
    }

    #[tokio::test]
    async fn process_that_takes_no_orders_is_not_said_to_obey() {
        let api = Api::new(Arc::new(Fake::default()), UnderWay::default());
        let answer = api.answer(OPERATOR, request(Method::POST, "/v1/drain")).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn clients_that_leave_early_have_few_answers_made_at_a_time() {
        let (open, gate) = std::sync::mpsc::channel();
        let api = Arc::new(Api::new(Arc::new(Fake { gate: Some(gate.into()) }), UnderWay::default()));
        for _ in 0..RENDERINGS_MAX {
            let (before, asked) = (api.renderings.available_permits(), Arc::clone(&api));
            let client = tokio::spawn(async move {
                asked.answer(OPERATOR, request(Method::GET, "/metrics")).await;
            });
            while api.renderings.available_permits() == before {
                tokio::task::yield_now().await;
            }
            client.abort();
            assert!(client.await.unwrap_err().is_cancelled());
        }
        assert_eq!(api.renderings.available_permits(), 0, "their threads still work");
        drop(open);
        let answer = api.answer(OPERATOR, request(Method::GET, "/metrics")).await;
        assert_eq!(answer.status(), StatusCode::OK);
    }
}
