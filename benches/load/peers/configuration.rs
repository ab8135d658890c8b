//! What each subject is told: the same listeners and the same backends, nothing logged, nothing checked.

use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::{Value, json};

use crate::tls::Certificate;
use crate::topology::{ADDRESSES, Ports, SERVICES, balancer_cores};

/// nginx's stream module as Debian installs it.
pub(super) const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// What every balancer is asked to do.
pub(super) struct Task<'a> {
    /// So many threads, each on a core.
    pub(super) cores: usize,
    pub(super) ports: Ports,
    pub(super) backend: Ports,
    /// What it shows to its clients, which speak TLS then.
    pub(super) certificate: Option<&'a Certificate>,
    /// First bytes go with the SYN, from clients and to backends, as far as it can.
    pub(super) fast_open: bool,
}

/// Clients whose first bytes came with the SYN that a listener keeps: as many as Ringway's do.
const FAST_OPEN_QUEUE: u32 = 1_024;

/// Of the backend.
fn addresses() -> impl Iterator<Item = Ipv4Addr> {
    (1..=ADDRESSES).map(|last| Ipv4Addr::new(127, 0, 0, last))
}

/// Tuned, it leaves out the acknowledgements that data will carry. First bytes are in hand for a backend if it waits for
/// them.
pub(super) fn ringway(task: &Task<'_>, tuned: bool) -> String {
    let mut text = format!(
        "runtime: {{cores: \"{}\"}}\nlogging: {{level: warn}}\n\
         admin: {{listen_address: off, socket: off}}\nlisteners:\n",
        balancer_cores(task.cores)
    );
    let tcp = match (tuned, task.fast_open) {
        (false, false) => "",
        (true, false) => ", tcp: {quick_ack: off}",
        (false, true) => ", tcp: {fast_open: true}",
        (true, true) => ", tcp: {quick_ack: off, fast_open: true}",
    };
    let first = if tuned || task.fast_open { ", client_first: 5s" } else { "" };
    let tls = task.certificate.map_or_else(String::new, |files| {
        let (certificate, key) = (files.certificate.display(), files.key.display());
        format!(", tls: {{certificates: [{{certificate: {certificate}, key: {key}}}]}}")
    });
    for (name, port) in SERVICES.iter().zip(task.ports) {
        text += &format!(
            "  - {{name: {name}, address: \"127.0.0.1:{port}\", upstream: {name}{first}{tcp}{tls}}}\n"
        );
    }
    text += "upstreams:\n";
    for (name, port) in SERVICES.iter().zip(task.backend) {
        // A line for each backend: one is left out in the row with reloads.
        text += &format!("  - {{name: {name}, healthcheck: off{tcp}, backends: [\n");
        for address in addresses() {
            text += &format!("      {{address: {address}, port: {port}}},\n");
        }
        text += "    ]}\n";
    }
    text
}

/// How HAProxy moves bytes.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Splicing {
    /// As it comes: it copies.
    Off,
    /// Where its own rule says that it pays.
    Auto,
    /// Every byte.
    Forced,
}

/// Where it splices, it is set as an expert does: large pipes, buffers for four records of TLS, and no
/// acknowledgements that data or a request will carry. Tickets are on by default. First bytes go to a server with the SYN
/// only if a session may be tried again after it (`tfo` in its manual).
pub(super) fn haproxy(task: &Task<'_>, splicing: Splicing) -> String {
    // It does not start unless it may open two descriptors for each of them and for each pipe. A pipe is taken while bytes are
    // in it, so that those of 64 sessions in both directions are few; by default they would be a quarter of the sessions.
    let mut text = format!("global\n  nbthread {}\n  maxconn 9600\n", task.cores);
    if splicing != Splicing::Off {
        text += "  maxpipes 300\n  tune.pipesize 1048576\n  tune.bufsize 65536\n";
    }
    text += "defaults\n  mode tcp\n  maxconn 9600\n  backlog 4096\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n";
    if splicing != Splicing::Off {
        text += "  option tcp-smart-accept\n  option tcp-smart-connect\n";
    }
    text += match splicing {
        Splicing::Off => "",
        Splicing::Auto => "  option splice-auto\n",
        Splicing::Forced => "  option splice-request\n  option splice-response\n",
    };
    let tfo = if task.fast_open {
        text += "  retry-on conn-failure empty-response response-timeout\n";
        " tfo"
    } else {
        ""
    };
    let tls = task
        .certificate
        .map_or_else(String::new, |files| format!(" ssl crt {} ssl-min-ver TLSv1.2", files.both.display()));
    for ((name, port), backend) in SERVICES.iter().zip(task.ports).zip(task.backend) {
        text += &format!("listen {name}\n  bind 127.0.0.1:{port}{tfo}{tls}\n");
        for address in addresses() {
            text += &format!("  server {address} {address}:{backend}{tfo}\n");
        }
    }
    text
}

/// What of the last backend's addresses speaks, a line each, is left out.
pub(super) fn without_last_backend(configuration: &str) -> String {
    let last = format!("127.0.0.{ADDRESSES}");
    configuration.split_inclusive('\n').filter(|line| !line.contains(&last)).collect()
}

/// How nginx is set.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Nginx {
    /// As it comes, but as one process instead of a master with one worker: its loop is the worker's, and all CPU
    /// time is its own.
    Alone,
    /// The same, as an expert sets it.
    Tuned,
    /// A master, which can reload, and its worker.
    WithMaster,
}

