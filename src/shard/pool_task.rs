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
use crate::base::Address;
use crate::base::Tick;
use crate::base::{BackendId, UpstreamId};
use crate::config::Reuse;
use crate::net::{self, Peer};
use crate::pool::{self, Lease, Pool, Pooled, Tidied};
use crate::upstream::{InFlight, UpstreamTable};

/// Pause after a first failed connection, doubled with each further one...
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// ...up to this.
const LAST_PAUSE: Duration = Duration::from_secs(10);
/// After so long without a failure, the next one is a first one.
const CALM: Duration = Duration::from_secs(1);
/// Between two looks whether the backend is below its limit.
const LIMIT_LOOK: Duration = Duration::from_secs(1);

/// Starts the keepers of this shard.
pub(super) fn start(shard: &Rc<Shard>) {
    for (upstream, pool) in (0..).map(UpstreamId).zip(&shard.pools) {
        let backends = shard.config.upstreams[upstream.index()].backends.len();
        for backend in (0..backends).map(|index| BackendId(index as u16)).filter(|_| pool.is_some()) {
            let keeper = PoolTask { shard: Rc::clone(shard), upstream, backend };
            shard.ring.spawn(keeper.run());
        }
    }
}

/// When to connect again after failures.
#[derive(Default)]
struct BackOff {
    /// After the last failure.
    pause: Duration,
    until: Tick,
}

impl BackOff {
    /// Notes that a connection came to nothing at `now`, which was begun at `begun`.
    fn failed(&mut self, begun: Tick, now: Tick) {
        if now < self.until {
            // One of several that failed together.
            return;
        }
        // A connect that takes its time to fail is no calm.
        let is_first = begun.since(self.until) >= CALM;
        self.pause = if is_first { FIRST_PAUSE } else { (self.pause * 2).clamp(FIRST_PAUSE, LAST_PAUSE) };
        // Spread, so that those who failed together do not come back together.
        self.until = now.after(self.pause.mul_f64(0.5 + fastrand::f64() / 2.0));
    }
}

struct PoolTask {
    shard: Rc<Shard>,
    upstream: UpstreamId,
    backend: BackendId,
}

impl PoolTask {
    fn pool(&self) -> &Pool {
        self.shard.pools[self.upstream.index()].as_ref().expect("keepers are started where there is a pool")
    }

    fn table(&self) -> &Rc<UpstreamTable> {
        &self.shard.upstreams[self.upstream.index()]
    }

    /// Until the shard takes no new sessions.
    async fn run(self) {
        let mut back_off = BackOff::default();
        while self.wanted(&mut back_off).await {
            let begun = self.shard.ring.now();
            if !self.connect().await {
                back_off.failed(begun, self.shard.ring.now());
            }
        }
        self.pool().clear(self.backend);
        self.shard.settle(self.upstream, self.backend);
    }

