//! One check of one backend: a connection that is made and closed again.

use std::fmt::Write;
use std::io;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::{self, Instant};

use crate::rules::upstream::Address;

/// A timer this much later than it was set for was not late by itself: the process was stopped, its machine
/// was paused, or it is starved of CPU time.
pub(super) const LATE: Duration = Duration::from_millis(250);

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// One of the addresses took a connection.
    Success,
    /// None did; for each, why.
    Failure(String),
    /// None did, and some took too long; for each, why.
    Timeout(String),
    /// This process could not even try; why.
    Local(String),
    /// The time ran out while this process was not running: it says nothing.
    Frozen,
}

/// Makes a connection and closes it; the test seam of the checks.
pub(super) trait Connect: 'static {
    /// Returns once the connection stood, and is closed.
    fn connect(&self, address: &Address) -> impl Future<Output = io::Result<()>>;
}

/// Real sockets.
///
/// A connection ends with a plain close (FIN). A reset would free the local port at once, but the backend's
/// application would see "connection reset by peer" at every check, which its operators take for trouble
/// (haproxy/haproxy#560 asks for just this). The price is one port in TIME_WAIT, for this backend's address only,
/// for 60 s: 60 of some 28,000 at a check a second. (Where the backend's first words came in before the close,
/// the kernel resets all the same; there is nothing to be gained by waiting for them.)
pub(super) struct Sockets;

impl Connect for Sockets {
    async fn connect(&self, address: &Address) -> io::Result<()> {
        match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(*address).await?;
                // With nobody listening on a port of the ephemeral range, the kernel may choose that very port
                // as the local one, and the socket connects to itself (RFC 9293, 3.5, simultaneous open).
                if stream.local_addr()? == *address {
                    return Err(io::Error::from_raw_os_error(libc::ECONNREFUSED));
                }
            }
            Address::Unix(path) => drop(UnixStream::connect(path).await?),
        }
        Ok(())
    }
}

/// Tries the addresses in order until one takes a connection. They share `timeout`: each gets an equal part of
/// what is left, so that a black hole in front does not hide a live one behind (as Go's `net.Dialer` does it).
pub(super) async fn probe(connect: &impl Connect, addresses: &[Address], timeout: Duration) -> Outcome {
    let deadline = Instant::now() + timeout;
    let mut causes = String::new();
    let (mut is_timeout, mut is_local) = (false, true);
    for (index, address) in addresses.iter().enumerate() {
        let now = Instant::now();
        let share = (deadline.saturating_duration_since(now)).div_f64((addresses.len() - index) as f64);
        let due = now + share;
        let cause = match time::timeout_at(due, connect.connect(address)).await {
            Ok(Ok(())) => return Outcome::Success,
            Ok(Err(error)) => {
                is_local &= is_own_fault(&error, address);
                error.to_string()
            }
            Err(_) if Instant::now() > due + LATE => return Outcome::Frozen,
            Err(_) => {
                is_timeout = true;
                is_local = false;
                format!("no answer in {share:.0?}")
            }
        };
        let separator = if causes.is_empty() { "" } else { "; " };
        // Writing to a string does not fail.
        let _ = write!(causes, "{separator}{address}: {cause}");
    }
    if is_timeout {
        Outcome::Timeout(causes)
    } else if is_local {
        Outcome::Local(causes)
    } else {
        Outcome::Failure(causes)
    }
}

