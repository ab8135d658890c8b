//! Parts of a shard for tests.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use super::listener::Listener;
use super::run::Residents;
use super::{Handoff, Phase, ShardParts, inbox};
use crate::admission::Gate;
use crate::base::ShardId;
use crate::base::ShardPlace;
use crate::config;
use crate::steering::{CoreLoads, Distance};
use crate::upstream::Snapshot;
use crate::uring::{Doorbell, Ring};

/// Returns the first of `shards` shards, with one listener and one backend that is never up; and the handoff
/// rights of the others.
pub(super) fn parts(shards: usize, listeners: Vec<(usize, OwnedFd)>) -> (ShardParts, Vec<Handoff>) {
    build(2, shards, listeners)
}

/// Returns the only shard, with a backend on this port of `127.0.0.1`.
pub(super) fn parts_with_backend(port: u16, listeners: Vec<(usize, OwnedFd)>) -> ShardParts {
    build(port, 1, listeners).0
}

fn build(port: u16, shards: usize, listeners: Vec<(usize, OwnedFd)>) -> (ShardParts, Vec<Handoff>) {
    let yaml =
        format!("loadbalancer: {{listen_address: ':1'}}\nbackends: [{{address: 127.0.0.1, port: {port}}}]\n");
    let config = config::parse("test.yaml", yaml.as_bytes()).expect("a valid configuration").config;
    let snapshot = Snapshot::build(Arc::new(config), shards, None, None).expect("numbers");
    let (mut handles, mut ends) = (Vec::new(), Vec::new());
    for _ in 0..shards {
        let (doorbell, answers) = Doorbell::new().expect("an eventfd");
        let (handle, inbox) = inbox(doorbell);
        handles.push(handle);
        ends.push((inbox, answers));
    }
    let (handles, cores): (Arc<[_]>, _) = (handles.into(), CoreLoads::new(shards));
    let place = |shard: usize| ShardPlace { shard: ShardId(shard as u16), shards, seed: 0 };
    let distances = vec![Distance::SameCache; shards];
    let handoff = |shard| Handoff::new(place(shard), &distances, Arc::clone(&cores), Arc::clone(&handles));
    let (inbox, doorbell) = ends.swap_remove(0);
    let others = (1..shards).map(handoff).collect();
    let parts = ShardParts {
        phase: Phase::Running,
        place: place(0),
        cpu: core_affinity::get_core_ids().expect("CPUs")[0],
        ports: None,
        snapshot: Arc::new(snapshot),
        listeners,
        pipes: 0,
        handoff: handoff(0),
        cores: Arc::clone(&cores),
        counters: Arc::default(),
        heartbeat: Arc::default(),
        access_log: None,
        gate: Arc::new(Gate::new(10_000, shards)),
        handles,
        unused: Arc::default(),
        inbox,
        doorbell,
    };
    (parts, others)
}

/// Returns the listener of such a shard, which does not run.
pub(super) fn listener(ring: &Ring) -> Rc<Listener> {
    let (residents, ..) = Residents::new(ring, parts(1, Vec::new()).0);
    Rc::clone(&residents.listeners[0])
}
