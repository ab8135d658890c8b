//! Set-up: the binary, without something that it needs. Claim: it ends with exit status 1 and one sentence
//! that names the cause and the cure; nothing is half started.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::support::{
    Client, Reserved, V4, backend, balancer, eventually, forbid, process, run_to_end, write_config,
};

const RUN: &str = env!("CARGO_BIN_EXE_ringway");

/// Exit status 1, and these words in what it said; returns what it said.
#[track_caller]
fn assert_refused(output: &Output, words: &[&str]) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    let errors = said.lines().filter(|line| line.contains("ERROR")).count();
    assert_eq!(errors, 1, "one sentence: {said}");
    said
}

#[test]
fn core_outside_the_allowed_set_is_refused() {
    let port = Reserved::at(V4);
    let (_folder, config) = write_config("cores: \"8190-8191\"", port.address().port());
    let output = run_to_end(Command::new(RUN).arg("-f").arg(config));
    assert_refused(&output, &["runtime.cores", "CPU 8190", "taskset"]);
}

#[test]
fn more_cores_than_there_are_is_refused() {
    let port = Reserved::at(V4);
    let (_folder, config) = write_config("cores: 1000", port.address().port());
    let output = run_to_end(Command::new(RUN).arg("-f").arg(config));
    assert_refused(&output, &["runtime.cores", "1000", "auto"]);
}

#[test]
fn too_little_locked_memory_is_refused() {
    let port = Reserved::at(V4);
    let (_folder, config) = write_config("cores: 1", port.address().port());
    let line = "ulimit -l 64; exec \"$RINGWAY\" -f \"$CONFIG\"";
    let output = run_to_end(Command::new("sh").arg("-c").arg(line).env("CONFIG", config));
    assert_refused(&output, &["lock", "ulimit -l", "LimitMEMLOCK"]);
}

#[test]
fn too_few_descriptors_for_the_wanted_sessions_is_refused() {
    let port = Reserved::at(V4);
    let (_folder, config) = write_config("cores: 1, max_connections: 1000", port.address().port());
    let line = "ulimit -n 400; exec \"$RINGWAY\" -f \"$CONFIG\"";
    let output = run_to_end(Command::new("sh").arg("-c").arg(line).env("CONFIG", config));
    assert_refused(&output, &["1000 sessions", "400", "ulimit -n", "or set runtime.max_connections to"]);
}

/// `ulimit -n 16` leaves less than the process itself needs.
#[test]
fn too_few_descriptors_for_the_process_is_refused() {
    let port = Reserved::at(V4);
    let (_folder, config) = write_config("cores: 1", port.address().port());
    let line = "ulimit -n 16; exec \"$RINGWAY\" -f \"$CONFIG\"";
    let output = run_to_end(Command::new("sh").arg("-c").arg(line).env("CONFIG", config));
    assert_refused(&output, &["ulimit -n"]);
}

#[test]
fn port_in_use_is_refused() {
    // With SO_REUSEPORT, as a stale process of ours: the kernel itself would let two of them share the port.
    let port = Reserved::at(V4);
    let _stale = port.listen(16);
    let (_folder, config) = write_config("cores: 1", port.address().port());
    let output = run_to_end(Command::new(RUN).arg("-f").arg(config));
    assert_refused(
        &output,
        &["in use", &port.address().to_string(), &format!("ss -tanp 'sport = :{}'", port.address().port())],
    );
}

/// An operator at a terminal does not look into the log file first.
#[test]
fn refusal_is_on_standard_error_though_the_log_is_a_file() {
    let port = Reserved::at(V4);
    let _stale = port.listen(16);
    let (folder, config) = write_config("cores: 1", port.address().port());
    let log = folder.path().join("log");
    let yaml = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{yaml}logging: {{target: \"{}\"}}\n", log.display())).unwrap();
    let output = run_to_end(Command::new(RUN).arg("-f").arg(config));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("in use") && said.lines().count() == 1, "{said}");
    assert!(std::fs::read_to_string(&log).unwrap().contains("in use"), "and in the log");
}

#[test]
fn address_of_another_machine_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("ringway.yaml");
    // TEST-NET-1 of RFC 5737, for documentation.
    let yaml =
        "loadbalancer: {listen_address: \"192.0.2.1:8080\"}\nbackends: [{address: 127.0.0.1, port: 1}]\n";
    std::fs::write(&config, yaml).unwrap();
    let output = run_to_end(Command::new(RUN).arg("-f").arg(config));
    assert_refused(&output, &["192.0.2.1:8080", "not an address of this machine"]);
}

/// A configuration that listens on a Unix socket in this folder, and its path.
fn config_of_a_unix_socket(folder: &tempfile::TempDir) -> (PathBuf, PathBuf) {
    let (config, socket) = (folder.path().join("ringway.yaml"), folder.path().join("front"));
    let yaml = format!(
        "loadbalancer: {{listen_address: \"unix:{}\"}}\nbackends: [{{address: 127.0.0.1, port: 1}}]\n",
        socket.display()
    );
    std::fs::write(&config, yaml).unwrap();
    (config, socket)
}

#[test]
fn unix_socket_in_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (config, socket) = config_of_a_unix_socket(&folder);
    let _listener = UnixListener::bind(&socket).unwrap();
    let output = run_to_end(Command::new(RUN).arg("-f").arg(&config));
    assert_refused(&output, &["in use", "front"]);
}

