//! What a configuration needs and this machine lacks. This is checked before anything is started or bound, so
//! that `check` can report it, too.
//!
//! Not checked: whether an address is free, because a running instance may hold it; and names and backends,
//! which depend on other machines.

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::base::{Plain, PortRange, counted};
use crate::config::{BackendAddress, Config, ListenAddress, Listener, LogTarget, SourcePorts, Upstream};
use crate::control::circles_here;
use crate::net;
use crate::uring;

use super::error::StartError;
use super::{budget, cores};

/// What only a start can find out.
pub const NOT_LOOKED_AT: &str = "not looked at: whether the addresses are free, what names resolve to, \
                                 whether backends answer, and limits of the service where they differ from \
                                 the limits here";

/// Returns why a start on this machine would fail, as far as that can be known in advance, and what it would
/// warn of.
#[must_use]
pub fn lacks(config: &Config) -> Vec<String> {
    let mut lacks = Vec::new();
    match cores::choose(&config.runtime.cores) {
        Ok(cores) => {
            let ring = uring::probe(cores.len(), config.runtime.relay.buffers_per_core);
            lacks.extend(ring.err().map(|missing| missing.to_string()));
            lacks.extend(too_few_descriptors(config, cores.len()));
            let ports = takes_local_ports(config, net::local_ports(), cores.len());
            lacks.extend(ports.err().map(|error| error.to_string()));
            lacks.extend(doubts(config, cores.len()));
        }
        Err(error) => lacks.push(error.to_string()),
    }
    lacks.extend(circles_here(config));
    lacks.extend(takes_options(config).err().map(|error| error.to_string()));
    lacks.extend(config.listeners.iter().filter_map(cannot_listen));
    if let LogTarget::File(path) = &config.logging.target {
        lacks.extend(cannot_write(path).map(|why| format!("logging.target: {why}")));
    }
    let sources =
        config.upstreams.iter().flat_map(|upstream| upstream.source.iter().map(move |ip| (upstream, *ip)));
    lacks.extend(sources.filter(|(_, ip)| !is_here(*ip)).map(|(upstream, ip)| {
        format!(
            "upstream {}: source {ip} is not an address of this machine; `ip address` lists them",
            upstream.name
        )
    }));
    let zones = config.upstreams.iter().flat_map(|upstream| &upstream.backends).filter_map(|backend| {
        let BackendAddress::Zoned(address) = &backend.address else { return None };
        no_interface(&address.zone).map(|why| format!("backend {}: {why}", backend.name))
    });
    lacks.extend(zones);
    let outgoing = outgoing_ports();
    lacks.extend(config.listeners.iter().filter_map(|listener| in_the_way(listener, &outgoing)));
    lacks
}

/// Tries the options of backend sockets that a kernel may refuse.
///
/// # Errors
///
/// What it refuses.
pub(super) fn takes_options(config: &Config) -> Result<(), StartError> {
    for upstream in &config.upstreams {
        net::try_options(&upstream.tcp)
            .map_err(|error| StartError::Options { name: upstream.name.clone(), error })?;
    }
    Ok(())
}

/// Tries whether each shard can have its part of the local ports, if an upstream wants that.
///
/// # Errors
///
/// That the kernel does not know such parts, or has too few ports.
pub(super) fn takes_local_ports(
    config: &Config,
    ports: Option<PortRange>,
    shards: usize,
) -> Result<(), StartError> {
    let per_core = |upstream: &&Upstream| upstream.source_ports == SourcePorts::PerCore;
    let Some(upstream) = config.upstreams.iter().find(per_core) else { return Ok(()) };
    net::try_local_ports(ports, shards)
        .map_err(|error| StartError::Options { name: upstream.name.clone(), error })
}

