//! A balancer in this process.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ringway::base::{BackendId, CloseReason, ListenerId, UpstreamId};
use ringway::config;
use ringway::net::{LocalFailure, steer_by_cpu};
use ringway::server::Server;
use ringway::telemetry::counters::ListenerTotals;
use ringway::upstream::Health;

use super::config::Config;
use super::{Backend, Client, PATIENCE, Reserved, holds_within};

const LISTENER: ListenerId = ListenerId(0);
const UPSTREAM: UpstreamId = UpstreamId(0);

/// What a balancer will be: one listener, one upstream.
pub struct Builder {
    config: Config,
    await_checks: bool,
}

/// A balancer on 127.0.0.1 with two shards, without checks and ejections: its backends get the sessions of the test and nothing else.
pub fn balancer() -> Builder {
    let mut config = Config::new(shards());
    config.upstream("outlier: off");
    Builder { config, await_checks: true }
}

/// Both ways of relaying, on one shard, with further settings of the relay; and whether bulk is spliced.
pub fn both_ways(settings: &str) -> [(Builder, bool); 2] {
    [("auto", true), ("off", false)].map(|(splice, splices)| {
        let relay = format!("relay: {{splice: {splice}, {settings}}}");
        (balancer().one_shard().runtime(&relay), splices)
    })
}

/// Two, where there are two CPUs.
pub fn shards() -> usize {
    std::thread::available_parallelism().map_or(1, |cpus| cpus.get().min(2))
}

impl Builder {
    pub fn backends<'a>(mut self, backends: impl IntoIterator<Item = &'a Backend>) -> Self {
        self.config.backends(backends);
        self
    }

    /// A backend as the configuration writes it.
    pub fn entry(mut self, entry: &str) -> Self {
        self.config.entry(entry);
        self
    }

    /// A line of the listener.
    pub fn listener(mut self, line: &str) -> Self {
        self.config.listener(line);
        self
    }

    /// A line of the upstream.
    pub fn upstream(mut self, line: &str) -> Self {
        self.config.upstream(line);
        self
    }

    /// A line of the runtime.
    pub fn runtime(mut self, line: &str) -> Self {
        self.config.runtime(line);
        self
    }

    /// One shard instead of two.
    pub fn one_shard(self) -> Self {
        self.runtime("cores: 1")
    }

    /// Checks with these settings.
    pub fn check(mut self, settings: &str) -> Self {
        self.config.check(settings);
        self
    }

    /// Quick checks, and verdicts after two results.
    pub fn quick_checks(self) -> Self {
        self.check("interval: 40ms, fast_interval: 20ms, timeout: 5s, rise: 2, fall: 2")
    }

    /// Starts without waiting for the first verdicts.
    pub fn unready(mut self) -> Self {
        self.await_checks = false;
        self
    }

    /// Listens on this address instead.
    pub fn on(mut self, ip: IpAddr) -> Self {
        self.config.on(ip);
        self
    }

    /// Listens on `":PORT"`.
    pub fn on_any(mut self) -> Self {
        self.config.on_any();
        self
    }

    /// Listens on a Unix socket instead.
    pub fn on_unix(mut self, path: PathBuf) -> Self {
        self.config.on_unix(path);
        self
    }

    /// Starts it, and waits for the first verdicts.
    #[track_caller]
    pub fn start(self) -> Balancer {
        let (yaml, port) = self.config.write();
        Balancer::of(&yaml, port, self.await_checks)
    }
}

/// A running balancer. Its drop is the end of every test: the counters must add up, and nothing may be left.
pub struct Balancer {
    server: Option<Server>,
    port: Option<Reserved>,
}

impl Balancer {
    /// From a whole file; `port` is the one it listens on.
    #[track_caller]
    pub fn of(yaml: &str, port: Option<Reserved>, wait: bool) -> Self {
        let parsed =
            config::parse("test.yaml", yaml.as_bytes()).unwrap_or_else(|report| panic!("{report}\n{yaml}"));
        let server = Server::start(Arc::new(parsed.config)).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
        if wait {
            assert!(server.wait_checked(PATIENCE), "every backend gets a first verdict");
        }
        Self { server: Some(server), port }
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    /// Where clients on this machine reach it.
    pub fn address(&self) -> SocketAddr {
        self.port.as_ref().expect("a TCP listener").reached_at()
    }

    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect(self.address()).unwrap()
    }

    /// A client whose session stands: it got an echo.
    #[track_caller]
    pub fn echoing_client(&self) -> Client {
        let client = self.client();
        client.echo(b"hello").unwrap();
        client
    }

    pub fn totals(&self) -> ListenerTotals {
        self.server().totals(LISTENER)
    }

