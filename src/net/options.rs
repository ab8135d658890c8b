//! Options of TCP sockets.

#![expect(unsafe_code, reason = "the crates we use have no setter for some options")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};

use crate::base::{Plain, PortRange, counted};
use crate::config::{Keepalive, ListenerTcp, TcpOptions};

/// linux/in.h, Linux 6.3. Debian's 6.1 has it, too.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

/// Clients that the kernel keeps of which the first bytes came with the SYN (`TCP_FASTOPEN`).
const FAST_OPEN_QUEUE: libc::c_int = 1_024;

/// Sets the options of one side. Sockets accepted from a listener inherit those of the listener, tcp(7),
/// which saves the calls for each connection. Keepalive is another matter, see [`keep_alive`].
pub(super) fn apply(socket: SockRef<'_>, options: &TcpOptions) -> io::Result<()> {
    if options.nodelay {
        socket.set_tcp_nodelay(true)?;
    }
    if let Some(timeout) = options.user_timeout {
        socket.set_tcp_user_timeout(Some(timeout))?;
    }
    if let Some(name) = &options.congestion_control {
        set_congestion_control(&socket, name)?;
    }
    Ok(())
}

/// Has the SYN-ACK of a backend acknowledged together with first bytes (`TCP_QUICKACK`, tcp(7)). Without any, the kernel
/// waits for 200 ms before it acknowledges, and a backend that speaks first waits as long.
///
/// # Errors
///
/// setsockopt(2).
pub fn acknowledge_with_first_bytes(socket: SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_quickack(false)
}

/// Sets the options of a socket that will listen, before it is bound.
pub(super) fn apply_listening(socket: SockRef<'_>, tcp: &ListenerTcp) -> io::Result<()> {
    if tcp.freebind {
        match socket.domain()? {
            Domain::IPV6 => socket.set_freebind_v6(true)?,
            _ => socket.set_freebind_v4(true)?,
        }
    }
    if let Some(name) = &tcp.interface {
        socket.bind_device(Some(name.as_bytes())).map_err(|error| of_interface(&error, name))?;
    }
    if let Some(seconds) = tcp.defer_accept {
        set(&socket, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, whole_seconds(seconds))?;
    }
    if tcp.options.fast_open {
        set(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, FAST_OPEN_QUEUE)?;
    }
    if !tcp.options.quick_ack {
        socket.set_tcp_quickack(false)?;
    }
    apply(socket, &tcp.options)
}

/// Like [`apply_listening`], on a socket that is bound already and whose options somebody else has set.
pub(super) fn replace(socket: SockRef<'_>, tcp: &ListenerTcp) -> io::Result<()> {
    let options = &tcp.options;
    socket.set_tcp_nodelay(options.nodelay)?;
    socket.set_tcp_user_timeout(options.user_timeout)?;
    socket.set_tcp_quickack(options.quick_ack)?;
    set(&socket, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, tcp.defer_accept.map_or(0, whole_seconds))?;
    // The kernel may be built without it.
    let queue = if options.fast_open { FAST_OPEN_QUEUE } else { 0 };
    let set_queue = set(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, queue);
    if options.fast_open {
        set_queue?;
    }
    match &options.congestion_control {
        Some(name) => set_congestion_control(&socket, name),
        None => reset_congestion_control(&socket),
    }
}

fn whole_seconds(duration: Duration) -> libc::c_int {
    libc::c_int::try_from(duration.as_millis().div_ceil(1_000)).unwrap_or(libc::c_int::MAX)
}

/// Tries whether the kernel takes these options.
///
/// # Errors
///
/// What it refuses, with the cure.
pub fn try_options(options: &TcpOptions) -> io::Result<()> {
    if options.congestion_control.is_none() {
        return Ok(());
    }
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    apply(SockRef::from(&socket), options)
}

fn set_congestion_control(socket: &SockRef<'_>, name: &str) -> io::Result<()> {
    socket.set_tcp_congestion(name.as_bytes()).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT) => io::Error::other(format!(
            "congestion control {name} is not available here; `sysctl net.ipv4.tcp_available_congestion_control` lists \
             those that are, and `modprobe tcp_{name}` may add it"
        )),
        Some(libc::EPERM) => io::Error::other(format!(
            "this user may not choose congestion control {name}; add it to the sysctl \
             net.ipv4.tcp_allowed_congestion_control"
        )),
        _ => error,
    })
}

