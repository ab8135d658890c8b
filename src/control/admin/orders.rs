//! Orders that change what runs: logged with who gives them, and answered with what became of them.

use std::time::Duration;

use hyper::StatusCode;
use tokio::time::timeout;

use super::super::command::{Outcome, Refused};
use super::super::process::{self, Process, Unknown};
use super::access::Peer;
use super::answer::{self, Answer, unavailable};
use super::query::{self, Values, quote};
use crate::config::Edit;

/// How long an order may take: a new process that an upgrade starts looks up names and checks backends first.
const PATIENCE: Duration = Duration::from_secs(120);

/// Loads the configuration again.
pub(super) async fn reload(process: &dyn Process, peer: Peer) -> Answer {
    log::warn!("admin: {peer} reloads the configuration");
    outcome(process.reload()).await
}

/// Replaces the process by the binary on disk.
pub(super) async fn upgrade(process: &dyn Process, peer: Peer) -> Answer {
    log::warn!("admin: {peer} upgrades the process");
    outcome(process.upgrade()).await
}

/// Sets values of a backend, which goes by the names of its upstream and its own.
pub(super) async fn set(
    process: &dyn Process,
    peer: Peer,
    (upstream, backend): (&str, &str),
    body: &[u8],
) -> Answer {
    if let Err(error) = process.knows(upstream, Some(backend)) {
        return missing(error);
    }
    let Values { weight, state, max_connections } = match query::values(body) {
        Ok(values) => values,
        Err(sentence) => return answer::failure(StatusCode::BAD_REQUEST, &sentence),
    };
    let values = [
        weight.map(|weight| format!("weight={weight}")),
        state.map(|state| format!("state={}", state.name())),
        max_connections.map(|most| format!("max_connections={most}")),
    ];
    let values = values.into_iter().flatten().collect::<Vec<_>>().join(" ");
    log::warn!("admin: {peer} sets {upstream}/{backend} to {values}");
    let (upstream, backend) = (upstream.to_owned(), backend.to_owned());
    outcome(process.edit(Edit::Set { upstream, backend, weight, state, max_connections })).await
}

/// Adds a backend to an upstream.
pub(super) async fn add(process: &dyn Process, peer: Peer, upstream: &str, body: &[u8]) -> Answer {
    if let Err(error) = process.knows(upstream, None) {
        return missing(error);
    }
    let entry = match query::entry(body) {
        Ok(entry) => entry,
        Err(sentence) => return answer::failure(StatusCode::BAD_REQUEST, &sentence),
    };
    log::warn!("admin: {peer} adds a backend to {upstream}: {}", quote(&entry));
    outcome(process.edit(Edit::Add { upstream: upstream.to_owned(), entry })).await
}

/// Removes a backend.
pub(super) async fn remove(process: &dyn Process, peer: Peer, upstream: &str, backend: &str) -> Answer {
    if let Err(error) = process.knows(upstream, Some(backend)) {
        return missing(error);
    }
    log::warn!("admin: {peer} removes the backend {upstream}/{backend}");
    outcome(process.edit(Edit::Remove { upstream: upstream.to_owned(), backend: backend.to_owned() })).await
}

fn missing(error: Unknown) -> Answer {
    answer::failure(StatusCode::NOT_FOUND, &error.to_string())
}

async fn outcome(order: process::Answer<Outcome>) -> Answer {
    match timeout(PATIENCE, order).await {
        Ok(Ok(applied)) => answer::json(StatusCode::OK, &applied),
        Ok(Err(Refused { errors })) => answer::json(StatusCode::UNPROCESSABLE_ENTITY, &Refused { errors }),
        Err(_) => unavailable(&format!(
            "this is not done after {PATIENCE:?}, and may still be; `ringway ctl status` shows the generation that runs"
        )),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::{Value, json};

    use super::super::testing::Fake;
    use super::*;

    const OPERATOR: Peer = Peer::Socket { uid: Some(0) };

    async fn said(answer: Answer) -> (u16, Value) {
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn a_refusal_has_every_reason() {
        let fake = Fake::default();
        let (status, body) = said(set(&fake, OPERATOR, ("u/1", "b"), br#"{"weight": 3}"#).await).await;
        let edit = Edit::Set {
            upstream: "u/1".into(),
            backend: "b".into(),
            weight: Some(3),
            state: None,
            max_connections: None,
        };
        assert_eq!((status, body), (422, json!({ "errors": [format!("{edit:?}"), "the other reason"] })));
        let (status, body) = said(add(&fake, OPERATOR, "u/1", br#"{"address": "h:1"}"#).await).await;
        let edit = Edit::Add { upstream: "u/1".into(), entry: r#"{"address":"h:1"}"#.into() };
        assert_eq!((status, &body["errors"][0]), (422, &json!(format!("{edit:?}"))));
        let (status, body) = said(remove(&fake, OPERATOR, "u/1", "b").await).await;
        let edit = Edit::Remove { upstream: "u/1".into(), backend: "b".into() };
        assert_eq!((status, &body["errors"][0]), (422, &json!(format!("{edit:?}"))));
    }

    #[tokio::test]
    async fn names_that_are_not_there_are_not_found_and_bodies_that_do_not_fit_refused() {
        let fake = Fake::default();
        for (answer, words) in [
            (set(&fake, OPERATOR, ("u/1", "c"), b"{}").await, "no backend has this name"),
            (set(&fake, OPERATOR, ("u", "b"), b"{}").await, "no upstream has this name"),
            (add(&fake, OPERATOR, "u", b"{}").await, "no upstream has this name"),
            (remove(&fake, OPERATOR, "u/1", "c").await, "no backend has this name"),
        ] {
            let (status, body) = said(answer).await;
            assert!(status == 404 && body["error"].as_str().unwrap().contains(words), "{status} {body}");
        }
        assert_eq!(set(&fake, OPERATOR, ("u/1", "b"), b"{}").await.status(), StatusCode::BAD_REQUEST);
        assert_eq!(add(&fake, OPERATOR, "u/1", b"[]").await.status(), StatusCode::BAD_REQUEST);
    }

    #[tokio::test(start_paused = true)]
    async fn an_order_is_waited_for_and_not_for_ever() {
        let fake = Fake::default();
        let begin = tokio::time::Instant::now();
        let (status, body) = said(reload(&fake, OPERATOR).await).await;
        assert!(status == 503 && body["error"].as_str().unwrap().contains("may still be"), "{body}");
        assert_eq!(begin.elapsed(), PATIENCE);
        assert_eq!(
            said(upgrade(&fake, OPERATOR).await).await,
            (200, json!({ "generation": 7, "changes": [] }))
        );
    }
}
