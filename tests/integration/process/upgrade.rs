//! Set-up: the binary in a folder of its own, with a TCP and a Unix listener, and clients that come all the time. Claim: another
//! process takes its place without a client that is refused, reset or kept waiting; and one that cannot leaves it as it was,
//! with one clear cause.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::{
    Asked, Backend, Client, Process, ProcessBuilder, ServiceManager, backend, eventually, holds_within,
    is_root, process, skip,
};

fn upgradable(only: &Backend, cores: usize) -> ProcessBuilder {
    process().backends([only]).runtime(&format!("cores: {cores}")).also_on_unix().upgradable()
}

/// Clients that come one after the other on both listeners, each with a short session.
struct Crowd {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Crowd {
    fn come(process: &Process) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (address, path) = (process.address(), process.unix_path());
        let session = |client: std::io::Result<Client>| {
            let client = client?;
            client.echo(b"hello")?;
            client.finish()
        };
        let tcp = move || session(Client::connect(address));
        let unix = move || session(Client::connect_unix(&path));
        let threads = vec![Self::one(&is_over, tcp), Self::one(&is_over, tcp), Self::one(&is_over, unix)];
        Self { is_over, threads }
    }

    fn one(
        is_over: &Arc<AtomicBool>,
        session: impl Fn() -> std::io::Result<()> + Send + 'static,
    ) -> JoinHandle<Vec<String>> {
        let is_over = Arc::clone(is_over);
        std::thread::spawn(move || {
            let mut failures = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                if let Err(error) = session() {
                    failures.push(error.to_string());
                }
            }
            failures
        })
    }

    /// Asserts that every session went well.
    #[track_caller]
    fn leave(self, process: &Process) {
        self.is_over.store(true, Ordering::Relaxed);
        let failures: Vec<_> = self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert!(failures.is_empty(), "{} failures: {failures:?}\n{}", failures.len(), process.log());
    }
}

/// Waits until a process that is no child of this one has ended.
#[track_caller]
fn await_end(pid: u32) {
    // One that nobody has waited for yet has no binary any more.
    eventually("it has ended", || std::fs::read_link(format!("/proc/{pid}/exe")).is_err());
}

#[test]
fn clients_notice_nothing_of_an_upgrade() {
    let only = backend().echo().start();
    let mut process = upgradable(&only, 2).start();
    let (long, long_unix) = (process.echoing_client(), Client::connect_unix(&process.unix_path()).unwrap());
    long_unix.echo(b"hello").unwrap();
    let crowd = Crowd::come(&process);
    let successor = process.upgrade();
    eventually("the old one has left", || process.log().contains("serves all new clients from now on"));
    for _ in 0..100 {
        process.echoing_client().finish().unwrap();
    }
    crowd.leave(&process);
    for client in [long, long_unix] {
        client.echo(b"still here").unwrap();
        assert!(process.is_running(), "it serves its sessions to their end");
        client.finish().unwrap();
    }
    assert_eq!(process.exit().code(), Some(0), "{}", process.log());
    assert_eq!(process.pid_in_file(), Some(successor));
    assert!(process.log().contains("stopped: a successor serves"), "{}", process.log());
    Client::connect_unix(&process.unix_path()).unwrap().echo(b"the file has stayed").unwrap();
    process.echoing_client().finish().unwrap();
}

#[test]
fn ten_upgrades_in_a_row() {
    let only = backend().echo().start();
    let mut process = upgradable(&only, 2).start();
    let crowd = Crowd::come(&process);
    let mut pids = vec![process.id()];
    for _ in 0..10 {
        pids.push(process.upgrade());
    }
    crowd.leave(&process);
    pids.dedup();
    assert_eq!(pids.len(), 11, "{pids:?}");
    assert_eq!(process.exit().code(), Some(0));
    let last = pids.pop().unwrap();
    pids[1..].iter().for_each(|pid| await_end(*pid));
    // The last one tidies up.
    process.signal_serving(libc::SIGTERM);
    await_end(last);
    assert!(!process.unix_path().exists() && process.pid_in_file().is_none(), "{}", process.log());
}

