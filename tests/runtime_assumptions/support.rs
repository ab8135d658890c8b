//! A ring on a thread of its own, and pairs of sockets to use on it.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::time::Duration;

use ringway::uring::{BufferSettings, Ring};

/// Longer than anything here takes on a loaded machine, emulation included; a shard that hangs is found by
/// it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Buffers of the rings in these tests: few and small, so that they can be used up.
pub(crate) const SMALL: BufferSettings = BufferSettings { bytes: 4096, count: 64 };

/// The executor of a shard.
pub(crate) fn executor() -> glommio::LocalExecutor {
    ringway::shard::executor().expect("this kernel has what an executor needs")
}

/// Whether a test may open so many descriptors; if not, it says so, past the capture of its output, and is
/// skipped.
pub(crate) fn has_descriptors(count: u64) -> bool {
    let limit = ringway::net::raise_descriptor_limit().expect("getrlimit(2)");
    if limit < count {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("a test");
        let line = format!("\nskipped {name}: it needs {count} descriptors, and may open {limit}\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    limit >= count
}

/// Runs `body` as a task on a fresh ring and waits for its result and for the end of the ring.
pub(crate) fn on_ring<T, F>(buffers: BufferSettings, body: impl FnOnce(Ring) -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    let (sender, result) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        executor().run(async move {
            let ring = Ring::new(buffers).expect("this kernel has what a ring needs");
            let future = body(ring.clone());
            ring.spawn(async move {
                let _ = sender.send(future.await);
            });
            ring.drive().await;
        });
    });
    let value = match result.recv_timeout(PATIENCE) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("the shard hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("the body panicked; see above"),
    };
    thread.join().expect("the ring ends when its tasks have ended");
    value
}

/// Two ends of one TCP connection over loopback: ours for a ring, in non-blocking mode; the peer's for plain blocking calls.
pub(crate) fn tcp_pair() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("listening");
    peer.set_read_timeout(Some(PATIENCE)).expect("a positive time");
    peer.set_write_timeout(Some(PATIENCE)).expect("a positive time");
    let (ours, _) = listener.accept().expect("connected above");
    ours.set_nonblocking(true).expect("an open socket");
    (ours.into(), peer)
}

/// Makes the next close of this end a reset.
pub(crate) fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a TCP socket");
}
