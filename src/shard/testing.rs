//! Parts of a shard for tests.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::{Passer, ShardParts, mailbox};
use crate::rules::admission::Limit;
use crate::rules::config;
use crate::rules::steering::Cores;
use crate::rules::upstream::{ShardPlace, Shared};
use crate::telemetry::counters::ShardCounters;
use crate::uring::Doorbell;
use crate::words::ShardId;

/// The first of so many shards, with one listener and one backend that is never up; and what the others pass on with.
pub(super) fn parts(shards: usize, listeners: Vec<OwnedFd>) -> (ShardParts, Vec<Passer>) {
    let yaml = b"loadbalancer: {listen_address: ':1'}\nbackends: [{address: 127.0.0.1, port: 2}]\n";
    let config = config::parse("test.yaml", yaml).expect("a valid configuration").config;
    let upstreams = vec![Shared::new(&config.upstreams[0], shards, None)];
    let (mut letterboxes, mut ends) = (Vec::new(), Vec::new());
    for _ in 0..shards {
        let (doorbell, answers) = Doorbell::new().expect("an eventfd");
        let (letterbox, mailbox) = mailbox(doorbell);
        letterboxes.push(letterbox);
        ends.push((mailbox, answers));
    }
    let (letterboxes, cores): (Arc<[_]>, _) = (letterboxes.into(), Cores::new(shards));
    let place = |shard: usize| ShardPlace { shard: ShardId(shard as u16), shards, seed: 0 };
    let passer = |shard| Passer::new(place(shard), Arc::clone(&cores), Arc::clone(&letterboxes));
    let (mailbox, doorbell) = ends.swap_remove(0);
    let others = (1..shards).map(passer).collect();
    let parts = ShardParts {
        place: place(0),
        cpu: core_affinity::get_core_ids().expect("CPUs")[0],
        config: Arc::new(config),
        listeners,
        pipes: 0,
        upstreams,
        passer: passer(0),
        cores: Arc::clone(&cores),
        counters: ShardCounters::new(1, [1]),
        limit: Arc::new(Limit::new(100)),
        letterboxes,
        mailbox,
        doorbell,
    };
    (parts, others)
}
