//! A ring on the thread of a test, and a way to reset its connections.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use super::{BufferSettings, Ring, Socket};

/// Runs `body` as a task on a ring of its own, until all tasks have ended.
#[track_caller]
pub(crate) fn on_ring<F: Future<Output = ()> + 'static>(body: impl FnOnce(Ring) -> F) {
    let builder = glommio::LocalExecutorBuilder::new(glommio::Placement::Unbound);
    let executor = builder.io_memory(64 << 10).ring_depth(8).make().expect("glommio runs here");
    let panics = executor.run(async {
        let ring = Ring::new(BufferSettings { bytes: 4096, count: 64 }).expect("a ring");
        ring.spawn(body(ring.clone()));
        ring.drive().await;
        ring.panics()
    });
    assert_eq!(panics, 0, "a task failed; see above");
}

/// Returns both ends of a connection over loopback: ours, and the other one.
pub(crate) fn pair(ring: &Ring) -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let other = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    other.set_nodelay(true).expect("a TCP socket");
    let (ours, _) = listener.accept().expect("connected above");
    ours.set_nonblocking(true).expect("an open socket");
    (ring.socket(ours.into()), other)
}

/// Closes an end with a reset.
pub(crate) fn reset(peer: TcpStream) {
    socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).expect("a TCP socket");
}
