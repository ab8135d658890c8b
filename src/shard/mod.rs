//! One core: its ring, its listeners, its sessions, its counters. Nothing here is shared with another shard but
//! what [`ShardParts`] names.

mod accept;
mod establish;
mod mailbox;
mod session;

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::relay::{Pipes, RelayRules};
use crate::rules::admission::SessionLimit;
use crate::rules::config::Config;
use crate::rules::upstream::{Failures, Loads, ShardPlace, UpstreamTable};
use crate::telemetry::counters::ShardCounters;
use crate::uring::{Answer, BufferSettings, Missing, Ring, Tick};
use crate::words::ListenerId;

use mailbox::Message;
pub use mailbox::{Letterbox, Mailbox, Phase, mailbox};

/// What a shard is made of.
pub struct ShardParts {
    /// Which shard of how many.
    pub place: ShardPlace,
    /// The CPU it is pinned to.
    pub cpu: core_affinity::CoreId,
    /// The configuration all shards share.
    pub config: Arc<Config>,
    /// Listening sockets of this shard, in the order of the configuration.
    pub listeners: Vec<OwnedFd>,
    /// Most pipes for splicing; 0 where that is off.
    pub pipes: u32,
    /// In-flight counts of all shards, one table for each upstream.
    pub loads: Vec<Arc<Loads>>,
    /// Counts of failures of all shards, one table for each upstream that ejects backends.
    pub failures: Vec<Option<Arc<Failures>>>,
    /// Counters of this shard.
    pub counters: Arc<ShardCounters>,
    /// The limit on sessions of the process.
    pub limit: Arc<SessionLimit>,
    /// Where other threads write to.
    pub letterbox: Letterbox,
    /// Where this shard reads.
    pub mailbox: Mailbox,
    /// The descriptor behind the doorbell of the letterbox.
    pub doorbell: OwnedFd,
}

/// The state of a running shard.
struct Shard {
    ring: Ring,
    config: Arc<Config>,
    /// For the sessions of each listener.
    relay_rules: Vec<RelayRules>,
    upstreams: Vec<Rc<UpstreamTable>>,
    /// None where splicing is off.
    pipes: Option<Rc<Pipes>>,
    counters: Arc<ShardCounters>,
    limit: Arc<SessionLimit>,
    letterbox: Letterbox,
    phase: Cell<Phase>,
    /// Accept loops and sessions that have not ended.
    busy: Cell<usize>,
    /// Warnings of failed accepts.
    accept_warnings: WarningLimit,
    /// Warnings of connects that failed for want of something of our own.
    connect_warnings: WarningLimit,
}

/// Lets one warning through in so long.
#[derive(Default)]
struct WarningLimit(Cell<Option<Tick>>);

impl WarningLimit {
    const INTERVAL: Duration = Duration::from_secs(10);

    fn is_due(&self, now: Tick) -> bool {
        let due = self.0.get().is_none_or(|last| now.since(last) >= Self::INTERVAL);
        if due {
            self.0.set(Some(now));
        }
        due
    }
}

/// Runs a shard on the calling thread until it was told to drain and every session has ended.
///
/// # Errors
///
/// What the kernel lacks or forbids for the ring.
///
/// # Panics
///
/// When the CPU cannot be pinned to or the executor cannot start; the caller checked both before.
pub fn run(parts: ShardParts) -> Result<(), Missing> {
    assert!(core_affinity::set_for_current(parts.cpu), "CPU {} was in the allowed set", parts.cpu.id);
    // The thread is pinned already; glommio would take any online CPU. Its own rings are never used for I/O: keep
    // them small.
    let executor = glommio::LocalExecutorBuilder::new(glommio::Placement::Unbound)
        .name("shard")
        .io_memory(64 << 10)
        .ring_depth(8)
        .make()
        .unwrap_or_else(|error| panic!("the executor of a shard cannot start: {error}"));
    executor.run(async {
        let relay = &parts.config.runtime.relay;
        let ring = Ring::new(BufferSettings { bytes: relay.buffer_bytes, count: relay.buffers_per_core })?;
        start(&ring, parts)?;
        ring.drive().await;
        Ok(())
    })
}

fn start(ring: &Ring, parts: ShardParts) -> Result<(), Missing> {
    let ShardParts { place, config, pipes, loads, failures, counters, limit, letterbox, mailbox, .. } = parts;
    let tables = config.upstreams.iter().zip(loads.into_iter().zip(failures));
    let upstreams =
        tables.map(|(upstream, (loads, failures))| UpstreamTable::new(upstream, loads, failures, place));
    let pipes = (pipes > 0).then(|| Rc::new(Pipes::new(config.runtime.relay.pipe_bytes, pipes)));
    let relay_rules = config.listeners.iter().map(|listener| RelayRules {
        client_idle: listener.timeouts.client_idle,
        backend_idle: config.upstreams[listener.upstream.index()].timeouts.backend_idle,
        half_close: listener.timeouts.half_close,
        client_keepalive: listener.tcp.keepalive,
        backend_keepalive: config.upstreams[listener.upstream.index()].tcp.keepalive,
        pipes: pipes.clone(),
    });
    let shard = Rc::new(Shard {
        ring: ring.clone(),
        relay_rules: relay_rules.collect(),
        upstreams: upstreams.collect(),
        pipes: pipes.clone(),
        counters,
        limit,
        letterbox,
        phase: Cell::new(Phase::Running),
        busy: Cell::new(0),
        accept_warnings: WarningLimit::default(),
        connect_warnings: WarningLimit::default(),
        config,
    });
    let answer = ring.answer(parts.doorbell);
    ring.spawn_vital(Rc::clone(&shard).read_mail(answer, mailbox));
    for (index, socket) in parts.listeners.into_iter().enumerate() {
        let acceptor = ring.accept_from(socket)?;
        let id = ListenerId(u16::try_from(index).expect("limits::LISTENERS fits"));
        ring.spawn_vital(accept::run(Rc::clone(&shard), id, acceptor));
    }
    Ok(())
}

impl Shard {
    /// Takes what other threads say, until nothing is left to do.
    async fn read_mail(self: Rc<Self>, mut answer: Answer, mailbox: Mailbox) {
        loop {
            while let Some(message) = mailbox.take() {
                match message {
                    Message::States(states) => {
                        let tables = self.upstreams.iter().zip(&states.upstreams);
                        let cuts = tables.filter(|(table, states)| table.apply(states)).count();
                        if cuts > 0 {
                            self.ring.wake_all();
                        }
                    }
                    Message::Phase(phase) if phase > self.phase.get() => {
                        self.phase.set(phase);
                        self.ring.wake_all();
                    }
                    Message::Phase(_) => {}
                }
            }
            if self.phase.get() > Phase::Running && self.busy.get() == 0 {
                return;
            }
            answer.rung().await;
        }
    }

    /// Notes an accept loop or a session until the guard is dropped.
    fn busy(self: &Rc<Self>) -> Busy {
        self.busy.set(self.busy.get() + 1);
        Busy(Rc::clone(self))
    }

    fn is_running(&self) -> bool {
        self.phase.get() == Phase::Running
    }

    fn is_closing(&self) -> bool {
        self.phase.get() == Phase::Closing
    }
}

/// Something the shard waits for before it ends.
struct Busy(Rc<Shard>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() - 1);
        if self.0.busy.get() == 0 && !self.0.is_running() {
            self.0.letterbox.ring();
        }
    }
}
