//! Runs another configuration: everything that can be refused is tried first, and nothing has changed then; what
//! follows cannot fail, and every shard runs the same generation.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use super::error::StartError;
use super::listening::{Bind, ByShard, listen_all};
use super::sockets::Sockets;
use super::{Server, budget, machine};
use crate::base::{BackendKey, Plain, limits};
use crate::config::{self, Config, Edit, Listener};
use crate::control::command::{Applied, Refused};
use crate::control::{Written, lock};
use crate::net::{self, Inherited};
use crate::shard::Generation;
use crate::upstream::{BackendState, Snapshot};

/// How long a thread may take to run the next generation before the reload goes on without its answer: the watchdog
/// deals with a thread that hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the first verdicts on new upstreams are waited for.
const VERDICTS: Duration = Duration::from_secs(1);
/// Time between two looks whether anybody still waits.
const LOOK: Duration = Duration::from_millis(20);

/// What the next generation needs, all of it there.
struct Ready {
    snapshot: Arc<Snapshot>,
    /// Maximum number of sessions of the process.
    sessions: u32,
    /// For addresses that no listener had before.
    by_shard: ByShard,
    sockets: Sockets,
}

impl Server {
    /// Runs what a file says from now on, and what operators have changed beside it. Returns what is different.
    ///
    /// # Errors
    ///
    /// Every reason why not; nothing has changed in that case.
    pub fn reload(&mut self, file: Config) -> Result<Applied, Refused> {
        self.reload_unless(file, &mut || false)
    }

    /// As [`Server::reload`]; it waits for the look-ups of new names no longer once `gives_up` returns true.
    ///
    /// # Errors
    ///
    /// As [`Server::reload`].
    pub(super) fn reload_unless(
        &mut self,
        file: Config,
        gives_up: &mut (dyn FnMut() -> bool + Send),
    ) -> Result<Applied, Refused> {
        let mut overlay = lock(&self.source.written).overlay.clone();
        let outcome = self.run(overlay.apply(&file), gives_up);
        if outcome.is_ok() {
            *lock(&self.source.written) = Written { file: Arc::new(file), overlay };
        }
        lock(&self.source.reloads).note(outcome.is_ok());
        outcome
    }

    /// Notes a reload for which there was not even a configuration.
    pub(super) fn note_failed_reload(&self) {
        lock(&self.source.reloads).note(false);
    }

    /// Changes what runs beside the file. Returns what is different.
    ///
    /// # Errors
    ///
    /// Every reason why not; nothing has changed in that case.
    pub fn edit(&mut self, edit: Edit) -> Result<Applied, Refused> {
        self.edit_unless(edit, &mut || false)
    }

    /// As [`Server::edit`]; it waits for the look-ups of new names no longer once `gives_up` returns true.
    ///
    /// # Errors
    ///
    /// As [`Server::edit`].
    pub(super) fn edit_unless(
        &mut self,
        edit: Edit,
        gives_up: &mut (dyn FnMut() -> bool + Send),
    ) -> Result<Applied, Refused> {
        let (file, mut overlay) = {
            let written = lock(&self.source.written);
            (Arc::clone(&written.file), written.overlay.clone())
        };
        overlay.edit(&file, edit).map_err(|errors| Refused { errors })?;
        let applied = self.run(overlay.apply(&file), gives_up)?;
        lock(&self.source.written).overlay = overlay;
        Ok(applied)
    }

    fn run(
        &mut self,
        config: Config,
        gives_up: &mut (dyn FnMut() -> bool + Send),
    ) -> Result<Applied, Refused> {
        let config = match config.with_zones(net::interface_index) {
            Ok(numbered) => numbered.unwrap_or(config),
            Err(zone) => return Err(refused(&StartError::NoInterface(zone))),
        };
        let before = self.config();
        let changes = config::changes(&before, &config);
        let current = self.source.current.get();
        if changes.is_empty() {
            return Ok(Applied { generation: current.generation(), changes });
        }
        let errors = cannot_change(&before, &config);
        if !errors.is_empty() {
            return Err(Refused { errors });
        }
        let ready = self.prepare(Arc::new(config), &current).map_err(|error| refused(&error))?;
        let generation = ready.snapshot.generation();
        self.apply(ready, &current, gives_up);
        Ok(Applied { generation, changes })
    }

    fn prepare(&self, config: Arc<Config>, current: &Snapshot) -> Result<Ready, StartError> {
        machine::takes_options(&config)?;
        let cpus = &self.shards.cpus;
        machine::takes_local_ports(&config, self.shards.ports, cpus.len())?;
        let descriptors = net::raise_descriptor_limit()?;
        let sessions = budget::sessions(&config, cpus.len(), self.pipes, descriptors)?;
        let known = &current.config().listeners;
        let new = config
            .listeners
            .iter()
            .enumerate()
            .filter(|(_, listener)| !known.iter().any(|known| known.address == listener.address));
        let with_bind = new.map(|(position, listener)| {
            let overlaps = known.iter().any(|known| known.address.overlaps(&listener.address))
                // Steering goes by the order of the sockets, which those that close would disturb.
                || self.sockets.closes(&listener.address) && !listener.tcp.steer_by_cpu;
            ((position, listener), if overlaps { Bind::Beside } else { Bind::Alone })
        });
        let (by_shard, sockets) = listen_all(with_bind, cpus, &mut Inherited::default())?;
        let on_report = Some(&self.on_report);
        let snapshot = Snapshot::build(Arc::clone(&config), cpus.len(), on_report, Some(current))?;
        Ok(Ready { snapshot: Arc::new(snapshot), sessions, by_shard, sockets })
    }

