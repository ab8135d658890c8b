//! Sockets: listening, connecting, options; and the peers of a session, whose sockets are on a ring.

mod connect;
mod errors;
mod group;
mod inherited;
mod limits;
mod listen;
mod options;
mod peer;
mod queue;
mod steer;
mod tcp_info;
mod zone;

#[cfg(test)]
pub(crate) mod testing;

pub use connect::{
    connect_with_first_bytes, is_connected, is_self_connected, local_address, local_ports, peer_address,
    prepare, socket_for,
};
pub use errors::{AcceptError, LocalFailure};
pub use group::group_number;
pub use inherited::{BoundTo, Given, Inherited, InheritedSocket, adopt, adopt_alone, bind_beside};
pub use limits::{
    keep_descriptors, may_bind_all_ports, may_write, pipe_quota, raise_descriptor_limit, reserve_descriptors,
};
pub use listen::{
    FileAccess, ListenError, Listening, SocketFile, adjust, end_handshakes, listen, listen_alone,
    listen_beside, take_all_hops, unlisten,
};
pub use options::{
    acknowledge_with_first_bytes, incoming_cpu, keep_alive, reset, try_local_ports, try_options,
};
pub use peer::{HandshakeError, Peer, poll_paced};
pub use queue::{queued, unacknowledged};
pub use steer::{steer_by_cpu, stop_steering};
pub use tcp_info::{TcpInfo, tcp_info};
pub use zone::interface_index;
