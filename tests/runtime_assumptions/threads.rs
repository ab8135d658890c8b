//! No operation of a ring ends on a thread of the kernel's, whatever it waits for: else each session that
//! waits so would hold one.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::task::Poll;
use std::time::Duration;

use ringway::uring::{Doorbell, Receive, Ring, Sent, Socket};
use socket2::{Domain, SockAddr, SockRef, Type};

use crate::support::{SMALL, on_ring, tcp_pair};

/// Threads of the kernel's that work for the ring of this thread; they are named after it.
fn workers() -> usize {
    let own = std::fs::read_link("/proc/thread-self").expect("procfs");
    let name = format!("iou-wrk-{}", own.file_name().expect("a number").to_string_lossy());
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs");
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|comm| comm.trim_end() == name).count()
}

/// The kernel has had its time for what was begun; a thread that it made lives for five seconds.
async fn assert_no_workers(ring: &Ring, what: &str) {
    for _ in 0..3 {
        ring.sleep_until(ring.now().after(Duration::from_millis(10))).await;
    }
    assert_eq!(workers(), 0, "threads for {what}");
}

/// Has each of these in flight at once, as the kernel may find a thread for one only where there are others.
const MANY: usize = 20;

fn unix_pair() -> (OwnedFd, UnixStream) {
    let (ours, peer) = UnixStream::pair().expect("descriptors");
    (ours.into(), peer)
}

/// Connections of both kinds: ours, and a writer to the peer's end.
fn pairs(ring: &Ring) -> Vec<(Socket, Box<dyn Write>)> {
    let pair = |index: usize| match index % 2 {
        0 => {
            let (ours, peer) = tcp_pair();
            (ring.socket(ours), Box::new(peer) as Box<dyn Write>)
        }
        _ => {
            let (ours, peer) = unix_pair();
            (ring.socket(ours), Box::new(peer) as Box<dyn Write>)
        }
    };
    (0..MANY).map(pair).collect()
}

#[test]
fn waiting_for_bytes_takes_no_thread() {
    on_ring(SMALL, |ring| async move {
        let mut pairs = pairs(&ring);
        for receive in [Receive::One, Receive::Many] {
            pairs.iter().for_each(|(socket, _)| socket.receive(receive));
            assert_no_workers(&ring, "receives").await;
            for (socket, peer) in &mut pairs {
                peer.write_all(b"x").expect("connected");
                socket.readable().await;
                assert_eq!(socket.take_received(), b"x");
            }
        }
        pairs.iter().for_each(|(socket, _)| socket.watch());
        pairs.iter().for_each(|(socket, _)| socket.wait_readable());
        assert_no_workers(&ring, "polls").await;
    });
}

/// More than there are buffers: they wait here, not in the kernel.
#[test]
fn waiting_for_buffers_takes_no_thread() {
    on_ring(SMALL, |ring| async move {
        let mut pairs: Vec<_> = (0..5).flat_map(|_| pairs(&ring)).collect();
        for (socket, peer) in &mut pairs {
            peer.write_all(&[b'x'; 4_000]).expect("connected");
            socket.receive(Receive::Many);
        }
        assert_no_workers(&ring, "receives without a buffer").await;
    });
}

/// The mark of an urgent byte that was not passed makes every poll of its socket ready, tcp(7).
#[test]
fn urgent_byte_takes_no_thread() {
    on_ring(SMALL, |ring| async move {
        for receive in [Receive::One, Receive::Many] {
            let pairs: Vec<_> = (0..MANY).map(|_| tcp_pair()).collect();
            let pairs: Vec<_> = pairs.into_iter().map(|(ours, peer)| (ring.socket(ours), peer)).collect();
            for (socket, peer) in &pairs {
                socket.receive(receive);
                SockRef::from(peer).send_out_of_band(b"!").expect("connected");
            }
            assert_no_workers(&ring, "receives at an urgent mark").await;
            for (socket, peer) in &pairs {
                (&mut &*peer).write_all(b"behind it").expect("connected");
                socket.readable().await;
                assert_eq!(socket.take_received(), b"behind it");
            }
        }
    });
}

/// To peers that do not read, be it that they have ended their streams: then every poll of the socket is
/// ready.
#[test]
fn waiting_for_room_takes_no_thread() {
    on_ring(SMALL, |ring| async move {
        for ends in [false, true] {
            let (tcp, unix) = (tcp_pair(), unix_pair());
            if ends {
                tcp.1.shutdown(Shutdown::Write).expect("connected");
                unix.1.shutdown(Shutdown::Write).expect("connected");
            }
            for socket in [ring.socket(tcp.0), ring.socket(unix.0)] {
                loop {
                    socket.send(vec![b'x'; 1 << 20]);
                    ring.next_turn().await;
                    match socket.sent() {
                        Sent::Busy { blocked: true, .. } => break,
                        Sent::Done { .. } => {}
                        sent => panic!("{sent:?}"),
                    }
                }
                assert_no_workers(&ring, "sends").await;
            }
        }
    });
}

/// No process accepts, and the backlog is full.
#[test]
fn waiting_for_a_backlog_takes_no_thread() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("full");
    let file = UnixListener::bind(&path).expect("a new file");
    let port = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = port.local_addr().expect("bound");
    // listen(2) once more sets another backlog.
    SockRef::from(&file).listen(0).expect("bound");
    SockRef::from(&port).listen(0).expect("bound");
    on_ring(SMALL, move |ring| async move {
        let targets =
            [(Domain::UNIX, SockAddr::unix(&path).expect("short")), (Domain::IPV4, SockAddr::from(address))];
        let mut sockets = Vec::new();
        for (domain, target) in targets.iter().cycle().take(2 * MANY) {
            let socket =
                socket2::Socket::new(*domain, Type::STREAM.nonblocking(), None).expect("descriptors");
            let socket = ring.socket(socket.into());
            socket.start_connect(target.clone());
            std::future::poll_fn(|context| {
                let _ = socket.poll_connected(context);
                Poll::Ready(())
            })
            .await;
            sockets.push(socket);
        }
        assert_no_workers(&ring, "connects").await;
        // A connect that waits for a Unix socket has its turn when one is accepted.
        let unix: Vec<_> = sockets.into_iter().step_by(2).collect();
        let accepting = std::thread::spawn(move || {
            (0..MANY).map(|_| file.accept().expect("it listens").0).collect::<Vec<_>>()
        });
        for socket in &unix {
            std::future::poll_fn(|context| socket.poll_connected(context)).await.expect("accepted");
            socket.send(b"x".to_vec());
        }
        let accepted = accepting.join().expect("no assertion failed");
        ring.next_turn().await;
        for mut connection in accepted {
            connection.read_exact(&mut [0]).expect("connected, and in blocking mode");
        }
    });
}

#[test]
fn waiting_for_clients_or_for_the_doorbell_takes_no_thread() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    on_ring(SMALL, move |ring| async move {
        let acceptor = ring.accept_from(listener.into()).expect("an open descriptor");
        let (doorbell, listener) = Doorbell::new().expect("an eventfd");
        let mut listener = ring.listen(listener);
        let mut notified = std::pin::pin!(listener.notified());
        std::future::poll_fn(|context| {
            assert!(
                acceptor.poll_accept(context).is_pending() && notified.as_mut().poll(context).is_pending()
            );
            Poll::Ready(())
        })
        .await;
        assert_no_workers(&ring, "accepts and the doorbell").await;
        doorbell.notify();
        notified.await;
        let _client = TcpStream::connect(address).expect("it listens");
        std::future::poll_fn(|context| acceptor.poll_accept(context)).await.expect("a connection");
    });
}
