//! The backends and the clients of the demo, on a thread of their own.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::base::Plain;

/// The weight of each backend.
pub(super) const WEIGHTS: [u32; 3] = [1, 1, 2];
/// The backend that is stopped for a while.
pub(super) const STOPPED: usize = 2;
/// Number of clients; each opens one session after another.
pub(super) const CLIENTS: usize = 64;
/// Messages in a session.
const MESSAGES: usize = 16;
const MESSAGE_BYTES: usize = 1024;
/// The backends speak first.
const GREETING: &[u8; 6] = b"hello\n";

/// The observations of the clients.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// Sessions in which every byte came back as sent, followed by the end of the stream.
    pub(super) sessions: u64,
    pub(super) bytes: u64,
    pub(super) errors: u64,
    /// What went wrong first.
    pub(super) first_error: Option<String>,
}

#[derive(Default)]
struct Counts {
    sessions: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    first_error: OnceLock<String>,
}

/// The orders to the thread.
#[derive(Clone, Copy, Debug)]
enum Act {
    Wait,
    /// Clients connect to this address; one backend is stopped or not.
    Connect {
        to: SocketAddr,
        one_stopped: bool,
    },
    End,
}

pub(super) struct Peers {
    addresses: Vec<SocketAddr>,
    act: watch::Sender<Act>,
    counts: Arc<Counts>,
    thread: JoinHandle<()>,
}

impl Peers {
    /// Starts the backends.
    pub(super) fn start() -> anyhow::Result<Self> {
        let runtime =
            Builder::new_current_thread().enable_all().build().context("cannot make an event loop")?;
        let bind = |_| -> io::Result<(TcpListener, SocketAddr)> {
            let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let bound: Vec<_> =
            (0..WEIGHTS.len()).map(bind).collect::<Result<_, _>>().context("no port is free")?;
        let addresses = bound.iter().map(|(_, address)| *address).collect();
        let (act, acts) = watch::channel(Act::Wait);
        let counts = Arc::<Counts>::default();
        let tally = Arc::clone(&counts);
        let run = move || {
            runtime.block_on(async {
                for (index, (listener, address)) in bound.into_iter().enumerate() {
                    tokio::spawn(serve(listener, address, index, acts.clone(), Arc::clone(&tally)));
                }
                let mut clients = JoinSet::new();
                (0..CLIENTS).for_each(|_| drop(clients.spawn(visit(acts.clone(), Arc::clone(&tally)))));
                clients.join_all().await;
            });
        };
        let thread = std::thread::Builder::new().name("demo-peers".into()).spawn(run)?;
        Ok(Self { addresses, act, counts, thread })
    }

    pub(super) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Lets the clients connect.
    pub(super) fn begin(&self, to: SocketAddr) {
        self.act.send_replace(Act::Connect { to, one_stopped: false });
    }

    /// Stops one backend, or starts it again.
    pub(super) fn stop_one(&self, stop: bool) {
        self.act.send_if_modified(|act| match act {
            Act::Connect { one_stopped, .. } if *one_stopped != stop => {
                *one_stopped = stop;
                true
            }
            _ => false,
        });
    }

    pub(super) fn tally(&self) -> Tally {
        self.counts.tally()
    }

    /// Waits for the clients to end their sessions.
    pub(super) fn finish(self) -> Tally {
        self.act.send_replace(Act::End);
        let Self { counts, thread, .. } = self;
        if thread.join().is_err() {
            counts.note_error("the thread of the clients panicked".to_owned());
        }
        counts.tally()
    }
}

impl Counts {
    /// The terminal may be drawn on: what went wrong is said at the end.
    fn note_error(&self, what: String) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        self.first_error.get_or_init(|| what);
    }

    fn tally(&self) -> Tally {
        Tally {
            sessions: self.sessions.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            first_error: self.first_error.get().cloned(),
        }
    }
}

/// One backend: echoes what comes until the peer ends its stream. When stopped, it closes its port; open
/// sessions go on.
async fn serve(
    mut listener: TcpListener,
    address: SocketAddr,
    index: usize,
    mut acts: watch::Receiver<Act>,
    counts: Arc<Counts>,
) {
    let stopped = |act: &Act| index == STOPPED && matches!(act, Act::Connect { one_stopped: true, .. });
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    tokio::spawn(async { echo(stream).await.ok() });
                }
            }
            told = async { acts.wait_for(stopped).await.is_ok() } => {
                if !told {
                    return;
                }
                drop(listener);
                if acts.wait_for(|act| !stopped(act)).await.is_err() {
                    return;
                }
                listener = match listen_again(address) {
                    Ok(again) => again,
                    Err(error) => {
                        let what = format!("backend {} cannot be restarted: {}", index + 1, Plain(&error));
                        return counts.note_error(what);
                    }
                };
            }
        }
    }
}

fn listen_again(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

/// Greets, then echoes. Until the greeting arrives, a connection that dies with its backend is replaced by
/// another one.
async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(GREETING).await?;
    let mut buffer = vec![0; MESSAGE_BYTES];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buffer[..count]).await?;
    }
}

/// One client: opens session after session until the end.
async fn visit(mut acts: watch::Receiver<Act>, counts: Arc<Counts>) {
    loop {
        let Ok(act) = acts.wait_for(|act| !matches!(act, Act::Wait)).await.map(|act| *act) else { return };
        let Act::Connect { to, .. } = act else { return };
        match session(to).await {
            Ok(()) => {
                counts.sessions.fetch_add(1, Ordering::Relaxed);
                counts.bytes.fetch_add((MESSAGES * MESSAGE_BYTES) as u64, Ordering::Relaxed);
            }
            Err(error) => counts.note_error(Plain(&error).to_string()),
        }
    }
}

async fn session(to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let mut greeting = [0; GREETING.len()];
    stream.read_exact(&mut greeting).await?;
    if greeting != *GREETING {
        return Err(io::Error::other("not the greeting of a backend"));
    }
    let mut answer = vec![0; MESSAGE_BYTES];
    for _ in 0..MESSAGES {
        let message: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(MESSAGE_BYTES).collect();
        stream.write_all(&message).await?;
        stream.read_exact(&mut answer).await?;
        if answer != message {
            return Err(io::Error::other("the echo differs from what was sent"));
        }
    }
    stream.shutdown().await?;
    match stream.read(&mut answer).await? {
        0 => Ok(()),
        more => Err(io::Error::other(format!("{more} bytes after the end"))),
    }
}
