//! Backends: plain threads that do one thing each, and can be stopped and started again on the same port.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{SockAddr, Socket, Type};

use super::{PATIENCE, Reserved, Stream, V4};

/// A thousand sessions are a thousand threads here.
const STACK_BYTES: usize = 128 << 10;
/// How often a blocked write looks whether the backend was stopped.
const WRITE_LOOK: Duration = Duration::from_millis(50);

type Serve = dyn Fn(&mut Connection) -> io::Result<()> + Send + Sync;

/// What a backend will be.
pub struct Builder {
    name: Option<String>,
    at: At,
    serve: Arc<Serve>,
    backlog: i32,
    listens: bool,
}

enum At {
    Ip(IpAddr),
    Reserved(Reserved),
    Unix(PathBuf),
}

/// A backend that echoes, until it is told to do something else.
pub fn backend() -> Builder {
    Builder { name: None, at: At::Ip(V4), serve: Arc::new(echo), backlog: 4_096, listens: true }
}

impl Builder {
    /// Sends back what it gets, and ends its stream after the client's end.
    pub fn echo(self) -> Self {
        self.serve(echo)
    }

    /// Reads to the end and answers nothing.
    pub fn sink(self) -> Self {
        self.serve(drain)
    }

    /// Sends these bytes and FIN, and reads meanwhile.
    pub fn source(self, bytes: Vec<u8>) -> Self {
        self.serve(move |connection| {
            let sender = connection.clone();
            std::thread::scope(|scope| {
                let sending = scope.spawn(|| sender.send(&bytes).and_then(|()| sender.end()));
                drain(connection)?;
                sending.join().unwrap()
            })
        })
    }

    /// Speaks first, then echoes.
    pub fn greet(self, greeting: &'static [u8]) -> Self {
        self.serve(move |connection| {
            connection.send(greeting)?;
            echo(connection)
        })
    }

    /// Resets each connection as soon as it stands.
    pub fn reset_on_accept(self) -> Self {
        self.serve(|connection| {
            connection.reset();
            Ok(())
        })
    }

    /// Sends FIN on each connection as soon as it stands, and reads to the client's.
    pub fn close_on_accept(self) -> Self {
        self.serve(|connection| {
            connection.end()?;
            drain(connection)
        })
    }

    /// Holds each connection and never reads.
    pub fn never_reads(self) -> Self {
        self.serve(|connection| {
            connection.hold();
            Ok(())
        })
    }

    /// Serves each connection with a function, on a thread of its own.
    pub fn serve(
        mut self,
        serve: impl Fn(&mut Connection) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.serve = Arc::new(serve);
        self
    }

    /// Its name in the configuration.
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Listens on this address instead of 127.0.0.1.
    pub fn on(mut self, ip: IpAddr) -> Self {
        self.at = At::Ip(ip);
        self
    }

    /// Listens on a Unix socket; it needs a name then.
    pub fn on_unix(mut self, path: PathBuf) -> Self {
        self.at = At::Unix(path);
        self
    }

    /// Has its port, and refuses connections until [`Backend::restart`].
    pub fn stopped(mut self) -> Self {
        self.listens = false;
        self
    }

    pub fn start(self) -> Backend {
        let at = match self.at {
            At::Ip(ip) => At::Reserved(Reserved::at(ip)),
            at => at,
        };
        let mut backend = Backend {
            name: self.name,
            at,
            serve: self.serve,
            backlog: self.backlog,
            shared: Arc::default(),
            running: None,
        };
        if self.listens {
            backend.restart();
        }
        backend
    }
}

/// What a backend counts.
#[derive(Default)]
struct Shared {
    connections: AtomicU64,
    open: AtomicU64,
    received: AtomicU64,
    /// Connections that ended with an error.
    failed: AtomicU64,
}

/// A running or stopped backend.
pub struct Backend {
    name: Option<String>,
    at: At,
    serve: Arc<Serve>,
    backlog: i32,
    shared: Arc<Shared>,
    running: Option<Running>,
}

struct Running {
    listener: Arc<Socket>,
    stop: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<std::sync::Weak<Socket>>>>,
    thread: JoinHandle<()>,
}

impl Backend {
    /// Connections so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Connections that are served now.
    pub fn open(&self) -> u64 {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Bytes of all connections.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::SeqCst)
    }

    /// Connections that ended with an error.
    pub fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::SeqCst)
    }

    pub fn address(&self) -> SocketAddr {
        match &self.at {
            At::Reserved(port) => port.address(),
            _ => panic!("a Unix socket has no address"),
        }
    }

    /// Its entry in a configuration.
    pub fn entry(&self) -> String {
        let name = self.name.as_ref().map_or_else(String::new, |name| format!("name: {name}, "));
        match &self.at {
            At::Unix(path) => format!("{name}address: \"unix:{}\"", path.display()),
            _ => format!("{name}address: \"{}\", port: {}", self.address().ip(), self.address().port()),
        }
    }

    /// Listens no more; open connections go on.
    pub fn refuse(&mut self) {
        if let Some(running) = self.running.take() {
            running.listener.shutdown(Shutdown::Both).unwrap();
            running.thread.join().unwrap();
        }
    }

    /// Listens no more, and resets what is open, as the kernel does for a process that was killed.
    pub fn stop(&mut self) {
        let Some(running) = self.running.take() else { return };
        running.stop.store(true, Ordering::SeqCst);
        running.listener.shutdown(Shutdown::Both).unwrap();
        running.thread.join().unwrap();
        drop(running.listener);
        for connection in running.connections.lock().unwrap().drain(..) {
            if let Some(connection) = connection.upgrade() {
                let _ = connection.set_linger(Some(Duration::ZERO));
                let _ = connection.shutdown(Shutdown::Read);
            }
        }
        assert!(super::holds_within(PATIENCE, || self.open() == 0), "connections of a stopped backend end");
    }

    /// Listens on the same address again.
    pub fn restart(&mut self) {
        assert!(self.running.is_none(), "it is running");
        let listener = Arc::new(match &self.at {
            At::Reserved(port) => port.listen(self.backlog),
            At::Unix(path) => {
                let _ = std::fs::remove_file(path);
                let socket = Socket::new(socket2::Domain::UNIX, Type::STREAM, None).unwrap();
                socket.bind(&SockAddr::unix(path).unwrap()).unwrap();
                socket.listen(self.backlog).unwrap();
                socket
            }
            At::Ip(_) => unreachable!("reserved at the start"),
        });
        let stop = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(Mutex::new(Vec::new()));
        let accepting = Accepting {
            listener: Arc::clone(&listener),
            serve: Arc::clone(&self.serve),
            stop: Arc::clone(&stop),
            connections: Arc::clone(&connections),
            shared: Arc::clone(&self.shared),
        };
        let thread = std::thread::spawn(move || accepting.run());
        self.running = Some(Running { listener, stop, connections, thread });
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}

