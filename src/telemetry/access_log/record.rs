//! One record, as a shard leaves it: numbers, so that leaving it costs no more than copying them, and a name where the
//! client has sent one.

use crate::base::{
    BackendId, ClientAddress, CloseReason, DenyReason, ListenerId, Moment, SessionPhase, ShardId, UpstreamId,
};
use crate::net::TcpInfo;
use crate::tls::Agreed;

/// A session that has ended, or a connection that was denied.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessRecord {
    /// Its number.
    pub id: u64,
    /// When it was accepted.
    pub begun: Moment,
    /// When it ended.
    pub ended: Moment,
    /// Its client.
    pub client: ClientAddress,
    /// Whose socket it is: the client, or the proxy that has announced it.
    pub peer: ClientAddress,
    /// Its listener.
    pub listener: ListenerId,
    /// Its upstream.
    pub upstream: UpstreamId,
    /// The last backend that was tried.
    pub backend: Option<BackendId>,
    /// The shard that served it.
    pub shard: ShardId,
    /// How it ended.
    pub end: End,
    /// How long it waited for a permit of a backend, microseconds.
    pub queue_micros: u32,
    /// How long it took from then until a backend had accepted the connection, microseconds; `None` if none did.
    pub connect_micros: Option<u32>,
    /// Bytes delivered to the backend.
    pub to_backend: u64,
    /// Bytes delivered to the client.
    pub to_client: u64,
    /// Attempts on another backend after a failed one.
    pub retries: u8,
    /// The number of clients that waited when this one began to wait.
    pub ahead: u16,
    /// The host that a client of TLS has asked for, if that was read.
    pub server_name: Option<Box<str>>,
    /// What the client has agreed on with us in TLS.
    pub tls: Option<Agreed>,
    /// What the kernel knew of the client's connection.
    pub client_info: Option<TcpInfo>,
    /// What the kernel knew of the backend's connection.
    pub backend_info: Option<TcpInfo>,
}

/// How a connection of a client ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As a session, for this reason, in this phase.
    Closed(CloseReason, SessionPhase),
    /// It never became a session.
    Denied(DenyReason),
}

impl End {
    /// Returns the name of the reason.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed(reason, _) => reason.name(),
            Self::Denied(reason) => reason.name(),
        }
    }

    /// Returns who ended it and when, as two letters.
    #[must_use]
    pub fn letters(self) -> [u8; 2] {
        match self {
            Self::Closed(reason, phase) => reason.letters(phase),
            Self::Denied(_) => *b"PR",
        }
    }
}

impl AccessRecord {
    /// Returns the record of a connection that was denied.
    #[must_use]
    pub fn denied(
        id: u64,
        now: Moment,
        client: ClientAddress,
        (listener, upstream): (ListenerId, UpstreamId),
        (shard, reason): (ShardId, DenyReason),
    ) -> Self {
        Self {
            id,
            begun: now,
            ended: now,
            client,
            peer: client,
            listener,
            upstream,
            backend: None,
            shard,
            end: End::Denied(reason),
            queue_micros: 0,
            connect_micros: None,
            to_backend: 0,
            to_client: 0,
            retries: 0,
            ahead: 0,
            server_name: None,
            tls: None,
            client_info: None,
            backend_info: None,
        }
    }
}
