//! What operators ask a shard: which sessions are open, to end one, and what a client would get.

use std::net::IpAddr;

use crate::base::{BackendId, ClientAddress, ListenerId, SessionPhase, UpstreamId};
use crate::protocol::client_hello::ClientHello;
use crate::upstream::Preview;

/// A question, with what takes its answer. That is called on the shard, and must not block.
pub enum Question {
    /// Open sessions.
    Sessions(SessionsWanted, Box<dyn FnOnce(SessionsFound) + Send>),
    /// To end the session with this number, if it is at this position of the table or not far behind.
    Kill(u64, usize, Box<dyn FnOnce(Killed) + Send>),
    /// Which backend a client of a listener would get now that says this; nothing follows where it is refused.
    Preview(ListenerId, (ClientAddress, ClientHello), Box<dyn FnOnce(Option<Preview>) + Send>),
}

/// Which sessions are wanted.
#[derive(Clone, Debug)]
pub struct SessionsWanted {
    /// Position in the table to begin with.
    pub from: usize,
    /// Maximum number of sessions in the answer.
    pub limit: usize,
    /// Only those of this listener.
    pub listener: Option<ListenerId>,
    /// Only those on one of these backends.
    pub backends: Option<Vec<(UpstreamId, BackendId)>>,
    /// Only those of this client.
    pub client: Option<IpAddr>,
}

/// A part of the open sessions.
#[derive(Clone, Debug, Default)]
pub struct SessionsFound {
    /// Those that are wanted.
    pub sessions: Vec<OpenSession>,
    /// Where the next part begins, if there is one.
    pub next: Option<usize>,
}

/// Whether a session was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Killed {
    /// It ends.
    Yes,
    /// It is not among those that were looked at; the next ones begin at this position.
    NotBefore(usize),
    /// There is no such session.
    No,
}

/// An open session.
#[derive(Clone, Copy, Debug)]
pub struct OpenSession {
    /// Its number.
    pub id: u64,
    /// Its client.
    pub client: ClientAddress,
    /// Its listener.
    pub listener: ListenerId,
    /// Its upstream.
    pub upstream: UpstreamId,
    /// Its backend, or the last that was tried.
    pub backend: Option<BackendId>,
    /// How far it has come.
    pub phase: SessionPhase,
    /// How long it has been open, microseconds.
    pub age_micros: u64,
    /// Bytes delivered to the backend.
    pub to_backend: u64,
    /// Bytes delivered to the client.
    pub to_client: u64,
}

impl SessionsWanted {
    /// Returns whether a session is among those that are wanted.
    pub(super) fn admits(&self, open: &OpenSession) -> bool {
        let is_on =
            |backends: &Vec<_>| open.backend.is_some_and(|id| backends.contains(&(open.upstream, id)));
        self.listener.is_none_or(|listener| listener == open.listener)
            && self.client.is_none_or(|client| open.client.ip() == Some(client))
            && self.backends.as_ref().is_none_or(is_on)
    }
}
