//! The old process's side of an upgrade: it starts the binary that is on disk now with its listening sockets, serves as ever
//! until that one is ready, and then leaves everything to it.
//!
//! Both processes have the same sockets, not equal ones: what waits in a queue waits for either. So the old process only closes
//! its descriptors, and no client is lost.
//!
//! A thread waits for the new process. It ends at once when the other end of the link is closed, which the kernel does for a
//! process that ends, or when the link is shut down, which says that nobody wants the new process any more.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::io::FdFlags;

use super::Server;
use super::manifest::{HandedSocket, KnownBackend, Manifest, READY, REFUSED, SERVE, VARIABLE};
use super::program;
use super::sockets::Duplicate;
use crate::base::{Escaped, Plain};
use crate::config::Change;
use crate::control::command::{Applied, Refused, Reply};
use crate::control::{lock, service_manager};
use crate::net::{self, BoundTo};

/// How long the new process may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a process may take to end once it has closed the link, or has said why it does not start.
const END: Duration = Duration::from_secs(2);
/// How much of what a new process writes before it is ready is kept, bytes.
const WRITTEN_MAX: usize = 2_048;
/// How much the new process may say, bytes.
const SAID_MAX: usize = 1 << 20;

/// The upgrades of a server, of which one at most is under way.
pub(super) struct Upgrades {
    under_way: Option<UnderWay>,
    tell: Sender<Outcome>,
    outcomes: Receiver<Outcome>,
}

struct UnderWay {
    reply: Reply,
    /// The thread reads another copy.
    link: UnixStream,
    pid: u32,
    /// Whether the new process is to end at once; the shutdown of the link orders it.
    is_unwanted: Arc<AtomicBool>,
}

/// A process that is ready, with the addresses of sockets that it does not use; or why there is none.
pub(super) type Outcome = Result<(Child, Vec<String>), String>;

impl Upgrades {
    pub(super) fn new() -> Self {
        let (tell, outcomes) = bounded(1);
        Self { under_way: None, tell, outcomes }
    }

    /// Returns where the outcome of an upgrade comes from.
    pub(super) fn outcomes(&self) -> &Receiver<Outcome> {
        &self.outcomes
    }

    /// Returns whether a new process was started that is not ready yet.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Starts the new process.
    pub(super) fn begin(&mut self, server: &Server, reply: Reply) {
        if let Some(UnderWay { pid, .. }) = &self.under_way {
            let cause = format!("an upgrade is under way already, as process {pid}; wait for its end");
            return refuse(server, reply, cause);
        }
        if !server.is_running() {
            let cause = "this process ends already; start the new one yourself";
            return refuse(server, reply, cause.to_owned());
        }
        if std::process::id() == 1 {
            let cause = "this process is PID 1 of its container, which ends with it; start a new container";
            return refuse(server, reply, cause.to_owned());
        }
        match self.start(server) {
            Ok((link, pid, is_unwanted)) => {
                log::info!(event = "upgrade", pid; "process {pid} is started as the successor of this one");
                self.under_way = Some(UnderWay { reply, link, pid, is_unwanted });
            }
            Err(cause) => fail(server, reply, cause),
        }
    }

    fn start(&self, server: &Server) -> Result<(UnixStream, u32, Arc<AtomicBool>), String> {
        let cannot =
            |error: io::Error| format!("what the new process needs cannot be made: {}", Plain(&error));
        let (link, theirs) = UnixStream::pair().map_err(cannot)?;
        let mut child = spawn(server, &theirs)?;
        drop(theirs);
        let (pid, is_unwanted) = (child.id(), Arc::new(AtomicBool::new(false)));
        let asked = Arc::clone(&is_unwanted);
        let watched = link.try_clone().and_then(|link| {
            let (tell, stderr) = (self.tell.clone(), child.stderr.take());
            let wait = move || {
                // The receiver lives as long as the process serves.
                let _ = tell.send(wait(child, &link, stderr, &asked));
            };
            std::thread::Builder::new().name("upgrade".into()).spawn(wait)
        });
        // A new process that nobody listens to ends by itself.
        watched.map_err(cannot)?;
        Ok((link, pid, is_unwanted))
    }

    /// Leaves everything to a new process that is ready, or says why there is none. Returns that process.
    pub(super) fn conclude(&mut self, server: &Server, outcome: Outcome) -> Option<u32> {
        let UnderWay { reply, link, .. } = self.under_way.take()?;
        let (mut successor, unused) = match outcome {
            Ok(ready) => ready,
            Err(cause) => {
                fail(server, reply, cause);
                return None;
            }
        };
        let (own, pid) = (std::process::id(), successor.id());
        // Before the new process tells the service manager anything, which listens to the main process only.
        if lock(&server.source.upgrade_error).is_some() {
            service_manager::status("the last upgrade has succeeded");
        }
        service_manager::main_pid(pid);
        if let Err(error) = (&link).write_all(SERVE.as_bytes()) {
            service_manager::main_pid(own);
            stop(&mut successor);
            fail(server, reply, format!("process {pid} has ended when it was ready: {}", Plain(&error)));
            return None;
        }
        server.leave(unused);
        log::info!(event = "upgraded", pid; "process {pid} serves all new clients from now on");
        let change =
            Change { what: "process".into(), before: Some(own.to_string()), after: Some(pid.to_string()) };
        reply.give(Ok(Applied { generation: server.status().generation, changes: vec![change] }));
        Some(pid)
    }

