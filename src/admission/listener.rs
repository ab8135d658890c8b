//! What all shards share of one listener: who may have a session, and how many.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::access::{Access, Decided};
use super::limit::Limit;
use super::rate::{Pace, SharedPace};
use super::sources::{SourceRules, SourceSlot, Sources};
use crate::base::{ClientAddress, DenyReason, ListenerId, Moment, ShardId};
use crate::config;
use crate::tls::ServerSettings;

/// The rules of one version of a listener, and the state that goes on through all versions.
pub struct SharedListener {
    id: ListenerId,
    access: Arc<Access>,
    /// Whose PROXY headers are believed; `None` if clients come without one.
    trusted: Option<Arc<Access>>,
    max_connections: Option<NonZeroU32>,
    pace: Option<Pace>,
    sources: Option<SourceRules>,
    over_limit: config::OverLimit,
    /// What handshakes need; `None` if clients come without TLS, or with one that is not ended here.
    tls: Option<Arc<ServerSettings>>,
    state: Arc<ListenerState>,
}

/// The state that goes on through all versions of a listener.
pub struct ListenerState {
    /// Sessions that began while there was a limit.
    sessions: Limit,
    pace: SharedPace,
    /// TLS handshakes that go on.
    handshakes: Limit,
}

/// The place of a TLS handshake within `handshakes_max`; dropping it gives it back.
pub struct HandshakePlace(Arc<ListenerState>, ShardId);

impl Drop for HandshakePlace {
    fn drop(&mut self) {
        self.0.handshakes.give_back(self.1);
    }
}

impl SharedListener {
    /// Creates a listener, or its next version: `before` is the one before, and `state` what goes on.
    #[must_use]
    pub fn new(
        id: ListenerId,
        listener: &config::Listener,
        before: Option<&Self>,
        state: Option<Arc<ListenerState>>,
        shards: usize,
    ) -> Self {
        let access = access(before.map(|before| &before.access), &listener.allow, &listener.deny);
        let trusted = listener.proxy_protocol.is_required().then(|| {
            let before = before.and_then(|before| before.trusted.as_ref());
            self::access(before, &listener.proxy_protocol.trusted, &config::AccessList::default())
        });
        let new = || ListenerState {
            sessions: Limit::new(u32::MAX, shards),
            pace: SharedPace::default(),
            handshakes: Limit::new(u32::MAX, shards),
        };
        let state = state.unwrap_or_else(|| Arc::new(new()));
        state.sessions.set_maximum(listener.max_connections.map_or(u32::MAX, NonZeroU32::get));
        Self {
            id,
            access,
            trusted,
            max_connections: listener.max_connections,
            pace: listener.rate_limit.map(Pace::from),
            sources: listener.per_source.as_ref().map(SourceRules::from),
            over_limit: listener.over_limit,
            tls: None,
            state,
        }
    }

    /// Returns the listener with these settings of TLS.
    #[must_use]
    pub fn with_tls(self, tls: Option<Arc<ServerSettings>>) -> Self {
        let most = tls.as_ref().map_or(u32::MAX, |tls| tls.handshakes_max());
        self.state.handshakes.set_maximum(most);
        Self { tls, ..self }
    }

    /// Returns what handshakes need; `None` if TLS is not ended here.
    #[must_use]
    pub fn tls(&self) -> Option<&Arc<ServerSettings>> {
        self.tls.as_ref()
    }

    /// Returns the number of the listener.
    #[must_use]
    pub fn id(&self) -> ListenerId {
        self.id
    }

    /// Returns what goes on with the next version.
    #[must_use]
    pub fn state(&self) -> &Arc<ListenerState> {
        &self.state
    }

