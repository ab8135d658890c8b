//! Keeps the pool of an upstream filled and tidy: a task for each backend.
//!
//! A connection in the pool, or on its way to it, holds a place of the backend's `max_connections` and gives it up as
//! soon as a client waits for one, on whatever shard.

use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::Shard;
use super::connect::connect_any;
use crate::net;
use crate::pool::{Lent, Pool, Pooled};
use crate::rules::config::Reuse;
use crate::rules::upstream::{Address, UpstreamTable};
use crate::uring::{Socket, Tick};
use crate::words::{BackendId, UpstreamId};

/// Pause after a first failed connection, doubled with each further one...
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// ...up to this.
const LAST_PAUSE: Duration = Duration::from_secs(10);
/// Between two looks whether the backend is below its limit.
const LIMIT_LOOK: Duration = Duration::from_secs(1);

/// Starts the keepers of this shard.
pub(super) fn start(shard: &Rc<Shard>) {
    for (upstream, pool) in (0..).map(UpstreamId).zip(&shard.pools) {
        let backends = shard.config.upstreams[upstream.index()].backends.len();
        for backend in (0..backends).map(|index| BackendId(index as u16)).filter(|_| pool.is_some()) {
            let keeper = Keeper { shard: Rc::clone(shard), upstream, backend };
            shard.ring.spawn(keeper.run());
        }
    }
}

struct Keeper {
    shard: Rc<Shard>,
    upstream: UpstreamId,
    backend: BackendId,
}

impl Keeper {
    fn pool(&self) -> &Pool {
        self.shard.pools[self.upstream.index()].as_ref().expect("keepers are started where there is a pool")
    }

    fn table(&self) -> &Rc<UpstreamTable> {
        &self.shard.upstreams[self.upstream.index()]
    }

    /// Until the shard takes no new sessions.
    async fn run(self) {
        let (mut pause, mut not_before) = (FIRST_PAUSE, Tick(0));
        while self.wanted(&mut not_before).await {
            let now = self.shard.ring.now();
            if self.connect().await {
                (pause, not_before) = (FIRST_PAUSE, Tick(0));
            } else {
                // Spread, so that those who failed together do not come back together.
                not_before = now.after(pause.mul_f64(0.5 + fastrand::f64() / 2.0));
                pause = (pause * 2).min(LAST_PAUSE);
            }
        }
        self.pool().clear(self.backend);
        self.shard.settle(self.upstream, self.backend);
    }

