//! Configurations for the tests of the planes.

use std::path::PathBuf;
use std::time::Duration;

use crate::rules::balance;
use crate::rules::config::*;

/// Intervals that tell in the log of a paused clock which one applied.
pub(crate) const CHECK: HealthCheck = HealthCheck {
    kind: CheckKind::Tcp,
    interval: Duration::from_secs(30),
    fast_interval: Duration::from_secs(2),
    timeout: Duration::from_secs(5),
    rise: 2,
    fall: 3,
    jitter: 0.0,
    port: None,
};

/// A configuration with one upstream for each list of addresses.
pub(crate) fn config(upstreams: &[(Option<HealthCheck>, Option<Duration>, &[BackendAddress])]) -> Config {
    let tcp = TcpOptions { nodelay: true, keepalive: None, user_timeout: None };
    let second = Duration::from_secs(1);
    let upstreams =
        upstreams.iter().enumerate().map(|(number, (healthcheck, resolve, addresses))| Upstream {
            name: format!("upstream{number}"),
            algorithm: balance::find("round_robin").expect("registered"),
            backends: (addresses.iter().enumerate())
                .map(|(number, address)| Backend {
                    name: format!("backend{number}"),
                    address: address.clone(),
                    weight: 1,
                    max_connections: None,
                    backup: false,
                })
                .collect(),
            hash_key: HashKey::Source,
            healthcheck: healthcheck.clone(),
            outlier: None,
            panic_threshold: None,
            slow_start: None,
            on_down: OpenSessions::Keep,
            on_up: OpenSessions::Keep,
            retries: 2,
            retry_budget: None,
            queue: QueueRules { max: 0, timeout: second },
            pool: PoolRules {
                size: 0,
                max_idle: None,
                reuse: Reuse::Off,
                clients: Clients::Untrusted,
                reset: None,
            },
            source: Vec::new(),
            resolve: *resolve,
            timeouts: UpstreamTimeouts { connect: second, establish: None, backend_idle: None },
            tcp: tcp.clone(),
        });
    Config {
        runtime: Runtime {
            cores: Cores::Auto,
            max_connections: None,
            shutdown_delay: None,
            shutdown_timeout: None,
            relay: Relay {
                buffer_bytes: 16 << 10,
                buffers_per_core: 64,
                splice: false,
                pipe_bytes: 1 << 20,
                pipes_per_core: None,
            },
        },
        logging: Logging {
            level: log::LevelFilter::Info,
            format: LogFormat::Text,
            target: LogTarget::Stderr,
        },
        listeners: Vec::new(),
        upstreams: upstreams.collect(),
    }
}

/// A literal address on this machine.
pub(crate) fn ip(port: u16) -> BackendAddress {
    BackendAddress::Ip(([127, 0, 0, 1], port).into())
}

/// A host name.
pub(crate) fn host(name: &str, port: u16) -> BackendAddress {
    BackendAddress::Host { name: name.to_owned(), port }
}

/// A socket file.
pub(crate) fn unix(path: &str) -> BackendAddress {
    BackendAddress::Unix(PathBuf::from(path))
}
