use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;

use crossbeam_channel::unbounded;

use super::*;
use crate::base::Activity;
use crate::config;
use crate::control::Thread;

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server with one shard, and a session through it to an echo that goes on as long as the client.
fn served(logging: &str) -> (Server, TcpStream) {
    let backend = TcpListener::bind("127.0.0.1:0").expect("a backend");
    let port =
        TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
    let yaml = format!(
        "loadbalancer: {{listen_address: '127.0.0.1:{port}'}}\n\
         backends: [{{address: 127.0.0.1, port: {}}}]\n\
         healthcheck: off\n\
         admin: {{listen_address: off, socket: off}}\n\
         logging: {{{logging}}}\n",
        backend.local_addr().expect("an address").port()
    );
    let config =
        config::parse("test.yaml", yaml.as_bytes()).unwrap_or_else(|report| panic!("{report:?}")).config;
    let cpus = core_affinity::get_core_ids().expect("CPUs");
    let server =
        Server::start_on(&cpus[..1], Arc::new(config), Attached::default(), || Ok(())).expect("a start");
    std::thread::spawn(move || {
        let (mut stream, _) = backend.accept().expect("a session");
        let mut reader = stream.try_clone().expect("a descriptor");
        std::io::copy(&mut reader, &mut stream)
    });
    let mut client = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    client.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    echo(&mut client);
    (server, client)
}

fn echo(client: &mut TcpStream) {
    client.write_all(b"hello").expect("room");
    client.read_exact(&mut [0; 5]).expect("an echo");
}

#[test]
fn shard_that_stalls_is_reported_with_what_it_was_doing_and_when_it_goes_on() {
    let (server, mut client) = served("");
    let (sender, reports) = unbounded();
    server.watch(Box::new(move |report| sender.send(report.clone()).expect("somebody reads")));
    // A shard with nothing to do is not reported, and nothing but time shows that.
    assert!(reports.recv_timeout(Duration::from_millis(1_500)).is_err());

    // The first session of the first shard.
    let relaying = Activity::Relay(0);
    server.source.heartbeats[0].stall_at(Some(relaying));
    client.write_all(b"more!").expect("room");
    let report = reports.recv_timeout(PATIENCE).expect("a report");
    let thread = Thread::Shard(ShardId(0), server.shards.cpus[0]);
    assert_eq!((report.thread, report.finding, report.activity), (thread, Finding::Stalled, Some(relaying)));
    let text = report.to_string();
    assert!(text.contains("has not moved for 1s while relaying for session 0; it used "), "{text}");
    // A thread that waits is told from one that works.
    assert!(report.used.expect("a clock") < Duration::from_millis(500), "{text}");

    server.source.heartbeats[0].stall_at(None);
    let resumed = std::iter::from_fn(|| reports.recv_timeout(PATIENCE).ok());
    assert!(resumed.into_iter().any(|report| report.finding == Finding::Resumed));
    client.read_exact(&mut [0; 5]).expect("the echo of what had waited");
    echo(&mut client);
}

/// The health thread ends while others still do.
#[test]
fn end_of_a_server_whose_access_log_is_blocked_is_no_stall() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("access");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo(1)").success());
    // Nobody reads, and it is full.
    let mut pipe = std::fs::File::options();
    let mut pipe = pipe.read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&path).expect("a pipe");
    while pipe.write(&[b'\n'; 4096]).is_ok() {}
    let (server, client) = served(&format!("access_log: {}", path.display()));
    let (sender, reports) = unbounded();
    server.watch(Box::new(move |report| sender.send(report.clone()).expect("somebody reads")));
    drop(client);
    drop(server);
    assert_eq!(reports.try_iter().collect::<Vec<_>>(), []);
}
