//! Set-up: a process of a user of its own, whose limit on locked memory is what the documentation asks for,
//! or less, and more shards than there are cores. Claim: that limit suffices, on 64 shards too; a lower one
//! is refused in one sentence before anything starts, and the sentence tells apart what other processes of
//! the user hold. Shards take the memory, descriptors and threads that docs/SCALING.md says.
//!
//! Root alone can be another user: a test starts this binary again, for itself alone, and that process
//! changes its user. No other process counts for that one's limit.

#![expect(
    unsafe_code,
    reason = "prctl(2), setresuid(2) and setrlimit(2) have no safe wrapper in the crates we use"
)]

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ringway::config::{self, Config};
use ringway::net::raise_descriptor_limit;
use ringway::server::{Attached, Server};
use ringway::uring::locked_memory;

use crate::support::{Backend, Client, NO_ADMIN, PATIENCE, Reserved, V4, backend, eventually, is_root, skip};

const BUFFERS: u32 = 4_096;
/// In the environment of the process that changes its user.
const CHILD: &str = "RINGWAY_TEST_USER";

/// Runs `test`, which is the test `name` of this module, in a process of its own, as a user of its own who
/// may lock so much.
fn as_other_user(name: &str, limit: u64, test: impl FnOnce()) {
    if let Ok(user) = std::env::var(CHILD) {
        become_user(user.parse().unwrap(), limit);
        return test();
    }
    if !is_root() {
        return skip(name, "only root can be another user");
    }
    // Of the numbers that no system gives to anybody, another one for each test.
    static USERS: AtomicU32 = AtomicU32::new(0);
    let user = 3_000_000_000 + std::process::id() * 16 + USERS.fetch_add(1, Ordering::Relaxed);
    let mut command = Command::new(std::env::current_exe().unwrap());
    // The harness leaves out the name of the crate.
    let module = module_path!().split_once("::").unwrap().1;
    command
        .args(["--exact", &format!("{module}::{name}"), "--nocapture"])
        .env(CHILD, user.to_string())
        .stdin(Stdio::null());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn become_user(user: u32, limit: u64) {
    limit_locked(limit, limit);
    // SAFETY: takes numbers only; the library does so for all threads, and with the user the capabilities go.
    assert_eq!(unsafe { libc::setresuid(user, user, user) }, 0);
    // SAFETY: takes numbers only. As after an exec: /proc/self is its own again.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) }, 0);
}

fn limit_locked(soft: u64, hard: u64) {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the kernel reads the struct, which outlives the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) }, 0);
}

/// So many CPUs, each as often as it takes.
fn cpus(count: usize) -> Vec<core_affinity::CoreId> {
    core_affinity::get_core_ids().unwrap().iter().cycle().take(count).copied().collect()
}

/// One listener with this backend.
fn configuration(only: &Backend) -> (Arc<Config>, Reserved) {
    let port = Reserved::at(V4);
    let yaml = format!(
        "{NO_ADMIN}runtime: {{relay: {{splice: off}}, max_connections: 200}}\nloadbalancer: {{listen_address: '{}'}}\n\
         healthcheck: off\nbackends: [{{{}}}]\n",
        port.address(),
        only.entry()
    );
    (Arc::new(config::parse("test.yaml", yaml.as_bytes()).unwrap().config), port)
}

/// Starts so many shards, whatever the number of CPUs, and serves as many clients.
fn serve_on(shards: usize) -> Result<(), String> {
    let only = backend().echo().start();
    let (config, port) = configuration(&only);
    let server = Server::start_on(&cpus(shards), config, Attached::default(), || Ok(()))
        .map_err(|error| error.to_string())?;
    assert!(server.wait_checked(PATIENCE));
    let clients: Vec<_> = (0..shards).map(|_| Client::connect(port.address()).unwrap()).collect();
    clients.iter().for_each(|client| client.echo(b"hello").unwrap());
    clients.into_iter().for_each(|client| client.finish().unwrap());
    eventually("all have ended", || server.status().open_sessions() == 0);
    Ok(())
}

#[test]
fn documented_locked_memory_suffices_for_1_shard() {
    as_other_user("documented_locked_memory_suffices_for_1_shard", locked_memory(1, BUFFERS), || {
        // What the one before held comes back a moment after its end.
        (0..3).for_each(|_| serve_on(1).unwrap());
    });
}

#[test]
fn documented_locked_memory_suffices_for_64_shards() {
    as_other_user("documented_locked_memory_suffices_for_64_shards", locked_memory(64, BUFFERS), || {
        serve_on(64).unwrap();
    });
}

#[test]
fn too_little_locked_memory_is_refused_with_true_numbers() {
    let name = "too_little_locked_memory_is_refused_with_true_numbers";
    let needed = locked_memory(64, BUFFERS);
    as_other_user(name, needed - 4096, || {
        // A kernel that counts less needs less.
        let Err(said) = serve_on(64) else {
            return skip(name, "this kernel does not count rings as locked memory");
        };
        assert!(said.contains(&format!("{} KiB", needed / 1024)), "{said}");
        assert!(said.contains("64 cores") && said.contains("set runtime.cores to 63 or less"), "{said}");
        assert!(said.contains(&format!("may lock {} KiB", needed / 1024 - 4)), "{said}");
        // The cure in it helps.
        serve_on(63).unwrap();
    });
}

