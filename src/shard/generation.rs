//! The step from one generation of the configuration to the next, on one shard: in one turn, without an error.
//!
//! What has not changed is the same object in both. What has changed is a new object that takes over what goes on; the
//! old one lives as long as sessions hold it. What is removed stays as long as it has sessions, because clients may
//! wait in its queue, and connections be on their way to it from other shards.

use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::time::Duration;

use crossbeam_channel::Sender;

use super::accept::{self, Entrance};
use super::inbox::Generation;
use super::listener::Listener;
use super::pool_task;
use super::run::Residents;
use super::upstream::Upstream;
use crate::base::{BackendId, CloseReason, Plain};
use crate::upstream::Snapshot;

/// How long a removed listener is kept at least: connections may be on their way to it from other shards.
const ON_THE_WAY: Duration = Duration::from_secs(10);

/// Sessions that may go on for `runtime.drain_timeout`.
#[derive(Default)]
struct Drained {
    listeners: Vec<Rc<Listener>>,
    backends: Vec<(Weak<Upstream>, BackendId)>,
}

impl Residents {
    /// Runs the next generation.
    pub(super) fn adopt(&mut self, generation: Generation) {
        let Generation { snapshot, states, sockets, applied } = generation;
        let mut drained = Drained::default();
        self.generation = snapshot.generation();
        let begun = self.adopt_upstreams(&snapshot, &mut drained);
        self.adopt_listeners(&snapshot, &mut drained);
        self.apply(&states);
        // Newer ones may have come before the generation.
        if let Some(later) = self.later.take_if(|later| later.generation <= self.generation) {
            self.apply(&later);
        }
        begun.iter().for_each(pool_task::start);
        self.adopt_entrances(&snapshot, sockets, &applied);
        self.drain(drained, snapshot.config().runtime.drain_timeout);
        // Connections may have come from shards that knew a new listener earlier.
        self.open();
        drop(applied);
    }

    /// Returns those that are new, or another version.
    fn adopt_upstreams(&mut self, snapshot: &Snapshot, drained: &mut Drained) -> Vec<Rc<Upstream>> {
        self.older_upstreams.retain(|upstream| upstream.strong_count() > 0);
        let has_older =
            |id| self.older_upstreams.iter().filter_map(Weak::upgrade).any(|older| older.id == id);
        self.leaving_upstreams.retain(|upstream| Rc::strong_count(upstream) > 1 || has_older(upstream.id));
        let before = std::mem::take(&mut self.upstreams);
        let mut begun = Vec::new();
        for shared in snapshot.upstreams() {
            let leaving = self.leaving_upstreams.iter().position(|known| known.id == shared.id());
            let back = leaving.map(|position| self.leaving_upstreams.remove(position));
            let known = before.iter().find(|known| known.id == shared.id()).or(back.as_ref());
            if let Some(known) = known.filter(|known| known.is_of(shared)) {
                self.upstreams.push(Rc::clone(known));
                continue;
            }
            let next = Upstream::new(&self.shard, shared, known.map(|known| &**known));
            if let Some(known) = known {
                self.leave(known, Some(&next), drained);
                self.older_upstreams.push(Rc::downgrade(known));
            }
            begun.push(Rc::clone(&next));
            self.upstreams.push(next);
        }
        for removed in before.iter().filter(|one| !self.upstreams.iter().any(|stays| stays.id == one.id)) {
            self.leave(removed, None, drained);
            self.leaving_upstreams.push(Rc::clone(removed));
        }
        begun
    }

    /// Ends the part of an upstream in new sessions, and notes the backends that `next`, its next version, has no more.
    fn leave(&self, upstream: &Rc<Upstream>, next: Option<&Rc<Upstream>>, drained: &mut Drained) {
        upstream.retire(next.map(|next| &**next));
        let older = self
            .older_upstreams
            .iter()
            .filter(|older| older.upgrade().is_some_and(|one| one.id == upstream.id));
        let versions: Vec<_> = older.cloned().chain([Rc::downgrade(upstream)]).collect();
        let is_gone = |backend: &&BackendId| !next.is_some_and(|next| next.has(**backend));
        for gone in upstream.numbers().iter().filter(is_gone) {
            drained.backends.extend(versions.iter().map(|version| (Weak::clone(version), *gone)));
        }
        let Some(next) = next else { return };
        let mut ends = false;
        for backend in upstream.closed_by(next) {
            for version in versions.iter().filter_map(Weak::upgrade) {
                ends |= version.table.end_sessions(backend, CloseReason::BackendDown);
            }
        }
        if ends {
            self.shard.ring.wake_all();
        }
    }