    /// Returns whether clients beyond `max_connections` wait in the backlog.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.over_limit == config::OverLimit::Wait
    }

    /// Takes one of the sessions of the listener; `None` if it has no more. The flag says whether there is something to give
    /// back.
    #[must_use]
    pub fn take(&self, shard: ShardId) -> Option<bool> {
        match self.max_connections {
            None => Some(false),
            Some(_) => self.state.sessions.take(shard).then_some(true),
        }
    }

    /// Takes one of the sessions of the listener, also if it has no more. Returns whether there is something to give back.
    #[must_use]
    pub fn take_anyhow(&self, shard: ShardId) -> bool {
        let counts = self.max_connections.is_some();
        if counts {
            self.state.sessions.take_anyhow(shard);
        }
        counts
    }

    /// Gives back what [`SharedListener::take`] has taken, of this or another version.
    pub fn give_back(&self, shard: ShardId) {
        self.state.sessions.give_back(shard);
    }

    /// Takes one of the TLS handshakes that may go on at a time; `None` if there is none left.
    #[must_use]
    pub fn begin_handshake(&self, shard: ShardId) -> Option<HandshakePlace> {
        self.state.handshakes.take(shard).then(|| HandshakePlace(Arc::clone(&self.state), shard))
    }

    /// Returns the sessions that count, and their maximum, if there is one.
    #[must_use]
    pub fn sessions(&self) -> Option<(u32, u32)> {
        self.max_connections.map(|most| (self.state.sessions.taken(), most.get()))
    }

    /// Returns whether a header says who the client is: then the rules on clients are asked once it is there.
    #[must_use]
    pub fn awaits_header(&self) -> bool {
        self.trusted.is_some()
    }

    /// Returns whether a peer may connect: if clients are announced by headers, only one whose headers are believed.
    #[must_use]
    pub fn trusts(&self, peer: ClientAddress) -> bool {
        self.trusted.as_ref().is_none_or(|trusted| trusted.admits(peer))
    }

    /// Asks all rules on the client, in their order. Returns the place of its source, to be given back at the end of the
    /// session.
    ///
    /// # Errors
    ///
    /// The first rule that denies it; nothing was taken then.
    pub fn admit(
        &self,
        client: ClientAddress,
        sources: &Sources,
        now: Moment,
    ) -> Result<Option<SourceSlot>, DenyReason> {
        if !self.access.admits(client) {
            return Err(DenyReason::Acl);
        }
        let slot = match (client.ip(), &self.sources) {
            (Some(ip), Some(rules)) => sources.take(self.id, ip, rules, now)?,
            _ => None,
        };
        if self.pace.is_none_or(|pace| self.state.pace.take(pace, now)) {
            return Ok(slot);
        }
        if let (Some(ip), Some(rules)) = (client.ip(), &self.sources) {
            sources.undo(self.id, ip, rules, slot);
        }
        Err(DenyReason::Rate)
    }

    /// Returns what the lists say of a client.
    #[must_use]
    pub fn decide(&self, client: ClientAddress) -> Decided {
        self.access.decide(client)
    }

    /// Returns the open sessions that count of the source of a client, and whether another one is within its rate; `None` if
    /// it is not limited.
    #[must_use]
    pub fn look_at_source(
        &self,
        client: ClientAddress,
        sources: &Sources,
        now: Moment,
    ) -> Option<(u32, bool)> {
        Some(sources.look(self.id, client.ip()?, self.sources.as_ref()?, now))
    }

    /// Returns whether another session would be within the rate of the listener.
    #[must_use]
    pub fn is_within_rate(&self, now: Moment) -> bool {
        self.pace.is_none_or(|pace| self.state.pace.would_take(pace, now))
    }
}

