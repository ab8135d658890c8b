//! A balancer in a process of its own: the binary as an operator runs it.

#![expect(unsafe_code, reason = "kill(2) and prlimit(2) have no safe wrapper in the crates we use")]

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::version::TLS13;
use socket2::Socket;
use tempfile::TempDir;

use super::config::Config;
use super::{
    AUTHORITY, Backend, Client, PATIENCE, Reserved, StoppedThread, TlsClient, eventually, forbid,
    holds_within,
};

const BINARY: &str = env!("CARGO_BIN_EXE_ringway");
/// Its configuration, in the folder of the process.
const CONFIG: &str = "ringway.yaml";
const UNIX: &str = "front";
const PID_FILE: &str = "pid";

/// What a process will be: one listener, one upstream.
pub struct Builder {
    config: Config,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    stderr: Option<Stdio>,
    has_ipv6: bool,
    handed: Handed,
    also_on_unix: bool,
    has_own_binary: bool,
    is_pid_1: bool,
    speaks_tls: bool,
}

/// Listening sockets that a service manager has made on the address of the listener, and keeps.
#[derive(Clone, Copy, Default)]
struct Handed {
    count: usize,
    /// Whether they have SO_REUSEPORT, which more than one must have.
    in_group: bool,
    /// Whether there is another one, on an address that no listener has.
    with_stranger: bool,
}

/// A process on 127.0.0.1 with one shard and without checks.
pub fn process() -> Builder {
    Builder {
        config: Config::new(1),
        arguments: Vec::new(),
        environment: Vec::new(),
        stderr: None,
        has_ipv6: true,
        handed: Handed::default(),
        also_on_unix: false,
        has_own_binary: false,
        is_pid_1: false,
        speaks_tls: false,
    }
}

impl Builder {
    pub fn backends<'a>(mut self, backends: impl IntoIterator<Item = &'a Backend>) -> Self {
        self.config.backends(backends);
        self
    }

    /// A backend as the configuration writes it.
    pub fn entry(mut self, entry: &str) -> Self {
        self.config.entry(entry);
        self
    }

    /// A whole section, such as `logging: {level: debug}`.
    pub fn section(mut self, section: &str) -> Self {
        self.config.section(section);
        self
    }

    /// The endpoints of the admin API, instead of none.
    pub fn admin(mut self, keys: &str) -> Self {
        self.config.admin(keys);
        self
    }

    /// A line of the runtime.
    pub fn runtime(mut self, line: &str) -> Self {
        self.config.runtime(line);
        self
    }

    /// A line of the listener.
    pub fn listener(mut self, line: &str) -> Self {
        self.config.listener(line);
        self
    }

    /// A line of the listener, by which its clients speak TLS with `a.example`.
    pub fn tls(mut self, line: &str) -> Self {
        self.speaks_tls = true;
        self.listener(line)
    }

    /// A line of the upstream.
    pub fn upstream(mut self, line: &str) -> Self {
        self.config.upstream(line);
        self
    }

    /// Checks with these settings.
    pub fn check(mut self, settings: &str) -> Self {
        self.config.check(settings);
        self
    }

    /// Listens on `":PORT"`.
    pub fn on_any(mut self) -> Self {
        self.config.on_any();
        self
    }

    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// In a system without IPv6, as far as it can tell.
    pub fn without_ipv6(mut self) -> Self {
        self.has_ipv6 = false;
        self
    }

    /// Has a second listener, on a Unix socket: see [`Process::unix_path`].
    pub fn also_on_unix(mut self) -> Self {
        self.also_on_unix = true;
        self
    }

    /// Has a binary of its own, which can be replaced, and a pid file.
    pub fn upgradable(mut self) -> Self {
        self.has_own_binary = true;
        self
    }

    /// As PID 1 of a namespace, as in a container; needs root.
    pub fn in_pid_namespace(mut self) -> Self {
        self.is_pid_1 = true;
        self
    }

    /// Activated by so many sockets that share the port.
    pub fn activated_by_group(mut self, count: usize) -> Self {
        self.handed = Handed { count, in_group: true, ..self.handed };
        self
    }

    /// Activated by one socket that shares its port with none.
    pub fn activated(mut self) -> Self {
        self.handed = Handed { count: 1, in_group: false, ..self.handed };
        self
    }

    /// Activated by another socket, too, on an address that no listener has.
    pub fn with_stranger(mut self) -> Self {
        self.handed.with_stranger = true;
        self
    }

    /// Where its standard error goes, instead of a file that [`Process::log`] reads.
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.stderr = Some(stderr.into());
        self
    }

    /// Starts it, and waits until a session gets through.
    #[track_caller]
    pub fn start(mut self) -> Process {
        let folder = tempfile::tempdir().unwrap();
        if self.also_on_unix {
            self.config.also_on_unix(folder.path().join(UNIX));
        }
        let mut binary = PathBuf::from(BINARY);
        if self.has_own_binary {
            binary = folder.path().join("ringway");
            link_binary(&binary);
            self.arguments
                .extend(["--pid-file".to_owned(), folder.path().join(PID_FILE).to_str().unwrap().to_owned()]);
        }
        let (yaml, port) = self.config.write();
        std::fs::write(folder.path().join(CONFIG), &yaml).unwrap();
        let log = folder.path().join("log");
        let stderr = self.stderr.unwrap_or_else(|| std::fs::File::create(&log).unwrap().into());
        let port = port.expect("a TCP listener");
        let handed = self.handed.make(&port);
        let mut process = Process {
            child: None,
            binary,
            folder,
            handed,
            is_pid_1: self.is_pid_1,
            speaks_tls: self.speaks_tls,
            port,
            arguments: self.arguments,
            environment: self.environment,
            has_ipv6: self.has_ipv6,
            stderr_file: log,
            yaml,
        };
        process.spawn(stderr);
        process.await_service();
        process
    }
}

