//! Where everything of a comparison is: its cores, its addresses and its services.

/// The core of the balancer.
pub(crate) const BALANCER_CORE: usize = 0;

/// So many cores from the balancer's on, as `taskset` and Ringway read it.
pub(crate) fn balancer_cores(count: usize) -> String {
    format!("{BALANCER_CORE}-{}", BALANCER_CORE + count - 1)
}

/// The backend has each service at 127.0.0.1, 127.0.0.2 and so on up to this, and the generator's connections
/// come from there. Between two addresses there are 28,232 ports (`ip_local_port_range`), and a used one is
/// lost for a second at least (`tcp_tw_reuse`): with one address, every compared program was seen to spend
/// half of a connect on the search for a port, and none to reach more than 14,000 sessions a second.
pub(crate) const ADDRESSES: u8 = 8;

/// The services of the backend, in the order of all [`Ports`].
pub(crate) const SERVICES: [&str; 5] = ["echo", "sink", "source", "both", "answer"];

/// A port for each service: those of the backend, or those of one subject.
pub(crate) type Ports = [u16; SERVICES.len()];
