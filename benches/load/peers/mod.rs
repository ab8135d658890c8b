//! The subjects of a comparison: nobody in between, Ringway, and the peers that are installed, each with its
//! best settings for one core. All of them run for the whole comparison, pinned to the same core; only one
//! of them has work at a time.

mod configuration;

use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use configuration::{Nginx, Splicing, Task};
use rustix::process::Signal;

use crate::figures::{AGAIN, DIRECT, OWN, SOZU, SOZU_TUNED, TUNED};
use crate::process::Process;
use crate::tls::{Certificate, Client};
use crate::topology::{Ports, SERVICES, balancer_cores};
use crate::wire::Wire;
use crate::workloads::Workload;

/// Where scripts/install-peers.sh puts Envoy.
const ENVOY: &str = "/opt/envoy/bin";
/// Where it puts sozu.
const SOZU_FOLDER: &str = "/opt/sozu/bin";

/// One row of the comparison.
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) ports: Ports,
    rows: Rows,
    process: Option<Process>,
    /// How it is told to read its configuration again, where it is.
    reload: Option<Reload>,
}

/// Where a subject takes part.
#[derive(Clone, Copy)]
enum Rows {
    All,
    /// Those with a fixed pace.
    Paced,
    /// Those in which clients come while it is measured.
    Connect,
    /// Those without bulk, with so many sessions at once.
    NoBulk {
        sessions_max: f64,
    },
}

/// See [`Subject::reload`].
struct Reload {
    file: PathBuf,
    /// With all backends, and with all but the last.
    configurations: [String; 2],
    signal: Signal,
}

/// The subjects that end TLS.
pub(crate) struct WithTls {
    pub(crate) subjects: Vec<Subject>,
    /// What they show to clients.
    pub(crate) certificate: PathBuf,
}

impl Subject {
    /// The backend itself.
    pub(crate) fn direct(ports: Ports) -> Subject {
        Subject {
            name: DIRECT.to_owned(),
            version: String::new(),
            ports,
            rows: Rows::All,
            process: None,
            reload: None,
        }
    }

    /// Whether it takes part in this workload.
    pub(crate) fn does(&self, workload: &Workload) -> bool {
        match self.rows {
            Rows::All => true,
            Rows::Paced => workload.pace().is_some(),
            Rows::Connect => workload.has_new_clients(),
            Rows::NoBulk { sessions_max } => {
                !workload.has_bulk() && workload.sessions_at_once() <= sessions_max
            }
        }
    }

    /// Its process; none for direct.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    pub(crate) fn resident_bytes(&self) -> Option<f64> {
        self.process.as_ref().and_then(Process::resident_bytes)
    }

    /// The pids of all its processes.
    pub(crate) fn family(&self) -> Vec<u32> {
        self.process.as_ref().map_or(vec![], Process::family)
    }

    /// The anonymous memory of all its processes.
    pub(crate) fn family_bytes(&self) -> Option<f64> {
        self.process.as_ref().and_then(Process::family_bytes)
    }

    /// Takes the last backend from its configuration, or puts it back, and tells it so, once a second until `ended`
    /// says that it is enough. Returns how often.
    pub(crate) fn reload_each_second(&self, ended: &Receiver<()>) -> Result<usize, String> {
        let (Some(reload), Some(process)) = (&self.reload, &self.process) else {
            return Err(format!("{} cannot be told to reload", self.name));
        };
        let mut times = 0;
        while ended.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
            times += 1;
            std::fs::write(&reload.file, &reload.configurations[times % 2])
                .map_err(|error| format!("{}: {error}", reload.file.display()))?;
            process.signal(reload.signal)?;
        }
        Ok(times)
    }

    /// Whether a byte comes back through the echo service, within ten seconds.
    pub(crate) fn wait_until_it_serves(&self, client: Option<&Client>) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if echoes(self.ports[0], client).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("{} does not serve", self.name))
    }
}