/// Returns the lists as sets, those of the version before if they are the same.
fn access(
    before: Option<&Arc<Access>>,
    allow: &config::AccessList,
    deny: &config::AccessList,
) -> Arc<Access> {
    let same = before.filter(|before| before.is_of(allow, deny));
    same.map_or_else(|| Arc::new(Access::new(allow, deny)), Arc::clone)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn listener(keys: &str) -> config::Listener {
        let text = format!(
            "loadbalancer: {{listen_address: ':1'{keys}}}\nbackends: [{{address: 127.0.0.1, port: 2}}]\n"
        );
        let parsed = config::parse("test.yaml", text.as_bytes()).unwrap_or_else(|report| panic!("{report}"));
        parsed.config.listeners[0].clone()
    }

    fn client(text: &str) -> ClientAddress {
        Some(SocketAddr::new(text.parse().expect("an address"), 1)).into()
    }

    #[test]
    fn rules_are_asked_in_their_order_and_a_refusal_gives_back_what_it_took() {
        let config = listener(
            ", deny: [10.6.0.0/16], rate_limit: {rate: 1/s, burst: 2}, per_source: {max_connections: 1, rate: 1/s, burst: 2}",
        );
        let (shared, sources) =
            (SharedListener::new(ListenerId(0), &config, None, None, 1), Sources::default());
        let admit = |text: &str| shared.admit(client(text), &sources, Moment(0));
        assert_eq!(admit("10.6.0.1"), Err(DenyReason::Acl));
        let one = admit("10.0.0.1").unwrap().expect("it counts");
        assert_eq!(admit("10.0.0.1"), Err(DenyReason::SourceLimit));
        sources.give_back(one);
        let two = admit("10.0.0.1").unwrap().expect("it counts");
        assert_eq!(admit("10.0.0.1"), Err(DenyReason::SourceRate));
        assert_eq!(admit("10.0.0.2"), Err(DenyReason::Rate));
        let source = shared.look_at_source(client("10.0.0.2"), &sources, Moment(0));
        assert_eq!(source, Some((0, true)), "the place was given back");
        // However often it is refused, its own rate is not used up.
        assert!((0..10).all(|_| admit("10.0.0.2") == Err(DenyReason::Rate)));
        sources.give_back(two);
        // What one source has too much is nothing to the others.
        assert!(shared.admit(client("10.0.0.2"), &sources, Moment(1_000_000)).is_ok());
    }

    #[test]
    fn header_is_believed_of_trusted_peers_mapped_or_not() {
        let config = listener(", proxy_protocol: {accept: required, trusted: [10.0.0.0/8, 'unix:']}");
        let shared = SharedListener::new(ListenerId(0), &config, None, None, 1);
        assert!(shared.awaits_header() && shared.trusts(ClientAddress::UNIX));
        assert!(shared.trusts(client("10.1.2.3")) && shared.trusts(client("::ffff:10.1.2.3")));
        assert!(!shared.trusts(client("11.1.2.3")) && !shared.trusts(client("::1")));
        let plain = SharedListener::new(ListenerId(0), &listener(""), Some(&shared), None, 1);
        assert!(!plain.awaits_header() && plain.trusts(client("11.1.2.3")));
    }

    #[test]
    fn next_version_goes_on_with_the_sessions_and_the_rate() {
        let before = listener(", max_connections: 2, rate_limit: {rate: 1/s, burst: 1}");
        let first = SharedListener::new(ListenerId(0), &before, None, None, 1);
        let sources = Sources::default();
        assert!(
            first.take(ShardId(0)) == Some(true)
                && first.take(ShardId(0)) == Some(true)
                && first.take(ShardId(0)).is_none()
        );
        assert!(first.admit(ClientAddress::UNIX, &sources, Moment(0)).is_ok());
        let after = listener(", max_connections: 3, rate_limit: {rate: 1/s, burst: 1}");
        let second =
            SharedListener::new(ListenerId(0), &after, Some(&first), Some(Arc::clone(first.state())), 1);
        assert_eq!(second.admit(ClientAddress::UNIX, &sources, Moment(0)), Err(DenyReason::Rate));
        assert!(second.take(ShardId(0)) == Some(true) && second.take(ShardId(0)).is_none());
        first.give_back(ShardId(0));
        assert_eq!(second.sessions(), Some((2, 3)));
        assert!(Arc::ptr_eq(&first.access, &second.access));
        let open = listener("");
        let third =
            SharedListener::new(ListenerId(0), &open, Some(&second), Some(Arc::clone(second.state())), 1);
        assert_eq!((third.take(ShardId(0)), third.sessions()), (Some(false), None));
    }
}