/// A running process; killed on drop.
pub struct Process {
    child: Option<Child>,
    binary: PathBuf,
    folder: TempDir,
    port: Reserved,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    has_ipv6: bool,
    /// What the service manager has made, which outlives the process.
    handed: Vec<Socket>,
    /// Whether the child is unshare(1), and it the child of that.
    is_pid_1: bool,
    speaks_tls: bool,
    stderr_file: PathBuf,
    yaml: String,
}

impl Process {
    /// The command that started it, for a second one.
    pub fn second(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("-f").arg(self.folder.path().join(CONFIG)).args(&self.arguments);
        command
    }

    /// Where its configuration is.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join(CONFIG)
    }

    fn spawn(&mut self, stderr: Stdio) {
        let mut command = self.second();
        if !self.handed.is_empty() {
            command = hand_over(&self.handed, &command);
        }
        if self.is_pid_1 {
            let mut outer = Command::new("unshare");
            outer
                .args(["--pid", "--fork", "--kill-child"])
                .arg(command.get_program())
                .args(command.get_args());
            command = outer;
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.env_remove("RUST_LOG").stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        if !self.has_ipv6 {
            forbid(&mut command, libc::SYS_socket, Some(libc::AF_INET6 as u32), libc::EAFNOSUPPORT);
        }
        self.child = Some(command.spawn().unwrap());
    }

    /// Waits until a session gets through: before the first verdict there is no backend for one.
    #[track_caller]
    fn await_service(&mut self) {
        let served = holds_within(PATIENCE, || {
            assert!(self.child().try_wait().unwrap().is_none(), "it ended: {}\n{}", self.log(), self.yaml);
            self.serves().is_ok()
        });
        assert!(served, "it serves: {}\n{}", self.log(), self.yaml);
    }

    /// One session to its end, so that nothing is left of it: the one shard has ended it before it serves the next one.
    fn serves(&self) -> io::Result<()> {
        if self.speaks_tls {
            let settings = Arc::new(AUTHORITY.client(&TLS13, Some("client")));
            let mut client = TlsClient::connect(&settings, self.address(), "a.example")?;
            client.echo(b"ready?")?;
            client.end()?;
            return client.receive_all().1;
        }
        let client = Client::connect(self.address())?;
        client.echo(b"ready?")?;
        client.finish()
    }

    fn child(&mut self) -> &mut Child {
        self.child.as_mut().unwrap()
    }

    pub fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn address(&self) -> SocketAddr {
        self.port.reached_at()
    }

    /// What it wrote to standard error.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.stderr_file).unwrap_or_default()
    }

    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect(self.address()).unwrap()
    }

    #[track_caller]
    pub fn echoing_client(&self) -> Client {
        let client = self.client();
        client.echo(b"hello").unwrap();
        client
    }

    pub fn signal(&self, signal: i32) {
        // The child was not waited for, so the number is still its own.
        kill(self.id(), signal);
    }

    /// Sends a signal to the process that is PID 1 of its namespace.
    pub fn signal_pid_1(&self, signal: i32) {
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.id())).unwrap();
        kill(children.trim().parse().unwrap(), signal);
    }

    /// The path of its second listener.
    pub fn unix_path(&self) -> PathBuf {
        self.folder.path().join(UNIX)
    }

    /// A path in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The number in its pid file; `None` while the file is written.
    pub fn pid_in_file(&self) -> Option<u32> {
        std::fs::read_to_string(self.path(PID_FILE)).ok()?.trim().parse().ok()
    }

    /// Sends a signal to the process of the pid file.
    pub fn signal_serving(&self, signal: i32) {
        kill(self.pid_in_file().unwrap(), signal);
    }

    /// Asks the process of the pid file to replace itself.
    pub fn ask_to_upgrade(&self) {
        self.signal_serving(libc::SIGUSR2);
    }

    /// Has the process of the pid file replaced, and waits until the file names the new one.
    #[track_caller]
    pub fn upgrade(&self) -> u32 {
        let before = self.pid_in_file();
        self.ask_to_upgrade();
        let is_new = || self.pid_in_file().is_some_and(|pid| Some(pid) != before);
        assert!(holds_within(PATIENCE, is_new), "another process serves: {}", self.log());
        self.pid_in_file().unwrap()
    }

    /// Puts a shell script in the place of its binary.
    pub fn replace_binary(&self, script: &str) {
        // Written by another process: a file that this one has open to write cannot be executed, and a child that another
        // thread forks has everything open for a moment.
        let write =
            "printf '#!/bin/sh\n%s\n' \"$1\" >\"$2.new\" && chmod 755 \"$2.new\" && mv \"$2.new\" \"$2\"";
        let status = Command::new("sh").args(["-c", write, "sh", script]).arg(&self.binary).status();
        assert!(status.unwrap().success());
    }

    /// Its binary, where it is its own.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Puts its binary back.
    pub fn restore_binary(&self) {
        let _ = std::fs::remove_file(&self.binary);
        link_binary(&self.binary);
    }

    /// Its configuration.
    pub fn yaml(&self) -> &str {
        &self.yaml
    }

    /// Writes another configuration.
    pub fn configure(&self, yaml: &str) {
        std::fs::write(self.path(CONFIG), yaml).unwrap();
    }

    /// Waits for the end.
    #[track_caller]
    pub fn exit(&mut self) -> ExitStatus {
        let mut status = None;
        let ended = holds_within(PATIENCE, || {
            status = self.child().try_wait().unwrap();
            status.is_some()
        });
        assert!(ended, "it ends: {}", self.log());
        status.unwrap()
    }

    pub fn is_running(&mut self) -> bool {
        self.child().try_wait().unwrap().is_none()
    }

    /// Kills it, starts it again, and says how long it took until a session got through.
    pub fn kill_and_restart(&mut self) -> Duration {
        self.child().kill().unwrap();
        self.child().wait().unwrap();
        self.restart()
    }

    /// Starts it again after its end, and says how long it took until a session got through.
    pub fn restart(&mut self) -> Duration {
        let begin = Instant::now();
        let log = std::fs::File::options().append(true).create(true).open(&self.stderr_file).unwrap();
        self.spawn(log.into());
        self.await_service();
        begin.elapsed()
    }

    /// Processor time so far.
    pub fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        // Fields are counted behind the name, which stands in parentheses; utime and stime are 14 and 15,
        // proc(5).
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // USER_HZ is 100 on every architecture we run on.
        Duration::from_millis(ticks * 10)
    }

    /// Memory that is resident.
    pub fn resident_bytes(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        resident.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
    }

    /// Numbers of its open descriptors.
    pub fn descriptors(&self) -> Vec<u64> {
        descriptors(self.id())
    }

    /// How many TCP sockets it listens on.
    pub fn listening(&self) -> usize {
        listening(self.id())
    }

    /// How many TCP sockets the process of the pid file listens on.
    pub fn listening_serving(&self) -> usize {
        self.pid_in_file().map_or(0, listening)
    }

    /// Names of its threads, those that the kernel made for it included.
    pub fn threads(&self) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id())).unwrap();
        tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok()).collect()
    }

    /// Stops the thread of this name, and waits until it stands still.
    #[track_caller]
    pub fn stop_thread(&self, name: &str) -> StoppedThread {
        let mut tasks = std::fs::read_dir(format!("/proc/{}/task", self.id())).unwrap().map(Result::unwrap);
        let task =
            tasks.find(|task| std::fs::read_to_string(task.path().join("comm")).unwrap().trim() == name);
        StoppedThread::new(task.unwrap().file_name().to_str().unwrap().parse().unwrap())
    }

    /// Stops it, as a debugger or a full machine does, and waits until it stands still.
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
        let stands = |stat: String| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T"));
        let tasks = || std::fs::read_dir(format!("/proc/{}/task", self.id())).unwrap();
        let stat = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("stat")).unwrap();
        eventually("it stands still", || tasks().all(|task| stands(stat(task.unwrap()))));
    }

    /// Waits until it opens and closes nothing more: the sockets of ended sessions go a moment after their
    /// last bytes.
    #[track_caller]
    pub fn await_rest(&self) {
        let (mut last, mut looks) = (Vec::new(), 0);
        eventually("descriptors stay as they are", || {
            let now = self.descriptors();
            looks = if now == last { looks + 1 } else { 0 };
            last = now;
            looks == 100
        });
    }

    /// Leaves it so many free descriptors; `None` for as many as before.
    pub fn limit_descriptors(&self, free: Option<u64>) {
        let limit = free.map_or(10_000, |free| {
            let taken = self.descriptors();
            (0..)
                .scan(0, |found, number| {
                    *found += u64::from(!taken.contains(&number));
                    Some((*found, number))
                })
                // The limit is one more than the highest number, getrlimit(2).
                .find(|(found, _)| *found > free)
                .map(|(_, number)| number)
                .unwrap()
        });
        let id = self.id() as i32;
        let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the kernel fills the struct, which outlives the call.
        let known = unsafe { libc::prlimit(id, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut before) };
        assert_eq!(known, 0, "{}", std::io::Error::last_os_error());
        // Only root may raise the hard limit again.
        let limit = libc::rlimit { rlim_cur: limit.min(before.rlim_max), ..before };
        // SAFETY: the kernel reads the struct, which outlives the call, and writes nothing.
        let result =
            unsafe { libc::prlimit(id, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }
}

fn descriptors(id: u32) -> Vec<u64> {
    let entries = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

/// How many TCP sockets a process listens on.
fn listening(id: u32) -> usize {
    let listening = std::fs::read_to_string(format!("/proc/{id}/net/tcp")).unwrap();
    // State 0A is TCP_LISTEN, and the tenth field is the inode, proc(5).
    let fields = listening.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let inodes: Vec<_> = fields
        .filter(|fields| fields.get(3) == Some(&"0A"))
        .map(|fields| format!("socket:[{}]", fields[9]))
        .collect();
    let open = descriptors(id).into_iter().filter_map(|number| {
        std::fs::read_link(format!("/proc/{id}/fd/{number}")).ok()?.into_os_string().into_string().ok()
    });
    let mut open: Vec<_> = open.filter(|link| inodes.contains(link)).collect();
    open.sort_unstable();
    open.dedup();
    open.len()
}

fn kill(id: u32, signal: i32) {
    // SAFETY: a system call on numbers.
    assert_eq!(unsafe { libc::kill(id as i32, signal) }, 0, "{}", std::io::Error::last_os_error());
}

/// Another name for the binary of these tests: a copy would take a while. Only its owner may give it one.
fn link_binary(path: &Path) {
    if std::fs::hard_link(BINARY, path).is_err() {
        // By another process, for the reason that `replace_binary` has.
        assert!(Command::new("cp").arg(BINARY).arg(path).status().unwrap().success());
    }
}

/// Kills every process that runs a file of this folder: successors of a process are no children of the test.
fn kill_successors(folder: &Path) {
    let runs_ours = |id: &u32| {
        let file = std::fs::read_link(format!("/proc/{id}/exe"));
        file.is_ok_and(|file| file.starts_with(folder))
    };
    let numbers = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    for id in numbers.filter(runs_ours) {
        // SAFETY: a system call on numbers; it may have ended by now.
        unsafe { libc::kill(id as i32, libc::SIGKILL) };
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.binary.starts_with(self.folder.path()) {
            kill_successors(self.folder.path());
        }
        let Some(mut child) = self.child.take() else { return };
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Handed {
    fn make(self, port: &Reserved) -> Vec<Socket> {
        let listening = |_| if self.in_group { port.listen(64) } else { port.listen_alone(64) };
        let mut sockets: Vec<_> = (0..self.count).map(listening).collect();
        if self.with_stranger {
            sockets.push(Reserved::at(super::V4).listen(64));
        }
        sockets
    }
}

/// The command with these sockets from number 3 on, and the variables of sd_listen_fds(3), one of which is its process
/// number.
fn hand_over(sockets: &[Socket], command: &Command) -> Command {
    let numbers: Vec<_> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
    // Above all of them first, because one may have a number that another one shall have.
    let above = (0..).map(|index| 900 + index);
    let moves: String = numbers
        .iter()
        .zip(above.clone())
        .map(|(number, above)| format!("exec {above}<&{number} {number}<&-; "))
        .chain(
            (3..)
                .zip(above)
                .take(numbers.len())
                .map(|(wanted, above)| format!("exec {wanted}<&{above} {above}<&-; ")),
        )
        .collect();
    let mut shell = Command::new("bash");
    shell.arg("-c").arg(format!("{moves}export LISTEN_PID=$$; exec \"$@\"")).arg("bash");
    shell.arg(command.get_program()).args(command.get_args()).env("LISTEN_FDS", sockets.len().to_string());
    shell.env("LISTEN_FDNAMES", vec!["ringway.socket"; sockets.len()].join(":"));
    let keep = move || {
        for number in &numbers {
            // SAFETY: a system call on numbers, in the new process only.
            if unsafe { libc::fcntl(*number, libc::F_SETFD, 0) } != 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: it calls fcntl(2) alone, which signal handlers may do.
    unsafe { shell.pre_exec(keep) };
    shell
}

/// Runs the binary, or a shell line in which `$RINGWAY` is it, to its end.
#[track_caller]
pub fn run_to_end(command: &mut Command) -> Output {
    command.env("RINGWAY", BINARY).env_remove("RUST_LOG").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    if !holds_within(PATIENCE, || child.try_wait().unwrap().is_some()) {
        child.kill().unwrap();
        panic!("it ends: {:?}", child.wait_with_output().unwrap());
    }
    child.wait_with_output().unwrap()
}
