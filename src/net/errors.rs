//! Decides whose fault an error of accept(2) or connect(2) is.

use std::io;

use crate::base::Address;

/// Why an accept failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AcceptError {
    /// EMFILE, ENFILE: no descriptor is left.
    Descriptors,
    /// ENOBUFS, ENOMEM.
    Memory,
    /// ECONNABORTED and other failures of a single connection.
    Connection,
}

impl AcceptError {
    /// Every kind, in the order of the discriminants.
    pub const ALL: [Self; Self::COUNT] = [Self::Descriptors, Self::Memory, Self::Connection];

    /// The number of kinds.
    pub const COUNT: usize = 3;

    /// Returns the name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Descriptors => "descriptors",
            Self::Memory => "memory",
            Self::Connection => "connection",
        }
    }

    /// Returns the kind of an error of accept(2).
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => Self::Descriptors,
            Some(libc::ENOBUFS | libc::ENOMEM) => Self::Memory,
            _ => Self::Connection,
        }
    }
}

/// What this machine lacked when a connection to a backend could not be made; this is not the backend's
/// fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LocalFailure {
    /// EMFILE, ENFILE: no descriptor is left.
    Descriptors,
    /// ENOBUFS, ENOMEM.
    Memory,
    /// EADDRNOTAVAIL, EADDRINUSE, EAGAIN: this destination has no local address, or none with a free port.
    /// Another destination may have one.
    Addresses,
}

impl LocalFailure {
    /// Every kind, in the order of the discriminants.
    pub const ALL: [Self; Self::COUNT] = [Self::Descriptors, Self::Memory, Self::Addresses];

    /// The number of kinds.
    pub const COUNT: usize = 3;

    /// Returns the name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Descriptors => "descriptors",
            Self::Memory => "memory",
            Self::Addresses => "addresses",
        }
    }

    /// Returns the kind of an error of connect(2), unless it is the backend's fault.
    #[must_use]
    pub fn of(error: &io::Error, address: &Address) -> Option<Self> {
        match error.raw_os_error()? {
            libc::EMFILE | libc::ENFILE => Some(Self::Descriptors),
            libc::ENOBUFS | libc::ENOMEM => Some(Self::Memory),
            libc::EADDRNOTAVAIL | libc::EADDRINUSE => Some(Self::Addresses),
            // For a Unix socket, EAGAIN means that the backend's backlog is full.
            libc::EAGAIN if matches!(address, Address::Tcp(_)) => Some(Self::Addresses),
            _ => None,
        }
    }

    /// Returns the kind in words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Descriptors => "file descriptors",
            Self::Memory => "memory",
            Self::Addresses => "local addresses and ports",
        }
    }

    /// Returns what an operator can do about it.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Descriptors => "raise LimitNOFILE",
            Self::Memory => "raise net.ipv4.tcp_mem",
            Self::Addresses => "widen net.ipv4.ip_local_port_range, or set source",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_lacks_is_told_from_the_failure_of_one_connection() {
        let of = |errno| AcceptError::of(&io::Error::from_raw_os_error(errno));
        assert_eq!([libc::EMFILE, libc::ENFILE].map(of), [AcceptError::Descriptors; 2]);
        assert_eq!([libc::ENOBUFS, libc::ENOMEM].map(of), [AcceptError::Memory; 2]);
        assert_eq!([libc::ECONNABORTED, libc::EPROTO].map(of), [AcceptError::Connection; 2]);
    }

    #[test]
    fn full_backlog_of_a_socket_file_is_the_backends_and_want_of_a_port_is_not() {
        let tcp = Address::Tcp(([127, 0, 0, 1], 1).into());
        let file = Address::Unix("/run/b.sock".into());
        let of = |errno, address| LocalFailure::of(&io::Error::from_raw_os_error(errno), address);
        assert_eq!(
            [libc::EMFILE, libc::ENFILE].map(|errno| of(errno, &tcp)),
            [Some(LocalFailure::Descriptors); 2]
        );
        assert_eq!(
            [libc::ENOBUFS, libc::ENOMEM].map(|errno| of(errno, &tcp)),
            [Some(LocalFailure::Memory); 2]
        );
        let addresses = [libc::EADDRNOTAVAIL, libc::EADDRINUSE, libc::EAGAIN].map(|errno| of(errno, &tcp));
        assert_eq!(addresses, [Some(LocalFailure::Addresses); 3]);
        assert_eq!((of(libc::EAGAIN, &file), of(libc::ECONNREFUSED, &tcp)), (None, None));
    }
}