    /// Ends the upgrade that is under way, if there is one, and the new process with it.
    pub(super) fn cancel(&mut self, server: &Server) {
        let Some(UnderWay { reply, link, pid, is_unwanted }) = self.under_way.take() else { return };
        is_unwanted.store(true, Ordering::Relaxed);
        // Fails only if the new process has just ended.
        let _ = link.shutdown(Shutdown::Both);
        if let Ok(Ok((mut successor, _))) = self.outcomes.recv_timeout(2 * END) {
            stop(&mut successor);
        }
        let cause =
            format!("this process was asked to stop meanwhile; its successor, process {pid}, was killed");
        refuse(server, reply, cause);
    }
}

/// Says why nothing was done.
fn refuse(server: &Server, reply: Reply, cause: String) {
    log::warn!("the upgrade is refused: {cause}");
    server.source.note_upgrade_error(&cause);
    reply.give(Err(Refused { errors: vec![cause] }));
}

/// Says why an upgrade has failed: in the log, in the answer, in the status and to the service manager.
fn fail(server: &Server, reply: Reply, cause: String) {
    log::error!(event = "upgrade_failed", cause; "the upgrade has failed, and this process serves on: {cause}");
    service_manager::status(&format!("the last upgrade has failed: {cause}"));
    server.source.note_upgrade_error(&cause);
    reply.give(Err(Refused { errors: vec![cause] }));
}

/// Starts the binary as this process was started, with the sockets and the manifest.
fn spawn(server: &Server, link: &UnixStream) -> Result<Child, String> {
    let program =
        program::path().map_err(|error| format!("the own binary is not known: {}", Plain(&error)))?;
    let cannot = |error: io::Error| format!("{} cannot be started: {}", program.display(), Plain(&error));
    let duplicates = server.sockets.duplicates();
    let stderr = io::stderr().as_fd().try_clone_to_owned().map_err(cannot)?;
    let manifest = manifest(server, &duplicates, link, stderr.as_fd()).map_err(cannot)?;
    let mut handed: Vec<_> = duplicates.iter().map(|duplicate| duplicate.fd.as_fd()).collect();
    handed.extend([link.as_fd(), stderr.as_fd(), manifest.as_fd()]);
    let mut arguments = std::env::args_os();
    let mut command = Command::new(&program);
    command.arg0(arguments.next().unwrap_or_else(|| program.clone().into())).args(arguments);
    command.env(VARIABLE, manifest.as_raw_fd().to_string());
    // The signs of life are wanted from whoever is the main process.
    command.env_remove("WATCHDOG_PID").stdin(Stdio::null()).stderr(Stdio::piped());
    let _inheritable = Inheritable::new(handed).map_err(cannot)?;
    command.spawn().map_err(cannot)
}

fn manifest(
    server: &Server,
    duplicates: &[Duplicate],
    link: &UnixStream,
    stderr: BorrowedFd<'_>,
) -> io::Result<std::os::fd::OwnedFd> {
    let socket = |duplicate: &Duplicate| {
        let bound = BoundTo::of(&duplicate.fd).map_err(io::Error::other)?;
        Ok(HandedSocket {
            descriptor: duplicate.fd.as_raw_fd(),
            listener: duplicate.listener.clone(),
            address: bound.address(),
            kind: bound.kind().to_owned(),
            shard: duplicate.shard,
            owns_file: duplicate.owns_file,
        })
    };
    let status = server.status();
    let backends = status.upstreams.iter().flat_map(|upstream| {
        upstream.backends.iter().map(|backend| KnownBackend {
            upstream: upstream.name.clone(),
            backend: backend.name.clone(),
            state: backend.state().to_owned(),
        })
    });
    let manifest = Manifest {
        version: Manifest::VERSION,
        pid: std::process::id(),
        link: link.as_raw_fd(),
        stderr: stderr.as_raw_fd(),
        sockets: duplicates.iter().map(socket).collect::<io::Result<_>>()?,
        generation: status.generation,
        overlay: serde_json::to_value(&lock(&server.source.written).overlay)?,
        upgrades: status.upgrades.success,
        health: backends.collect(),
        tickets: server.source.current.get().tickets().hand_on(),
    };
    manifest.seal()
}

/// Descriptors that a process which is started meanwhile gets, too. Ringway starts no other.
struct Inheritable<'a>(Vec<BorrowedFd<'a>>);

impl<'a> Inheritable<'a> {
    fn new(descriptors: Vec<BorrowedFd<'a>>) -> io::Result<Self> {
        net::keep_descriptors();
        let inheritable = Self(descriptors);
        for fd in &inheritable.0 {
            rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
        }
        Ok(inheritable)
    }
}

