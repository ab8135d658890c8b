//! The schedule of the checks on a paused clock against scripted backends, and the thread on real sockets.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::mpsc;

use socket2::{Domain, Socket, Type};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{self, Instant};

use crate::base::{Address, BackendId, BackendKey, UpstreamId, limits};
use crate::config::{BackendAddress, Config, HealthCheck, OpenSessions, Outlier};
use crate::protocol::proxy::Version;
use crate::upstream::{Failures, Fault, Health, Resolved};

use super::probe::Connection;
use super::testing::*;
use super::*;

/// What a scripted backend does with a connection.
#[derive(Clone, Copy, PartialEq)]
enum Acts {
    Accepts,
    Refuses,
    Hangs,
    /// This process has no descriptor left.
    LacksDescriptors,
    /// The process is stopped for this long during the attempt, and the backend refuses no one after it.
    Stopped(Duration),
}

/// The scripted backends, by port; without a script a backend accepts.
struct World {
    acts: RefCell<HashMap<u16, Acts>>,
    attempts: RefCell<Vec<(u16, Instant)>>,
    under_way: RefCell<HashMap<u16, u32>>,
    overlapped: Cell<bool>,
    /// Where the sessions of the first upstream would count failures.
    failures: RefCell<Option<Arc<Failures>>>,
}

impl World {
    fn new(acts: &[(u16, Acts)]) -> Rc<Self> {
        Rc::new(Self {
            acts: RefCell::new(acts.iter().copied().collect()),
            attempts: RefCell::default(),
            under_way: RefCell::default(),
            overlapped: Cell::new(false),
            failures: RefCell::default(),
        })
    }

    /// So many sessions fail on the first backend, one after the other.
    fn fail(&self, times: u32) {
        let failures = self.failures.borrow();
        let failures = failures.as_ref().expect("the upstream ejects");
        (0..times).for_each(|_| failures.failed(BackendId(0), Fault::Failure));
    }

    fn set(&self, port: u16, acts: Acts) {
        self.acts.borrow_mut().insert(port, acts);
    }

    fn attempts_at(&self, port: u16) -> Vec<Instant> {
        self.attempts.borrow().iter().filter(|attempt| attempt.0 == port).map(|attempt| attempt.1).collect()
    }
}

struct Scripted(Rc<World>);

/// Counts an attempt as under way until it is dropped, however it ends.
struct UnderWay<'a>(&'a World, u16);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        *self.0.under_way.borrow_mut().get_mut(&self.1).expect("counted before") -= 1;
    }
}

impl Connect for Scripted {
    async fn connect(&self, address: &Address, _: Option<Version>) -> io::Result<Connection> {
        let Address::Tcp(address) = address else { unreachable!("TCP only") };
        let (world, port) = (&*self.0, address.port());
        world.attempts.borrow_mut().push((port, Instant::now()));
        *world.under_way.borrow_mut().entry(port).or_default() += 1;
        let _under_way = UnderWay(world, port);
        world.overlapped.set(world.overlapped.get() || world.under_way.borrow()[&port] > 1);
        let acts = world.acts.borrow().get(&port).copied().unwrap_or(Acts::Accepts);
        match acts {
            Acts::Accepts => Ok(Box::new(tokio::io::empty())),
            Acts::Refuses => Err(io::Error::from_raw_os_error(libc::ECONNREFUSED)),
            Acts::Hangs => std::future::pending().await,
            Acts::LacksDescriptors => Err(io::Error::from_raw_os_error(libc::EMFILE)),
            Acts::Stopped(length) => {
                world.set(port, Acts::Accepts);
                time::advance(length).await;
                std::future::pending().await
            }
        }
    }
}

/// What was published, in order.
struct Published {
    channel: UnboundedReceiver<Arc<UpstreamStates>>,
    last: Option<Arc<UpstreamStates>>,
}

impl Published {
    async fn next(&mut self) -> Arc<UpstreamStates> {
        let states = self.channel.recv().await.expect("the checks go on");
        let before = self.last.as_ref().map_or(0, |last| last.version);
        assert!(states.version > before, "version {} after {before}", states.version);
        self.last = Some(Arc::clone(&states));
        states
    }

