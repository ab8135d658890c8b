//! A balancer in this process.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ringway::base::CloseReason;
use ringway::config;
use ringway::control::command::{Applied, Outcome};
use ringway::control::{BackendStatus, ShardStatus, Status};
use ringway::net::{LocalFailure, steer_by_cpu};
use ringway::server::Server;
use ringway::telemetry::counters::{ListenerTotals, UpstreamCounters, WorkCounters};
use ringway::upstream::Health;

use super::config::{Config, parse};
use super::{Backend, Client, PATIENCE, Reserved, holds_within};

/// What a balancer will be: one listener, one upstream.
pub struct Builder {
    config: Config,
    await_checks: bool,
}

/// A balancer on 127.0.0.1 with two shards, without checks and ejections: its backends get the sessions of
/// the test and nothing else.
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
        let server = Server::start(Arc::new(parse(yaml))).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
        if wait {
            assert!(server.wait_checked(PATIENCE), "every backend gets a first verdict");
        }
        Self { server: Some(server), port }
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    /// Loads another file.
    pub fn reload(&mut self, yaml: &str) -> Outcome {
        self.server.as_mut().unwrap().reload(parse(yaml))
    }

    /// Loads another file, which is not refused.
    #[track_caller]
    pub fn reloads(&mut self, yaml: &str) -> Applied {
        self.reload(yaml).unwrap_or_else(|refused| panic!("{refused:?}\n{yaml}"))
    }

    /// Changes something beside the file.
    pub fn edit(&mut self, edit: config::Edit) -> Outcome {
        self.server.as_mut().unwrap().edit(edit)
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

    pub fn status(&self) -> Status {
        self.server().status()
    }

    fn backends(&self) -> impl Iterator<Item = BackendStatus> + use<> {
        self.status().upstreams.swap_remove(0).backends.into_iter()
    }

    /// What all shards have counted of their work.
    pub fn work(&self, of: impl Fn(&WorkCounters<u64>) -> u64) -> u64 {
        self.status().shards.iter().map(|shard| of(&shard.work)).sum()
    }

    pub fn totals(&self) -> ListenerTotals {
        self.status().listeners[0].totals.clone()
    }

    /// What all shards have counted of the upstream.
    pub fn upstream(&self, of: impl Fn(&UpstreamCounters<u64>) -> u64) -> u64 {
        of(&self.status().upstreams[0].totals)
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
        self.backends().map(|backend| backend.totals.sessions).collect()
    }

    pub fn in_flight(&self) -> Vec<u32> {
        self.backends().map(|backend| backend.in_flight).collect()
    }

    pub fn retries(&self) -> u64 {
        self.upstream(|totals| totals.retries)
    }

    pub fn connect_failures(&self, backend: u16) -> u64 {
        self.status().upstreams[0].backends[usize::from(backend)].connect_failures_sum()
    }

    /// Connects that failed for want of something of our own.
    pub fn local_failures(&self, kind: LocalFailure) -> u64 {
        self.work(|work| work.local_failures[kind as usize])
    }

    /// Sessions that wait for a permit of a backend now.
    pub fn waiting(&self) -> u64 {
        self.status().upstreams[0].waiting as u64
    }

    /// Sessions that have waited for a permit of a backend.
    pub fn queued(&self) -> u64 {
        self.upstream(|totals| totals.queue.count())
    }

    /// Bytes spliced to the backends and to the clients.
    pub fn spliced(&self) -> (u64, u64) {
        (self.work(|work| work.spliced_to_backend), self.work(|work| work.spliced_to_client))
    }

    /// Accepted connections of each shard.
    pub fn accepted_by_shard(&self) -> Vec<u64> {
        self.status().shards.iter().map(|shard| shard.listeners[0].accepted).collect()
    }

    /// Open sessions of each shard.
    pub fn active_by_shard(&self) -> Vec<u32> {
        self.status().shards.iter().map(|shard| shard.core.active).collect()
    }

    /// Connections that shards have handed off to others so far.
    pub fn handed_off(&self) -> u64 {
        self.status().shards.iter().map(|shard| shard.core.handed_off).sum()
    }

    /// Has the kernel give every connection to the first shard: a socket that joins the group of the
    /// listening ones for a moment gives all of them the program for a single CPU, which always chooses the
    /// first.
    pub fn all_by_first_shard(&self) {
        let port = self.port.as_ref().expect("a TCP listener");
        steer_by_cpu(port.listen(1).as_fd(), &[0]).unwrap();
    }

    pub fn health(&self) -> Vec<Health> {
        self.backends().map(|backend| backend.health).collect()
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
        self.backends().map(|backend| backend.ejected).collect()
    }

    /// Waits until no session is left, and closes it after the last check.
    #[track_caller]
    pub fn finish(mut self) -> ListenerTotals {
        self.check()
    }

    #[track_caller]
    fn check(&mut self) -> ListenerTotals {
        let server = self.server.take().expect("checked once");
        if !holds_within(PATIENCE, || server.status().open_sessions() == 0) {
            panic!("sessions are left: {:?}", server.status());
        }
        let status = server.status();
        for listener in &status.listeners {
            let totals = &listener.totals;
            assert!(totals.is_conserved(), "accepted = denied + closed + active: {totals:?}");
            assert_eq!(totals.closed_with(CloseReason::Internal), 0, "no session ends for an unknown reason");
        }
        let backends = status.upstreams.iter().flat_map(|upstream| &upstream.backends);
        backends
            .for_each(|backend| assert_eq!(backend.in_flight, 0, "in flight without a session: {backend:?}"));
        server.drain();
        assert!(server.wait_ended(PATIENCE), "shards without sessions end when they drain");
        let shards = server.status().shards;
        let conserved = |totals: &ListenerTotals| totals.is_conserved();
        for shard in &shards {
            assert!(shard.listeners.iter().all(conserved), "accepted = denied + closed + active: {shard:?}");
            assert_eq!(shard.core.active, 0, "{shard:?}");
        }
        let sum = |of: fn(&ShardStatus) -> u64| shards.iter().map(of).sum::<u64>();
        assert_eq!(sum(|shard| shard.core.handed_off), sum(|shard| shard.core.received), "hand-offs arrive");
        status.listeners[0].totals.clone()
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
