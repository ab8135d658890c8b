//! What the kernel knows of a TCP connection.

#![expect(unsafe_code, reason = "getsockopt(2) with TCP_INFO has no safe wrapper in the crates we use")]

use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::SockRef;

/// A part of `struct tcp_info`, tcp(7) and linux/tcp.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpInfo {
    /// Smoothed round-trip time, `tcpi_rtt`.
    pub round_trip: Duration,
    /// Segments that were sent again, `tcpi_total_retrans`.
    pub retransmitted: u32,
    /// The latest rate at which the peer took data, bytes a second, `tcpi_delivery_rate`.
    pub delivery_rate: u64,
}

/// Offsets in `struct tcp_info`, which the kernel extends at its end only.
const ROUND_TRIP: usize = 68;
const RETRANSMITTED: usize = 100;
const DELIVERY_RATE: usize = 160;
const BYTES: usize = DELIVERY_RATE + 8;

/// Reads what the kernel knows of a connection; `None` for a Unix socket.
#[must_use]
pub fn tcp_info(socket: SockRef<'_>) -> Option<TcpInfo> {
    let mut bytes = [0_u8; BYTES];
    let mut length = BYTES as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `bytes`, which outlives the call; the socket is borrowed
    // and therefore open.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            bytes.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let rate = [0, 1, 2, 3, 4, 5, 6, 7].map(|at| bytes[DELIVERY_RATE + at]);
    (result == 0).then(|| TcpInfo {
        round_trip: Duration::from_micros(word(ROUND_TRIP).into()),
        retransmitted: word(RETRANSMITTED),
        delivery_rate: u64::from_ne_bytes(rate),
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn round_trip_and_rate_of_a_connection_are_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut server = listener.accept().unwrap().0;
        let mut received = vec![0; 100_000];
        client.write_all(&vec![7; 100_000]).unwrap();
        server.read_exact(&mut received).unwrap();
        let info = tcp_info(SockRef::from(&client)).expect("a TCP socket");
        assert!(info.round_trip > Duration::ZERO && info.round_trip < Duration::from_secs(1), "{info:?}");
        assert!(info.delivery_rate > 100_000, "{info:?}");
        assert_eq!(info.retransmitted, 0);
        // The numbers outlive a reset.
        server.write_all(b"unread").unwrap();
        SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
        drop(server);
        while client.read(&mut received).is_ok_and(|count| count > 0) {}
        assert_eq!(tcp_info(SockRef::from(&client)).map(|info| info.round_trip), Some(info.round_trip));
        assert_eq!(tcp_info(SockRef::from(&UnixStream::pair().unwrap().0)), None);
    }
}