/// Returns warnings where the system has `fast_open` switched off. In the sysctl, bit 0 stands for connects and bit 1 for
/// listeners (ip-sysctl).
fn fast_open_doubts(config: &Config) -> Vec<String> {
    let Some(sysctl) = number("/proc/sys/net/ipv4/tcp_fastopen") else { return Vec::new() };
    let listeners =
        config.listeners.iter().filter(|listener| listener.tcp.options.fast_open && sysctl & 2 == 0);
    let upstreams = config.upstreams.iter().filter(|upstream| upstream.tcp.fast_open && sysctl & 1 == 0);
    let doubt = |object: &str, name: &str, value: u64| {
        format!(
            "{object} {name}: `fast_open` has no effect while the sysctl net.ipv4.tcp_fastopen is {sysctl}; set it to {value}"
        )
    };
    let of_listeners = listeners.map(|listener| doubt("listener", &listener.name, sysctl | 2));
    of_listeners.chain(upstreams.map(|upstream| doubt("upstream", &upstream.name, sysctl | 1))).collect()
}

/// Returns what does not prevent the process from running, but is worth a warning at the start.
pub(super) fn doubts(config: &Config, shards: usize) -> Vec<String> {
    let mut doubts: Vec<String> =
        cpu_quota().and_then(|quota| quota_doubt(quota, shards)).into_iter().collect();
    doubts.extend(fast_open_doubts(config));
    // The kernel silently truncates a backlog, listen(2).
    let Some(most) = number("/proc/sys/net/core/somaxconn") else { return doubts };
    for listener in config.listeners.iter().filter(|listener| u64::from(listener.backlog) > most) {
        doubts.push(format!(
            "listener {}: backlog {} is reduced to {most} by the sysctl net.core.somaxconn",
            listener.name, listener.backlog
        ));
    }
    doubts
}

/// Returns the warning that `quota` CPUs are too few for this many shards.
fn quota_doubt(quota: f64, shards: usize) -> Option<String> {
    let fitting = (quota as usize).max(1);
    let fewer = if fitting < shards { format!("set runtime.cores to {fitting}, or ") } else { String::new() };
    (quota < shards as f64).then(|| {
        format!(
            "the CPU quota of this container or service is {quota:.1} CPUs for {}: all threads wait once it \
             is used up; {fewer}raise the quota",
            counted(shards as u64, "core")
        )
    })
}

fn too_few_descriptors(config: &Config, shards: usize) -> Option<String> {
    let pipes = budget::pipes(&config.runtime.relay, shards, net::pipe_quota());
    let limit = net::raise_descriptor_limit().ok()?;
    budget::sessions(config, shards, pipes, limit).err().map(|error| error.to_string())
}

fn cannot_listen(listener: &Listener) -> Option<String> {
    let why = match &listener.address {
        ListenAddress::Unix(path) => cannot_make_socket(path),
        ListenAddress::Zoned(address) => no_interface(&address.zone),
        ListenAddress::Tcp(address) if !listener.tcp.freebind && !is_here(address.ip()) => Some(format!(
            "{address} is not an address of this machine; `ip address` lists them; an address that is added \
             later needs `tcp.freebind: true`"
        )),
        ListenAddress::Any { port } => needs_rights(*port),
        ListenAddress::Tcp(address) => needs_rights(address.port()),
    };
    let interface = || listener.tcp.interface.as_ref().and_then(|name| no_interface(name));
    let options = || net::try_options(&listener.tcp.options).err().map(|error| Plain(&error).to_string());
    let why = why.or_else(interface).or_else(options);
    why.map(|why| format!("listener {}: {why}", listener.name))
}

/// Returns whether an address can be bound to. Link-local addresses need their interface, which the socket
/// address has.
fn is_here(ip: IpAddr) -> bool {
    let link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    link_local || UdpSocket::bind((ip, 0)).is_ok()
}

fn no_interface(name: &str) -> Option<String> {
    net::interface_index(name)
        .is_none()
        .then(|| format!("there is no interface {name} here; `ip link` lists them"))
}