/// Whether the attempt failed for want of something of this process or machine.
fn is_own_fault(error: &io::Error, address: &Address) -> bool {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL) => true,
        // No free local port (connect(2)); of a socket file it says that the backend's backlog is full.
        Some(libc::EAGAIN) => matches!(address, Address::Tcp(_)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(6);

    /// What an address does, by its port.
    enum Acts {
        Accepts,
        Fails(i32),
        Hangs,
        /// The process is stopped for so long while it waits for the answer.
        Stops(Duration),
    }

    struct Script(Vec<Acts>, RefCell<Vec<u16>>);

    impl Connect for Script {
        async fn connect(&self, address: &Address) -> io::Result<()> {
            let Address::Tcp(address) = address else { unreachable!("TCP only") };
            self.1.borrow_mut().push(address.port());
            match &self.0[usize::from(address.port())] {
                Acts::Accepts => Ok(()),
                Acts::Fails(error) => Err(io::Error::from_raw_os_error(*error)),
                Acts::Hangs => std::future::pending().await,
                Acts::Stops(length) => {
                    time::advance(*length).await;
                    std::future::pending().await
                }
            }
        }
    }

    async fn run(acts: Vec<Acts>) -> (Outcome, Vec<u16>) {
        let address = |port| Address::Tcp(([127, 0, 0, 1], port).into());
        let addresses: Vec<Address> = (0..acts.len() as u16).map(address).collect();
        let script = Script(acts, RefCell::default());
        let outcome = probe(&script, &addresses, TIMEOUT).await;
        (outcome, script.1.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_are_tried_in_order_until_one_accepts() {
        let acts = vec![Acts::Fails(libc::ECONNREFUSED), Acts::Accepts, Acts::Hangs];
        assert_eq!(run(acts).await, (Outcome::Success, vec![0, 1]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_black_hole_in_front_does_not_hide_a_live_address_behind() {
        let begin = Instant::now();
        assert_eq!(run(vec![Acts::Hangs, Acts::Hangs, Acts::Accepts]).await.0, Outcome::Success);
        assert!(begin.elapsed() < TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn all_addresses_together_take_one_timeout() {
        let begin = Instant::now();
        let (outcome, tried) = run(vec![Acts::Hangs, Acts::Fails(libc::ECONNREFUSED), Acts::Hangs]).await;
        assert!(matches!(outcome, Outcome::Timeout(_)), "{outcome:?}");
        assert_eq!(tried.len(), 3);
        assert!(begin.elapsed() >= TIMEOUT && begin.elapsed() < TIMEOUT + LATE);
    }

    #[tokio::test(start_paused = true)]
    async fn what_this_process_lacks_is_not_the_backends_fault() {
        for error in
            [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL, libc::EAGAIN]
        {
            assert!(matches!(run(vec![Acts::Fails(error)]).await.0, Outcome::Local(_)), "{error}");
        }
        // As `localhost` on a machine without IPv6: the other address did refuse.
        let acts = vec![Acts::Fails(libc::EADDRNOTAVAIL), Acts::Fails(libc::ECONNREFUSED)];
        assert!(matches!(run(acts).await.0, Outcome::Failure(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_while_the_process_was_stopped_says_nothing() {
        let acts = vec![Acts::Stops(TIMEOUT * 2)];
        assert_eq!(run(acts).await.0, Outcome::Frozen);
    }

    #[tokio::test]
    async fn a_listening_tcp_socket_succeeds_and_a_closed_one_fails() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = [Address::Tcp(listener.local_addr().unwrap())];
        assert_eq!(probe(&Sockets, &address, TIMEOUT).await, Outcome::Success);
        let (mut accepted, _) = listener.accept().unwrap();
        assert_eq!(io::Read::read(&mut accepted, &mut [0]).unwrap(), 0, "a clean end, not a reset");
        drop((listener, accepted));
        let Outcome::Failure(cause) = probe(&Sockets, &address, TIMEOUT).await else {
            panic!("it is closed")
        };
        assert!(cause.contains("refused") && cause.contains(&address[0].to_string()), "{cause}");
    }

    #[tokio::test]
    async fn a_socket_file_succeeds_and_a_missing_or_full_one_fails() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let address = [Address::Unix(path.clone())];
        assert!(matches!(probe(&Sockets, &address, TIMEOUT).await, Outcome::Failure(_)));
        let _listener = UnixListener::bind(&path).unwrap();
        assert_eq!(probe(&Sockets, &address, TIMEOUT).await, Outcome::Success);
        let full = io::Error::from_raw_os_error(libc::EAGAIN);
        assert!(!is_own_fault(&full, &address[0]), "a full backlog is the backend's overload");
    }
}
