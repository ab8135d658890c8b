//! The subjects of a comparison: nobody in between, Ringway, and the peers that are installed, each with its
//! best settings for one core. All of them run for the whole comparison, pinned to the same core; only one
//! of them has work at a time.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::process::Process;
use crate::topology::{ADDRESSES, BALANCER_CORE};

/// The services of the backend, in the order of every `ports` array here.
const SERVICES: [&str; 4] = ["echo", "sink", "source", "both"];

/// nginx's stream module as Debian installs it.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// One row of the comparison.
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) ports: [u16; 4],
    process: Option<Process>,
}

impl Subject {
    /// The backend itself.
    pub(crate) fn direct(ports: [u16; 4]) -> Subject {
        Subject { name: "direct".to_owned(), version: String::new(), ports, process: None }
    }

    /// Its process; none for direct.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    pub(crate) fn resident_bytes(&self) -> Option<f64> {
        self.process.as_ref().and_then(Process::resident_bytes)
    }

    /// Whether a byte comes back through the echo service, within ten seconds.
    pub(crate) fn wait_until_it_serves(&self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if echoes(self.ports[0]) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("{} does not serve", self.name))
    }
}

fn echoes(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut byte = [0];
    stream.set_read_timeout(Some(Duration::from_secs(1))).is_ok()
        && stream.write_all(b"?").is_ok()
        && stream.read_exact(&mut byte).is_ok()
        && byte == *b"?"
}

/// Four ports, free until somebody binds them, below the range that outgoing connections take theirs from.
pub(crate) fn free_ports() -> Result<[u16; 4], String> {
    let (mut ports, mut held) = ([0; 4], Vec::new());
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
    backend: [u16; 4],
    others: &[(String, PathBuf)],
) -> Result<Vec<Subject>, String> {
    let mut starting = Starting { directory, subjects: vec![Subject::direct(backend)] };
    starting.ringway("ringway", &ringway_binary()?, backend)?;
    for (name, binary) in others {
        starting.ringway(name, binary, backend)?;
    }
    if others.is_empty() {
        starting.haproxy(backend)?;
        starting.nginx(backend)?;
    }
    Ok(starting.subjects)
}

struct Starting<'a> {
    directory: &'a Path,
    subjects: Vec<Subject>,
}

impl Starting<'_> {
    fn ringway(&mut self, name: &str, binary: &Path, backend: [u16; 4]) -> Result<(), String> {
        let ports = free_ports()?;
        self.add(name, binary, ringway(ports, backend), &["-f"], ports)
    }

    fn haproxy(&mut self, backend: [u16; 4]) -> Result<(), String> {
        let Some(binary) = find("haproxy") else {
            eprintln!("no HAProxy here: scripts/install-peers.sh");
            return Ok(());
        };
        for (name, tuned) in [("haproxy", false), ("haproxy tuned", true)] {
            let ports = free_ports()?;
            self.add(name, &binary, haproxy(ports, backend, tuned), &["-db", "-f"], ports)?;
        }
        Ok(())
    }

    fn nginx(&mut self, backend: [u16; 4]) -> Result<(), String> {
        let Some(binary) = find("nginx").filter(|_| Path::new(NGINX_STREAM).exists()) else {
            eprintln!("no nginx with its stream module here: scripts/install-peers.sh");
            return Ok(());
        };
        for (name, tuning) in [("nginx", ""), ("nginx tuned", "proxy_buffer_size 512k;")] {
            let ports = free_ports()?;
            let configuration = nginx(self.directory, ports, backend, tuning);
            self.add(name, &binary, configuration, &["-e", "stderr", "-c"], ports)?;
        }
        Ok(())
    }

    fn add(
        &mut self,
        name: &str,
        program: &Path,
        configuration: String,
        flags: &[&str],
        ports: [u16; 4],
    ) -> Result<(), String> {
        let (file, log) =
            (self.directory.join(format!("{name}.conf")), self.directory.join(format!("{name}.log")));
        std::fs::write(&file, configuration).map_err(|error| error.to_string())?;
        let mut arguments: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        arguments.push(file.display().to_string());
        let process = Process::start(&BALANCER_CORE.to_string(), program, &arguments, &log)?;
        let subject =
            Subject { name: name.to_owned(), version: version(program), ports, process: Some(process) };
        subject
            .wait_until_it_serves()
            .map_err(|error| format!("{error}\n{}", std::fs::read_to_string(&log).unwrap_or_default()))?;
        self.subjects.push(subject);
        Ok(())
    }
}