fn needs_rights(port: u16) -> Option<String> {
    let first = number("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or(1024);
    (u64::from(port) < first && !net::may_bind_all_ports()).then(|| {
        format!(
            "this user may not listen on port {port}; use one of {first} or above, or give the binary \
             CAP_NET_BIND_SERVICE"
        )
    })
}

/// Returns why a file cannot be created, or written if it exists.
fn cannot_write(path: &Path) -> Option<String> {
    if path.is_dir() {
        return Some(format!("{} is a folder; name a file in it", path.display()));
    }
    if path.exists() { not_writable(path) } else { cannot_make_in(folder_of(path)) }
}

/// Returns why a Unix socket cannot be created; an existing socket at the path is removed first.
fn cannot_make_socket(path: &Path) -> Option<String> {
    let is_socket = |found: fs::Metadata| found.file_type().is_socket();
    if fs::symlink_metadata(path).is_ok_and(|found| !is_socket(found)) {
        return Some(format!(
            "{} exists and is not a socket; remove it, or choose another path",
            path.display()
        ));
    }
    cannot_make_in(folder_of(path))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn cannot_make_in(folder: &Path) -> Option<String> {
    if !folder.is_dir() {
        return Some(format!("the folder {} is not there; create it", folder.display()));
    }
    not_writable(folder)
}

fn not_writable(path: &Path) -> Option<String> {
    (!net::may_write(path)).then(|| format!("this user may not write to {}", path.display()))
}

/// Returns the ports that the kernel gives to outgoing connections, as ranges.
fn outgoing_ports() -> Vec<(u16, u16)> {
    let Some(PortRange { first, last }) = net::local_ports() else { return Vec::new() };
    let reserved = fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default();
    let mut free = vec![(first, last)];
    for part in reserved.trim().split(',').filter(|part| !part.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (Ok(from), Ok(to)) = (from.parse::<u16>(), to.parse::<u16>()) else { continue };
        free = free.into_iter().flat_map(|range| without(range, (from, to))).collect();
    }
    free
}

/// Returns what remains of a range.
fn without((first, last): (u16, u16), (from, to): (u16, u16)) -> Vec<(u16, u16)> {
    let before = from.checked_sub(1).map(|end| (first, last.min(end)));
    let after = to.checked_add(1).map(|begin| (first.max(begin), last));
    before.into_iter().chain(after).filter(|(first, last)| first <= last).collect()
}

/// Returns the warning that an outgoing connection may occupy the port when a listener needs it.
fn in_the_way(listener: &Listener, outgoing: &[(u16, u16)]) -> Option<String> {
    let port = listener.address.port()?;
    outgoing.iter().any(|(first, last)| (*first..=*last).contains(&port)).then(|| {
        format!(
            "listener {}: the kernel may give port {port} to an outgoing connection before the listener \
             needs it; add the port to the sysctl net.ipv4.ip_local_reserved_ports",
            listener.name
        )
    })
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Returns how many CPUs this process may use at a time, according to its control groups; `None` without a
/// bound.
fn cpu_quota() -> Option<f64> {
    quota_of(&fs::read_to_string("/proc/self/cgroup").ok()?, Path::new("/sys/fs/cgroup"))
}

/// Returns the smallest quota of the groups named in `membership` and of their parents, cgroups(7).
fn quota_of(membership: &str, mounted: &Path) -> Option<f64> {
    let mut smallest: Option<f64> = None;
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
        let roots: &[PathBuf] = match controllers {
            "" => &[mounted.to_owned(), mounted.join("unified")],
            some if some.split(',').any(|one| one == "cpu") => &[mounted.join("cpu"), mounted.join(some)],
            _ => continue,
        };
        for root in roots {
            for group in Path::new(group.trim_start_matches('/')).ancestors() {
                let folder = root.join(group);
                let quota = unified_quota(&folder).or_else(|| legacy_quota(&folder));
                smallest = smallest.into_iter().chain(quota).reduce(f64::min);
            }
        }
    }
    smallest
}

/// Reads `cpu.max`: quota and period in microseconds, or `max`.
fn unified_quota(folder: &Path) -> Option<f64> {
    let text = fs::read_to_string(folder.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    ratio(quota.parse().ok()?, period.parse().ok()?)
}

/// Reads the same in cgroup version 1; -1 means no quota.
fn legacy_quota(folder: &Path) -> Option<f64> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<i64>().ok();
    ratio(read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?)
}

fn ratio(quota: i64, period: i64) -> Option<f64> {
    (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_or_listened_at_is_said() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        fs::write(&file, "").expect("it is ours");
        assert_eq!(cannot_write(&file), None);
        assert_eq!(cannot_write(&folder.path().join("new")), None);
        assert!(cannot_write(folder.path()).is_some_and(|why| why.contains("is a folder")));
        assert!(cannot_write(&file.join("x")).is_some_and(|why| why.contains("is not there")));
        assert_eq!(cannot_make_socket(&folder.path().join("new")), None);
        assert!(cannot_make_socket(&file).is_some_and(|why| why.contains("not a socket")));
        let socket = folder.path().join("socket");
        drop(std::os::unix::net::UnixListener::bind(&socket).expect("it is ours"));
        assert_eq!(cannot_make_socket(&socket), None, "it is removed first");
    }

    fn config(listener: &str) -> Config {
        let text = format!("loadbalancer: {{listen_address: '{listener}'}}\nbackends: ['a:1']\n");
        crate::config::parse("f", text.as_bytes()).unwrap().config
    }

    #[test]
    fn quotas_of_both_versions_and_of_the_groups_around() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let quota = |membership| quota_of(membership, folder.path());
        assert_eq!(quota("0::/a/b\n"), None);
        write("a/b/cpu.max", "max 100000\n");
        assert_eq!(quota("0::/a/b\n"), None);
        write("a/cpu.max", "150000 100000\n");
        assert_eq!(quota("0::/a/b\n"), Some(1.5));
        write("cpu/c/cpu.cfs_quota_us", "20000\n");
        write("cpu/c/cpu.cfs_period_us", "100000\n");
        assert_eq!(quota("4:memory:/c\n3:cpu,cpuacct:/c\n0::/a\n"), Some(0.2));
        write("cpu/d/cpu.cfs_quota_us", "-1\n");
        write("cpu/d/cpu.cfs_period_us", "100000\n");
        assert_eq!(quota("3:cpu:/d\n"), None);
        assert_eq!(quota("nonsense\n"), None);
    }

    #[test]
    fn a_quota_below_the_cores_is_a_doubt() {
        assert_eq!(quota_doubt(2.0, 2), None);
        assert_eq!(quota_doubt(8.0, 2), None);
        let doubt = quota_doubt(2.5, 4).unwrap();
        assert!(doubt.contains("is 2.5 CPUs for 4 cores"), "{doubt}");
        assert!(doubt.ends_with("set runtime.cores to 2, or raise the quota"), "{doubt}");
        let doubt = quota_doubt(0.5, 1).unwrap();
        assert!(doubt.ends_with("used up; raise the quota"), "no fewer cores than one: {doubt}");
    }

    #[test]
    fn ranges_are_cut() {
        assert_eq!(without((10, 20), (12, 14)), [(10, 11), (15, 20)]);
        assert_eq!(without((10, 20), (5, 14)), [(15, 20)]);
        assert_eq!(without((10, 20), (10, 20)), []);
        assert_eq!(without((0, 65_535), (0, 65_535)), []);
        let listener = &config(":15").listeners[0];
        assert!(in_the_way(listener, &[(10, 14)]).is_none());
        assert!(in_the_way(listener, &[(10, 15)]).unwrap().contains("ip_local_reserved_ports"));
    }

    #[test]
    fn what_is_not_here_is_named() {
        for (listener, words) in [
            ("192.0.2.1:8080", "192.0.2.1:8080 is not an address of this machine"),
            ("[fe80::1%nosuch0]:8080", "no interface nosuch0"),
            ("unix:/nonexistent/x", "the folder /nonexistent is not there"),
        ] {
            let lacks = lacks(&config(listener));
            assert!(lacks.iter().any(|lack| lack.contains(words)), "{listener}: {lacks:?}");
        }
    }

    #[test]
    fn fewer_ports_than_cores_are_an_error_only_where_each_core_wants_some() {
        let eight = Some(PortRange { first: 61_000, last: 61_007 });
        let any = config(":15");
        takes_local_ports(&any, eight, 9).unwrap();
        let text = "loadbalancer: {listen_address: ':15'}\nsource_ports: per_core\nbackends: ['a:1']\n";
        let per_core = crate::config::parse("f", text.as_bytes()).unwrap().config;
        let error = takes_local_ports(&per_core, eight, 9).unwrap_err().to_string();
        assert_eq!(
            error,
            "upstream default: `source_ports: per_core` takes a local port for each core, and the sysctl \
             net.ipv4.ip_local_port_range has 8 ports (61000 to 61007) for 9 cores; widen it, or write `source_ports: any`"
        );
    }
}
