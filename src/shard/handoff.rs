//! Hands fresh connections off to other shards: at most once each, before they are sessions, and none is lost
//! at the end.
//!
//! A shard hands off connections while it holds its [`Handoff`], and drops it when it drains. A shard ends
//! only after the last `Handoff` of the process was dropped and a later look into its own channel found
//! nothing: that look sees everything put there before, and nothing is put there afterwards.

use std::cell::RefCell;
use std::sync::Arc;

use super::admitted::Admitted;
use super::inbox::{HandedOff, ShardHandle};
use crate::base::ShardPlace;
use crate::base::Tick;
use crate::base::{ListenerId, ShardId};
use crate::steering::{CoreLoads, Distance, Steering};

/// The right of a shard to hand connections off. Every shard of the process has one from the start; a shard
/// that never starts drops it unused.
pub struct Handoff {
    own: ShardId,
    cores: Arc<CoreLoads>,
    handles: Arc<[ShardHandle]>,
    steering: RefCell<Steering>,
}

impl Handoff {
    /// Creates the right for one shard of the process, which is this far from each shard; `cores` expects one for
    /// each.
    #[must_use]
    pub fn new(
        place: ShardPlace,
        distances: &[Distance],
        cores: Arc<CoreLoads>,
        handles: Arc<[ShardHandle]>,
    ) -> Self {
        assert_eq!(distances.len(), cores.len(), "a distance for each shard");
        let steering = RefCell::new(Steering::new(place, distances));
        Self { own: place.shard, cores, handles, steering }
    }

    /// Hands a connection off if another core is clearly better off and has room for it; otherwise returns
    /// it.
    pub(super) fn hand_off(&self, now: Tick, listener: ListenerId, admitted: Admitted) -> Option<Admitted> {
        let Some(to) = self.steering.borrow_mut().choose(now, &self.cores) else { return Some(admitted) };
        let returned = self.handles[to.index()].post_connection(HandedOff { listener, admitted });
        match &returned {
            Some(_) => self.cores.take_back(to),
            None => self.cores.note_handed_off(self.own),
        }
        returned.map(|handed_off| handed_off.admitted)
    }
}

impl Drop for Handoff {
    fn drop(&mut self) {
        if self.cores.end_handoffs() {
            // Shards that wait for this look again.
            self.handles.iter().for_each(ShardHandle::notify);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::super::admitted::Admission;
    use super::super::{Phase, run, testing};
    use super::*;
    use crate::admission::Gate;
    use crate::base::CloseReason;
    use crate::telemetry::counters::ListenerTotals;
    use crate::uring::Accepted;

    const LISTENER: ListenerId = ListenerId(0);

    fn until(what: &str, mut condition: impl FnMut() -> bool) {
        for _ in 0..20_000 {
            if condition() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("it does not come: {what}");
    }

    /// A client and the connection that a listener of another shard has accepted for it.
    fn connection(gate: &Gate) -> (TcpStream, Admitted) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let (connection, peer) = listener.accept().unwrap();
        assert!(gate.sessions.take(ShardId(0)));
        let accepted = Accepted { connection: connection.into(), client: Some(peer).into() };
        (client, Admitted { accepted, admission: Admission::new(false) })
    }

    fn again(Admitted { accepted, admission }: &Admitted) -> Admitted {
        let connection = accepted.connection.try_clone().unwrap();
        Admitted { accepted: Accepted { connection, client: accepted.client }, admission: *admission }
    }

    /// Whatever its phase, a shard waits for the others: the connections that they have accepted for it are
    /// served, or ended and counted.
    #[test]
    fn shard_does_not_end_while_another_one_may_hand_off() {
        for phase in [Phase::Draining, Phase::Closing] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let (parts, mut others) = testing::parts(2, vec![(0, listener.into())]);
            let (counters, cores) = (Arc::clone(&parts.counters), Arc::clone(&parts.cores));
            let gate = Arc::clone(&parts.gate);
            let other = others.remove(0);
            // Connections move only in this situation: the other shard is full and this one is empty.
            (0..3).for_each(|_| cores.begin_session(ShardId(1)));
            let shard = std::thread::spawn(move || run(parts, || ()).map_err(|missing| missing.to_string()));
            other.handles[0].post_phase(phase);
            until("no connection is accepted any more", || TcpStream::connect(address).is_err());

            let (mut client, accepted) = connection(&gate);
            assert!(other.hand_off(Tick(1), LISTENER, accepted).is_none(), "it is handed off");
            assert!(client.read(&mut [0]).is_err(), "no backend is up: a reset");
            until("it counts and has ended", || {
                let status = cores.status(ShardId(0));
                status.received == 1 && status.active == 0
            });
            assert!(!shard.is_finished(), "another one may come");
            let (mut last, accepted) = connection(&gate);
            assert!(other.hand_off(Tick(2), LISTENER, accepted).is_none());
            drop(other);
            shard.join().unwrap().unwrap();
            assert!(last.read(&mut [0]).is_err());
            let status = [0, 1].map(|shard| cores.status(ShardId(shard)));
            assert_eq!((status[1].handed_off, status[0].received, status[0].active), (2, 2, 0));
            // Including those of the looks at the listener.
            let mut totals = ListenerTotals::default();
            totals.add(&counters.listener(LISTENER));
            assert!(
                totals.accepted >= 2 && totals.closed_with(CloseReason::NoBackend) == totals.accepted,
                "{totals:?}"
            );
            assert_eq!(gate.sessions.taken(), 0);
        }
    }

    #[test]
    fn connection_stays_where_the_channel_is_full() {
        let (parts, mut others) = testing::parts(2, Vec::new());
        let other = others.remove(0);
        (0..1_000).for_each(|_| parts.cores.begin_session(ShardId(1)));
        let (_client, accepted) = connection(&parts.gate);
        let mut handed_off = 0;
        while other.hand_off(Tick(1), LISTENER, again(&accepted)).is_none() {
            handed_off += 1;
        }
        assert_eq!(handed_off, crate::base::limits::HANDOFFS_MAX);
        // As many connections were announced as are in the channel.
        assert!(std::iter::from_fn(|| parts.inbox.take_handed_off()).count() == handed_off);
        (0..handed_off).for_each(|_| parts.cores.take_back(ShardId(0)));
        assert!(other.hand_off(Tick(2), LISTENER, accepted).is_none(), "there is room again");
    }
}