#[test]
fn locked_memory_of_other_processes_is_told_apart() {
    let name = "locked_memory_of_other_processes_is_told_apart";
    as_other_user(name, locked_memory(16, BUFFERS), || {
        // The limit is the user's, so it does not matter that the other one is in this process, too.
        let (config, _port) = configuration(&backend().echo().start());
        let other = Server::start_on(&cpus(12), Arc::clone(&config), Attached::default(), || Ok(())).unwrap();
        let Err(said) = serve_on(16) else {
            return skip(name, "this kernel does not count rings as locked memory");
        };
        assert!(said.contains("other processes of this user hold the rest"), "{said}");
        drop(other);
        serve_on(16).unwrap();
    });
}

/// A row of the table in docs/SCALING.md: what a number of shards takes.
struct Documented {
    shards: usize,
    locked: u64,
    idle_descriptors: u64,
    most_descriptors: u64,
    threads: u64,
}

impl Documented {
    fn of(shards: usize) -> Self {
        let page = include_str!("../../../docs/SCALING.md");
        let row = page.lines().find(|line| line.starts_with(&format!("| {shards} | "))).unwrap();
        let number = |cell: &str| cell.trim().trim_end_matches(" KiB").replace(',', "").parse().ok();
        let cells: Vec<u64> = row.split('|').filter_map(number).collect();
        let [_, kibibytes, idle_descriptors, most_descriptors, threads] = cells[..] else { panic!("{row}") };
        let locked = kibibytes * 1024;
        assert_eq!(locked, locked_memory(shards, BUFFERS), "{row}");
        Self { shards, locked, idle_descriptors, most_descriptors, threads }
    }

    /// Starts so many shards, where the kernel makes another ring from the limit `ring` on while nothing else is locked.
    fn check(&self, ring: u64) {
        let port = Reserved::at(V4);
        let yaml = format!(
            "{NO_ADMIN}runtime: {{relay: {{pipes_per_core: 32}}}}\nloadbalancer: {{listen_address: '{}'}}\n\
             healthcheck: off\nbackends: ['127.0.0.1:1']\n",
            port.address()
        );
        let config = Arc::new(config::parse("test.yaml", yaml.as_bytes()).unwrap().config);
        let limit = raise_descriptor_limit().unwrap();
        eventually("what was locked before comes back", || least_limit_for_a_ring() == ring);
        let (descriptors, threads) = (entries("/proc/self/fd"), entries("/proc/self/task"));
        let server = Server::start_on(&cpus(self.shards), config, Attached::default(), || Ok(())).unwrap();
        assert!(server.wait_checked(PATIENCE));
        let descriptors = entries("/proc/self/fd") - descriptors;
        let process = self.idle_descriptors..=self.idle_descriptors + 32;
        assert!(process.contains(&descriptors), "{descriptors}, which is not in {process:?}");
        // A session takes two, so an odd one is left.
        let reserved = limit / 2 * 2 - 2 * u64::from(server.status().max_sessions);
        assert_eq!(reserved, self.most_descriptors + 32);
        // Beside `health` and `control`.
        assert_eq!(entries("/proc/self/task") - threads, self.threads + 2);
        if ring == 0 {
            eprintln!("this kernel does not count rings as locked memory");
            return;
        }
        eventually("as much is locked", || least_limit_for_a_ring() - ring == self.locked);
    }
}

/// Returns the least limit on locked memory at which the kernel makes another ring, bytes. Those that it refuses
/// change nothing, and the memory of the one that it makes comes back a moment later.
fn least_limit_for_a_ring() -> u64 {
    const PAGE: u64 = 4096;
    std::thread::sleep(Duration::from_millis(50));
    let hard = rustix::process::getrlimit(rustix::process::Resource::Memlock).maximum.unwrap();
    let is_enough = |soft: &u64| {
        limit_locked(*soft, hard);
        io_uring::IoUring::new(1).is_ok()
    };
    let least = (0..=hard / PAGE).map(|pages| pages * PAGE).find(is_enough);
    limit_locked(hard, hard);
    least.expect("the limit has room for one ring more")
}

fn entries(folder: &str) -> u64 {
    std::fs::read_dir(folder).unwrap().count() as u64
}

/// Shards on CPUs that they share take what those on CPUs of their own take.
#[test]
fn shards_take_what_the_documentation_says() {
    let (eight, most, double) = (Documented::of(8), Documented::of(64), Documented::of(128));
    // Few machines let a user of their own lock as much as 128 shards need.
    let linear = |row: &Documented| (row.idle_descriptors, row.most_descriptors, row.threads);
    let (idle, reserved, threads) = linear(&most);
    assert_eq!(linear(&double), (2 * idle, 2 * reserved, 2 * threads));
    let room = locked_memory(64, BUFFERS) + (64 << 10);
    as_other_user("shards_take_what_the_documentation_says", room, || {
        let ring = least_limit_for_a_ring();
        eight.check(ring);
        most.check(ring);
    });
}