impl Drop for Inheritable<'_> {
    fn drop(&mut self) {
        for fd in &self.0 {
            // Cannot fail for a descriptor that is open.
            let _ = rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC);
        }
    }
}

/// Waits until the new process is ready, and ends it if it does not become so.
fn wait(
    mut child: Child,
    link: &UnixStream,
    stderr: Option<ChildStderr>,
    is_unwanted: &AtomicBool,
) -> Outcome {
    let written = Written::follow(stderr);
    let said = hear(link, Instant::now() + PATIENCE);
    match said {
        Ok(_) | Err(_) if is_unwanted.load(Ordering::Relaxed) => {
            stop(&mut child);
            Err("it is not wanted any more".to_owned())
        }
        Ok(said) if said.starts_with(READY) => match serde_json::from_str(&said[READY.len()..]) {
            Ok(unused) => Ok((child, unused)),
            Err(_) => {
                stop(&mut child);
                Err(format!(
                    "the new process said what this one does not understand, and was killed: {}",
                    Escaped(&said)
                ))
            }
        },
        Ok(said) if said.starts_with(REFUSED) => {
            let _ = end_of(&mut child);
            Err(said[REFUSED.len()..].trim_end().to_owned())
        }
        Ok(_) => {
            let status = end_of(&mut child);
            let last = written.last_lines();
            let words = if last.is_empty() { String::new() } else { format!("; its last words: {last}") };
            Err(format!("the new process has ended before it was ready, with {status}{words}"))
        }
        Err(_) => {
            stop(&mut child);
            Err(format!("the new process was not ready within {PATIENCE:?}, and was killed"))
        }
    }
}

/// Returns everything that the new process says until it is ready, or until it says no more.
fn hear(mut link: &UnixStream, deadline: Instant) -> io::Result<String> {
    let (mut said, mut buffer) = (Vec::new(), [0; 1_024]);
    let is_ready = |said: &[u8]| said.starts_with(READY.as_bytes()) && said.ends_with(b"\n");
    while !is_ready(&said) && said.len() < SAID_MAX {
        let left = deadline.saturating_duration_since(Instant::now());
        link.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match link.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => said.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if left.is_zero() || error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Err(_) => {}
        }
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// Waits for the end of a process that should end, and says how it ended. It is killed if it does not.
fn end_of(child: &mut Child) -> String {
    let deadline = Instant::now() + END;
    while Instant::now() < deadline {
        match child.try_wait() {
            Ok(Some(status)) => return status.to_string(),
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => return Plain(&error).to_string(),
        }
    }
    stop(child);
    "nothing said, and was killed".to_owned()
}

fn stop(child: &mut Child) {
    // It has ended by itself otherwise.
    let _ = child.kill();
    let _ = child.wait();
}

/// What the new process writes to its standard error stream before it is ready.
struct Written {
    last: Arc<Mutex<Vec<u8>>>,
    /// Disconnected at the end of the stream.
    end: Receiver<()>,
}

impl Written {
    /// Passes it on to the own stream meanwhile.
    fn follow(stderr: Option<ChildStderr>) -> Self {
        let (ended, end) = bounded::<()>(0);
        let last = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&last);
        let pass_on = move || {
            let (_ended, mut buffer) = (ended, [0; 4_096]);
            let Some(mut stderr) = stderr else { return };
            while let Ok(count @ 1..) = stderr.read(&mut buffer) {
                // Who cannot be written to gets nothing.
                let _ = io::stderr().write_all(&buffer[..count]);
                let mut last = lock(&kept);
                last.extend_from_slice(&buffer[..count]);
                let surplus = last.len().saturating_sub(WRITTEN_MAX);
                last.drain(..surplus);
            }
        };
        // Without the thread, the new process has a stream that nobody reads.
        let _ = std::thread::Builder::new().name("upgrade-stderr".into()).spawn(pass_on);
        Self { last, end }
    }

    /// Returns the last lines as one.
    fn last_lines(&self) -> String {
        const LINES: usize = 5;
        // A program that the new process has started may have the stream, too.
        let _ = self.end.recv_timeout(Duration::from_millis(500));
        let last = lock(&self.last);
        let text = String::from_utf8_lossy(&last);
        let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        Escaped(&lines[lines.len().saturating_sub(LINES)..].join(" | ")).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard_to_its_end() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let soon = || Instant::now() + Duration::from_millis(50);
        assert!(hear(&ours, soon()).is_err(), "nothing was said in time");
        (&theirs).write_all(b"ready [\"a\"").unwrap();
        assert!(hear(&ours, soon()).is_err(), "there is more to come");
        (&theirs).write_all(b"ready []\n").unwrap();
        assert_eq!(hear(&ours, soon()).unwrap(), "ready []\n");
        (&theirs).write_all(b"refused: no").unwrap();
        drop(theirs);
        assert_eq!(hear(&ours, soon()).unwrap(), "refused: no");
    }

    #[test]
    fn own_binary_is_known() {
        assert!(program::path().unwrap().is_file());
    }
}
