//! Answers: a status, headers, and a body that is there as a whole.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Response, StatusCode};
use serde::Serialize;

/// What is sent.
pub(super) type Answer = Response<Full<Bytes>>;

/// The type of plain text.
pub(super) const TEXT: &str = "text/plain; charset=utf-8";
/// The type of JSON.
pub(super) const JSON: &str = "application/json";

/// What the page may do: its own styles and scripts, and questions to this process.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                           connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                           frame-ancestors 'none'";

/// An answer of any type. Nothing is kept by browsers and proxies, and nothing is taken for another type.
pub(super) fn of(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    for (name, value) in
        [(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-store"), (X_CONTENT_TYPE_OPTIONS, "nosniff")]
    {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// The page, which no other page can frame.
pub(super) fn page(body: &'static str) -> Answer {
    let mut answer = of(StatusCode::OK, "text/html; charset=utf-8", body);
    let headers = [
        ("content-security-policy", PAGE_POLICY),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
    ];
    for (name, value) in headers {
        answer.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    answer
}

/// A value as JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => of(status, JSON, body),
        Err(error) => {
            failure(StatusCode::SERVICE_UNAVAILABLE, &format!("the answer cannot be written: {error}"))
        }
    }
}

/// What went wrong, in one sentence with its remedy.
pub(super) fn failure(status: StatusCode, sentence: &str) -> Answer {
    of(status, JSON, serde_json::json!({ "error": sentence }).to_string())
}

/// The process cannot answer, in one sentence with its remedy.
pub(super) fn unavailable(sentence: &str) -> Answer {
    failure(StatusCode::SERVICE_UNAVAILABLE, sentence)
}

/// The method does not fit.
pub(super) fn not_allowed(allowed: &'static str) -> Answer {
    let mut answer = failure(StatusCode::METHOD_NOT_ALLOWED, &format!("this takes {allowed} only"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}
