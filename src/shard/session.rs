//! One session, from accept to close.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::Poll;

use super::establish::{Established, Tries};
use super::{Busy, Shard};
use crate::relay::{Outcome, Relay, Side};
use crate::rules::admission::Permit;
use crate::uring::{Socket, Tick};
use crate::words::{BackendId, CloseReason, ListenerId, UpstreamId};

/// Admits a new connection and serves it in a task of its own.
pub(super) fn start(shard: &Rc<Shard>, listener: ListenerId, connection: OwnedFd) {
    let counters = shard.counters.listener(listener);
    counters.accepted.add(1);
    let client = shard.ring.socket(connection);
    let Some(permit) = shard.limit.admit() else {
        counters.denied.add(1);
        client.reset_on_close();
        return;
    };
    counters.active.add(1);
    let record = Record {
        busy: shard.busy(),
        _permit: permit,
        listener,
        backend: None,
        begun: shard.ring.now(),
        bytes_to_backend: 0,
        bytes_to_client: 0,
        reason: CloseReason::Internal,
    };
    shard.ring.spawn(serve(record, client));
}

/// The way of a session, top to bottom.
async fn serve(mut record: Record, client: Socket) {
    let shard = Rc::clone(record.shard());
    let mut tries = Box::new(Tries::new(&shard, record.upstream(), &client, record.deadline()));
    record.reason = loop {
        // Boxed, so that an idle session does not carry the state of its beginning.
        let established = Box::pin(tries.establish(&shard, &client)).await;
        let Established { backend, in_flight } = match established {
            Ok(established) => established,
            Err(reason) => {
                client.reset_on_close();
                break reason;
            }
        };
        record.backend = Some(in_flight.backend());
        let rules = &shard.relay_rules[record.listener.index()];
        let mut relay = Relay::new(&client, &backend, rules, record.deadline());
        let outcome = std::future::poll_fn(|context| {
            if record.shard().is_closing() {
                return Poll::Ready(Outcome::Stopped);
            }
            let polled = relay.poll(context);
            record.account(&relay);
            tries.note_progress(record.shard(), &relay);
            polled
        })
        .await;
        if outcome == Outcome::Reset(Side::Backend) && relay.is_untouched() && tries.may_retry(&shard) {
            tries.failed(CloseReason::BackendReset);
            continue;
        }
        let cut = relay.holds_bytes();
        drop(relay);
        close(outcome, cut, &client, &backend);
        break close_reason(outcome);
    };
}

/// Chooses FIN or RST for each side. A stream that is cut must not look like one that has ended.
fn close(outcome: Outcome, cut: bool, client: &Socket, backend: &Socket) {
    let (reset_client, reset_backend) = match outcome {
        Outcome::Normal => (false, false),
        Outcome::Reset(_) | Outcome::TooLong | Outcome::Stopped => (true, true),
        Outcome::Idle(_) | Outcome::HalfClose(_) => (cut, cut),
    };
    if reset_client {
        client.reset_on_close();
    }
    if reset_backend {
        backend.reset_on_close();
    }
}

fn close_reason(outcome: Outcome) -> CloseReason {
    match outcome {
        Outcome::Normal => CloseReason::Normal,
        Outcome::Reset(Side::Client) => CloseReason::ClientReset,
        Outcome::Reset(Side::Backend) => CloseReason::BackendReset,
        Outcome::Idle(Side::Client) => CloseReason::ClientIdle,
        Outcome::Idle(Side::Backend) => CloseReason::BackendIdle,
        Outcome::HalfClose(Side::Client) => CloseReason::HalfCloseClient,
        Outcome::HalfClose(Side::Backend) => CloseReason::HalfCloseBackend,
        Outcome::TooLong => CloseReason::SessionTimeout,
        Outcome::Stopped => CloseReason::Shutdown,
    }
}

/// The account of one session. Dropping it, whatever ends the task, is the one place that counts its close.
struct Record {
    busy: Busy,
    _permit: Permit,
    listener: ListenerId,
    backend: Option<BackendId>,
    begun: Tick,
    bytes_to_backend: u64,
    bytes_to_client: u64,
    /// Internal until the session says otherwise: so a panic is counted as what it is.
    reason: CloseReason,
}

impl Record {
    fn shard(&self) -> &Rc<Shard> {
        &self.busy.0
    }

    fn upstream(&self) -> UpstreamId {
        self.shard().config.listeners[self.listener.index()].upstream
    }

    /// When the session has to end.
    fn deadline(&self) -> Tick {
        let limit = self.shard().config.listeners[self.listener.index()].timeouts.session;
        limit.map_or(Tick::NEVER, |limit| self.begun.after(limit))
    }

    /// Counts the bytes that a relay has delivered since the last call.
    fn account(&mut self, relay: &Relay<'_>) {
        let Some(backend) = self.backend else { return };
        let shard = &self.busy.0;
        let (listener, backend) =
            (shard.counters.listener(self.listener), shard.counters.backend(self.upstream(), backend));
        let to_backend = relay.bytes_to_backend() - self.bytes_to_backend;
        if to_backend > 0 {
            self.bytes_to_backend += to_backend;
            listener.bytes_to_backend.add(to_backend);
            backend.bytes_to_backend.add(to_backend);
        }
        let to_client = relay.bytes_to_client() - self.bytes_to_client;
        if to_client > 0 {
            self.bytes_to_client += to_client;
            listener.bytes_to_client.add(to_client);
            backend.bytes_to_client.add(to_client);
        }
        if let Some(pipes) = &shard.pipes {
            let spliced = pipes.take_moved();
            shard.counters.spliced_to_backend.add(spliced.to_backend);
            shard.counters.spliced_to_client.add(spliced.to_client);
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let shard = self.shard();
        let counters = shard.counters.listener(self.listener);
        counters.active.subtract(1);
        counters.closed[self.reason.index()].add(1);
        if log::log_enabled!(log::Level::Debug) {
            let listener = &shard.config.listeners[self.listener.index()];
            let upstream = &shard.config.upstreams[listener.upstream.index()];
            let backend = self.backend.map_or("-", |id| upstream.backends[id.index()].name.as_str());
            log::debug!(
                "session closed: {reason} ({letters}) listener={listener} backend={backend} seconds={seconds:.3} \
                 to_backend={up} to_client={down}",
                reason = self.reason.name(),
                letters = self.reason.letters(),
                listener = listener.name,
                seconds = shard.ring.now().since(self.begun).as_secs_f64(),
                up = self.bytes_to_backend,
                down = self.bytes_to_client,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_bytes<F: Future>(_: impl FnOnce(Record, Socket) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn idle_session_is_small() {
        let bytes = future_bytes(serve);
        assert!(bytes <= 384, "the future of a session takes {bytes} bytes");
    }
}
