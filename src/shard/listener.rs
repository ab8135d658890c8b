//! One listener on one shard: what its sessions have in common.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use super::state::Shard;
use super::upstream::Upstream;
use crate::base::{BackendId, ListenerId};
use crate::config::{self, Config};
use crate::relay::RelayRules;
use crate::telemetry::counters::{Cells, ListenerCounters};

/// See the module documentation. A session holds its listener, and so keeps the rules that it began with.
pub(super) struct Listener {
    pub(super) id: ListenerId,
    pub(super) shard: Rc<Shard>,
    pub(super) upstream: Rc<Upstream>,
    /// For the relays of the sessions.
    pub(super) rules: RelayRules,
    counters: Cells<ListenerCounters>,
    config: Arc<Config>,
    position: usize,
    /// Whether every primary of the upstream has once had its first verdict, or the time for it is over.
    has_verdicts: Cell<bool>,
    /// Whether the log has said that it accepts.
    is_announced: Cell<bool>,
}

impl Listener {
    pub(super) fn new(
        shard: &Rc<Shard>,
        id: ListenerId,
        (config, position): (&Arc<Config>, usize),
        upstream: &Rc<Upstream>,
    ) -> Self {
        let (listener, backend_side) = (&config.listeners[position], upstream.config());
        let rules = RelayRules {
            client_idle: listener.timeouts.client_idle,
            equal_idle: listener.timeouts.equal_idle,
            backend_idle: backend_side.timeouts.backend_idle,
            half_close: listener.timeouts.half_close,
            client_keepalive: listener.tcp.options.keepalive,
            backend_keepalive: backend_side.tcp.keepalive,
            pipes: shard.pipes.clone(),
        };
        Self {
            id,
            shard: Rc::clone(shard),
            upstream: Rc::clone(upstream),
            rules,
            counters: shard.counters.listener(id),
            config: Arc::clone(config),
            position,
            has_verdicts: Cell::new(false),
            is_announced: Cell::new(false),
        }
    }

    pub(super) fn config(&self) -> &config::Listener {
        &self.config.listeners[self.position]
    }

    pub(super) fn counters(&self) -> &ListenerCounters {
        &self.counters
    }

    /// Returns whether sessions may begin. While the shard drains, clients that have come are served as well
    /// as possible.
    pub(super) fn is_open(&self) -> bool {
        self.has_verdicts.get() || !self.shard.is_running()
    }

    /// Returns whether the log has still to say that it accepts: once, by one shard, however many sockets it has.
    pub(super) fn is_to_announce(&self) -> bool {
        self.shard.id().0 == 0 && self.shard.is_running() && !self.is_announced.replace(true)
    }

    /// Checks whether sessions may begin from now on.
    pub(super) fn look(&self) {
        if !self.has_verdicts.get() {
            self.has_verdicts.set(self.upstream.table.is_decided());
        }
    }

    /// Counts bytes that a relay has delivered.
    pub(super) fn account(&self, backend: BackendId, to_backend: u64, to_client: u64) {
        let (listener, backend) = (self.counters(), self.upstream.counters(backend));
        if to_backend > 0 {
            listener.bytes_to_backend.add(to_backend);
            backend.bytes_to_backend.add(to_backend);
        }
        if to_client > 0 {
            listener.bytes_to_client.add(to_client);
            backend.bytes_to_client.add(to_client);
        }
        if let Some(spliced) = self.rules.pipes.as_ref().and_then(|pipes| pipes.take_moved()) {
            self.shard.counters.work.spliced_to_backend.add(spliced.to_backend);
            self.shard.counters.work.spliced_to_client.add(spliced.to_client);
        }
    }
}