#[test]
fn stale_unix_socket_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("front");
    drop(UnixListener::bind(&socket).unwrap());
    assert!(socket.exists(), "no process listens on it");
    let only = backend().echo().start();
    let balancer = balancer().on_unix(socket.clone()).backends([&only]).start();
    Client::connect_unix(&socket).unwrap().echo(b"hello").unwrap();
    drop(balancer);
}

/// As of a stopped process: it does not accept, and a connect that waits for room would wait for ever.
#[test]
fn unix_socket_with_a_full_backlog_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let (config, socket) = config_of_a_unix_socket(&folder);
    let listener = UnixListener::bind(&socket).unwrap();
    // listen(2) again shortens the backlog.
    socket2::SockRef::from(&listener).listen(0).unwrap();
    let _waiting = UnixStream::connect(&socket).unwrap();
    let output = run_to_end(Command::new(RUN).arg("-f").arg(&config));
    assert_refused(&output, &["in use", "front"]);
    assert!(socket.exists(), "it belongs to the other process");
}

#[test]
fn forbidden_io_uring_is_refused() {
    for (errno, words) in [(libc::EPERM, "kernel.io_uring_disabled"), (libc::ENOSYS, "Linux 6.1")] {
        let port = Reserved::at(V4);
        let (_folder, config) = write_config("cores: 1", port.address().port());
        let mut command = Command::new(RUN);
        command.arg("-f").arg(config);
        forbid(&mut command, libc::SYS_io_uring_setup, None, errno);
        let output = run_to_end(&mut command);
        assert_refused(&output, &["io_uring", words, "seccomp"]);
    }
}

#[test]
fn interface_that_is_not_there_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("ringway.yaml");
    let yaml = "loadbalancer: {listen_address: \"[fe80::1%nosuch0]:8080\"}\nbackends: [\"127.0.0.1:1\"]\n";
    std::fs::write(&config, yaml).unwrap();
    let output = run_to_end(Command::new(RUN).arg("-f").arg(config));
    assert_refused(&output, &["no interface nosuch0", "ip link"]);
}

/// No process listens, and `ss -ltnp` shows nothing: the port belongs to a connection that this machine has
/// opened.
#[test]
fn port_of_an_outgoing_connection_is_refused() {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let outgoing = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    let port = outgoing.local_addr().unwrap().port();
    let (_folder, config) = write_config("cores: 1", port);
    let output = run_to_end(Command::new(RUN).arg("-f").arg(config));
    assert_refused(&output, &["in use", "outgoing connection", "ip_local_reserved_ports"]);
}

#[test]
fn any_address_is_ipv4_where_there_is_no_ipv6() {
    let only = backend().echo().start();
    let entry = format!("name: named, address: localhost, port: {}", only.address().port());
    let process = process().on_any().without_ipv6().entry(&entry).start();
    let client = process.client();
    client.echo(b"hello").unwrap();
    client.finish().unwrap();
    eventually("it tells of its listener", || process.log().contains("listener l on :"));
}

#[test]
fn ipv6_address_is_refused_where_there_is_no_ipv6() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("ringway.yaml");
    std::fs::write(&config, "loadbalancer: {listen_address: '[::1]:8080'}\nbackends: ['127.0.0.1:1']\n")
        .unwrap();
    let mut command = Command::new(RUN);
    command.arg("-f").arg(config);
    forbid(&mut command, libc::SYS_socket, Some(libc::AF_INET6 as u32), libc::EAFNOSUPPORT);
    assert_refused(&run_to_end(&mut command), &["[::1]:8080", "no IPv6"]);
}

/// An operator who asked for other records wants to know this all the same.
#[test]
fn refusal_is_said_whatever_the_filter() {
    let port = Reserved::at(V4);
    let _stale = port.listen(16);
    let (_folder, config) = write_config("cores: 1", port.address().port());
    for filter in ["other=debug", "off", "ringway::server=off,info"] {
        let line = "RUST_LOG=$FILTER exec \"$RINGWAY\" -f \"$CONFIG\"";
        let mut command = Command::new("sh");
        command.arg("-c").arg(line).env("CONFIG", &config).env("FILTER", filter);
        assert_refused(&run_to_end(&mut command), &["in use"]);
    }
}

/// No more than what nothing can be done about without it is offered as a cure.
#[test]
fn number_of_descriptors_that_is_asked_for_suffices() {
    let port = Reserved::at(V4);
    let (_folder, config) = write_config("cores: 1, relay: {splice: off}", port.address().port());
    let with = |limit: u64| {
        let line = "ulimit -n $LIMIT; exec \"$RINGWAY\" -f \"$CONFIG\" --pid-file \"$CONFIG\"/x";
        let mut command = Command::new("sh");
        command.arg("-c").arg(line).env("CONFIG", &config).env("LIMIT", limit.to_string());
        String::from_utf8_lossy(&run_to_end(&mut command).stderr).into_owned()
    };
    let said = with(60);
    assert!(said.contains("for 1 session,") && !said.contains("or less"), "{said}");
    let needed = said.split(" descriptors are needed").next().unwrap().rsplit(' ').next().unwrap();
    // With that many it comes as far as the pid file, which cannot be made.
    let said = with(needed.parse().unwrap());
    assert!(said.contains("the pid file") && said.contains("cannot be written: Not a directory"), "{said}");
    assert!(!said.contains("os error"), "{said}");
}