    /// Sessions that ended with this reason.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.totals().closed_with(reason)
    }

    /// Waits until so many sessions ended with this reason.
    #[track_caller]
    pub fn await_closed(&self, reason: CloseReason, count: u64) {
        let done = holds_within(PATIENCE, || self.closed(reason) >= count);
        assert!(done && self.closed(reason) == count, "{count} x {reason:?}: {:?}", self.totals());
    }

    /// Sessions of each backend so far.
    pub fn shares(&self) -> Vec<u64> {
        self.server().backend_sessions(UPSTREAM)
    }

    pub fn in_flight(&self) -> Vec<u32> {
        self.server().in_flight(UPSTREAM)
    }

    pub fn retries(&self) -> u64 {
        self.server().shard_counters().iter().map(|shard| shard.retries.value()).sum()
    }

    pub fn connect_failures(&self, backend: u16) -> u64 {
        let shards = self.server().shard_counters().iter();
        shards.map(|shard| shard.backend(UPSTREAM, BackendId(backend)).connect_failures.value()).sum()
    }

    /// Connects that failed for want of something of our own.
    pub fn local_failures(&self, kind: LocalFailure) -> u64 {
        let shards = self.server().shard_counters().iter();
        shards.map(|shard| shard.local_failures[kind as usize].value()).sum()
    }

    /// Sessions that have waited for a permit of a backend.
    pub fn queued(&self) -> u64 {
        self.server().shard_counters().iter().map(|shard| shard.queued.value()).sum()
    }

    /// Bytes spliced to the backends and to the clients.
    pub fn spliced(&self) -> (u64, u64) {
        let shards = self.server().shard_counters().iter();
        let both = shards.map(|shard| (shard.spliced_to_backend.value(), shard.spliced_to_client.value()));
        both.fold((0, 0), |sum, both| (sum.0 + both.0, sum.1 + both.1))
    }

    /// Accepted connections of each shard.
    pub fn accepted_by_shard(&self) -> Vec<u64> {
        self.server().shard_counters().iter().map(|shard| shard.listener(LISTENER).accepted.value()).collect()
    }

    /// Open sessions of each shard.
    pub fn active_by_shard(&self) -> Vec<u32> {
        self.server().core_status().iter().map(|core| core.active).collect()
    }

    /// Connections that shards have handed off to others so far.
    pub fn passed(&self) -> u64 {
        self.server().core_status().iter().map(|core| core.passed).sum()
    }

    /// Has the kernel give every connection to the first shard: a socket that joins the group of the listening ones for a
    /// moment gives all of them the program for a single CPU, which always chooses the first.
    pub fn all_by_first_shard(&self) {
        let port = self.port.as_ref().expect("a TCP listener");
        steer_by_cpu(port.listen(1).as_fd(), &[0]).unwrap();
    }

    pub fn health(&self) -> Vec<Health> {
        self.server().health(UPSTREAM)
    }

    /// Waits for a verdict.
    #[track_caller]
    pub fn await_health(&self, backend: usize, health: Health) {
        let seen =
            self.server().wait_states(PATIENCE, |states| states.upstreams[0][backend].health == health);
        assert!(seen, "backend {backend} becomes {health:?}");
    }

    /// Waits until a backend is ejected, or is so no more.
    #[track_caller]
    pub fn await_ejected(&self, backend: usize, ejected: bool) {
        let seen =
            self.server().wait_states(PATIENCE, |states| states.upstreams[0][backend].ejected == ejected);
        assert!(seen, "backend {backend} is ejected: {ejected}");
    }

    /// Which backends are ejected now.
    pub fn ejected(&self) -> Vec<bool> {
        let mut ejected = Vec::new();
        // Seen at once, whatever the states are.
        let _ = self.server().wait_states(PATIENCE, |states| {
            ejected = states.upstreams[0].iter().map(|backend| backend.ejected).collect();
            true
        });
        ejected
    }

    /// Waits until no session is left, and closes it after the last check.
    #[track_caller]
    pub fn finish(mut self) -> ListenerTotals {
        self.check()
    }

    #[track_caller]
    fn check(&mut self) -> ListenerTotals {
        let server = self.server.take().expect("checked once");
        let listeners = || (0..server.config().listeners.len()).map(|index| ListenerId(index as u16));
        if !holds_within(PATIENCE, || server.active_sessions() == 0) {
            panic!("sessions are left: {:?}", server.totals(LISTENER));
        }
        for id in listeners() {
            let totals = server.totals(id);
            assert!(totals.is_conserved(), "accepted = denied + closed + active: {totals:?}");
            assert_eq!(totals.closed_with(CloseReason::Internal), 0, "no session ends for an unknown reason");
        }
        for index in 0..server.config().upstreams.len() {
            let in_flight = server.in_flight(UpstreamId(index as u16));
            assert!(in_flight.iter().all(|count| *count == 0), "in flight without a session: {in_flight:?}");
        }
        let totals = server.totals(LISTENER);
        server.drain();
        assert!(server.wait_ended(PATIENCE), "shards without sessions end when they drain");
        for (shard, counters) in server.shard_counters().iter().enumerate() {
            for id in listeners() {
                let mut totals = ListenerTotals::default();
                totals.add(counters.listener(id));
                assert!(
                    totals.is_conserved(),
                    "accepted = denied + closed + active on shard {shard}: {totals:?}"
                );
            }
        }
        let cores = server.core_status();
        let (passed, received): (Vec<_>, Vec<_>) =
            cores.iter().map(|core| (core.passed, core.received)).unzip();
        assert_eq!(passed.iter().sum::<u64>(), received.iter().sum::<u64>(), "what is handed off arrives");
        assert!(cores.iter().all(|core| core.active == 0), "{cores:?}");
        totals
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if self.server.is_some() && !std::thread::panicking() {
            self.check();
        }
    }
}

/// How long `work` took.
pub fn timed(work: impl FnOnce()) -> Duration {
    let begin = std::time::Instant::now();
    work();
    begin.elapsed()
}
