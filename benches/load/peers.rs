//! The subjects of a comparison: nobody in between, Ringway, and the peers that are installed, each with its
//! best settings for one core. All of them run for the whole comparison, pinned to the same core; only one
//! of them has work at a time.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::process::Process;

/// The services of the backend, in the order of every `ports` array here.
const SERVICES: [&str; 4] = ["echo", "sink", "source", "both"];

/// nginx's stream module as Debian installs it.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// The core of the balancer.
pub(crate) const BALANCER_CORE: usize = 0;

/// One row of the comparison.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    pub(crate) ports: [u16; 4],
    process: Option<Process>,
}

impl Subject {
    /// The backend itself.
    pub(crate) fn direct(ports: [u16; 4]) -> Subject {
        Subject { name: "direct", version: String::new(), ports, process: None }
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

/// Four free ports below the range that outgoing connections take theirs from.
pub(crate) fn free_ports(held: &mut Vec<TcpListener>) -> Result<[u16; 4], String> {
    let mut ports = [0; 4];
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

/// Starts all subjects that can be had; `directory` takes their configurations and logs.
pub(crate) fn start_all(directory: &Path, backend: [u16; 4]) -> Result<Vec<Subject>, String> {
    // Held until all are chosen, so that none is given twice.
    let mut held = Vec::new();
    let mut ports = Vec::new();
    for _ in 0..5 {
        ports.push(free_ports(&mut held)?);
    }
    drop(held);
    let mut subjects = vec![Subject::direct(backend)];
    let mut add =
        |name, program: &Path, configuration: String, flags: &[&str], ports| -> Result<(), String> {
            let file = directory.join(format!("{name}.conf"));
            std::fs::write(&file, configuration).map_err(|error| error.to_string())?;
            let mut arguments: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
            arguments.push(file.display().to_string());
            let log = directory.join(format!("{name}.log"));
            let process = Process::start(&BALANCER_CORE.to_string(), program, &arguments, &log)?;
            let subject = Subject { name, version: version(program), ports, process: Some(process) };
            subject
                .wait_until_it_serves()
                .map_err(|error| format!("{error}\n{}", std::fs::read_to_string(&log).unwrap_or_default()))?;
            subjects.push(subject);
            Ok(())
        };
    add("ringway", &ringway_binary()?, ringway(ports[0], backend), &["-f"], ports[0])?;
    match find("haproxy") {
        Some(haproxy_binary) => {
            add("haproxy", &haproxy_binary, haproxy(ports[1], backend, false), &["-db", "-f"], ports[1])?;
            add(
                "haproxy tuned",
                &haproxy_binary,
                haproxy(ports[2], backend, true),
                &["-db", "-f"],
                ports[2],
            )?;
        }
        None => eprintln!("no HAProxy here: scripts/install-peers.sh"),
    }
    match find("nginx").filter(|_| Path::new(NGINX_STREAM).exists()) {
        Some(nginx_binary) => {
            let (default, tuned) = (
                nginx(directory, ports[3], backend, ""),
                nginx(directory, ports[4], backend, "proxy_buffer_size 512k;"),
            );
            add("nginx", &nginx_binary, default, &["-e", "stderr", "-c"], ports[3])?;
            add("nginx tuned", &nginx_binary, tuned, &["-e", "stderr", "-c"], ports[4])?;
        }
        None => eprintln!("no nginx with its stream module here: scripts/install-peers.sh"),
    }
    Ok(subjects)
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
    let flag = if program.ends_with("ringway") { "--version" } else { "-v" };
    let Ok(output) = Command::new(program).arg(flag).output() else { return String::new() };
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
}

fn ringway(ports: [u16; 4], backend: [u16; 4]) -> String {
    let mut text = format!(
        "runtime: {{cores: \"{BALANCER_CORE}-{BALANCER_CORE}\"}}\nlogging: {{level: warn}}\nlisteners:\n"
    );
    for (name, port) in SERVICES.iter().zip(ports) {
        text += &format!("  - {{name: {name}, address: \"127.0.0.1:{port}\", upstream: {name}}}\n");
    }
    text += "upstreams:\n";
    for (name, port) in SERVICES.iter().zip(backend) {
        text += &format!("  - name: {name}\n    backends: [{{address: 127.0.0.1, port: {port}}}]\n");
        text += "    healthcheck: {type: off}\n";
    }
    text
}

fn haproxy(ports: [u16; 4], backend: [u16; 4], tuned: bool) -> String {
    let mut text = "global\n  nbthread 1\n  maxconn 6000\n".to_owned();
    if tuned {
        text += "  tune.pipesize 1048576\n  tune.bufsize 65536\n";
    }
    text += "defaults\n  mode tcp\n  maxconn 6000\n  backlog 4096\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n";
    text += "  option splice-request\n  option splice-response\n";
    for ((name, port), backend) in SERVICES.iter().zip(ports).zip(backend) {
        text += &format!("listen {name}\n  bind 127.0.0.1:{port}\n  server one 127.0.0.1:{backend}\n");
    }
    text
}

/// One process instead of a master with one worker: its loop is the worker's, and all CPU time is its own. It must
/// pass a half-close on as the others do, or the end of a bulk stream is lost.
fn nginx(directory: &Path, ports: [u16; 4], backend: [u16; 4], tuning: &str) -> String {
    let mut text = format!(
        "load_module {NGINX_STREAM};\nuser root;\ndaemon off;\nmaster_process off;\nworker_processes 1;\n\
         pid {}/nginx-{}.pid;\nerror_log stderr crit;\nevents {{ worker_connections 16384; }}\n\
         stream {{\n  access_log off;\n  proxy_timeout 1h;\n  proxy_half_close on;\n  {tuning}\n",
        directory.display(),
        ports[0]
    );
    for (port, backend) in ports.iter().zip(backend) {
        text += &format!(
            "  server {{ listen 127.0.0.1:{port} backlog=4096; proxy_pass 127.0.0.1:{backend}; }}\n"
        );
    }
    text + "}\n"
}