fn echoes(port: u16, client: Option<&Client>) -> io::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(1);
    let socket = TcpStream::connect(("127.0.0.1", port))?;
    let mut wire = match client {
        Some(client) => Wire::tls(socket, client)?,
        None => Wire::plain(socket),
    };
    wire.handshake(PATIENCE)?;
    wire.write_some(b"?")?;
    let mut byte = [0];
    wire.read_exact(&mut byte, PATIENCE)?;
    if byte == *b"?" { Ok(()) } else { Err(io::Error::other("no echo")) }
}

/// A port for each service, free until somebody binds them, below the range that outgoing connections take theirs from.
pub(crate) fn free_ports() -> Result<Ports, String> {
    let (mut ports, mut held) = ([0; SERVICES.len()], Vec::new());
    let first = 12_000 + (std::process::id() % 8_000) as u16;
    let mut candidates = first..32_000;
    for port in &mut ports {
        let listener = candidates.by_ref().find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok());
        let listener = listener.ok_or("no free ports")?;
        *port = listener.local_addr().map_err(|error| error.to_string())?.port();
        held.push(listener);
    }
    Ok(ports)
}

/// Starts all subjects: nobody, Ringway, and the peers that are installed or, where there are any, `others`
/// instead, which are other builds of Ringway. `directory` takes configurations and logs.
pub(crate) fn start_all(
    directory: &Path,
    backend: Ports,
    others: &[(String, PathBuf)],
) -> Result<Vec<Subject>, String> {
    let mut starting = Starting::new(directory, backend);
    starting.subjects.push(Subject::direct(backend));
    starting.all(others)?;
    Ok(starting.subjects)
}

/// Makes a folder of its own for subjects whose names others have, too.
fn folder(directory: &Path, name: &str) -> Result<PathBuf, String> {
    let folder = directory.join(name);
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

/// Those that have threads, with one and with two. nginx has processes instead.
pub(crate) fn start_sharded(
    directory: &Path,
    backend: Ports,
    others: &[(String, PathBuf)],
) -> Result<Vec<Subject>, String> {
    let directory = folder(directory, "sharded")?;
    let mut starting = Starting::new(&directory, backend);
    for (cores, suffix) in [(1, ""), (2, " x 2")] {
        starting.cores = cores;
        starting.ringway(&format!("{OWN}{suffix}"), &ringway_binary()?)?;
        for (name, binary) in others {
            starting.ringway(&format!("{name}{suffix}"), binary)?;
        }
        if others.is_empty() {
            starting.haproxy(&format!("haproxy{suffix}"), Splicing::Off, &ALONE)?;
        }
    }
    Ok(starting.subjects)
}

/// The same, but for nobody, with TLS on the side of the clients.
pub(crate) fn start_all_with_tls(
    directory: &Path,
    backend: Ports,
    others: &[(String, PathBuf)],
) -> Result<WithTls, String> {
    let directory = folder(directory, "tls")?;
    let certificate = Certificate::make(&directory)?;
    let client = Client::new(&certificate.certificate, false)?;
    let mut starting = Starting { tls: Some((&certificate, &client)), ..Starting::new(&directory, backend) };
    starting.all(others)?;
    Ok(WithTls { subjects: starting.subjects, certificate: certificate.certificate })
}

/// Those that take first bytes with the SYN, and nobody. Ringway and HAProxy send them to the backend so, too.
pub(crate) fn start_fast_open(
    directory: &Path,
    backend: Ports,
    others: &[(String, PathBuf)],
) -> Result<Vec<Subject>, String> {
    let directory = folder(directory, "fast-open")?;
    let mut starting = Starting { fast_open: true, ..Starting::new(&directory, backend) };
    starting.subjects.push(Subject::direct(backend));
    starting.builds(others)?;
    if others.is_empty() {
        starting.ringway(AGAIN, &ringway_binary()?)?;
        starting.ringway(TUNED, &ringway_binary()?)?;
        starting.haproxy("haproxy auto", Splicing::Auto, &ALONE)?;
        starting.nginx("nginx tuned", Nginx::Tuned)?;
        starting.envoy()?;
    }
    Ok(starting.subjects)
}

/// Those that reload, each as its manual says: Ringway in place, HAProxy and nginx with a master that starts new workers.
/// Envoy reads its file only at its start; what changes later has to come from elsewhere.
pub(crate) fn start_reloaded(
    directory: &Path,
    backend: Ports,
    others: &[(String, PathBuf)],
) -> Result<Vec<Subject>, String> {
    let directory = folder(directory, "reloaded")?;
    let mut starting = Starting::new(&directory, backend);
    starting.builds(others)?;
    if others.is_empty() {
        starting.haproxy("haproxy", Splicing::Off, &["-W", "-db", "-f"])?;
        starting.nginx("nginx", Nginx::WithMaster)?;
    }
    for subject in &mut starting.subjects {
        let file = directory.join(format!("{}.conf", subject.name));
        let whole = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let without = configuration::without_last_backend(&whole);
        let configurations = [whole, without];
        let signal = if subject.name == "haproxy" { Signal::USR2 } else { Signal::HUP };
        subject.reload = Some(Reload { file, configurations, signal });
    }
    Ok(starting.subjects)
}

struct Starting<'a> {
    directory: &'a Path,
    backend: Ports,
    /// What the subjects show, and who looks at it.
    tls: Option<(&'a Certificate, &'a Client)>,
    /// Of each, and as many threads.
    cores: usize,
    fast_open: bool,
    subjects: Vec<Subject>,
}