    /// Waits until one more connection is wanted, a place for it included, and tidies meanwhile. Whether it is.
    async fn wanted(&self, not_before: &mut Tick) -> bool {
        let (shard, pool, table, backend) = (&self.shard, self.pool(), self.table(), self.backend);
        let mut timer = shard.ring.timer(Tick::NEVER);
        std::future::poll_fn(|context| {
            if !shard.is_running() {
                return Poll::Ready(false);
            }
            loop {
                let now = shard.ring.now();
                let closed = if table.is_eligible(backend) {
                    pool.tidy(backend, now, &table.addresses(backend))
                } else {
                    // Whoever is back is another one, maybe, and gets connections at once.
                    *not_before = Tick(0);
                    pool.clear(backend)
                };
                shard.counters.pool(self.upstream).closed.add(closed as u64);
                shard.settle(self.upstream, backend);
                let has_room = shard.has_room(self.upstream, backend);
                if has_room && now >= *not_before && table.hold(backend) {
                    pool.set_connecting(backend, true);
                    return Poll::Ready(true);
                }
                let look = match has_room && table.is_eligible(backend) {
                    true if now < *not_before => *not_before,
                    // All places are taken; nobody tells when one comes free.
                    true => now.after(LIMIT_LOOK),
                    // A change of states tells.
                    false => Tick::NEVER,
                };
                timer.set(pool.watch(backend, context.waker()).min(look));
                if timer.deadline() == Tick::NEVER || timer.poll_due(context).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Makes one connection and puts it into the pool, unless a client waits for its place. Whether it was made.
    async fn connect(&self) -> bool {
        let (shard, pool, table, backend) = (&self.shard, self.pool(), self.table(), self.backend);
        let upstream = &shard.config.upstreams[self.upstream.index()];
        let addresses = table.addresses(backend);
        let deadline = shard.ring.now().after(upstream.timeouts.connect);
        let connected = {
            // Gone, and its socket with it, before its place is given back.
            let mut connecting = pin!(connect_any(shard, None, self.upstream, &addresses, deadline));
            std::future::poll_fn(|context| {
                pool.watch(backend, context.waker());
                let gives_way = table.is_wanted(backend) || shard.lacks_place(self.upstream, backend);
                if gives_way || !shard.is_running() {
                    return Poll::Ready(None);
                }
                connecting.as_mut().poll(context).map(Some)
            })
            .await
        };
        pool.set_connecting(backend, false);
        let made = match connected {
            Some(Ok((socket, address))) => {
                shard.counters.pool(self.upstream).made.add(1);
                if let Some(idle) = upstream.tcp.keepalive {
                    // A host that crashed does not say so.
                    socket.with(|socket| net::keep_alive(socket, idle));
                }
                let connection = Pooled { socket, address: address.clone(), fresh: true };
                pool.put(backend, connection, shard.ring.now(), fastrand::f64());
                true
            }
            Some(Err(_)) => {
                shard.counters.pool(self.upstream).failed.add(1);
                false
            }
            // Once the client is served, it is tried again.
            None => true,
        };
        shard.settle(self.upstream, backend);
        made
    }
}

impl Shard {
    /// Whether the pool has room for one more connection beside those in sessions that are expected back.
    fn has_room(&self, upstream: UpstreamId, backend: BackendId) -> bool {
        let Some(pool) = &self.pools[upstream.index()] else { return false };
        pool.has_room(backend, self.out(upstream, backend, pool))
    }

    /// Connections to a backend that sessions of this shard have and are expected to give back.
    fn out(&self, upstream: UpstreamId, backend: BackendId, pool: &Pool) -> usize {
        match self.config.upstreams[upstream.index()].pool.reuse {
            Reuse::Off => 0,
            Reuse::Untouched => pool.lent(backend),
            Reuse::Reset => self.upstreams[upstream.index()].own_sessions(backend),
        }
    }

    /// In which case a session on a backend may give its connection back, if it ended now.
    pub(super) fn reuse(&self, upstream: UpstreamId, backend: BackendId) -> Reuse {
        let Some(pool) = &self.pools[upstream.index()] else { return Reuse::Off };
        let out = self.out(upstream, backend, pool).saturating_sub(1);
        if self.is_running() && pool.has_room(backend, out) {
            self.config.upstreams[upstream.index()].pool.reuse
        } else {
            Reuse::Off
        }
    }

    /// Notes a session that may give its connection back as long as it has carried no byte. Where it may do so later too,
    /// this tells the keeper of sessions that end before they have begun.
    pub(super) fn lend(&self, upstream: UpstreamId, backend: BackendId) -> Option<Lent> {
        let reuse = self.config.upstreams[upstream.index()].pool.reuse;
        let pool = self.pools[upstream.index()].as_ref().filter(|_| reuse != Reuse::Off);
        pool.map(|pool| pool.lend(backend))
    }

    /// A ready connection to a backend, if there is one.
    pub(super) fn take_pooled(&self, upstream: UpstreamId, backend: BackendId) -> Option<Pooled> {
        let pool = self.pools[upstream.index()].as_ref()?;
        let (taken, unfit) = pool.take(backend);
        let counters = self.counters.pool(upstream);
        counters.closed.add(unfit as u64);
        if taken.is_some() { &counters.hits } else { &counters.misses }.add(1);
        self.settle(upstream, backend);
        taken
    }

    /// A session on a backend has ended. Its connection, and whether it is fresh, goes into the pool if it may, there is
    /// room, and no session needs its place.
    pub(super) fn end_of_leg(
        &self,
        upstream: UpstreamId,
        backend: BackendId,
        returned: Option<(Socket, bool)>,
    ) {
        let Some(pool) = &self.pools[upstream.index()] else { return };
        // Whatever comes of it, there is one connection less in sessions.
        pool.wake(backend);
        let Some((socket, fresh)) = returned else { return };
        let Some(address) = self.address_of(upstream, backend, &socket) else { return };
        let connection = Pooled { socket, address, fresh };
        let fits = self.is_running() && self.has_room(upstream, backend) && connection.is_fit();
        if fits && self.upstreams[upstream.index()].hold(backend) {
            self.counters.pool(upstream).returned.add(1);
            pool.put(backend, connection, self.ring.now(), fastrand::f64());
            self.settle(upstream, backend);
        }
    }

    /// The address of the backend that a connection leads to, if it still has it.
    fn address_of(&self, upstream: UpstreamId, backend: BackendId, socket: &Socket) -> Option<Address> {
        let peer = socket.with(net::peer_address)?;
        let leads_to = |address: &&Address| match (*address, &peer) {
            // Connecting to no address in particular leads to this machine, connect(2) on Linux.
            (Address::Tcp(address), Address::Tcp(peer)) => {
                address == peer || address.ip().is_unspecified() && address.port() == peer.port()
            }
            // The name that the socket was bound to may be another one of the same file.
            (Address::Unix(_), Address::Unix(_)) => true,
            _ => false,
        };
        self.upstreams[upstream.index()].addresses(backend).iter().find(leads_to).cloned()
    }

    pub(super) fn wake_keepers(&self) {
        self.pools.iter().flatten().for_each(|pool| pool.wake_keepers());
    }

    /// Gives back the places of connections that have left the pool, closes what has lost its place to a session, and
    /// publishes how many are left.
    pub(super) fn settle(&self, upstream: UpstreamId, backend: BackendId) {
        let Some(pool) = &self.pools[upstream.index()] else { return };
        self.upstreams[upstream.index()].settle(backend, pool.len(backend));
        while self.lacks_place(upstream, backend) && pool.close_one(backend) {
            self.counters.pool(upstream).closed.add(1);
        }
        self.counters.backend(upstream, backend).pooled.set(pool.len(backend) as u64);
    }

    /// Whether the pool has more connections than places for them.
    fn lacks_place(&self, upstream: UpstreamId, backend: BackendId) -> bool {
        let held = self.upstreams[upstream.index()].held(backend);
        let len = |pool: &Rc<Pool>| pool.len(backend);
        held.is_some_and(|held| self.pools[upstream.index()].as_ref().map_or(0, len) > held)
    }

    /// Closes ready connections whose places clients wait for.
    pub(super) fn give_way(&self) {
        for (id, (table, pool)) in (0..).map(UpstreamId).zip(self.upstreams.iter().zip(&self.pools)) {
            let Some(pool) = pool else { continue };
            for backend in table.wanted() {
                while table.is_wanted(backend) && pool.close_one(backend) {
                    self.counters.pool(id).closed.add(1);
                    self.settle(id, backend);
                }
            }
            if table.has_waiters() {
                // A connection on its way gives way too.
                pool.wake_keepers();
            }
        }
    }
}