/// It must pass a half-close on as the others do, or the end of a bulk stream is lost. Its backends get no first bytes with
/// the SYN: it cannot.
pub(super) fn nginx(directory: &Path, task: &Task<'_>, kind: Nginx) -> String {
    let multi_accept = if kind == Nginx::Tuned { " multi_accept on;" } else { "" };
    let master = if kind == Nginx::WithMaster { "on" } else { "off" };
    let mut text = format!(
        "load_module {NGINX_STREAM};\nuser root;\ndaemon off;\nmaster_process {master};\nworker_processes 1;\n\
         pid {}/nginx-{}.pid;\nerror_log stderr crit;\nevents {{ worker_connections 19500;{multi_accept} }}\n\
         stream {{\n  access_log off;\n  proxy_timeout 1h;\n  proxy_half_close on;\n",
        directory.display(),
        task.ports[0]
    );
    if kind == Nginx::Tuned {
        // Of plain bytes the more at once the better; those of TLS should not leave the cache.
        let bytes = if task.certificate.is_some() { "64k" } else { "512k" };
        text += &format!("  proxy_buffer_size {bytes};\n");
    }
    let tfo = if task.fast_open { format!(" fastopen={FAST_OPEN_QUEUE}") } else { String::new() };
    let tls = task.certificate.map_or("", |files| {
        text += &format!(
            "  ssl_certificate {};\n  ssl_certificate_key {};\n  ssl_protocols TLSv1.2 TLSv1.3;\n  \
             ssl_session_cache shared:tls:10m;\n  ssl_session_tickets on;\n",
            files.certificate.display(),
            files.key.display()
        );
        " ssl"
    });
    for ((name, port), backend) in SERVICES.iter().zip(task.ports).zip(task.backend) {
        text += &format!("  upstream {name} {{\n");
        for address in addresses() {
            text += &format!("    server {address}:{backend};\n");
        }
        text += &format!(
            "  }}\n  server {{ listen 127.0.0.1:{port}{tls} backlog=4096{tfo}; proxy_pass {name}; }}\n"
        );
    }
    text + "}\n"
}

/// The limits are raised above the sessions; everything else is as it comes. Its backends get no first bytes with the SYN.
pub(super) fn envoy(task: &Task<'_>) -> String {
    let listeners: Vec<Value> =
        SERVICES.iter().zip(task.ports).map(|(name, port)| envoy_listener(name, port, task)).collect();
    let clusters: Vec<Value> =
        SERVICES.iter().zip(task.backend).map(|(name, port)| envoy_cluster(name, port)).collect();
    json!({ "static_resources": { "listeners": listeners, "clusters": clusters } }).to_string()
}

fn envoy_listener(name: &str, port: u16, task: &Task<'_>) -> Value {
    let mut chain = json!({
        "filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": name,
                "cluster": name,
            },
        }],
    });
    if let Some(files) = task.certificate {
        let pair = json!({
            "certificate_chain": { "filename": files.certificate },
            "private_key": { "filename": files.key },
        });
        chain["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": { "tls_certificates": [pair] },
            },
        });
    }
    let mut listener = json!({
        "name": name,
        "address": envoy_address(Ipv4Addr::LOCALHOST, port),
        "tcp_backlog_size": 4096,
        "filter_chains": [chain],
    });
    if task.fast_open {
        listener["tcp_fast_open_queue_length"] = json!(FAST_OPEN_QUEUE);
    }
    listener
}

fn envoy_cluster(name: &str, port: u16) -> Value {
    let backends: Vec<Value> = addresses()
        .map(|address| json!({ "endpoint": { "address": envoy_address(address, port) } }))
        .collect();
    let limits = json!({ "max_connections": 16384, "max_pending_requests": 16384 });
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": { "thresholds": [limits] },
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": backends }] },
    })
}

fn envoy_address(address: Ipv4Addr, port: u16) -> Value {
    json!({ "socket_address": { "address": address, "port_value": port } })
}

/// The limits are raised above the sessions. Where it splices, it has large pipes, and counts no metrics.
pub(super) fn sozu(directory: &Path, task: &Task<'_>, splicing: bool) -> String {
    let mut text = format!(
        "command_socket = \"{}/sozu-{}.sock\"\nworker_count = 1\nworker_automatic_restart = false\n\
         log_level = \"error\"\nlog_target = \"stdout\"\nmax_connections = 9600\nmax_buffers = 19200\n\
         connect_timeout = 5\nfront_timeout = 3600\nback_timeout = 3600\n",
        directory.display(),
        task.ports[0]
    );
    if splicing {
        text += "splice_pipe_capacity_bytes = 1048576\ndisable_cluster_metrics = true\n";
    }
    for port in task.ports {
        text += &format!("[[listeners]]\nprotocol = \"tcp\"\naddress = \"127.0.0.1:{port}\"\n");
    }
    for ((name, port), backend) in SERVICES.iter().zip(task.ports).zip(task.backend) {
        text += &format!(
            "[clusters.{name}]\nprotocol = \"tcp\"\nfrontends = [{{ address = \"127.0.0.1:{port}\" }}]\n\
             backends = [\n"
        );
        for address in addresses() {
            text += &format!("  {{ address = \"{address}:{backend}\" }},\n");
        }
        text += "]\n";
    }
    text
}