impl<'a> Starting<'a> {
    /// With one core, and clients that speak plainly.
    fn new(directory: &'a Path, backend: Ports) -> Starting<'a> {
        Starting { directory, backend, tls: None, cores: 1, fast_open: false, subjects: vec![] }
    }

    /// Ringway, and other builds of it.
    fn builds(&mut self, others: &[(String, PathBuf)]) -> Result<(), String> {
        self.ringway(OWN, &ringway_binary()?)?;
        others.iter().try_for_each(|(name, binary)| self.ringway(name, binary))
    }

    fn all(&mut self, others: &[(String, PathBuf)]) -> Result<(), String> {
        self.builds(others)?;
        if others.is_empty() {
            self.ringway(AGAIN, &ringway_binary()?)?;
            if self.tls.is_none() {
                self.ringway(TUNED, &ringway_binary()?)?;
            }
            self.haproxy("haproxy", Splicing::Off, &ALONE)?;
            // What is encrypted cannot be spliced: the two would be one row twice.
            if self.tls.is_none() {
                self.haproxy("haproxy auto", Splicing::Auto, &ALONE)?;
            }
            self.haproxy("haproxy tuned", Splicing::Forced, &ALONE)?;
            self.nginx("nginx", Nginx::Alone)?;
            self.nginx("nginx tuned", Nginx::Tuned)?;
            self.envoy()?;
            // It ends TLS for HTTP alone.
            if self.tls.is_none() {
                self.sozu(SOZU, "sozu")?;
                self.sozu(SOZU_TUNED, "sozu-splice")?;
            }
        }
        Ok(())
    }

    /// What the next subject is asked to do.
    fn task(&self) -> Result<Task<'_>, String> {
        Ok(Task {
            cores: self.cores,
            ports: free_ports()?,
            backend: self.backend,
            certificate: self.tls.map(|(certificate, _)| certificate),
            fast_open: self.fast_open,
        })
    }

    fn ringway(&mut self, name: &str, binary: &Path) -> Result<(), String> {
        let task = self.task()?;
        let (ports, configuration) = (task.ports, configuration::ringway(&task, name == TUNED));
        match self.add(name, binary, configuration, &["-f"], ports) {
            // A build from before it could: the others can be compared still.
            Err(error) if self.tls.is_some() && error.contains(KNOWS_NO_TLS) => {
                eprintln!("{name} has no rows with TLS: its listeners know no key 'tls' yet");
                Ok(())
            }
            added => added,
        }
    }

    fn haproxy(&mut self, name: &str, splicing: Splicing, flags: &[&str]) -> Result<(), String> {
        let Some(binary) = find("haproxy") else {
            eprintln!("no HAProxy here for {name}: scripts/install-peers.sh");
            return Ok(());
        };
        let task = self.task()?;
        let (ports, configuration) = (task.ports, configuration::haproxy(&task, splicing));
        self.add(name, &binary, configuration, flags, ports)
    }

