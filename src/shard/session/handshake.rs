//! The TLS of a client, terminated here.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use rustls::{Error, HandshakeKind};

use super::door;
use super::record::Record;
use crate::base::{CloseReason, TlsFailure, TlsHandshake};
use crate::net::HandshakeError;
use crate::tls::{ServerSettings, Stream};

/// How a handshake ended that has begun.
enum Failure {
    /// As many as may go on at a time were going on.
    Limit,
    /// The two did not agree, or the connection ended.
    Peer(HandshakeError),
}

/// Shakes hands with a client, which has to be done in time. From then on the client's bytes are plaintext.
pub(super) async fn shake_hands(
    record: &mut Record,
    settings: Arc<ServerSettings>,
) -> Result<(), CloseReason> {
    let ended = run(record, &settings).await;
    let counters = record.listener.counters();
    let failure = match ended {
        Ok(Ok(kind)) => {
            counters.tls_handshakes[kind.index()].add(1);
            return Ok(());
        }
        Ok(Err(failure)) => failure,
        Err(reason) => {
            note_early_end(record, reason);
            return Err(reason);
        }
    };
    let kind = failure.kind();
    counters.tls_failures[kind.index()].add(1);
    let (listener, client) = (&*record.listener.config().name, record.session.client());
    log::debug!("listener {listener}: no TLS with {client}: {failure}");
    Err(if kind == TlsFailure::Closed { CloseReason::ClientLeft } else { CloseReason::HandshakeFailed })
}

/// Counts a client that has come for TLS, and ended before its hello was there.
pub(super) fn note_early_end(record: &Record, reason: CloseReason) {
    let failure = match reason {
        CloseReason::ClientLeft => TlsFailure::Closed,
        CloseReason::HandshakeTimeout => TlsFailure::Timeout,
        _ => return,
    };
    let has_tls = record.listener.shared.tls().is_some();
    record.listener.counters().tls_failures[failure.index()].add(has_tls.into());
}

async fn run(
    record: &mut Record,
    settings: &ServerSettings,
) -> Result<Result<TlsHandshake, Failure>, CloseReason> {
    let place = record.listener.shared.begin_handshake(record.shard().id());
    let Some(_place) = place else { return Ok(Err(Failure::Limit)) };
    let stream = match Stream::server(settings.config()) {
        Ok(stream) => stream,
        Err(error) => return Ok(Err(Failure::Peer(HandshakeError::Tls(error)))),
    };
    let pace = Rc::clone(&record.shard().tls_pace);
    record.client.encrypt_client(stream, pace);
    let deadline = record.session.begun.tick().after(record.listener.config().timeouts.handshake);
    let client = &record.client;
    let ended = door::until(record, deadline, |context| client.poll_handshake(context).map(Ok)).await?;
    let kind = client.with_agreed(|agreed| match agreed.handshake_kind() {
        Some(HandshakeKind::Resumed) => TlsHandshake::Resumed,
        _ => TlsHandshake::Full,
    });
    Ok(ended.map(|()| kind.unwrap_or(TlsHandshake::Full)).map_err(Failure::Peer))
}

impl Failure {
    fn kind(&self) -> TlsFailure {
        let error = match self {
            Self::Limit => return TlsFailure::Limit,
            Self::Peer(HandshakeError::Ended) => return TlsFailure::Closed,
            Self::Peer(HandshakeError::Tls(error)) => error,
        };
        match error {
            Error::NoCertificatesPresented
            | Error::InvalidCertificate(_)
            | Error::InvalidCertRevocationList(_) => TlsFailure::Certificate,
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => TlsFailure::Incompatible,
            Error::AlertReceived(_) => TlsFailure::Alert,
            _ => TlsFailure::Invalid,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit => f.write_str("`handshakes_max` handshakes go on already"),
            Self::Peer(error) => error.fmt(f),
        }
    }
}
