//! Keeps the pool of an upstream filled and tidy, with one task for each backend.
//!
//! A connection in the pool, or on its way there, owns a permit of the backend, and gives it up as soon as a
//! client on any shard waits for one.

use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::connect::{Connected, Prelude, connect_any};
use super::upstream::Upstream;
use crate::base::{Activity, BackendId, Backoff, Tick};
use crate::config::Reuse;
use crate::net;
use crate::pool::{Connection, Pool};
use crate::upstream::Permit;

/// Pause after a first failed connection; each further failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(10);
/// After this long without a failure, the next failure counts as a first one.
const CALM: Duration = Duration::from_secs(1);
/// Pause between two checks whether the backend is below its limit.
const LIMIT_LOOK: Duration = Duration::from_secs(1);

/// Starts the pool tasks of an upstream.
pub(super) fn start(upstream: &Rc<Upstream>) {
    let Some(pool) = &upstream.pool else { return };
    for &backend in upstream.numbers() {
        let task = PoolTask { upstream: Rc::clone(upstream), pool: Rc::clone(pool), backend };
        upstream.shard.ring.spawn(task.run());
    }
}

struct PoolTask {
    upstream: Rc<Upstream>,
    pool: Rc<Pool>,
    backend: BackendId,
}

impl PoolTask {
    /// Runs until the shard takes no new sessions, or the next generation has another task.
    async fn run(self) {
        let shard = &self.upstream.shard;
        let mut backoff = Backoff::new(FIRST_PAUSE, LAST_PAUSE, CALM);
        while let Some(permit) = self.wanted(&mut backoff).await {
            let begun = shard.now();
            if !self.connect(permit).await {
                backoff.failed(begun, shard.now(), shard.chance());
            }
        }
        if !self.upstream.is_retired() {
            self.pool.clear(self.backend);
        }
    }

    fn goes_on(&self) -> bool {
        self.upstream.shard.is_running() && !self.upstream.is_retired()
    }

    /// Waits until one more connection is wanted, and tidies the pool in the meantime. Returns the permit for
    /// the connection, or `None` once the task is over.
    async fn wanted(&self, backoff: &mut Backoff) -> Option<Permit> {
        let (upstream, table) = (&self.upstream, &self.upstream.table);
        while self.goes_on() {
            upstream.shard.ring.set_activity(Activity::Pool);
            self.tidy(backoff);
            let now = upstream.shard.now();
            let has_room = table.may_pool(self.backend) && upstream.has_room(self.backend, 0);
            let look = match has_room {
                // A change of states wakes the task, or the end of a session.
                false => Tick::NEVER,
                true if now < backoff.until() => backoff.until(),
                true => match table.idle_permit(self.backend) {
                    Some(permit) => return Some(permit),
                    // All permits are taken, and nothing reports when another shard gives one back.
                    None => now.after(LIMIT_LOOK),
                },
            };
            self.changed(look).await;
        }
        None
    }

    /// Closes connections that are no longer useful.
    fn tidy(&self, backoff: &mut Backoff) {
        let (table, now) = (&self.upstream.table, self.upstream.shard.now());
        if !table.may_pool(self.backend) {
            // The backend that comes back may be a new process: drop the back-off.
            backoff.reset();
            self.pool.clear(self.backend);
        } else if self.pool.tidy(self.backend, now, &table.addresses(self.backend)) {
            backoff.failed(now, now, self.upstream.shard.chance());
        }
    }

    /// Waits until `look`, or until something has changed that the task depends on.
    async fn changed(&self, look: Tick) {
        let mut timer = self.upstream.shard.ring.timer(look);
        let mut is_woken = false;
        std::future::poll_fn(|context| {
            if std::mem::replace(&mut is_woken, true) {
                return Poll::Ready(());
            }
            // The end of a session makes room where it may come back, and gives back a permit where there is a limit.
            let table = &self.upstream.table;
            if table.is_limited(self.backend) || self.upstream.config().pool.reuse == Reuse::Reset {
                table.watch_sessions(self.backend, context.waker());
            }
            timer.set(self.pool.watch(self.backend, context.waker()).min(look));
            timer.poll_due(context)
        })
        .await;
    }

    /// Makes one connection and puts it into the pool, unless a client waits for its permit. Returns whether
    /// the backend accepted it, or the attempt was given up before the backend's answer.
    async fn connect(&self, permit: Permit) -> bool {
        let (upstream, table, shard) = (&self.upstream, &self.upstream.table, &self.upstream.shard);
        let deadline = shard.now().after(upstream.config().timeouts.connect);
        self.pool.set_connecting(self.backend, true);
        let prelude = Prelude::default();
        let connected = {
            // The connect, and with it the socket, ends before its permit is given back.
            let mut connecting = pin!(connect_any(upstream, None, &prelude, self.backend, deadline));
            std::future::poll_fn(|context| {
                if !self.goes_on() {
                    return Poll::Ready(None);
                }
                self.pool.watch(self.backend, context.waker());
                if permit.is_limited() && table.is_waited_for(self.backend) {
                    return Poll::Ready(None);
                }
                connecting.as_mut().poll(context).map(Some)
            })
            .await
        };
        self.pool.set_connecting(self.backend, false);
        match connected {
            Some(Ok(Connected { socket, address, .. })) => {
                self.pool.counters().made.add(1);
                if let Some(keepalive) = upstream.config().tcp.keepalive {
                    // A host that has crashed does not report it.
                    socket.with(|socket| net::keep_alive(socket, keepalive));
                }
                self.pool.put(
                    Connection { socket, address, fresh: true },
                    permit,
                    shard.now(),
                    shard.chance(),
                );
                true
            }
            Some(Err(_)) => {
                self.pool.counters().failed.add(1);
                false
            }
            // The task tries again once the client is served.
            None => true,
        }
    }
}
