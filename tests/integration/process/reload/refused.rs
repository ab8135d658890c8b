//! Reloads that are refused, of processes: for each there is one clear answer, nothing is changed, and the next good
//! one works.

use std::net::TcpListener;
use std::path::Path;

use serde_json::Value;

use super::{CALM, entries, listener, named, upstream, visit};
use crate::support::{
    Asked, Backend, Client, Reserved, V4, backend, eventually, holds_within, is_root, process, skip,
};

/// A process, its file at the start, and a session that must outlive everything.
struct Running {
    asked: Asked,
    yaml: String,
    open: Client,
    /// Reloads that were refused.
    failures: u64,
    _backend: Backend,
}

impl Running {
    fn start() -> Self {
        let backend = backend().echo().start();
        let asked = Asked::start(process().backends([&backend]));
        let (yaml, open) = (asked.process.yaml().to_owned(), asked.process.echoing_client());
        Self { asked, yaml, open, failures: 0, _backend: backend }
    }

    fn file(&self) -> std::path::PathBuf {
        self.asked.process.file()
    }

    fn write(&self, yaml: &str) {
        std::fs::write(self.file(), yaml).unwrap();
    }

    fn reload(&self) -> (u16, Value) {
        let reply = self.asked.socket.ask("POST", "/v1/reload", &[], "");
        (reply.status, reply.json())
    }

    fn status(&self) -> Value {
        self.asked.socket.get("/v1/status").json()
    }

    /// Asks for a reload, which is refused, and returns the reason.
    #[track_caller]
    fn is_refused(&mut self) -> String {
        let before = self.status();
        let config = self.asked.socket.get("/v1/config").body;
        let (status, reply) = self.reload();
        assert_eq!(status, 422, "{reply}");
        self.failures += 1;
        let after = self.status();
        assert_eq!(after["generation"], before["generation"]);
        assert_eq!(self.asked.socket.get("/v1/config").body, config);
        assert_eq!(after["reloads"]["failure"], self.failures);
        assert_eq!(after["reloads"]["last_successful"], false);
        let metrics = self.asked.socket.get("/metrics").body;
        let value = |series: &str| {
            let line = metrics.lines().find_map(|line| line.strip_prefix(series));
            line.unwrap_or_else(|| panic!("{series}: {metrics}")).trim().parse::<f64>().unwrap()
        };
        assert_eq!(value("ringway_config_reloads_total{result=\"failure\"}"), self.failures as f64);
        assert_eq!(value("ringway_config_last_reload_successful "), 0.0);
        let errors = reply["errors"].as_array().unwrap_or_else(|| panic!("{reply}"));
        assert!(!errors.is_empty(), "{reply}");
        let errors: Vec<_> = errors.iter().map(|error| error.as_str().unwrap()).collect();
        let all = errors.join("\n");
        eventually("the log says so", || {
            let log = self.asked.process.log();
            log.contains("reload refused, and nothing is changed: ")
        });
        let said =
            |error: &std::io::Error| format!("{error}: {}\n{}", self.status(), self.asked.process.log());
        self.open.echo(b"still here").unwrap_or_else(|error| panic!("the open one: {}", said(&error)));
        let client = self.asked.process.client();
        client.echo(b"hello").unwrap_or_else(|error| panic!("a new one: {}", said(&error)));
        client.finish().unwrap_or_else(|error| panic!("its end: {}", said(&error)));
        all
    }

    /// The next good file works, and so does the first one again.
    #[track_caller]
    fn next_one_works(&self) {
        for yaml in [self.yaml.replacen("name: u\n", "name: u\n    retries: 7\n", 1), self.yaml.clone()] {
            self.write(&yaml);
            let (status, reply) = self.reload();
            assert_eq!((status, reply["changes"].as_array().map(Vec::len)), (200, Some(1)), "{reply}");
            assert_eq!(self.status()["reloads"]["last_successful"], true);
        }
        self.open.echo(b"still here").unwrap();
        self.asked.process.echoing_client().finish().unwrap();
    }
}

#[test]
fn syntax_empty_deleted_and_directory_are_refused() {
    let mut running = Running::start();
    let path = running.file();
    let named = |error: &str, path: &Path| assert!(error.contains(path.to_str().unwrap()), "{error}");
    for yaml in [
        "listeners: [",
        "",
        "\n",
        "a: b\n",
        &running.yaml.replace("upstream: u", "upstream: nobody"),
        &running.yaml.replace("backends:", "backend:"),
    ] {
        running.write(yaml);
        let error = running.is_refused();
        named(&error, &path);
        running.next_one_works();
    }
    std::fs::remove_file(&path).unwrap();
    named(&running.is_refused(), &path);
    std::fs::create_dir(&path).unwrap();
    named(&running.is_refused(), &path);
    std::fs::remove_dir(&path).unwrap();
    std::fs::write(&path, [0xff, 0xfe, 0]).unwrap();
    named(&running.is_refused(), &path);
    running.next_one_works();
}

#[test]
fn busy_port_is_refused_with_its_address_and_no_other_change_is_made() {
    let mut running = Running::start();
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let free = Reserved::at(V4);
    let more = format!(
        "listeners:\n  - {{{}}}\n  - {{{}}}\n",
        listener("free", free.address(), "u"),
        listener("busy", busy.local_addr().unwrap(), "u")
    );
    let yaml = running.yaml.replacen("listeners:\n", &more, 1);
    running.write(&yaml);
    let error = running.is_refused();
    assert!(error.contains(&busy.local_addr().unwrap().to_string()), "{error}");
    eventually("the other one is closed again", || Client::connect(free.address()).is_err());
    drop(busy);
    let (status, reply) = running.reload();
    assert_eq!((status, reply["changes"].as_array().map(Vec::len)), (200, Some(2)), "{reply}");
    Client::connect(free.address()).unwrap().echo(b"served").unwrap();
    running.write(&running.yaml);
    assert_eq!(running.reload().0, 200);
    running.next_one_works();
}

