//! Set-up: the binary with something missing that it needs. Claim: it ends with exit status 1 and one sentence that names
//! the cause and the cure; nothing is half started.

#![expect(unsafe_code, reason = "a seccomp filter is installed with prctl(2)")]

use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::support::{Reserved, V4, run_to_end, write_config};

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
    let line = "ulimit -n 200; exec \"$RINGWAY\" -f \"$CONFIG\"";
    let output = run_to_end(Command::new("sh").arg("-c").arg(line).env("CONFIG", config));
    assert_refused(&output, &["1000 sessions", "200", "ulimit -n", "runtime.max_connections"]);
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
fn port_that_somebody_listens_on_is_refused() {
    // With SO_REUSEPORT, as a stale process of ours: the kernel itself would let two of them share the port.
    let port = Reserved::at(V4);
    let _stale = port.listen(16);
    let (_folder, config) = write_config("cores: 1", port.address().port());
    let output = run_to_end(Command::new(RUN).arg("-f").arg(config));
    assert_refused(&output, &["in use", &port.address().to_string(), "ss -ltnp"]);
}

/// An operator at a terminal does not look into the log file first.
#[test]
fn refusal_is_said_on_standard_error_though_the_log_is_a_file() {
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
    // TEST-NET-1 of RFC 5737 belongs to nobody.
    let yaml =
        "loadbalancer: {listen_address: \"192.0.2.1:8080\"}\nbackends: [{address: 127.0.0.1, port: 1}]\n";
    std::fs::write(&config, yaml).unwrap();
    let output = run_to_end(Command::new(RUN).arg("-f").arg(config));
    assert_refused(&output, &["192.0.2.1:8080", "not an address of this machine"]);
}

/// A configuration that listens on a file of this folder, and that file.
fn config_of_a_socket_file(folder: &tempfile::TempDir) -> (PathBuf, PathBuf) {
    let (config, socket) = (folder.path().join("ringway.yaml"), folder.path().join("front"));
    let yaml = format!(
        "loadbalancer: {{listen_address: \"unix:{}\"}}\nbackends: [{{address: 127.0.0.1, port: 1}}]\n",
        socket.display()
    );
    std::fs::write(&config, yaml).unwrap();
    (config, socket)
}

#[test]
fn socket_file_that_somebody_listens_on_is_refused_and_a_stale_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (config, socket) = config_of_a_socket_file(&folder);
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let output = run_to_end(Command::new(RUN).arg("-f").arg(&config));
    assert_refused(&output, &["in use", "front"]);
    drop(listener);
    assert!(socket.exists(), "the file is stale now");
    let backend = crate::support::backend().echo().start();
    let balancer = crate::support::balancer().on_unix(socket.clone()).backends([&backend]).start();
    crate::support::Client::connect_unix(&socket).unwrap().echo(b"hello").unwrap();
    drop(balancer);
}

/// As of a stopped process: nobody accepts, and a connect that waited for a place would wait for ever.
#[test]
fn socket_file_with_a_full_backlog_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let (config, socket) = config_of_a_socket_file(&folder);
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    // listen(2) again shortens the backlog.
    socket2::SockRef::from(&listener).listen(0).unwrap();
    let _waiting = std::os::unix::net::UnixStream::connect(&socket).unwrap();
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
        // SAFETY: between fork and exec only async-signal-safe calls are made: two of prctl(2), no allocation.
        unsafe { command.pre_exec(move || forbid_io_uring(errno)) };
        let output = run_to_end(&mut command);
        assert_refused(&output, &["io_uring", words, "seccomp"]);
    }
}

/// Makes io_uring_setup(2) of this process fail, as container runtimes do.
fn forbid_io_uring(errno: i32) -> io::Result<()> {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let number = libc::SYS_io_uring_setup as u32;
    let mut program = [
        // The number of the call is the first field of `seccomp_data`.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt: 0,
            jf: 1,
            k: number,
        },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: takes numbers only.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel copies the program, which outlives the call.
    if unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
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