    /// Waits until one more connection is wanted, a place for it included, and tidies meanwhile. Whether it is.
    async fn wanted(&self, back_off: &mut BackOff) -> bool {
        let (shard, pool, table, backend) = (&self.shard, self.pool(), self.table(), self.backend);
        let mut timer = shard.ring.timer(Tick::NEVER);
        std::future::poll_fn(|context| {
            if !shard.is_running() {
                return Poll::Ready(false);
            }
            loop {
                let now = shard.ring.now();
                let may_pool = table.may_pool(backend);
                let tidied = if may_pool {
                    pool.tidy(backend, now, &table.addresses(backend))
                } else {
                    // Whoever is back is another one, maybe, and gets connections at once.
                    *back_off = BackOff::default();
                    Tidied { closed: pool.clear(backend), refused: false }
                };
                if tidied.refused {
                    back_off.failed(now, now);
                }
                shard.counters.pool(self.upstream).closed.add(tidied.closed as u64);
                shard.settle(self.upstream, backend);
                let has_room = shard.has_room(self.upstream, backend);
                if has_room && now >= back_off.until && table.hold(backend) {
                    pool.set_connecting(backend, true);
                    return Poll::Ready(true);
                }
                let look = match has_room && may_pool {
                    true if now < back_off.until => back_off.until,
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
        let deadline = shard.ring.now().after(upstream.timeouts.connect);
        let connected = {
            // Gone, and its socket with it, before its place is given back.
            let mut connecting = pin!(connect_any(shard, None, self.upstream, backend, deadline));
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
                if let Some(keepalive) = upstream.tcp.keepalive {
                    // A host that crashed does not say so.
                    socket.with(|socket| net::keep_alive(socket, keepalive));
                }
                let connection = Pooled { socket, address, fresh: true };
                pool.put(backend, connection, shard.ring.now());
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
            Reuse::Untouched => pool.leased(backend),
            Reuse::Reset => self.upstreams[upstream.index()].own_sessions(backend),
        }
    }

    /// In which case a session on a backend may give its connection back, if it ended now.
    pub(super) fn reuse(&self, upstream: UpstreamId, backend: BackendId) -> Reuse {
        let Some(pool) = &self.pools[upstream.index()] else { return Reuse::Off };
        let out = self.out(upstream, backend, pool).saturating_sub(1);
        let may_pool = self.is_running() && self.upstreams[upstream.index()].may_pool(backend);
        if may_pool && pool.has_room(backend, out) {
            self.config.upstreams[upstream.index()].pool.reuse
        } else {
            Reuse::Off
        }
    }

    /// Notes a session that may give its connection back as long as it has carried no byte. Where it may do so later too,
    /// this tells the keeper of sessions that end before they have begun.
    pub(super) fn lease(&self, upstream: UpstreamId, backend: BackendId) -> Option<Lease> {
        let reuse = self.config.upstreams[upstream.index()].pool.reuse;
        let pool = self.pools[upstream.index()].as_ref().filter(|_| reuse != Reuse::Off);
        pool.map(|pool| pool.lease(backend))
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

    /// A session on a backend has ended. Its connection goes into the pool if it `returns`, which says whether it is fresh,
    /// it is fit, there is room, and no session needs its place.
    pub(super) fn end_of_leg(
        &self,
        upstream: UpstreamId,
        in_flight: InFlight,
        socket: Peer,
        returns: Option<bool>,
    ) {
        let (backend, is_limited) = (in_flight.backend(), in_flight.is_limited());
        let Some(pool) = &self.pools[upstream.index()] else {
            if is_limited {
                // The backend learns of the end before another session can have its place.
                socket.end_now();
            }
            return drop(in_flight);
        };
        let table = &self.upstreams[upstream.index()];
        // The place stays taken until it is clear who gets it.
        table.hold_place_of(in_flight);
        let has_place = table.may_pool(backend) && !table.is_wanted(backend);
        let stays = self.is_running() && has_place && self.has_room(upstream, backend);
        let returned = returns.filter(|&fresh| stays && pool::is_fit(&socket, fresh));
        let returned = returned.and_then(|fresh| Some((fresh, self.address_of(upstream, backend, &socket)?)));
        match returned {
            Some((fresh, address)) => {
                self.counters.pool(upstream).returned.add(1);
                pool.put(backend, Pooled { socket, address, fresh }, self.ring.now());
            }
            None if is_limited => socket.end_now(),
            None => {}
        }
        self.settle(upstream, backend);
        // Whatever came of it, there is one connection less in sessions.
        pool.wake(backend);
    }

    /// The address of the backend that a connection leads to, if it still has it.
    fn address_of(&self, upstream: UpstreamId, backend: BackendId, socket: &Peer) -> Option<Address> {
        let peer = socket.with(net::peer_address)?;
        let addresses = self.upstreams[upstream.index()].addresses(backend);
        addresses.iter().find(|address| address.leads_to(&peer)).cloned()
    }

    pub(super) fn wake_pool_tasks(&self) {
        self.pools.iter().flatten().for_each(|pool| pool.wake_pool_tasks());
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
                // A connection on its way gives way too, and a session whose client seems to have left.
                pool.wake_pool_tasks();
                pool.wake_lingering();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_grows_with_each_failure_however_long_that_takes_and_begins_anew_after_a_calm() {
        for attempt in [Duration::ZERO, Duration::from_secs(5)] {
            let (mut back_off, mut now) = (BackOff::default(), Tick(1_000_000));
            let mut fail = |calm: Duration| {
                let begun = now.after(calm);
                now = begun.after(attempt);
                back_off.failed(begun, now);
                let pause = back_off.until.since(now);
                now = back_off.until;
                (back_off.pause, pause)
            };
            for doubled in [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000] {
                let (most, pause) = fail(Duration::ZERO);
                assert_eq!(most, Duration::from_millis(doubled), "{attempt:?}");
                assert!(
                    pause <= most && pause + Duration::from_millis(1) >= most / 2,
                    "{pause:?} of {most:?}"
                );
            }
            assert_eq!(fail(CALM).0, FIRST_PAUSE);
        }
    }
}