#[test]
fn more_and_fewer_shards_lose_nothing() {
    let only = backend().echo().start();
    let process = upgradable(&only, 1).start();
    let crowd = Crowd::come(&process);
    for cores in [2, 1, 2, 1, 1, 2] {
        process.configure(&process.yaml().replace("cores: 1", &format!("cores: {cores}")));
        process.upgrade();
    }
    crowd.leave(&process);
    // The second core of the second upgrade has got one of its own, which nobody has closed since.
    eventually("two queues", || process.listening_serving() == 2);
}

/// Each leaves the process as it was, with a cause.
#[test]
fn successor_that_does_not_start_changes_nothing() {
    let only = backend().echo().start();
    let asked = Asked::start(upgradable(&only, 1));
    let process = &asked.process;
    let crowd = Crowd::come(process);
    let fails = |cause: &str| {
        let failures = || process.log().matches("the upgrade has failed, and this process serves on").count();
        let before = failures();
        process.ask_to_upgrade();
        eventually("it fails", || failures() > before);
        let log = process.log();
        let line = log.lines().rfind(|line| line.contains("the upgrade has failed")).unwrap();
        assert!(line.contains(cause), "{cause}: {line}");
        assert_eq!(failures(), before + 1);
        assert_eq!(process.pid_in_file(), Some(process.id()));
        let status = asked.socket.get("/v1/status").json();
        assert!(status["upgrade_error"].as_str().unwrap().contains(cause), "{status}");
    };
    process.replace_binary("echo 'no such library' >&2; exit 3");
    fails("with exit status: 3; its last words: no such library");
    process.replace_binary("kill -SEGV $$");
    fails("with signal: 11 (SIGSEGV)");
    std::fs::set_permissions(process.binary(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    fails("cannot be started: Permission denied");
    std::fs::remove_file(process.binary()).unwrap();
    fails("ringway cannot be started: No such file or directory");
    process.restore_binary();
    process.configure("listeners: 7\n");
    fails("ringway.yaml:1:12: ");
    process.configure(&process.yaml().replace("cores: 1", "cores: 1000"));
    fails("runtime.cores: ");
    let taken = crate::support::Reserved::at(crate::support::V4);
    let _taken = taken.listen(1);
    process.configure(&process.yaml().replace(&process.address().to_string(), &taken.address().to_string()));
    fails("is in use; stop the process that has it");
    process.configure(process.yaml());
    process.upgrade();
    crowd.leave(process);
}

#[test]
fn successor_that_hangs_is_killed() {
    let only = backend().echo().start();
    let process = upgradable(&only, 1).start();
    process.replace_binary("exec sleep 1000");
    let begin = Instant::now();
    process.ask_to_upgrade();
    // A second one changes nothing.
    eventually("it is started", || process.log().contains("as the successor of this one"));
    process.ask_to_upgrade();
    eventually("it is refused", || process.log().contains("an upgrade is under way already, as process "));
    let is_killed = || process.log().contains("was not ready within 30s, and was killed");
    assert!(holds_within(Duration::from_secs(60), is_killed), "{}", process.log());
    assert!(begin.elapsed() >= Duration::from_secs(30));
    process.echoing_client().finish().unwrap();
    process.restore_binary();
    process.upgrade();
}

#[test]
fn stop_during_an_upgrade_ends_both() {
    let only = backend().echo().start();
    let mut process = upgradable(&only, 1).start();
    let pid = process.path("hanging");
    process.replace_binary(&format!("echo $$ >{0}.new; mv {0}.new {0}; exec sleep 1000", pid.display()));
    process.ask_to_upgrade();
    eventually("it hangs", || pid.exists());
    process.signal(libc::SIGTERM);
    assert_eq!(process.exit().code(), Some(0));
    let pid = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    await_end(pid);
    assert!(process.log().contains("this process was asked to stop meanwhile"), "{}", process.log());
}

/// The first shows what every program that it starts gets, the second what its successor keeps.
#[test]
fn successor_gets_the_listening_sockets_and_nothing_else() {
    let only = backend().echo().start();
    let process = upgradable(&only, 2).start();
    let sessions: Vec<_> = (0..4).map(|_| process.echoing_client()).collect();
    process.replace_binary("for fd in /proc/$$/fd/*; do readlink $fd >>$0.fds; done; exit 1");
    process.ask_to_upgrade();
    eventually("it has ended", || process.log().contains("the upgrade has failed"));
    let links = std::fs::read_to_string(format!("{}.fds", process.binary().display())).unwrap();
    let folder = process.binary().parent().unwrap().to_str().unwrap();
    let count = |what: &str| links.lines().filter(|link| link.starts_with(what)).count();
    // Two of the port, one of the path, and the link. The stream for errors is a pipe now.
    assert_eq!((count("socket:"), count("/memfd:ringway-upgrade"), count("pipe:")), (4, 1, 1), "{links}");
    // The other standard streams, the stream for errors as it is, the script, and what it writes.
    let known = ["socket:", "/memfd:ringway-upgrade", "pipe:", "/dev/null", folder];
    assert_eq!(known.iter().map(|what| count(what)).sum::<usize>(), links.lines().count(), "{links}");
    drop(sessions);

    process.restore_binary();
    process.await_rest();
    let before = process.descriptors().len();
    let successor = process.upgrade();
    let of_successor = || std::fs::read_dir(format!("/proc/{successor}/fd")).unwrap().count();
    eventually("as many as before", || of_successor() <= before);
}

#[test]
fn service_manager_follows_the_main_process() {
    let (only, manager) = (backend().echo().start(), ServiceManager::start());
    let mut process = manager.manages(upgradable(&only, 1)).start();
    assert_eq!(manager.told(), "READY=1");
    process.replace_binary("exit 3");
    process.ask_to_upgrade();
    let failed = "STATUS=the last upgrade has failed: the new process has ended before it was ready, with exit status: 3";
    assert_eq!(manager.told(), failed);
    process.restore_binary();
    let successor = process.upgrade();
    assert_eq!(process.exit().code(), Some(0));
    assert_eq!(manager.told(), "STATUS=the last upgrade has succeeded");
    assert_eq!(manager.told(), format!("MAINPID={successor}"));
    assert_eq!(manager.told(), "READY=1");
    // The end of the old one was none of the service.
    process.signal_serving(libc::SIGTERM);
    await_end(successor);
    assert_eq!(manager.told(), "STOPPING=1");
    assert!(manager.is_done());
}

#[test]
fn sockets_of_a_service_manager_outlive_the_successor_too() {
    let only = backend().echo().start();
    let process = upgradable(&only, 2).activated().start();
    let crowd = Crowd::come(&process);
    process.upgrade();
    let last = process.upgrade();
    crowd.leave(&process);
    process.signal_serving(libc::SIGTERM);
    await_end(last);
    Client::connect(process.address()).expect("the socket is open");
}

#[test]
fn admin_socket_belongs_to_the_newest() {
    let only = backend().echo().start();
    let asked = Asked::start(upgradable(&only, 1));
    let long = asked.process.echoing_client();
    let pid = || asked.socket.get("/v1/status").json()["pid"].as_u64().unwrap();
    assert_eq!(pid(), u64::from(asked.process.id()));
    let successor = asked.process.upgrade();
    eventually("the old one has left", || asked.process.log().contains("serves all new clients from now on"));
    for _ in 0..50 {
        assert_eq!(pid(), u64::from(successor));
    }
    long.finish().unwrap();
}

/// With nothing left to do, the old process ends at once; whoever has asked it hears what came of that all the same.
#[test]
fn who_asks_for_an_upgrade_is_told_of_the_new_process() {
    let only = backend().echo().start();
    let mut asked = Asked::start(upgradable(&only, 1));
    let mut before = asked.process.id();
    for upgrades in 1..=5 {
        let answer = asked.socket.ask("POST", "/v1/upgrade", &[], "");
        assert_eq!(answer.status, 200, "{answer:?}");
        let changes = answer.json()["changes"].clone();
        let now: u32 = changes[0]["after"].as_str().unwrap().parse().unwrap();
        let change =
            serde_json::json!([{"what": "process", "before": before.to_string(), "after": now.to_string()}]);
        assert_eq!(changes, change);
        eventually("the pid file has it", || asked.process.pid_in_file() == Some(now));
        assert_eq!(asked.socket.get("/v1/status").json()["upgrades"]["success"], upgrades);
        before = now;
    }
    assert_eq!(asked.process.exit().code(), Some(0));
}

#[test]
fn changes_at_run_time_survive_an_upgrade() {
    let backends = [backend().echo().start(), backend().echo().start()];
    let builder = process().backends(&backends).also_on_unix().upgradable();
    let asked = Asked::start(builder);
    let path = format!("/v1/upstreams/u/backends/{}", backends[0].address());
    assert_eq!(asked.socket.ask("POST", &path, &[], r#"{"weight": 7, "state": "drain"}"#).status, 200);
    let differences = || asked.socket.get("/v1/diff").json()["changes"].clone();
    let before = differences();
    assert!(!before.as_array().unwrap().is_empty());
    let connections = backends[0].connections();
    let successor = asked.process.upgrade();
    eventually("it answers", || asked.socket.get("/v1/status").json()["pid"] == successor);
    assert_eq!(differences(), before);
    let status = asked.socket.get("/v1/status").json();
    assert_eq!(status["upstreams"][0]["backends"][0]["weight"], 7, "{status:#}");
    for _ in 0..10 {
        asked.process.echoing_client().finish().unwrap();
    }
    assert_eq!(backends[0].connections(), connections, "it drains");
}

/// Listeners that a reload has added and removed are handed over as they are then.
#[test]
fn upgrade_after_reloads_hands_over_what_listens_then() {
    let only = backend().echo().start();
    let process = upgradable(&only, 2).start();
    let added = crate::support::Reserved::at(crate::support::V4);
    let more = format!("  - {{name: more, address: \"{}\", upstream: u}}\nupstreams:", added.address());
    let with_more = process.yaml().replace("upstreams:", &more);
    let serves_more = || Client::connect(added.address()).is_ok_and(|client| client.echo(b"more").is_ok());
    let crowd = Crowd::come(&process);
    process.configure(&with_more);
    process.signal_serving(libc::SIGHUP);
    eventually("it is added", serves_more);
    process.upgrade();
    assert!(serves_more());
    process.configure(process.yaml());
    process.signal_serving(libc::SIGHUP);
    eventually("it is removed", || Client::connect(added.address()).is_err());
    process.upgrade();
    assert!(Client::connect(added.address()).is_err());
    crowd.leave(&process);
}

/// From all addresses to one, and back: the old process listens there still. The port is reserved at all of them from the start.
#[test]
fn address_may_become_one_that_overlaps() {
    let only = backend().echo().start();
    let process = upgradable(&only, 2).on_any().start();
    let (any, one) = (format!("\":{}\"", process.address().port()), process.address().to_string());
    for yaml in [process.yaml().replace(&any, &one), process.yaml().to_owned()] {
        assert!(yaml.contains(&any) != yaml.contains(&one), "{yaml}");
        process.configure(&yaml);
        process.upgrade();
        process.echoing_client().finish().unwrap();
    }
}

/// Two signals: the first asks for the end of the sessions in time, the second at once.
#[test]
fn old_process_obeys_signals_while_it_drains() {
    let only = backend().echo().start();
    let mut process = upgradable(&only, 1).start();
    let long = process.echoing_client();
    process.upgrade();
    process.signal(libc::SIGTERM);
    eventually("it drains", || process.log().matches("draining: 1 open session may take").count() == 2);
    long.echo(b"in time").unwrap();
    process.signal(libc::SIGTERM);
    assert_eq!(process.exit().code(), Some(0));
    assert!(long.receive_all().1.is_err());
}

#[test]
fn drain_timeout_ends_the_last_sessions_of_the_old_process() {
    let only = backend().echo().start();
    let mut process = upgradable(&only, 1).runtime("drain_timeout: 100ms").start();
    let long = process.echoing_client();
    process.upgrade();
    assert_eq!(process.exit().code(), Some(0));
    assert!(long.receive_all().1.is_err());
    assert!(process.log().contains("stopped: runtime.drain_timeout"), "{}", process.log());
    process.echoing_client().finish().unwrap();
}

/// Its container would end with it, and the new process, too.
#[test]
fn pid_1_refuses_and_serves_on() {
    if !is_root() {
        return skip("pid_1_refuses_and_serves_on", "only root may make such a namespace");
    }
    let only = backend().echo().start();
    let process = process().backends([&only]).in_pid_namespace().start();
    process.signal_pid_1(libc::SIGUSR2);
    eventually("it says why", || {
        process.log().contains("this process is PID 1 of its container, which ends with it; start")
    });
    process.echoing_client().finish().unwrap();
}

/// A configuration for the successor, whose second upstream keeps it waiting for a first verdict.
fn with_a_slow_upstream(process: &Process, mute: &Backend) -> String {
    let check = "healthcheck: {type: http, timeout: 4s, interval: 30s}";
    format!("{}  - {{name: slow, {check}, backends: [{{{}}}]}}\n", process.yaml(), mute.entry())
}

#[test]
fn successor_takes_no_client_before_it_serves() {
    let (only, mute) = (backend().echo().start(), backend().sink().start());
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut process = upgradable(&only, 1).start();
        process.configure(&with_a_slow_upstream(&process, &mute));
        let checked = mute.connections();
        process.ask_to_upgrade();
        eventually("the successor checks", || mute.connections() > checked);
        let clients: Vec<_> = (0..60).map(|_| process.echoing_client()).collect();
        process.signal(signal);
        eventually("it ends", || process.log().contains("draining"));
        assert!(process.log().contains("draining: 60 open sessions"), "{}", process.log());
        clients.iter().for_each(|client| client.echo(b"still here").unwrap());
        clients.into_iter().for_each(|client| client.finish().unwrap());
        assert_eq!(process.exit().code(), Some(0), "{}", process.log());
    }
}

#[test]
fn reload_that_is_asked_for_during_an_upgrade_comes_to_the_successor() {
    let (only, mute) = (backend().echo().start(), backend().sink().start());
    let mut process = upgradable(&only, 1).start();
    process.configure(&with_a_slow_upstream(&process, &mute));
    process.ask_to_upgrade();
    eventually("the successor checks", || mute.connections() > 0);
    process.configure(&with_a_slow_upstream(&process, &mute).replace("timeout: 4s", "timeout: 3s"));
    process.signal(libc::SIGHUP);
    // Also the log of the successor goes on once the old process has ended.
    assert_eq!(process.exit().code(), Some(0), "{}", process.log());
    let reloaded = || process.log().contains("reload: ~ upstreams.slow.healthcheck.timeout: 4s -> 3s");
    assert!(holds_within(Duration::from_secs(10), reloaded), "{}", process.log());
    process.signal_serving(libc::SIGTERM);
    await_end(process.pid_in_file().unwrap_or_default());
    eventually("its last line", || process.log().matches("stopped: ").count() == 2);
}

#[test]
fn successor_serves_if_the_old_process_is_killed_before() {
    let (only, mute) = (backend().echo().start(), backend().sink().start());
    let mut process = upgradable(&only, 1).start();
    process.configure(&with_a_slow_upstream(&process, &mute));
    process.ask_to_upgrade();
    eventually("the successor checks", || mute.connections() > 0);
    let old = process.id();
    process.signal(libc::SIGKILL);
    process.exit();
    eventually("the successor serves", || process.pid_in_file().is_some_and(|pid| pid != old));
    process.echoing_client().finish().unwrap();
    process.signal_serving(libc::SIGTERM);
}

#[test]
fn binary_that_is_moved_aside_is_not_the_one_that_is_started() {
    let only = backend().echo().start();
    let mut process = upgradable(&only, 1).start();
    let (binary, aside) = (process.binary().to_owned(), process.path("aside"));
    std::fs::rename(&binary, &aside).unwrap();
    std::fs::copy(&aside, &binary).unwrap();
    let successor = process.upgrade();
    assert_eq!(std::fs::read_link(format!("/proc/{successor}/exe")).unwrap(), binary);
    assert_eq!(process.exit().code(), Some(0));
    process.signal_serving(libc::SIGTERM);
    await_end(successor);
}
