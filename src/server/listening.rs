//! The listening sockets of all shards: new ones, or those that this process was started with.

use std::os::fd::{AsFd, OwnedFd};

use super::error::StartError;
use super::sockets::Sockets;
use crate::config::Listener;
use crate::net::{self, Inherited, ListenError, Listening};

/// Listening sockets by shard, each with the position of its listener in the configuration.
pub(super) type ByShard = Vec<Vec<(usize, OwnedFd)>>;

/// How an address is bound.
#[derive(Clone, Copy)]
pub(super) enum Bind {
    /// Nobody else may listen there; a process that has just ended is waited for.
    Alone,
    /// Beside a listener of this process whose address overlaps.
    Beside,
}

/// Creates the sockets of these listeners for every shard, where no inherited ones have their address. Returns what the
/// server keeps of them, too.
pub(super) fn listen_all<'c>(
    listeners: impl Iterator<Item = ((usize, &'c Listener), Bind)>,
    cpus: &[usize],
    inherited: &mut Inherited,
) -> Result<(ByShard, Sockets), StartError> {
    let mut by_shard: ByShard = (0..cpus.len()).map(|_| Vec::new()).collect();
    let sockets = Sockets::default();
    for ((position, listener), bind) in listeners {
        let listening = listen(listener, bind, cpus, inherited)
            .map_err(|error| StartError::Listen { name: listener.name.clone(), error })?;
        let address = Some(&listener.address);
        for (number, socket) in listening.sockets.into_iter().enumerate() {
            let shard = number % cpus.len();
            sockets.add(socket.as_fd(), address, &listener.name, shard, listening.file.is_some())?;
            by_shard[shard].push((position, socket));
        }
        sockets.keep_files(address, listening.file);
    }
    Ok((by_shard, sockets))
}

fn listen(
    listener: &Listener,
    bind: Bind,
    cpus: &[usize],
    inherited: &mut Inherited,
) -> Result<Listening, ListenError> {
    let (taken, tcp) = (inherited.take(&listener.address), &listener.tcp);
    if taken.is_empty() {
        let listen = match bind {
            Bind::Alone => net::listen,
            Bind::Beside => net::listen_beside,
        };
        let listening = listen(&listener.address, listener.backlog, tcp, cpus.len())?;
        // A single socket forms no group, so there is nothing to choose.
        if listener.tcp.steer_by_cpu && cpus.len() > 1 {
            steer(listener, &listening, cpus)?;
        }
        return Ok(listening);
    }
    let has_group = taken.len() > 1 || taken[0].is_in_group();
    let listening = net::adopt(taken, &listener.address, listener.backlog, tcp, cpus.len())?;
    match listener.tcp.steer_by_cpu && cpus.len() > 1 {
        true if has_group => steer(listener, &listening, cpus)?,
        true => log::warn!(
            "listener {}: tcp.steer_by_cpu has no effect, because its only socket comes from the service manager and \
             all cores share it; write ReusePort=yes and a ListenStream= for each core in the socket unit",
            listener.name
        ),
        false => net::stop_steering(listening.sockets[0].as_fd()),
    }
    Ok(listening)
}

fn steer(listener: &Listener, listening: &Listening, cpus: &[usize]) -> Result<(), ListenError> {
    let refused = |error| ListenError::Steering { address: listener.address.to_string(), error };
    net::steer_by_cpu(listening.sockets[0].as_fd(), cpus).map_err(refused)
}