/// The binary cargo built for this run, or the one the caller names.
fn ringway_binary() -> Result<PathBuf, String> {
    let named = std::env::var("RINGWAY").ok().or(option_env!("CARGO_BIN_EXE_ringway").map(str::to_owned));
    named.map(PathBuf::from).ok_or_else(|| "RINGWAY must name the binary".to_owned())
}

fn find(program: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"]
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
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
}

/// Of the backend.
fn addresses() -> impl Iterator<Item = Ipv4Addr> {
    (1..=ADDRESSES).map(|last| Ipv4Addr::new(127, 0, 0, last))
}

fn ringway(ports: [u16; 4], backend: [u16; 4]) -> String {
    let mut text = format!(
        "runtime: {{cores: \"{BALANCER_CORE}-{BALANCER_CORE}\"}}\nlogging: {{level: warn}}\n\
         admin: {{listen_address: off, socket: off}}\nlisteners:\n"
    );
    for (name, port) in SERVICES.iter().zip(ports) {
        text += &format!("  - {{name: {name}, address: \"127.0.0.1:{port}\", upstream: {name}}}\n");
    }
    text += "upstreams:\n";
    for (name, port) in SERVICES.iter().zip(backend) {
        text += &format!("  - name: {name}\n    healthcheck: off\n    backends:\n");
        for address in addresses() {
            text += &format!("      - {{address: {address}, port: {port}}}\n");
        }
    }
    text
}

fn haproxy(ports: [u16; 4], backend: [u16; 4], tuned: bool) -> String {
    let mut text = "global\n  nbthread 1\n  maxconn 6000\n".to_owned();
    if tuned {
        text += "  tune.pipesize 1048576\n  tune.bufsize 65536\n";
    }
    text += "defaults\n  mode tcp\n  maxconn 6000\n  backlog 4096\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n";
    if tuned {
        text += "  option splice-request\n  option splice-response\n";
    }
    for ((name, port), backend) in SERVICES.iter().zip(ports).zip(backend) {
        text += &format!("listen {name}\n  bind 127.0.0.1:{port}\n");
        for address in addresses() {
            text += &format!("  server {address} {address}:{backend}\n");
        }
    }
    text
}

/// One process instead of a master with one worker: its loop is the worker's, and all CPU time is its own. It
/// must pass a half-close on as the others do, or the end of a bulk stream is lost.
fn nginx(directory: &Path, ports: [u16; 4], backend: [u16; 4], tuning: &str) -> String {
    let mut text = format!(
        "load_module {NGINX_STREAM};\nuser root;\ndaemon off;\nmaster_process off;\nworker_processes 1;\n\
         pid {}/nginx-{}.pid;\nerror_log stderr crit;\nevents {{ worker_connections 16384; }}\n\
         stream {{\n  access_log off;\n  proxy_timeout 1h;\n  proxy_half_close on;\n  {tuning}\n",
        directory.display(),
        ports[0]
    );
    for ((name, port), backend) in SERVICES.iter().zip(ports).zip(backend) {
        text += &format!("  upstream {name} {{\n");
        for address in addresses() {
            text += &format!("    server {address}:{backend};\n");
        }
        text += &format!("  }}\n  server {{ listen 127.0.0.1:{port} backlog=4096; proxy_pass {name}; }}\n");
    }
    text + "}\n"
}
