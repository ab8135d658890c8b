//! Configurations for the tests of the planes.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::*;

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

/// A configuration with one upstream for each list of addresses, and nothing that is not asked for.
pub(crate) fn config(upstreams: &[(Option<HealthCheck>, Option<Duration>, &[BackendAddress])]) -> Config {
    let backend = |number| format!("{{name: backend{number}, address: 127.0.0.1, port: {}}}", 1 + number);
    let upstream = |(number, (_, _, addresses)): (usize, &(_, _, &[_]))| {
        let backends: Vec<_> = (0..addresses.len()).map(backend).collect();
        let settings = "healthcheck: off, outlier: off, panic_threshold: off, retry_budget: off";
        format!("{{name: upstream{number}, {settings}, backends: [{}]}}", backends.join(", "))
    };
    let all: Vec<_> = upstreams.iter().enumerate().map(upstream).collect();
    let yaml = format!(
        "listeners: [{{name: listener, address: '127.0.0.9:9', upstream: upstream0}}]\nupstreams: [{}]\n",
        all.join(", ")
    );
    let mut config = parse("test.yaml", yaml.as_bytes()).expect("a sound file").config;
    for (upstream, (healthcheck, resolve, addresses)) in config.upstreams.iter_mut().zip(upstreams) {
        (upstream.healthcheck, upstream.resolve) = (healthcheck.clone(), *resolve);
        for (backend, address) in upstream.backends.iter_mut().zip(*addresses) {
            backend.address = address.clone();
        }
    }
    config
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
