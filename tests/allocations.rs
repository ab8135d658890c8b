//! Set-up: a balancer, its backend and its clients in this process, whose allocator counts. Claim: once
//! sessions are open, a message costs no allocation on its way. A binary of its own, so that no other test
//! allocates meanwhile.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]
#![expect(unsafe_code, reason = "an allocator is unsafe to write")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringway::config;
use ringway::server::Server;

const SESSIONS: usize = 16;
const ROUNDS: u64 = 500;
const PATIENCE: Duration = Duration::from_secs(20);

/// The system's allocator, and how often it was called.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: all is done by the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller keeps the promises of this call, which are those of that one.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; what was allocated here came from there.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[test]
fn message_of_an_open_session_allocates_nothing() {
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    let backend_port = backend.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in backend.incoming() {
            std::thread::spawn(move || echo(stream.unwrap()));
        }
    });
    // Free again at once; no other thread of this process takes one.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let yaml = format!(
        "admin: {{listen_address: off, socket: off}}\nruntime: {{cores: 1}}\nlisteners: [{{name: l, address: '127.0.0.1:{port}', upstream: u}}]\n\
         upstreams: [{{name: u, healthcheck: off, backends: [{{address: 127.0.0.1, port: {backend_port}}}]}}]\n"
    );
    let config = Arc::new(config::parse("test", yaml.as_bytes()).unwrap().config);
    let server = Server::start(config).unwrap();
    assert!(server.wait_checked(PATIENCE), "a client that comes before the first states is reset");
    let mut clients: Vec<_> =
        (0..SESSIONS).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    for length in [64, 16 << 10] {
        let (message, mut answer) = (vec![b'x'; length], vec![0; length]);
        let mut exchange = || {
            clients.iter_mut().for_each(|client| client.write_all(&message).unwrap());
            clients.iter_mut().for_each(|client| client.read_exact(&mut answer).unwrap());
        };
        // Tables and queues grow to what so many sessions need.
        (0..ROUNDS / 5).for_each(|_| exchange());
        let before = ALLOCATIONS.load(Ordering::SeqCst);
        (0..ROUNDS).for_each(|_| exchange());
        let allocations = ALLOCATIONS.load(Ordering::SeqCst) - before;
        // glommio allocates for its own timer, some ten times a second: room for that, none for one each
        // round.
        assert!(allocations < ROUNDS / 4, "{allocations} allocations in {ROUNDS} rounds of {length} bytes");
    }
    drop(clients);
    server.drain();
    assert!(server.wait_ended(PATIENCE), "nothing is left");
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 16 << 10];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        stream.write_all(&buffer[..count]).unwrap();
    }
}