#[test]
fn address_of_nobody_and_unix_socket_in_no_folder_are_refused() {
    let mut running = Running::start();
    for address in ["203.0.113.7:8080", "unix:/nowhere/at/all.sock"] {
        let more = format!("listeners:\n  - {{{}}}\n", listener("x", address, "u"));
        running.write(&running.yaml.replacen("listeners:\n", &more, 1));
        let error = running.is_refused();
        assert!(error.contains(address), "{error}");
        running.next_one_works();
    }
}

#[test]
fn what_a_running_process_cannot_change_is_refused_by_name() {
    let mut running = Running::start();
    let socket = running.yaml.split("socket: '").nth(1).unwrap().split('\'').next().unwrap().to_owned();
    for (key, from, to) in [
        ("runtime.cores", "cores: 1", "cores: 0-0,1"),
        ("runtime.relay.buffer_size", "cores: 1", "cores: 1\n  relay: {buffer_size: 32KiB}"),
        ("runtime.relay.buffers_per_core", "cores: 1", "cores: 1\n  relay: {buffers_per_core: 64}"),
        ("runtime.relay.splice", "cores: 1", "cores: 1\n  relay: {splice: off}"),
        ("logging.access_log", "admin:", "logging: {access_log: stderr}\nadmin:"),
        ("admin.socket", &*socket, "/tmp/ringway-elsewhere.sock"),
    ] {
        running.write(&running.yaml.replacen(from, to, 1));
        let error = running.is_refused();
        assert!(error.contains(key) && error.contains("restart"), "{key}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    running.next_one_works();
}

#[test]
fn too_few_descriptors_are_refused_and_enough_are_not() {
    let mut running = Running::start();
    let yaml = running.yaml.clone();
    let many = yaml.replacen("cores: 1", "cores: 1\n  max_connections: 1000000000", 1);
    running.write(&many);
    let error = running.is_refused();
    assert!(error.contains("max_connections"), "{error}");
    running.next_one_works();
    // Nothing is left for the sockets of a new listener.
    let free = Reserved::at(V4);
    let more = format!("listeners:\n  - {{{}}}\n", listener("free", free.address(), "u"));
    running.write(&yaml.replacen("listeners:\n", &more, 1));
    let id = running.asked.process.id().to_string();
    // The hard limit too: a reload raises the soft one to it.
    let limited = std::process::Command::new("prlimit").args(["--pid", &id, "--nofile=50:50"]).status();
    assert!(limited.unwrap().success());
    let error = running.is_refused();
    assert!(error.contains("descriptors") && error.contains("50"), "{error}");
    // What needs none is no failure.
    running.write(&yaml);
    assert_eq!(running.reload().0, 200);
}

#[test]
fn a_low_port_is_refused_to_an_ordinary_user() {
    if !is_root() {
        return skip("a_low_port_is_refused_to_an_ordinary_user", "only root can become another user");
    }
    let first: u16 = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .map_or(1024, |text| text.trim().parse().unwrap());
    if first <= 999 {
        return;
    }
    let backends = named(b"a");
    let port = Reserved::at(V4);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ringway.yaml");
    let yaml = |more: &[String]| {
        let listeners = [&[listener("l", port.address(), "u")], more].concat();
        super::file("cores: 1", &listeners, &[upstream("u", CALM, &entries(&backends))])
    };
    std::fs::write(&path, yaml(&[])).unwrap();
    let open = |path: &Path, mode: u32| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(path, mode).unwrap();
    };
    open(folder.path(), 0o755);
    open(&path, 0o644);
    let binary = folder.path().join("ringway");
    std::fs::copy(env!("CARGO_BIN_EXE_ringway"), &binary).unwrap();
    open(&binary, 0o755);
    let log = folder.path().join("log");
    let mut command = std::process::Command::new(&binary);
    std::os::unix::process::CommandExt::uid(&mut command, 65534);
    command.arg("-f").arg(&path).env_remove("RUST_LOG");
    let mut child = command.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
    let log = || std::fs::read_to_string(&log).unwrap();
    let serves = holds_within(crate::support::PATIENCE, || Client::connect(port.address()).is_ok());
    let (_, client) = if serves { visit(port.address()) } else { panic!("{}", log()) };
    std::fs::write(&path, yaml(&[listener("low", "127.0.0.1:999", "u")])).unwrap();
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-HUP", &id]).status().unwrap().success());
    let refused = holds_within(crate::support::PATIENCE, || log().contains("reload refused"));
    let echoed = client.echo(b"still here");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(refused && log().contains("127.0.0.1:999"), "{}", log());
    echoed.unwrap();
}

#[test]
fn check_and_reload_agree() {
    let mut running = Running::start();
    let path = running.file();
    for yaml in ["listeners: {}", "backends: []", &running.yaml.replace("address: \"127", "address: \"927")] {
        running.write(yaml);
        let by_reload = running.is_refused();
        let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_ringway"));
        let output = crate::support::run_to_end(check.arg("check").arg("-f").arg(&path));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let by_check = String::from_utf8(output.stderr).unwrap() + &String::from_utf8(output.stdout).unwrap();
        let first = by_reload.lines().next().unwrap();
        assert!(by_check.contains(first), "{first}\n---\n{by_check}");
    }
    running.next_one_works();
}
