//! Open sessions come in pages; this follows them up to a limit.

use serde_json::{Value, json};

use super::super::api::{self, Api, ApiError};
use super::args::SessionArguments;

/// Maximum number of sessions that the API puts on a page.
const PAGE_MAX: u64 = 1_000;

/// Returns the wanted sessions as one document: what the API says of each, and the `next` of the last page.
pub(super) fn follow(api: &Api, wanted: &SessionArguments) -> Result<Value, ApiError> {
    let mut sessions = Vec::new();
    let mut after = None;
    loop {
        let missing = wanted.limit.saturating_sub(sessions.len() as u64);
        if missing == 0 {
            break;
        }
        let mut page: Value = api.read(&path(wanted, missing.min(PAGE_MAX), after))?;
        let found = page.get_mut("sessions").and_then(Value::as_array_mut).map(std::mem::take);
        sessions.extend(found.ok_or_else(|| ApiError::Strange("`sessions` is missing".to_owned()))?);
        let next = page.get("next").and_then(Value::as_u64);
        // A page that leads back to itself would never end.
        let leads_on = next.is_some() && next != after;
        after = next;
        if !leads_on {
            break;
        }
    }
    Ok(json!({ "sessions": sessions, "next": after }))
}

fn path(wanted: &SessionArguments, limit: u64, after: Option<u64>) -> String {
    let mut path = format!("/v1/sessions?limit={limit}");
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", api::encoded(&value)));
        }
    };
    add("after", after.map(|after| after.to_string()));
    add("listener", wanted.listener.clone());
    add("backend", wanted.backend.clone());
    add("client", wanted.client.map(|client| client.to_string()));
    path
}