/// Gives a socket the congestion control of the system, if it has another one.
fn reset_congestion_control(socket: &SockRef<'_>) -> io::Result<()> {
    let usual = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default();
    let usual = usual.trim();
    let has = socket.tcp_congestion()?;
    let has = has.split(|byte| *byte == 0).next().unwrap_or_default();
    if usual.is_empty() || has == usual.as_bytes() {
        return Ok(());
    }
    set_congestion_control(socket, usual)
}

/// Refuses a socket that was handed over and takes clients from another interface than is wanted, which cannot change.
pub(super) fn same_interface(socket: &SockRef<'_>, wanted: Option<&str>) -> io::Result<()> {
    let name = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned();
    let has = socket.device()?.map(name);
    if has.as_deref() == wanted {
        return Ok(());
    }
    let words = |name: Option<&str>| name.map_or_else(|| "all interfaces".to_owned(), str::to_owned);
    Err(io::Error::other(format!(
        "the socket that was handed over takes clients from {}, and tcp.interface is {}: stop the old process and start \
         anew, or write BindToDevice= into the socket unit",
        words(has.as_deref()),
        wanted.unwrap_or("off")
    )))
}

fn of_interface(error: &io::Error, name: &str) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENODEV) => {
            io::Error::other(format!("there is no interface {name} here; `ip link` lists them"))
        }
        Some(libc::EPERM) => io::Error::other(format!(
            "this user may not listen on interface {name}; give the binary CAP_NET_RAW, or remove `tcp.interface`"
        )),
        _ => io::Error::other(format!("interface {name}: {}", Plain(error))),
    }
}

/// Has bind(2) to port 0 leave the port to connect(2), ip(7). IPv6 sockets take the option of IPv4 too.
pub(super) fn bind_without_port(socket: SockRef<'_>) -> io::Result<()> {
    set(&socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// Has connect(2) choose one of these ports, ip(7). IPv6 sockets take the option of IPv4 too. The kernel ignores an end
/// that is not within `ip_local_port_range`.
pub(super) fn set_local_ports(socket: SockRef<'_>, ports: PortRange) -> io::Result<()> {
    let both = u32::from(ports.last) << 16 | u32::from(ports.first);
    set(&socket, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, both.cast_signed())
}

/// Tries whether each of this many shards can have ports of its own, of these.
///
/// # Errors
///
/// What the kernel refuses, or that the ports are too few, with the cure.
pub fn try_local_ports(ports: Option<PortRange>, shards: usize) -> io::Result<()> {
    const OR: &str = "or write `source_ports: any`";
    let Some(ports) = ports else {
        return Err(io::Error::other(format!(
            "`source_ports: per_core` needs the sysctl net.ipv4.ip_local_port_range, which cannot be read here; let the \
             process read /proc/sys, {OR}"
        )));
    };
    if ports.count() < shards {
        let (has, shards) = (counted(ports.count() as u64, "port"), counted(shards as u64, "core"));
        return Err(io::Error::other(format!(
            "`source_ports: per_core` takes a local port for each core, and the sysctl net.ipv4.ip_local_port_range has {has} \
             ({ports}) for {shards}; widen it, {OR}"
        )));
    }
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    set_local_ports(SockRef::from(&socket), ports).map_err(of_local_ports)
}

fn of_local_ports(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENOPROTOOPT) => io::Error::other(
            "this kernel cannot give each core ports of its own (IP_LOCAL_PORT_RANGE); `source_ports: per_core` needs \
             Linux 6.3, or write `source_ports: any`",
        ),
        _ => error,
    }
}

/// Returns the CPU on which the kernel has received the last segment of a connection (`SO_INCOMING_CPU`, socket(7)).
#[must_use]
pub fn incoming_cpu(socket: SockRef<'_>) -> Option<usize> {
    socket.cpu_affinity().ok()
}

/// Has the kernel drop segments with a smaller TTL or hop limit. An IPv6 socket may get segments of both families.
pub(super) fn set_least_hops(socket: SockRef<'_>, least: u8) -> io::Result<()> {
    set(&socket, libc::IPPROTO_IP, libc::IP_MINTTL, least.into())?;
    if socket.domain()? == Domain::IPV6 {
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, least.into())?;
    }
    Ok(())
}