    fn nginx(&mut self, name: &str, kind: Nginx) -> Result<(), String> {
        let Some(binary) = find("nginx").filter(|_| Path::new(configuration::NGINX_STREAM).exists()) else {
            eprintln!("no nginx with its stream module here for {name}: scripts/install-peers.sh");
            return Ok(());
        };
        let task = self.task()?;
        let (ports, configuration) = (task.ports, configuration::nginx(self.directory, &task, kind));
        self.add(name, &binary, configuration, &["-e", "stderr", "-c"], ports)
    }

    fn envoy(&mut self) -> Result<(), String> {
        let Some(binary) = find("envoy") else {
            eprintln!("no Envoy here: scripts/install-peers.sh");
            return Ok(());
        };
        let task = self.task()?;
        let (ports, configuration) = (task.ports, configuration::envoy(&task));
        let flags = ["--concurrency", "1", "--disable-hot-restart", "-l", "error", "-c"];
        self.add("envoy", &binary, configuration, &flags, ports)
    }

    /// Whether it splices is decided when it is built.
    fn sozu(&mut self, name: &str, program: &str) -> Result<(), String> {
        let Some(binary) = find(program) else {
            eprintln!("no {program} here for {name}: scripts/install-peers.sh --sozu");
            return Ok(());
        };
        let task = self.task()?;
        let (ports, configuration) =
            (task.ports, configuration::sozu(self.directory, &task, name == SOZU_TUNED));
        self.add(name, &binary, configuration, &["start", "-c"], ports)
    }

    fn add(
        &mut self,
        name: &str,
        program: &Path,
        configuration: String,
        flags: &[&str],
        ports: Ports,
    ) -> Result<(), String> {
        let (file, log) =
            (self.directory.join(format!("{name}.conf")), self.directory.join(format!("{name}.log")));
        std::fs::write(&file, configuration).map_err(|error| error.to_string())?;
        let mut arguments: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        arguments.push(file.display().to_string());
        let process = Process::start(&balancer_cores(self.cores), program, &arguments, &log)?;
        let subject = Subject {
            name: name.to_owned(),
            version: version(program),
            ports,
            rows: match name {
                AGAIN => Rows::Paced,
                TUNED => Rows::Connect,
                SOZU => Rows::NoBulk { sessions_max: f64::INFINITY },
                // A session that sozu splices takes six descriptors, where the others need two.
                SOZU_TUNED => Rows::NoBulk { sessions_max: 3_000.0 },
                _ => Rows::All,
            },
            process: Some(process),
            reload: None,
        };
        subject
            .wait_until_it_serves(self.tls.map(|(_, client)| client))
            .map_err(|error| format!("{error}\n{}", std::fs::read_to_string(&log).unwrap_or_default()))?;
        self.subjects.push(subject);
        Ok(())
    }
}

/// What HAProxy is started with where it is one process.
const ALONE: [&str; 2] = ["-db", "-f"];

/// What a build says of the key that has none of it.
const KNOWS_NO_TLS: &str = "unknown key `tls`";

/// The binary cargo built for this run, or the one the caller names.
fn ringway_binary() -> Result<PathBuf, String> {
    let named = std::env::var("RINGWAY").ok().or(option_env!("CARGO_BIN_EXE_ringway").map(str::to_owned));
    named.map(PathBuf::from).ok_or_else(|| "RINGWAY must name the binary".to_owned())
}

fn find(program: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin", ENVOY, SOZU_FOLDER]
        .iter()
        .map(|directory| Path::new(directory).join(program))
        .find(|path| path.exists())
}

/// The first line of what the program says about itself.
fn version(program: &Path) -> String {
    // Ringway knows only the second flag, the peers only the first.
    let says = |flag| Command::new(program).arg(flag).output().ok().filter(|output| output.status.success());
    let Some(output) = says("-v").or_else(|| says("--version")) else { return String::new() };
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    // Envoy begins with an empty line, and with its path.
    let text = String::from_utf8_lossy(&text).replace(&format!("{}/", ENVOY), "");
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned()
}
