//! The three system calls of epoll behind a safe type, three settings of processes and threads, and one of a socket.
#![expect(unsafe_code, reason = "std has neither epoll nor process limits nor this option")]

use std::io::{self, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// What to wait for, and what has come.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Interest {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

pub(crate) const NONE: Interest = Interest { read: false, write: false };
pub(crate) const READ: Interest = Interest { read: true, write: false };
pub(crate) const WRITE: Interest = Interest { read: false, write: true };
pub(crate) const BOTH: Interest = Interest { read: true, write: true };

/// A level-triggered epoll instance. A descriptor leaves it by being closed.
pub(crate) struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Epoll> {
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Epoll { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; 512] })
    }

    pub(crate) fn add(&self, fd: impl AsFd, token: usize, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, interest)
    }

    pub(crate) fn change(&self, fd: impl AsFd, token: usize, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, interest)
    }

    fn control(&self, operation: i32, fd: impl AsFd, token: usize, interest: Interest) -> io::Result<()> {
        let mut events = 0;
        if interest.read {
            events |= libc::EPOLLIN as u32;
        }
        if interest.write {
            events |= libc::EPOLLOUT as u32;
        }
        let mut event = libc::epoll_event { events, u64: token as u64 };
        // SAFETY: `event` outlives the call, which copies it.
        let done = unsafe {
            libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd.as_fd().as_raw_fd(), &raw mut event)
        };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits for events; returns how many came, none after `timeout`.
    pub(crate) fn wait(&mut self, timeout: Duration) -> io::Result<usize> {
        let time = libc::timespec {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: `events` and `time` outlive the call, and the length is the vector's. Without a signal mask
        // its size does not matter.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.fd.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len() as libc::c_int,
                &raw const time,
                std::ptr::null::<libc::sigset_t>(),
                0_usize,
            )
        };
        match usize::try_from(count) {
            Ok(count) => Ok(count),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(0),
                error => Err(error),
            },
        }
    }

    /// The token of an event of the last wait, and what it may do. A hang-up is readable and writable: the
    /// next call says what happened.
    pub(crate) fn event(&self, index: usize) -> (usize, Interest) {
        let libc::epoll_event { events, u64: token } = self.events[index];
        let gone = events & (libc::EPOLLERR | libc::EPOLLHUP) as u32 != 0;
        let read = gone || events & libc::EPOLLIN as u32 != 0;
        let write = gone || events & libc::EPOLLOUT as u32 != 0;
        (token as usize, Interest { read, write })
    }
}

/// Lets short timeouts end on time instead of 50 microseconds later.
pub(crate) fn without_timer_slack() {
    // SAFETY: no memory is passed.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1, 0, 0, 0) };
}

/// Keeps this thread on one core.
pub(crate) fn pin_to(core: usize) -> io::Result<()> {
    // SAFETY: a set of cores is plain bits, and none is a valid one.
    let mut cores: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is as large as the macro of the C library takes it to be; it checks the number.
    unsafe { libc::CPU_SET(core, &mut cores) };
    // SAFETY: the set outlives the call, which copies it.
    let done = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const cores) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// As many descriptors as the hard limit allows, for this process and those it starts.
pub(crate) fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` outlives the call, which fills it.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0 {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: `limit` outlives the call, which copies it.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}

/// Leaves the choice of a port to the connect: then a local port is taken for one destination only, ip(7).
pub(crate) fn choose_port_at_connect(socket: &impl AsRawFd) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// Lets a connect wait for the first bytes, which go with the SYN if the peer has given a cookie before, tcp(7).
pub(crate) fn connect_with_first_bytes(socket: &impl AsRawFd) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1)
}

/// Takes first bytes that come with the SYN, of so many clients at once, tcp(7).
pub(crate) fn accept_with_first_bytes(listener: &impl AsRawFd, clients: i32) -> io::Result<()> {
    set_option(listener, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, clients)
}

fn set_option(socket: &impl AsRawFd, level: i32, option: i32, value: libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads four bytes of the number, which outlives the call.
    let set =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Writes as much as fits now.
pub(crate) fn write_some(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match stream.write(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}
