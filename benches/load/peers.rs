//! The subjects of a comparison: nobody in between, Ringway, and the peers that are installed, each with its
//! best settings for one core. All of them run for the whole comparison, pinned to the same core; only one
//! of them has work at a time.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::process::Process;
use crate::tls::{Certificate, Client};
use crate::topology::{ADDRESSES, BALANCER_CORE};
use crate::wire::Wire;

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

/// The subjects that end TLS.
pub(crate) struct WithTls {
    pub(crate) subjects: Vec<Subject>,
    /// What they show to clients.
    pub(crate) certificate: PathBuf,
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
    let subjects = vec![Subject::direct(backend)];
    let mut starting = Starting { directory, backend, tls: None, subjects };
    starting.all(others)?;
    Ok(starting.subjects)
}

/// The same, but for nobody, with TLS on the side of the clients.
pub(crate) fn start_all_with_tls(
    directory: &Path,
    backend: [u16; 4],
    others: &[(String, PathBuf)],
) -> Result<WithTls, String> {
    let directory = directory.join("tls");
    std::fs::create_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let certificate = Certificate::make(&directory)?;
    let client = Client::new(&certificate.certificate, false)?;
    let tls = Some((&certificate, &client));
    let mut starting = Starting { directory: &directory, backend, tls, subjects: vec![] };
    starting.all(others)?;
    Ok(WithTls { subjects: starting.subjects, certificate: certificate.certificate })
}

struct Starting<'a> {
    directory: &'a Path,
    backend: [u16; 4],
    /// What the subjects show, and who looks at it.
    tls: Option<(&'a Certificate, &'a Client)>,
    subjects: Vec<Subject>,
}

impl Starting<'_> {
    fn all(&mut self, others: &[(String, PathBuf)]) -> Result<(), String> {
        self.ringway("ringway", &ringway_binary()?)?;
        for (name, binary) in others {
            self.ringway(name, binary)?;
        }
        if others.is_empty() {
            self.haproxy()?;
            self.nginx()?;
        }
        Ok(())
    }

    fn certificate(&self) -> Option<&Certificate> {
        self.tls.map(|(certificate, _)| certificate)
    }

    fn ringway(&mut self, name: &str, binary: &Path) -> Result<(), String> {
        let ports = free_ports()?;
        let configuration = ringway(ports, self.backend, self.certificate());
        match self.add(name, binary, configuration, &["-f"], ports) {
            // A build from before it could: the others can be compared still.
            Err(error) if self.tls.is_some() && error.contains(KNOWS_NO_TLS) => {
                eprintln!("{name} has no rows with TLS: its listeners know no key 'tls' yet");
                Ok(())
            }
            added => added,
        }
    }

    fn haproxy(&mut self) -> Result<(), String> {
        let Some(binary) = find("haproxy") else {
            eprintln!("no HAProxy here: scripts/install-peers.sh");
            return Ok(());
        };
        for (name, tuned) in [("haproxy", false), ("haproxy tuned", true)] {
            let ports = free_ports()?;
            let configuration = haproxy(ports, self.backend, tuned, self.certificate());
            self.add(name, &binary, configuration, &["-db", "-f"], ports)?;
        }
        Ok(())
    }

    fn nginx(&mut self) -> Result<(), String> {
        let Some(binary) = find("nginx").filter(|_| Path::new(NGINX_STREAM).exists()) else {
            eprintln!("no nginx with its stream module here: scripts/install-peers.sh");
            return Ok(());
        };
        for (name, tuned) in [("nginx", false), ("nginx tuned", true)] {
            let ports = free_ports()?;
            let configuration = nginx(self.directory, ports, self.backend, tuned, self.certificate());
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
            .wait_until_it_serves(self.tls.map(|(_, client)| client))
            .map_err(|error| format!("{error}\n{}", std::fs::read_to_string(&log).unwrap_or_default()))?;
        self.subjects.push(subject);
        Ok(())
    }
}

/// What a build says of the key that has none of it.
const KNOWS_NO_TLS: &str = "unknown key `tls`";

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

fn ringway(ports: [u16; 4], backend: [u16; 4], certificate: Option<&Certificate>) -> String {
    let mut text = format!(
        "runtime: {{cores: \"{BALANCER_CORE}-{BALANCER_CORE}\"}}\nlogging: {{level: warn}}\n\
         admin: {{listen_address: off, socket: off}}\nlisteners:\n"
    );
    let tls = certificate.map_or_else(String::new, |files| {
        let (certificate, key) = (files.certificate.display(), files.key.display());
        format!(", tls: {{certificates: [{{certificate: {certificate}, key: {key}}}]}}")
    });
    for (name, port) in SERVICES.iter().zip(ports) {
        text += &format!("  - {{name: {name}, address: \"127.0.0.1:{port}\", upstream: {name}{tls}}}\n");
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

/// Tuned, plain bytes are spliced, and those of TLS have buffers for four records. Tickets are on by default.
fn haproxy(ports: [u16; 4], backend: [u16; 4], tuned: bool, certificate: Option<&Certificate>) -> String {
    let mut text = "global\n  nbthread 1\n  maxconn 6000\n".to_owned();
    if tuned {
        text += "  tune.pipesize 1048576\n  tune.bufsize 65536\n";
    }
    text += "defaults\n  mode tcp\n  maxconn 6000\n  backlog 4096\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n";
    if tuned {
        text += "  option splice-request\n  option splice-response\n";
    }
    let tls = certificate
        .map_or_else(String::new, |files| format!(" ssl crt {} ssl-min-ver TLSv1.2", files.both.display()));
    for ((name, port), backend) in SERVICES.iter().zip(ports).zip(backend) {
        text += &format!("listen {name}\n  bind 127.0.0.1:{port}{tls}\n");
        for address in addresses() {
            text += &format!("  server {address} {address}:{backend}\n");
        }
    }
    text
}

/// One process instead of a master with one worker: its loop is the worker's, and all CPU time is its own. It
/// must pass a half-close on as the others do, or the end of a bulk stream is lost.
fn nginx(
    directory: &Path,
    ports: [u16; 4],
    backend: [u16; 4],
    tuned: bool,
    certificate: Option<&Certificate>,
) -> String {
    let mut text = format!(
        "load_module {NGINX_STREAM};\nuser root;\ndaemon off;\nmaster_process off;\nworker_processes 1;\n\
         pid {}/nginx-{}.pid;\nerror_log stderr crit;\nevents {{ worker_connections 16384; }}\n\
         stream {{\n  access_log off;\n  proxy_timeout 1h;\n  proxy_half_close on;\n",
        directory.display(),
        ports[0]
    );
    if tuned {
        // Of plain bytes the more at once the better; those of TLS should not leave the cache.
        text +=
            if certificate.is_some() { "  proxy_buffer_size 64k;\n" } else { "  proxy_buffer_size 512k;\n" };
    }
    let tls = certificate.map_or("", |files| {
        text += &format!(
            "  ssl_certificate {};\n  ssl_certificate_key {};\n  ssl_protocols TLSv1.2 TLSv1.3;\n  \
             ssl_session_cache shared:tls:10m;\n  ssl_session_tickets on;\n",
            files.certificate.display(),
            files.key.display()
        );
        " ssl"
    });
    for ((name, port), backend) in SERVICES.iter().zip(ports).zip(backend) {
        text += &format!("  upstream {name} {{\n");
        for address in addresses() {
            text += &format!("    server {address}:{backend};\n");
        }
        text +=
            &format!("  }}\n  server {{ listen 127.0.0.1:{port}{tls} backlog=4096; proxy_pass {name}; }}\n");
    }
    text + "}\n"
}