    /// Runs a generation: names, then checks, then shards, each with what the one before has found.
    fn apply(&mut self, ready: Ready, before: &Snapshot, gives_up: &mut (dyn FnMut() -> bool + Send)) {
        let Ready { snapshot, sessions, by_shard, sockets } = ready;
        self.source.forget(snapshot.reused());
        self.control.adopt(&snapshot, limits::FIRST_LOOKUP_MAX, gives_up);
        self.health.iter().for_each(|health| health.adopt(Arc::clone(&snapshot)));
        if !self.wait_states(PATIENCE, |states| states.generation >= snapshot.generation()) {
            log::error!("the health thread has not judged the new configuration within {PATIENCE:?}");
        }
        self.await_verdicts(&snapshot, before, gives_up);
        let source = &self.source;
        source.gate.sessions.set_maximum(sessions);
        source.current.set(Arc::clone(&snapshot));
        let has_sessions = |id| source.counters.iter().any(|shard| shard.listener(id).active.value() > 0);
        source.departed.note(before, &snapshot, has_sessions);
        // A duplicate would keep a socket open that its shard closes.
        self.sockets.adopt(&snapshot.config().listeners, sockets);
        self.post(&snapshot, by_shard);
    }

    /// Waits a moment for the first verdicts on new upstreams, which listeners that accept already may lead to.
    fn await_verdicts(
        &self,
        snapshot: &Snapshot,
        before: &Snapshot,
        gives_up: &mut (dyn FnMut() -> bool + Send),
    ) {
        let is_new = |key: &BackendKey| before.upstream(key.upstream).is_none();
        let new: Vec<_> = snapshot.keys().filter(is_new).collect();
        let is_awaited = |state: &BackendState| state.is_awaited();
        let deadline = Instant::now() + VERDICTS;
        while !self
            .wait_states(LOOK, |states| !new.iter().filter_map(|key| states.backend(*key)).any(is_awaited))
        {
            if Instant::now() >= deadline || gives_up() {
                return;
            }
        }
    }

    /// Binds sockets beside those that a predecessor has left, where these are fewer than shards. A new process that does not
    /// serve yet has none of its own: clients would wait in them.
    pub(super) fn spread(&self) {
        let snapshot = self.source.current.get();
        let shards = self.shards.cpus.len();
        let mut by_shard: ByShard = (0..shards).map(|_| Vec::new()).collect();
        for (position, listener) in snapshot.config().listeners.iter().enumerate() {
            let given = self.sockets.count(&listener.address);
            for (shard, sockets) in by_shard.iter_mut().enumerate().skip(given) {
                match self.bind_for(listener, shard) {
                    Ok(Some(socket)) => sockets.push((position, socket)),
                    Ok(None) => break,
                    Err(error) => {
                        let name = &listener.name;
                        log::warn!(
                            "listener {name}: a core shares the socket of another one: {}",
                            Plain(&error)
                        );
                        break;
                    }
                }
            }
        }
        if by_shard.iter().any(|sockets| !sockets.is_empty()) {
            self.post(&snapshot, by_shard);
        }
    }

    fn bind_for(&self, listener: &Listener, shard: usize) -> io::Result<Option<OwnedFd>> {
        let bound = net::bind_beside(&listener.address, listener.backlog, &listener.tcp)?;
        if let Some(socket) = &bound {
            self.sockets.add(socket.as_fd(), Some(&listener.address), &listener.name, shard, false)?;
        }
        Ok(bound)
    }

    /// Has every shard run this generation, with these sockets more.
    fn post(&self, snapshot: &Arc<Snapshot>, by_shard: ByShard) {
        let states = Arc::clone(&self.source.states.borrow());
        let (applied, done) = bounded::<()>(0);
        for (handle, sockets) in self.shards.handles.iter().zip(by_shard) {
            let (snapshot, states) = (Arc::clone(snapshot), Arc::clone(&states));
            handle.post_generation(Generation { snapshot, states, sockets, applied: applied.clone() });
        }
        drop(applied);
        // Nothing is ever sent: the channel closes with the last shard.
        if done.recv_timeout(PATIENCE) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
            log::error!(
                "a core does not run the new configuration after {PATIENCE:?} yet; it will with its next turn"
            );
        }
    }
}

fn refused(error: &StartError) -> Refused {
    Refused::because(error.to_string())
}

/// Returns a sentence for each value that cannot change while the process runs.
fn cannot_change(before: &Config, after: &Config) -> Vec<String> {
    let mut errors = config::not_live(before, after);
    for listener in &after.listeners {
        let Some(known) = before.listeners.iter().find(|known| known.address == listener.address) else {
            continue;
        };
        let (old, new) = (&known.tcp, &listener.tcp);
        for (key, changes, cure) in [
            ("steer_by_cpu", old.steer_by_cpu != new.steer_by_cpu, "restart, or `ringway ctl upgrade`"),
            // The upgrade hands the same sockets over.
            ("interface", old.interface != new.interface, "restart"),
        ] {
            if changes {
                errors.push(format!(
                    "listeners.{}.tcp.{key} cannot change while {} is listened on: {cure}",
                    listener.name, listener.address
                ));
            }
        }
    }
    errors
}
