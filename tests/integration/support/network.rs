//! A network for one test alone.

#![expect(unsafe_code, reason = "unshare(2) and ioctl(2) have no safe wrapper in the crates we use")]

use std::io::Error;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;

use super::skip;

/// Runs a test on a thread in a network of its own, with all threads and processes that it starts: there is
/// loopback and nothing else, and what is set in `/proc/sys/net` is set there. Who may not make one, without
/// `CAP_SYS_ADMIN`, skips it.
pub fn in_own_network(test: impl FnOnce() + Send) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    let run = || {
        // SAFETY: the call takes a number, and changes nothing but the network of this thread.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return skip(&name, "only root can make a network of its own");
        }
        switch_loopback(true);
        test();
    };
    let ended = std::thread::scope(|scope| scope.spawn(run).join());
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// As `ip link set lo up` or `down` in the network of this thread, netdevice(7). While it is down, all peers
/// have vanished.
pub fn switch_loopback(on: bool) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: zeroes are a valid `ifreq`: an empty name and no flags.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    (request.ifr_name[0], request.ifr_name[1]) = (b'l' as libc::c_char, b'o' as libc::c_char);
    request.ifr_ifru.ifru_flags = if on { libc::IFF_UP as libc::c_short } else { 0 };
    // SAFETY: the kernel reads the request, which outlives the call.
    let set = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    assert_eq!(set, 0, "loopback: {}", Error::last_os_error());
}

/// Sets what the network of this thread does, by its path in `/proc/sys/net`.
#[track_caller]
pub fn set_network(path: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{path}"), value).unwrap();
}

/// Gives loopback another address, as `ip address add IP/32 dev lo`; netdevice(7), by an alias of the
/// interface.
#[track_caller]
pub fn add_address(ip: Ipv4Addr) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: zeroes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(b"lo:1") {
        *place = *byte as libc::c_char;
    }
    let mut address = [0; 14];
    // Behind two bytes of port, in the order of the network: `sockaddr_in`.
    for (place, byte) in address[2..].iter_mut().zip(ip.octets()) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_addr = libc::sockaddr { sa_family: libc::AF_INET as u16, sa_data: address };
    // SAFETY: the kernel reads the request, which outlives the call.
    let set = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFADDR, &raw const request) };
    assert_eq!(set, 0, "another address: {}", Error::last_os_error());
}
