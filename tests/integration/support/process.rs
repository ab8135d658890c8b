//! A balancer in a process of its own: the binary as an operator runs it.

#![expect(unsafe_code, reason = "kill(2) and prlimit(2) have no safe wrapper in the crates we use")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::config::Config;
use super::{Backend, Client, PATIENCE, Reserved, StoppedThread, eventually, forbid, holds_within};

const BINARY: &str = env!("CARGO_BIN_EXE_ringway");
/// Its configuration, in the folder of the process.
const CONFIG: &str = "ringway.yaml";

/// What a process will be: one listener, one upstream.
pub struct Builder {
    config: Config,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    stderr: Option<Stdio>,
    has_ipv6: bool,
}

/// A process on 127.0.0.1 with one shard and without checks.
pub fn process() -> Builder {
    Builder {
        config: Config::new(1),
        arguments: Vec::new(),
        environment: Vec::new(),
        stderr: None,
        has_ipv6: true,
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

    /// Where its standard error goes, instead of a file that [`Process::log`] reads.
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.stderr = Some(stderr.into());
        self
    }

    /// Starts it, and waits until a session gets through.
    #[track_caller]
    pub fn start(self) -> Process {
        let folder = tempfile::tempdir().unwrap();
        let (yaml, port) = self.config.write();
        std::fs::write(folder.path().join(CONFIG), &yaml).unwrap();
        let log = folder.path().join("log");
        let stderr = self.stderr.unwrap_or_else(|| std::fs::File::create(&log).unwrap().into());
        let mut process = Process {
            child: None,
            folder,
            port: port.expect("a TCP listener"),
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
    folder: TempDir,
    port: Reserved,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    has_ipv6: bool,
    stderr_file: PathBuf,
    yaml: String,
}

impl Process {
    /// The command that started it, for a second one.
    pub fn second(&self) -> Command {
        let mut command = Command::new(BINARY);
        command.arg("-f").arg(self.folder.path().join(CONFIG)).args(&self.arguments);
        command
    }

    /// Where its configuration is.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join(CONFIG)
    }

    /// What its configuration said at the start.
    pub fn yaml(&self) -> &str {
        &self.yaml
    }

    fn spawn(&mut self, stderr: Stdio) {
        let mut command = self.second();
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
            // To its end, so that no session is left of it: the one shard has ended it before it serves the
            // next one.
            Client::connect(self.address())
                .is_ok_and(|client| client.echo(b"ready?").is_ok() && client.finish().is_ok())
        });
        assert!(served, "it serves: {}\n{}", self.log(), self.yaml);
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
        let id = self.id() as i32;
        // SAFETY: a system call on numbers; the child is ours and was not waited for, so the number is still
        // its own.
        assert_eq!(unsafe { libc::kill(id, signal) }, 0, "{}", std::io::Error::last_os_error());
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
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.id())).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
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

impl Drop for Process {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = child.kill();
        let _ = child.wait();
    }
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