    fn adopt_listeners(&mut self, snapshot: &Snapshot, drained: &mut Drained) {
        let now = self.shard.now();
        self.leaving_listeners.retain(|listener| {
            let is_new = listener.removed().is_some_and(|since| now.since(since) < ON_THE_WAY);
            Rc::strong_count(listener) > 1 || is_new
        });
        let (config, before) = (snapshot.config(), std::mem::take(&mut self.listeners));
        let all = snapshot.shared_listeners().iter().zip(&config.listeners).enumerate();
        for (position, (shared, listener)) in all {
            let id = shared.id();
            let upstreams =
                listener.upstreams().iter().map(|id| Rc::clone(&self.upstreams[id.index()])).collect();
            let leaving = self.leaving_listeners.iter().position(|known| known.id == id);
            let back = leaving.map(|position| self.leaving_listeners.remove(position));
            let known = before.iter().find(|known| known.id == id).or(back.as_ref());
            let next = match known.filter(|known| !known.is_over()) {
                Some(known) => known.next(shared, (config, position), upstreams),
                None => Listener::new(&self.shard, shared, (config, position), upstreams, None),
            };
            next.set_removed(None);
            self.listeners.push(next);
        }
        for removed in before {
            if !self.listeners.iter().any(|stays| stays.id == removed.id) {
                removed.set_removed(Some(now));
                drained.listeners.push(Rc::clone(&removed));
                self.leaving_listeners.push(removed);
            }
        }
        for leaving in &mut self.leaving_listeners {
            *leaving = leaving.with_upstreams(&self.upstreams);
        }
    }

    /// Has each socket lead to the listener that has its address now; new ones begin, and those without a listener close.
    fn adopt_entrances(&mut self, snapshot: &Snapshot, sockets: Vec<(usize, OwnedFd)>, applied: &Sender<()>) {
        self.closing_entrances.retain(|entrance| Rc::strong_count(entrance) > 1);
        self.entrances.retain(|entrance| {
            let listener =
                self.listeners.iter().find(|listener| listener.config().address == entrance.address);
            match listener {
                Some(listener) => entrance.lead_to(listener),
                None => {
                    entrance.close();
                    self.closing_entrances.push(Rc::clone(entrance));
                }
            }
            listener.is_some()
        });
        for (position, socket) in sockets {
            let Some(listener) = self.listeners.get(position) else { continue };
            let before =
                self.closing_entrances.iter().filter(|closing| closing.address == listener.config().address);
            before.for_each(|closing| closing.replace(applied.clone()));
            match self.shard.ring.accept_from(socket) {
                Ok(acceptor) => {
                    let entrance = Entrance::new(listener);
                    self.entrances.push(Rc::clone(&entrance));
                    self.shard.ring.spawn_vital(accept::run(entrance, acceptor));
                }
                Err(error) => {
                    let name = &snapshot.config().listeners[position].name;
                    log::error!("listener {name} does not accept on this core: {}", Plain(&error));
                }
            }
        }
    }

    /// Ends sessions of what was removed once `timeout` is over.
    fn drain(&self, drained: Drained, timeout: Option<Duration>) {
        let Some(timeout) = timeout.filter(|_| !drained.listeners.is_empty() || !drained.backends.is_empty())
        else {
            return;
        };
        let (shard, since) = (Rc::clone(&self.shard), self.shard.now());
        let task = async move {
            shard.ring.sleep_until(since.after(timeout)).await;
            // What is back, perhaps to be removed once more, has its sessions still.
            let is_gone = |listener: &&Rc<Listener>| listener.removed() == Some(since);
            drained.listeners.iter().filter(is_gone).for_each(|listener| listener.end_sessions());
            for (upstream, backend) in &drained.backends {
                if let Some(upstream) = upstream.upgrade().filter(|upstream| !upstream.is_back(*backend)) {
                    upstream.table.end_sessions(*backend, CloseReason::Shutdown);
                }
            }
            shard.ring.wake_all();
        };
        self.shard.ring.spawn(task);
    }
}
