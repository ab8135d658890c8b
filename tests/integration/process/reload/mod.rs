//! Set-up: a balancer that loads another configuration while clients use it. Claim: what stays goes on as if nothing
//! had happened, what is new serves at once, and what is gone ends as it was promised; what is refused changes nothing.

mod edits;
mod listeners;
mod refused;
mod storms;
mod traces;
mod upstreams;

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ringway::control::{BackendStatus, ListenerStatus};

use crate::support::{Backend, Balancer, Client, NO_ADMIN, Reserved, V4, backend, eventually};

/// No checks and no ejections.
const CALM: &str = "healthcheck: off, outlier: off";

/// A listener as the configuration writes it.
fn listener(name: &str, at: impl Display, upstream: &str) -> String {
    format!("name: {name}, address: \"{at}\", upstream: {upstream}")
}

/// An upstream as the configuration writes it.
fn upstream<'a>(name: &str, keys: &str, entries: impl IntoIterator<Item = &'a String>) -> String {
    let entries: Vec<_> = entries.into_iter().map(|entry| format!("{{{entry}}}")).collect();
    format!("name: {name}, {keys}, backends: [{}]", entries.join(", "))
}

/// A file.
fn file(runtime: &str, listeners: &[String], upstreams: &[String]) -> String {
    let list =
        |entries: &[String]| entries.iter().map(|entry| format!("  - {{{entry}}}\n")).collect::<String>();
    format!(
        "{NO_ADMIN}runtime: {{{runtime}}}\nlisteners:\n{}upstreams:\n{}",
        list(listeners),
        list(upstreams)
    )
}

/// One listener and one upstream, on one shard.
struct One {
    port: Reserved,
    keys: String,
}

impl One {
    fn new(keys: &str) -> Self {
        Self { port: Reserved::at(V4), keys: keys.to_owned() }
    }

    fn file(&self, entries: &[String]) -> String {
        self.file_with("", entries)
    }

    /// With these keys of the listener.
    fn file_with(&self, of_listener: &str, entries: &[String]) -> String {
        let comma = if of_listener.is_empty() { "" } else { ", " };
        let listener = format!("{}{comma}{of_listener}", listener("l", self.port.address(), "u"));
        file("cores: 1", &[listener], &[upstream("u", &self.keys, entries)])
    }

    fn at(&self) -> SocketAddr {
        self.port.reached_at()
    }
}

fn start(yaml: &str) -> Balancer {
    Balancer::of(yaml, None, true)
}

/// Backends that say their names (a, b, ...) first, and echo then.
fn named(names: &'static [u8]) -> Vec<Backend> {
    let one = |at: usize| {
        let name = &names[at..=at];
        backend().name(std::str::from_utf8(name).unwrap()).greet(name).start()
    };
    (0..names.len()).map(one).collect()
}

fn entries<'a>(backends: impl IntoIterator<Item = &'a Backend>) -> Vec<String> {
    backends.into_iter().map(Backend::entry).collect()
}

/// A client with a session, and the name of its backend.
#[track_caller]
fn visit(at: SocketAddr) -> (char, Client) {
    let client = Client::connect(at).unwrap();
    let name = client.receive_exact(1).unwrap()[0];
    client.echo(b"hello").unwrap();
    (name.into(), client)
}

/// The name of the backend that the next client gets.
#[track_caller]
fn next(at: SocketAddr) -> char {
    let (name, client) = visit(at);
    client.finish().unwrap();
    name
}

/// The names of the backends that the next clients get.
#[track_caller]
fn names(at: SocketAddr, count: usize) -> String {
    (0..count).map(|_| next(at)).collect()
}

/// How often a name is among those.
fn count(names: &str, name: char) -> usize {
    names.matches(name).count()
}

fn listener_status(balancer: &Balancer, name: &str) -> Option<ListenerStatus> {
    balancer.status().listeners.into_iter().find(|listener| listener.name == name)
}

fn backend_status(balancer: &Balancer, upstream: &str, name: &str) -> Option<BackendStatus> {
    let mut upstreams = balancer.status().upstreams.into_iter().filter(|one| one.name == upstream);
    upstreams.find_map(|one| one.backends.into_iter().find(|backend| backend.name == name))
}

/// Waits until so many clients wait in the queue of an upstream.
#[track_caller]
fn await_waiting(balancer: &Balancer, upstream: &str, count: usize) {
    eventually(&format!("{count} wait for {upstream}"), || {
        balancer.status().upstreams.iter().any(|one| one.name == upstream && one.waiting == count)
    });
}

/// Clients that connect one after the other while something is done, each until it was greeted and echoed. Returns the
/// names of the backends that they got.
#[track_caller]
fn under_connects(at: &[SocketAddr], work: impl FnOnce()) -> Vec<String> {
    let (over, results) = (AtomicBool::new(false), std::sync::Mutex::new(Vec::new()));
    let progress: Vec<_> = at.iter().map(|_| AtomicUsize::new(0)).collect();
    std::thread::scope(|scope| {
        for (which, (at, progress)) in at.iter().zip(&progress).enumerate() {
            let (over, results) = (&over, &results);
            scope.spawn(move || {
                let once = || -> io::Result<char> {
                    let client = Client::connect(*at)?;
                    let name = client.receive_exact(1)?[0];
                    client.echo(b"hello")?;
                    client.finish()?;
                    Ok(name.into())
                };
                let mut names = Ok(String::new());
                while !over.load(Ordering::SeqCst) {
                    match (once(), &mut names) {
                        (Ok(name), Ok(names)) => names.push(name),
                        (Err(error), _) => {
                            names = Err(error);
                            break;
                        }
                        _ => break,
                    }
                    progress.fetch_add(1, Ordering::SeqCst);
                }
                progress.store(usize::MAX / 2, Ordering::SeqCst);
                results.lock().unwrap().push((which, names));
            });
        }
        let go_on = || {
            let before: Vec<_> = progress.iter().map(|one| one.load(Ordering::SeqCst)).collect();
            eventually("clients come and go", || {
                progress.iter().zip(&before).all(|(one, before)| one.load(Ordering::SeqCst) >= before + 20)
                    || progress.iter().any(|one| one.load(Ordering::SeqCst) >= usize::MAX / 2)
            });
        };
        go_on();
        work();
        go_on();
        over.store(true, Ordering::SeqCst);
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(which, _)| *which);
    let names = results.into_iter().map(|(which, names)| {
        names.unwrap_or_else(|error| panic!("client {which} of {}: {error}", at[which]))
    });
    names.collect()
}