struct Accepting {
    listener: Arc<Socket>,
    serve: Arc<Serve>,
    stop: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<std::sync::Weak<Socket>>>>,
    shared: Arc<Shared>,
}

impl Accepting {
    /// Until the listener was shut down, which accept(2) reports as EINVAL.
    fn run(self) {
        while let Ok((socket, _)) = self.listener.accept() {
            let socket = Arc::new(socket);
            let _ = socket.set_tcp_nodelay(true);
            socket.set_write_timeout(Some(WRITE_LOOK)).unwrap();
            let mut connections = self.connections.lock().unwrap();
            connections.retain(|connection| connection.strong_count() > 0);
            connections.push(Arc::downgrade(&socket));
            drop(connections);
            let shared = Arc::clone(&self.shared);
            shared.connections.fetch_add(1, Ordering::SeqCst);
            shared.open.fetch_add(1, Ordering::SeqCst);
            let mut connection = Connection { socket, stop: Arc::clone(&self.stop), shared };
            let serve = Arc::clone(&self.serve);
            let run = move || {
                let shared = Arc::clone(&connection.shared);
                if serve(&mut connection).is_err() {
                    shared.failed.fetch_add(1, Ordering::SeqCst);
                }
                drop(connection);
                shared.open.fetch_sub(1, Ordering::SeqCst);
            };
            std::thread::Builder::new().stack_size(STACK_BYTES).spawn(run).unwrap();
        }
    }
}

/// One accepted connection. All calls count, and end when the backend is stopped.
#[derive(Clone)]
pub struct Connection {
    socket: Arc<Socket>,
    stop: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

impl Connection {
    /// Some bytes, 0 at the end.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = (&*self.socket).read(buffer)?;
        self.shared.received.fetch_add(count as u64, Ordering::SeqCst);
        Ok(count)
    }

    pub fn receive_exact(&self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match self.receive(&mut bytes[filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(bytes)
    }

    pub fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match (&*self.socket).write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && !self.stop.load(Ordering::SeqCst) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends as much as goes, until nothing goes for [`WRITE_LOOK`]; returns how much.
    pub fn send_until_full(&self) -> usize {
        let piece = [b'x'; 64 << 10];
        let mut sent = 0;
        while let Ok(count) = (&*self.socket).write(&piece) {
            sent += count;
        }
        sent
    }

    /// Sends back what it gets, and ends its stream after the client's end.
    pub fn echo(&self) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match self.receive(&mut buffer)? {
                0 => return self.end(),
                count => self.send(&buffer[..count])?,
            }
        }
    }

    /// Where it comes from.
    pub fn peer(&self) -> SocketAddr {
        self.socket.peer_addr().unwrap().as_socket().unwrap()
    }

    /// Sends FIN.
    pub fn end(&self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)
    }

    /// Has a receive buffer that few bytes fill.
    pub fn shrink(&self) {
        self.socket.set_recv_buffer_size(4_096).unwrap();
    }

    /// The close of this connection will be a reset.
    pub fn reset(&self) {
        self.socket.set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Does nothing until the backend is stopped.
    pub fn hold(&self) {
        while !self.stop.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn echo(connection: &mut Connection) -> io::Result<()> {
    connection.echo()
}

fn drain(connection: &mut Connection) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    while connection.receive(&mut buffer)? > 0 {}
    Ok(())
}

/// Checks that what comes is the stream, and sends another one the other way at the same time.
pub fn exchange(connection: &Connection, sends: (&Stream, u64), expects: (&Stream, u64)) -> io::Result<()> {
    let sender = connection.clone();
    std::thread::scope(|scope| {
        let sending = scope.spawn(move || {
            let (stream, length) = sends;
            let mut offset = 0;
            while offset < length {
                let piece = stream.piece(offset, (256 << 10).min((length - offset) as usize));
                sender.send(piece)?;
                offset += piece.len() as u64;
            }
            sender.end()
        });
        let (stream, length) = expects;
        let mut buffer = vec![0; 256 << 10];
        let mut offset = 0;
        loop {
            let count = connection.receive(&mut buffer)?;
            if count == 0 {
                break;
            }
            if !stream.matches(offset, &buffer[..count]) {
                return Err(io::Error::other(format!("other bytes from {offset} on")));
            }
            offset += count as u64;
        }
        if offset != length {
            return Err(io::Error::other(format!("{offset} bytes instead of {length}")));
        }
        sending.join().unwrap()
    })
}