    /// The last states, or the next ones, in which the first upstream's backends are just these.
    async fn until(&mut self, expected: &[Health]) -> Arc<UpstreamStates> {
        loop {
            if let Some(states) = &self.last
                && states.upstreams[0].iter().map(|backend| backend.health).eq(expected.iter().copied())
            {
                return Arc::clone(states);
            }
            self.next().await;
        }
    }

    /// Nothing may be published for this long.
    async fn is_quiet_for(&mut self, length: Duration) {
        let news = time::timeout(length, self.next()).await;
        assert!(news.is_err(), "{news:?}");
    }
}

fn tcp(port: u16) -> Arc<[Address]> {
    Arc::from([Address::Tcp(([127, 0, 0, 1], port).into())])
}

/// What a name with these ports on this machine resolves to.
fn at(ports: &[u16]) -> Resolved {
    Resolved { addresses: ports.iter().flat_map(|&port| tcp(port).to_vec()).collect(), has_failed: false }
}

/// Literal addresses; names are not resolved yet.
fn literal(config: &Config) -> Addresses {
    let known = |address: &BackendAddress| match address {
        BackendAddress::Ip(address) => at(&[address.port()]),
        _ => Resolved::default(),
    };
    let backends = |upstream: &crate::config::Upstream| {
        upstream.backends.iter().map(|backend| known(&backend.address)).collect()
    };
    Addresses { generation: 1, upstreams: config.upstreams.iter().map(backends).collect() }
}

/// Runs the checks of `config` in `world` while `scene` lasts.
async fn play(
    config: Config,
    world: &Rc<World>,
    scene: impl AsyncFnOnce(&mut Published, &watch::Sender<Arc<Addresses>>, &HealthCounters),
) {
    let (sender, addresses) = watch::channel(Arc::new(literal(&config)));
    let (publish, published) = unbounded_channel();
    let publish = Box::new(move |states| publish.send(states).expect("the scene is watched"));
    let counters = Arc::<HealthCounters>::default();
    let (on_report, reports) = reports();
    let snapshot = Snapshot::build(Arc::new(config), 1, Some(&on_report), None).expect("numbers");
    world.failures.replace(snapshot.upstreams()[0].failures().cloned());
    let (_snapshots, following) = watch::channel(Arc::new(snapshot));
    let checks = check_all(
        following,
        addresses,
        (reports, publish),
        Arc::clone(&counters),
        Scripted(Rc::clone(world)),
    );
    let mut published = Published { channel: published, last: None };
    LocalSet::new()
        .run_until(async {
            tokio::select! {
                () = checks => unreachable!("checks never end"),
                () = scene(&mut published, &sender, &counters) => {}
                // A scene that waits for what never comes would run through the paused clock for ever.
                () = time::sleep(Duration::from_secs(24 * 3600)) => panic!("the scene hangs"),
            }
        })
        .await;
    assert!(!world.overlapped.get(), "two checks of one backend at the same time");
}

fn checked(ports: &[u16]) -> Config {
    config(&[(Some(CHECK), None, &ports.iter().map(|&port| ip(port)).collect::<Vec<_>>())])
}

use Health::{Checking, Down, Up};