fn set(socket: &SockRef<'_>, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the kernel reads an int, which outlives the call, and the descriptor is open.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the kernel probe a silent peer, and end the connection with ETIMEDOUT where it does not answer
/// (`SO_KEEPALIVE`, `TCP_KEEPIDLE`, `TCP_KEEPINTVL`, `TCP_KEEPCNT`, tcp(7)).
///
/// Not an option to be inherited: each socket that has it arms a kernel timer, a cost that very short
/// sessions need not bear.
pub fn keep_alive(socket: SockRef<'_>, keepalive: Keepalive) {
    let Keepalive { idle, interval, count, .. } = keepalive;
    let options = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(count);
    // A Unix socket has no such option and needs none: its peer cannot vanish unnoticed.
    let _ = socket.set_tcp_keepalive(&options);
}

/// Closes a connection at once with RST instead of FIN. A client of a Unix socket sees an end.
pub fn reset(connection: OwnedFd) {
    // It fails for no open socket (socket(7)).
    let _ = SockRef::from(&connection).set_linger(Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn congestion_control(socket: SockRef<'_>) -> String {
        let name = socket.tcp_congestion().expect("a TCP socket");
        String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned()
    }

    /// Connections inherit what they do not set themselves.
    #[test]
    fn connections_have_the_options_of_their_listener_until_others_replace_them() {
        let usual = TcpListener::bind("127.0.0.1:0").expect("a port");
        let usual_control = congestion_control(SockRef::from(&usual));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let accept = || {
            let client = TcpStream::connect(address).expect("it listens");
            (client, listener.accept().expect("a client").0)
        };
        let timeout = Some(Duration::from_secs(7));
        let special = TcpOptions {
            // Every kernel has it, and every user may choose it.
            congestion_control: Some("reno".to_owned()),
            quick_ack: false,
            user_timeout: timeout,
            ..TcpOptions::BARE
        };
        let special = ListenerTcp {
            options: special,
            defer_accept: Some(Duration::from_millis(1)),
            freebind: true,
            ..ListenerTcp::BARE
        };
        let socket = SockRef::from(&listener);
        apply_listening(SockRef::from(&listener), &special).expect("they are all allowed");
        assert!(socket.freebind_v4().expect("it is IPv4"));
        replace(SockRef::from(&listener), &ListenerTcp { defer_accept: None, ..special }).expect("they are");
        let (_client, connection) = accept();
        let connection = SockRef::from(&connection);
        assert_eq!(congestion_control(SockRef::from(&*connection)), "reno");
        assert!(connection.tcp_nodelay().expect("TCP") && !connection.tcp_quickack().expect("TCP"));
        assert_eq!(connection.tcp_user_timeout().expect("TCP"), timeout);

        replace(SockRef::from(&listener), &ListenerTcp::BARE).expect("they are all allowed");
        let (_client, connection) = accept();
        let connection = SockRef::from(&connection);
        assert_eq!(congestion_control(SockRef::from(&*connection)), usual_control);
        assert!(connection.tcp_quickack().expect("TCP"));
        assert_eq!(connection.tcp_user_timeout().expect("TCP"), None);
    }

    #[test]
    fn what_the_kernel_refuses_comes_with_its_cure() {
        let options = TcpOptions { congestion_control: Some("nope".to_owned()), ..TcpOptions::BARE };
        let error = try_options(&options).expect_err("there is none").to_string();
        assert!(error.contains("modprobe tcp_nope"), "{error}");
        try_options(&TcpOptions::BARE).expect("nothing is wanted");
        let unknown = of_local_ports(io::Error::from_raw_os_error(libc::ENOPROTOOPT)).to_string();
        assert!(unknown.contains("needs Linux 6.3, or write `source_ports: any`"), "{unknown}");
        let ports = PortRange { first: 61_000, last: 61_001 };
        let few = try_local_ports(Some(ports), 3).expect_err("three have no part of two").to_string();
        assert!(few.contains("has 2 ports (61000 to 61001) for 3 cores; widen it, or write"), "{few}");
        let hidden = try_local_ports(None, 1).expect_err("nobody knows them").to_string();
        assert!(hidden.contains("let the process read /proc/sys, or write"), "{hidden}");
    }
}