#[tokio::test(start_paused = true)]
async fn the_first_check_decides_soon_after_the_start() {
    let world = World::new(&[(2, Acts::Refuses), (3, Acts::Hangs)]);
    play(checked(&[1, 2, 3]), &world, async |published, _, counters| {
        let begin = Instant::now();
        published.until(&[Checking, Checking, Checking]).await;
        published.until(&[Up, Down, Checking]).await;
        assert!(begin.elapsed() <= limits::FIRST_CHECK_SPREAD_MAX);
        published.until(&[Up, Down, Down]).await;
        assert!(begin.elapsed() <= limits::FIRST_CHECK_SPREAD_MAX + CHECK.timeout);
        let hanging = counters.backend(BackendKey { upstream: UpstreamId(0), backend: BackendId(2) });
        assert_eq!((hanging.counters.timeout.value(), hanging.counters.down.value()), (1, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn next_configuration_keeps_verdicts_and_judges_what_is_new() {
    let world = World::new(&[(2, Acts::Refuses)]);
    let (on_report, reports) = reports();
    let built = |ports: &[u16], previous: Option<&Snapshot>| {
        let mut config = checked(ports);
        for (backend, port) in config.upstreams[0].backends.iter_mut().zip(ports) {
            backend.name = format!("b{port}");
        }
        let addresses = Addresses { generation: 0, ..literal(&config) };
        let snapshot = Snapshot::build(Arc::new(config), 1, Some(&on_report), previous).expect("numbers");
        // By number, as the resolver has them.
        let mut by_number = vec![Resolved::default(); snapshot.upstreams()[0].given()];
        for (number, resolved) in snapshot.upstreams()[0].numbers().iter().zip(&addresses.upstreams[0]) {
            by_number[number.index()] = resolved.clone();
        }
        (Arc::new(snapshot), Arc::new(Addresses { generation: 0, upstreams: vec![by_number] }))
    };
    let (first, addresses) = built(&[1, 2], None);
    let (sender, following) = watch::channel(addresses);
    let (snapshots, generations) = watch::channel(Arc::clone(&first));
    let (publish, published) = unbounded_channel();
    let publish = Box::new(move |states| publish.send(states).expect("the scene is watched"));
    let checks =
        check_all(generations, following, (reports, publish), Arc::default(), Scripted(Rc::clone(&world)));
    let mut published = Published { channel: published, last: None };
    let scene = async {
        published.until(&[Up, Down]).await;
        let attempts = world.attempts_at(1).len();
        // The number of a removed backend stays nobody else's.
        let (second, addresses) = built(&[3, 2], Some(&first));
        sender.send_replace(addresses);
        snapshots.send_replace(second);
        let states = published.until(&[Checking, Down, Up]).await;
        assert_eq!((states.generation, states.upstreams[0][0].has_address()), (2, false));
        time::sleep(Duration::from_secs(600)).await;
        assert_eq!(world.attempts_at(1).len(), attempts, "nobody checks what was removed");
        assert!(world.attempts_at(2).len() > 10 && world.attempts_at(3).len() > 10);
    };
    LocalSet::new()
        .run_until(async {
            tokio::select! {
                () = checks => unreachable!("checks never end"),
                () = scene => {}
            }
        })
        .await;
    assert!(!world.overlapped.get(), "two checks of one backend at the same time");
}

#[tokio::test(start_paused = true)]
async fn a_backend_goes_down_after_fall_and_up_after_rise_at_the_fast_interval() {
    let world = World::new(&[]);
    play(checked(&[1, 2]), &world, async |published, _, _| {
        published.until(&[Up, Up]).await;
        world.set(1, Acts::Refuses);
        published.until(&[Down, Up]).await;
        let times = world.attempts_at(1);
        let gaps: Vec<u64> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
        assert_eq!(gaps, [30, 2, 2]);
        world.set(1, Acts::Accepts);
        published.until(&[Up, Up]).await;
        assert_eq!(world.attempts_at(1).len(), times.len() + 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_hanging_check_is_cut_and_delays_nobody() {
    let world = World::new(&[(1, Acts::Hangs)]);
    play(checked(&[1, 2]), &world, async |published, _, _| {
        published.until(&[Down, Up]).await;
        time::sleep(Duration::from_secs(600)).await;
        // Each takes its timeout, then the fast interval for as many as make an interval, then that; the
        // neighbour keeps its own schedule.
        let attempts = world.attempts_at(1).len();
        assert!((28..=30).contains(&attempts), "{attempts}");
        assert!((20..=22).contains(&world.attempts_at(2).len()));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_stopped_process_marks_nobody_down_and_starts_no_storm() {
    let world = World::new(&[]);
    play(checked(&[1, 2, 3]), &world, async |published, _, _| {
        published.until(&[Up, Up, Up]).await;
        for _ in 0..5 {
            world.set(1, Acts::Stopped(Duration::from_secs(100)));
            published.is_quiet_for(Duration::from_secs(150)).await;
        }
        for port in [1, 2, 3] {
            let times = world.attempts_at(port);
            // The repeated check follows its predecessor at once; all others keep their distance.
            let close = times.windows(2).filter(|pair| pair[1] - pair[0] < CHECK.interval).count();
            assert_eq!(close, 0, "port {port}: {times:?}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_hangs_goes_down_even_if_this_process_is_starved() {
    let world = World::new(&[]);
    play(checked(&[1]), &world, async |published, _, _| {
        published.until(&[Up]).await;
        let starve = async {
            loop {
                // Every time the backend hangs, the process wakes late as well.
                world.set(1, Acts::Stopped(CHECK.timeout * 2));
                time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = starve => {}
            _ = published.until(&[Down]) => {}
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_this_process_lacks_is_never_held_against_a_backend() {
    let world = World::new(&[(2, Acts::LacksDescriptors)]);
    play(checked(&[1, 2]), &world, async |published, _, counters| {
        while published.until(&[Up, Checking]).await.upstreams[0][1].awaited {
            published.next().await;
        }
        world.set(1, Acts::LacksDescriptors);
        published.is_quiet_for(Duration::from_secs(600)).await;
        world.set(2, Acts::Accepts);
        published.until(&[Up, Up]).await;
        let second = counters.backend(BackendKey { upstream: UpstreamId(0), backend: BackendId(1) });
        assert!(second.counters.local.value() > 100);
        assert_eq!(second.counters.failure.value(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn without_a_check_a_backend_is_up_as_soon_as_it_has_an_address() {
    let world = World::new(&[]);
    let config = config(&[(None, None, &[ip(1), host("name", 2)])]);
    play(config, &world, async |published, addresses, _| {
        published.until(&[Up, Checking]).await;
        addresses
            .send_replace(Arc::new(Addresses { generation: 1, upstreams: vec![vec![at(&[1]), at(&[2])]] }));
        let begin = Instant::now();
        let states = published.until(&[Up, Up]).await;
        assert_eq!(states.upstreams[0][1].addresses, tcp(2));
        assert_eq!(begin.elapsed(), Duration::ZERO);
        assert!(world.attempts.borrow().is_empty());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn new_addresses_go_out_and_are_checked_at_once() {
    let world = World::new(&[(3, Acts::Refuses)]);
    let config = config(&[(Some(CHECK), None, &[host("name", 2)])]);
    play(config, &world, async |published, addresses, _| {
        while published.until(&[Checking]).await.upstreams[0][0].awaited {
            published.next().await;
        }
        published.is_quiet_for(Duration::from_secs(600)).await;
        for (port, expected) in [(2, Up), (3, Down)] {
            let begin = Instant::now();
            addresses.send_replace(Arc::new(Addresses { generation: 1, upstreams: vec![vec![at(&[port])]] }));
            assert_eq!(published.next().await.upstreams[0][0].addresses, tcp(port));
            time::sleep(Duration::from_millis(1)).await;
            assert_eq!(world.attempts_at(port).first(), Some(&begin));
            published.until(&[expected]).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_port_of_the_check_replaces_the_backends() {
    let world = World::new(&[(1, Acts::Refuses)]);
    let check = HealthCheck { port: Some(9), ..CHECK };
    play(config(&[(Some(check), None, &[ip(1)])]), &world, async |published, _, _| {
        let states = published.until(&[Up]).await;
        assert_eq!(states.upstreams[0][0].addresses, tcp(1), "sessions use the backend's own");
        assert!(world.attempts_at(1).is_empty());
    })
    .await;
}

/// Two backends that nobody checks, and what their sessions do to them.
fn judged_by_sessions() -> Config {
    let mut config = config(&[(None, None, &[ip(1), ip(2)])]);
    let rules = Outlier {
        consecutive_failures: 3,
        empty_answers: None,
        ejection_time: Duration::from_secs(30),
        max_ejected: 50,
    };
    config.upstreams[0].outlier = Some(rules);
    config
}

#[tokio::test(start_paused = true)]
async fn failures_of_sessions_eject_for_the_ejection_time() {
    let world = World::new(&[]);
    play(judged_by_sessions(), &world, async |published, _, counters| {
        published.until(&[Up, Up]).await;
        for times in [1, 2] {
            world.fail(2);
            published.is_quiet_for(Duration::from_millis(1)).await;
            world.fail(1);
            let begin = Instant::now();
            assert!(published.next().await.upstreams[0][0].ejected);
            assert_eq!(begin.elapsed(), Duration::ZERO);
            // What fails meanwhile neither lengthens it nor counts later.
            world.fail(10);
            assert!(!published.next().await.upstreams[0][0].ejected);
            let length = Duration::from_secs(30) * times;
            assert!(begin.elapsed() >= length && begin.elapsed() <= length + Duration::from_millis(2));
        }
        let first = counters.backend(BackendKey { upstream: UpstreamId(0), backend: BackendId(0) });
        assert_eq!(first.counters.ejections.value(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_session_has_a_dead_backend_down_within_half_a_second() {
    let world = World::new(&[]);
    play(checked(&[1, 2]), &world, async |published, _, _| {
        published.until(&[Up, Up]).await;
        // Also just after a check has found it well.
        for quiet in [10_000, 1] {
            time::sleep(Duration::from_millis(quiet)).await;
            world.set(1, Acts::Refuses);
            world.fail(1);
            let begin = Instant::now();
            published.until(&[Down, Up]).await;
            assert!(begin.elapsed() <= Duration::from_millis(500), "{:?}", begin.elapsed());
            world.set(1, Acts::Accepts);
            published.until(&[Up, Up]).await;
            assert!(begin.elapsed() <= Duration::from_secs(5), "{:?}", begin.elapsed());
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn failed_sessions_without_number_ask_for_few_checks_and_change_nothing_where_these_succeed() {
    let world = World::new(&[]);
    play(checked(&[1, 2]), &world, async |published, _, _| {
        published.until(&[Up, Up]).await;
        let before = world.attempts_at(1).len();
        let begin = Instant::now();
        let storm = async {
            while begin.elapsed() < Duration::from_secs(10) {
                world.fail(100);
                time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            states = published.next() => panic!("{states:?}"),
            () = storm => {}
        }
        let checks = world.attempts_at(1).len() - before;
        assert!((5..=10).contains(&checks), "{checks} in ten seconds");
        published.is_quiet_for(Duration::from_secs(5)).await;
        assert!(world.attempts_at(1).len() - before - checks <= 2, "the suspicion is over");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_ejection_ends_with_rise_checks_that_are_fast() {
    let world = World::new(&[]);
    let mut config = checked(&[1, 2]);
    config.upstreams[0].outlier = judged_by_sessions().upstreams[0].outlier.clone();
    play(config, &world, async |published, _, _| {
        published.until(&[Up, Up]).await;
        time::sleep(Duration::from_secs(5)).await;
        world.fail(3);
        let begin = Instant::now();
        assert!(published.next().await.upstreams[0][0].ejected);
        assert!(!published.next().await.upstreams[0][0].ejected);
        assert!(begin.elapsed() >= CHECK.fast_interval, "{:?}", begin.elapsed());
        assert!(begin.elapsed() <= CHECK.fast_interval * 2, "{:?}", begin.elapsed());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn sessions_begin_with_the_address_that_the_check_found_well() {
    let world = World::new(&[(2, Acts::Refuses)]);
    let config = config(&[(Some(CHECK), None, &[host("name", 1)])]);
    play(config, &world, async |published, addresses, _| {
        addresses.send_replace(Arc::new(Addresses { generation: 1, upstreams: vec![vec![at(&[2, 3, 4])]] }));
        let states = published.until(&[Up]).await;
        assert_eq!(states.upstreams[0][0].addresses, at(&[3, 2, 4]).addresses);
        let [first, second] = [2, 3].map(|port| world.attempts_at(port).len());
        time::sleep(Duration::from_secs(100)).await;
        assert_eq!(world.attempts_at(2).len(), first, "the next check begins there, too");
        assert!(world.attempts_at(3).len() > second);
        world.set(3, Acts::Refuses);
        world.set(2, Acts::Accepts);
        assert_eq!(published.next().await.upstreams[0][0].addresses, at(&[2, 3, 4]).addresses);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_address_that_has_left_its_name_is_watched_until_it_is_dead() {
    let world = World::new(&[]);
    let mut config = config(&[(Some(CHECK), None, &[host("name", 1)])]);
    config.upstreams[0].on_down = OpenSessions::Close;
    play(config, &world, async |published, addresses, _| {
        let lead_to = |ports: &[u16]| {
            addresses.send_replace(Arc::new(Addresses { generation: 1, upstreams: vec![vec![at(ports)]] }))
        };
        lead_to(&[2]);
        published.until(&[Up]).await;
        lead_to(&[3]);
        let moved = published.next().await.upstreams[0][0].clone();
        assert_eq!((moved.health, moved.awaited, &moved.addresses), (Checking, true, &tcp(3)));
        published.until(&[Up]).await;
        published.is_quiet_for(Duration::from_secs(300)).await;
        assert!(world.attempts_at(2).len() > 8, "somebody looks after it");
        world.set(2, Acts::Refuses);
        assert_eq!(published.next().await.upstreams[0][0].gone, tcp(2));
        let watched = world.attempts_at(2).len();
        time::sleep(Duration::from_secs(300)).await;
        assert_eq!(world.attempts_at(2).len(), watched, "it is over");
        lead_to(&[2]);
        assert_eq!(*published.next().await.upstreams[0][0].gone, [], "it is back");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_check_of_the_old_address_says_nothing_of_the_new_one() {
    let world = World::new(&[]);
    let check = HealthCheck { fall: 1, ..CHECK };
    play(config(&[(Some(check), None, &[host("name", 1)])]), &world, async |published, addresses, _| {
        let lead_to = |port| {
            addresses.send_replace(Arc::new(Addresses { generation: 1, upstreams: vec![vec![at(&[port])]] }))
        };
        lead_to(2);
        published.until(&[Up]).await;
        // The next check hangs, and the name moves meanwhile.
        world.set(2, Acts::Hangs);
        time::sleep(Duration::from_secs(31)).await;
        let begin = Instant::now();
        lead_to(3);
        while published.until(&[Up]).await.upstreams[0][0].addresses != tcp(3) {
            published.next().await;
        }
        assert!(begin.elapsed() < Duration::from_millis(10), "{:?}", begin.elapsed());
        published.is_quiet_for(Duration::from_secs(20)).await;
        // And while a suspicion waits for its check.
        world.fail(1);
        time::sleep(Duration::from_millis(1)).await;
        lead_to(4);
        let moved = published.next().await.upstreams[0][0].clone();
        assert_eq!((moved.addresses, moved.health), (tcp(4), Checking));
        published.until(&[Up]).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn backends_that_are_down_hold_up_none_that_is_up() {
    let many: Vec<u16> = (1..=1_500).collect();
    let hang: Vec<_> = many.iter().map(|&port| (port, Acts::Hangs)).collect();
    let world = World::new(&hang);
    // The last one is well, until all the others have been found down.
    world.set(1_500, Acts::Accepts);
    play(checked(&many), &world, async |published, _, _| {
        let is_down = |backend: &crate::upstream::BackendState| backend.health == Down;
        while published.next().await.upstreams[0].iter().filter(|backend| is_down(backend)).count() < 1_499 {}
        world.set(1_500, Acts::Refuses);
        world.failures.borrow().as_ref().expect("it is checked").failed(BackendId(1_499), Fault::Failure);
        let begin = Instant::now();
        while !is_down(&published.next().await.upstreams[0][1_499]) {}
        assert!(begin.elapsed() <= Duration::from_millis(500), "{:?}", begin.elapsed());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_comes_back_ramps_in_few_states() {
    let world = World::new(&[]);
    let mut config = judged_by_sessions();
    config.upstreams[0].slow_start = Some(Duration::from_secs(19));
    play(config, &world, async |published, _, _| {
        let ramps = |states: &UpstreamStates| {
            states.upstreams[0].iter().map(|backend| backend.ramp).collect::<Vec<_>>()
        };
        assert_eq!(ramps(&*published.until(&[Up, Up]).await), [20, 20], "nobody ramps at the start");
        world.fail(3);
        published.next().await;
        for part in 1..=20 {
            assert_eq!(ramps(&*published.next().await), [part, 20]);
        }
        published.is_quiet_for(Duration::from_secs(600)).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn reports_do_not_hold_up_a_ramp_and_spared_backends_are_not_published() {
    let world = World::new(&[(1, Acts::Refuses)]);
    let mut config = config(&[(None, None, &[ip(1), ip(2)]), (Some(CHECK), None, &[ip(1), ip(2)])]);
    // A tenth of two primaries is none.
    let rules = judged_by_sessions().upstreams[0].outlier.clone();
    config.upstreams[0].outlier = rules.map(|rules| Outlier { max_ejected: 10, ..rules });
    config.upstreams[1].slow_start = Some(Duration::from_secs(19));
    play(config, &world, async |published, _, _| {
        while published.next().await.upstreams[1][0].health != Down {}
        world.set(1, Acts::Accepts);
        while published.next().await.upstreams[1][0].health != Up {}
        let (begin, mut states) = (Instant::now(), 0);
        loop {
            tokio::select! {
                () = time::sleep(Duration::from_millis(10)) => world.fail(3),
                now = published.next() => {
                    states += 1;
                    if now.upstreams[1][0].ramp == 20 { break }
                }
            }
        }
        assert!(begin.elapsed() < Duration::from_millis(19_500), "{:?}", begin.elapsed());
        assert_eq!(states, 19);
    })
    .await;
}

/// The thread on real sockets, with what it published.
fn start(
    check: HealthCheck,
    port: u16,
    counters: &Arc<HealthCounters>,
) -> (HealthThread, mpsc::Receiver<Arc<UpstreamStates>>) {
    let config = config(&[(Some(check), None, &[ip(port)])]);
    let (_, addresses) = watch::channel(Arc::new(literal(&config)));
    let (on_report, reports) = reports();
    let snapshot = Snapshot::build(Arc::new(config), 1, Some(&on_report), None).expect("numbers");
    let snapshot = Arc::new(snapshot);
    let (sender, published) = mpsc::channel();
    let publish = Box::new(move |states| {
        // The test may be over.
        let _ = sender.send(states);
    });
    let thread = spawn(&snapshot, addresses, reports, Arc::clone(counters), publish);
    (thread.expect("a thread"), published)
}

/// Longer than anything here takes, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

fn wait_for(published: &mpsc::Receiver<Arc<UpstreamStates>>, expected: Health) {
    while published.recv_timeout(PATIENCE).expect("a change").upstreams[0][0].health != expected {}
}

#[test]
fn the_thread_follows_a_real_backend_down_and_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let often = Duration::from_millis(5);
    let check = HealthCheck { interval: often, fast_interval: often, ..CHECK };
    let counters = Arc::default();
    let (thread, published) = start(check, address.port(), &counters);
    wait_for(&published, Up);
    drop(listener);
    wait_for(&published, Down);
    let listener = TcpListener::bind(address).unwrap();
    wait_for(&published, Up);
    drop(listener);
    wait_for(&published, Down);
    thread.stop();
    let counters = counters.backend(BackendKey { upstream: UpstreamId(0), backend: BackendId(0) });
    assert_eq!((counters.counters.up.value(), counters.counters.down.value()), (2, 2));
    assert!(published.iter().count() < 2 && published.recv().is_err(), "nothing is published after the end");
}

#[test]
fn stop_does_not_wait_for_a_check_that_hangs() {
    // A full accept queue drops further connection requests, so the check hangs.
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().expect("IPv4");
    let _fills_the_queue = std::net::TcpStream::connect(address).unwrap();
    let check = HealthCheck { timeout: 4 * PATIENCE, ..CHECK };
    let (thread, published) = start(check, address.port(), &Arc::default());
    assert_eq!(published.recv_timeout(PATIENCE).expect("the first state").version, 1);
    let begin = std::time::Instant::now();
    assert!(!thread.is_finished());
    thread.stop();
    assert!(begin.elapsed() < PATIENCE);
}
