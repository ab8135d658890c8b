//! Resolves host names off the shards: looks each name up again and again, and publishes the whole state.
//!
//! `getaddrinfo` can take as long as the name servers, or a broken NSS module, take. So every look-up has a
//! thread of its own for its duration, which is never joined: neither start nor stop waits for it.
//!
//! Invariants: at most one look-up of a name is under way, and at most `limits::LOOKUPS_MAX` in all; a slow
//! look-up delays no name that can be answered at once; a failure or an empty answer never removes known
//! addresses; a change of the trouble with a name is logged once.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::panic;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{self, Instant};

use crate::base::{Address, BackendKey, Plain, limits};
use crate::config::BackendAddress;
use crate::upstream::{Addresses, Resolved, Snapshot};

/// First pause after a failed look-up of a name that was never resolved; the pause doubles up to
/// [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest pause between look-ups of a name that was never resolved.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// A look-up that takes longer frees its slot for the next one, as far as `limits::LOOKUPS_MAX` allows.
const QUICK: Duration = Duration::from_millis(250);
/// A name whose look-up takes longer waits, the next time, behind names that were answered at once.
const PROMPT: Duration = Duration::from_secs(1);
/// A look-up that takes longer is logged. With the defaults of resolv.conf(5), two attempts of five seconds,
/// one dead name server among others stays below this.
const SLOW: Duration = Duration::from_secs(10);

/// The source of answers; the test seam of this module.
pub trait Lookup: Clone + Send + Sync + 'static {
    /// Returns the addresses of `name`, in the order in which they should be tried.
    fn lookup(&self, name: &str) -> impl Future<Output = io::Result<Vec<IpAddr>>> + Send;
}

/// The resolver of the system: `getaddrinfo(3)`.
#[derive(Clone, Copy, Debug)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    /// # Cancel safety
    ///
    /// The thread of a cancelled look-up goes on until the system answers, and the answer is discarded.
    async fn lookup(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let (reply, answer) = oneshot::channel();
        let name = name.to_owned();
        thread::Builder::new().name("resolve".to_owned()).spawn(move || {
            // Port 0: only the addresses matter. The receiver may be gone by then.
            let found = (name.as_str(), 0).to_socket_addrs();
            let _ = reply.send(found.map(|addresses| addresses.map(|address| address.ip()).collect()));
        })?;
        answer.await.unwrap_or_else(|_| Err(io::Error::other("the look-up panicked")))
    }
}

/// Keeps the addresses of all backends of the configuration that runs up to date.
pub struct Resolver {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    sender: Arc<watch::Sender<Arc<Addresses>>>,
    /// By name in lower case.
    followed: HashMap<String, Followed>,
}

/// A name that is looked up.
struct Followed {
    name: Arc<Name>,
    /// `None` before the resolver runs.
    task: Option<AbortHandle>,
}

/// A host name and the backends that use it.
struct Name {
    name: String,
    /// The shortest interval that its users ask for; `None` if one answer is enough for all of them.
    resolve: Option<Duration>,
    users: Mutex<Vec<User>>,
    knowledge: Mutex<Knowledge>,
}

/// A backend that is configured by a host name.
#[derive(Clone, Debug, PartialEq)]
struct User {
    key: BackendKey,
    port: u16,
    /// Whether the backend keeps the first answer for good.
    once: bool,
}

impl Resolver {
    /// Creates the resolver, and the channel on which its answers appear. Literal addresses, Unix sockets and
    /// `localhost` are there at once; names follow while [`Resolver::run`] runs.
    #[must_use]
    pub fn new(mut snapshots: watch::Receiver<Arc<Snapshot>>) -> (Self, watch::Receiver<Arc<Addresses>>) {
        let (sender, mut receiver) = watch::channel(Arc::default());
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        let mut resolver = Self { snapshots, sender: Arc::new(sender), followed: HashMap::new() };
        resolver.adopt(&snapshot);
        receiver.mark_unchanged();
        (resolver, receiver)
    }

    /// Looks the names up until the future is dropped, and follows the configuration; never returns. Needs a tokio
    /// runtime with time.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends all look-ups at once, whether or not the system ever answers.
    pub async fn run(mut self, lookup: impl Lookup) {
        let slots = Arc::new(Slots::default());
        let mut tasks = JoinSet::new();
        loop {
            for followed in self.followed.values_mut().filter(|followed| followed.task.is_none()) {
                let (name, sender) = (Arc::clone(&followed.name), Arc::clone(&self.sender));
                followed.task = Some(tasks.spawn(follow(name, lookup.clone(), Arc::clone(&slots), sender)));
            }
            tokio::select! {
                Some(ended) = tasks.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        panic::resume_unwind(error.into_panic());
                    }
                }
                snapshot = next(&mut self.snapshots) => self.adopt(&snapshot),
            }
        }
    }

    /// Looks up the names of another generation from now on. Names that stay keep what is known of them.
    fn adopt(&mut self, snapshot: &Snapshot) {
        let mut before = std::mem::take(&mut self.followed);
        let mut addresses = literal(snapshot);
        let published = Arc::clone(&self.sender.borrow());
        for (name, (resolve, users)) in wanted(snapshot) {
            let known = before.remove(&name);
            let keeps = |user: &User| {
                let had = known.as_ref().is_some_and(|known| known.name.users().contains(user));
                published.of(user.key).filter(|resolved| had && user.once && !resolved.addresses.is_empty())
            };
            let knowledge = known.as_ref().map(|known| known.name.knowledge().clone()).unwrap_or_default();
            for user in &users {
                let resolved = &mut addresses.upstreams[user.key.upstream.index()][user.key.backend.index()];
                *resolved = keeps(user).cloned().unwrap_or_else(|| knowledge.resolved(user.port));
            }
            let followed = match known.filter(|known| known.name.resolve == resolve) {
                Some(known) => {
                    *known.name.users() = users;
                    known
                }
                None => {
                    let (users, knowledge) = (Mutex::new(users), Mutex::new(knowledge));
                    Followed {
                        name: Arc::new(Name { name: name.clone(), resolve, users, knowledge }),
                        task: None,
                    }
                }
            };
            self.followed.insert(name, followed);
        }
        self.sender.send_replace(Arc::new(addresses));
    }
}

/// Returns the next snapshot; never, if there will be none.
async fn next(snapshots: &mut watch::Receiver<Arc<Snapshot>>) -> Arc<Snapshot> {
    if snapshots.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    Arc::clone(&snapshots.borrow_and_update())
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.iter().for_each(AbortHandle::abort);
    }
}

impl Name {
    fn users(&self) -> MutexGuard<'_, Vec<User>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn knowledge(&self) -> MutexGuard<'_, Knowledge> {
        self.knowledge.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the addresses that are known without a look-up.
fn literal(snapshot: &Snapshot) -> Addresses {
    let mut upstreams = Vec::new();
    for shared in snapshot.upstreams() {
        let (at, backends) = (shared.id().index(), &shared.config().backends);
        if upstreams.len() <= at {
            upstreams.resize_with(at + 1, Vec::new);
        }
        let mut resolved = vec![Resolved::default(); shared.given()];
        for (number, entry) in shared.numbers().iter().zip(backends) {
            let known = match &entry.address {
                BackendAddress::Unix(path) => vec![Address::Unix(path.clone())],
                address => address.known().into_iter().map(Address::Tcp).collect(),
            };
            resolved[number.index()] = Resolved { addresses: known.into(), has_failed: false };
        }
        upstreams[at] = resolved;
    }
    Addresses { generation: snapshot.generation(), upstreams }
}

/// Returns the names that have to be looked up, in lower case, with the shortest interval that their users want.
fn wanted(snapshot: &Snapshot) -> BTreeMap<String, (Option<Duration>, Vec<User>)> {
    let mut names = BTreeMap::<String, (Option<Duration>, Vec<User>)>::new();
    for shared in snapshot.upstreams() {
        let (config, upstream) = (shared.config(), shared.id());
        for (backend, entry) in shared.numbers().iter().zip(&config.backends) {
            let BackendAddress::Host { name, port } = &entry.address else { continue };
            if !entry.address.known().is_empty() {
                continue;
            }
            let key = BackendKey { upstream, backend: *backend };
            let (resolve, users) = names.entry(name.to_ascii_lowercase()).or_default();
            *resolve = (*resolve).into_iter().chain(config.resolve).min();
            users.push(User { key, port: *port, once: config.resolve.is_none() });
        }
    }
    names
}

/// Looks one name up for as long as one of its users wants further answers.
async fn follow(
    name: Arc<Name>,
    lookup: impl Lookup,
    slots: Arc<Slots>,
    sender: Arc<watch::Sender<Arc<Addresses>>>,
) {
    let mut retry = RETRY_MIN;
    // A name that was never looked up may be answered at once.
    let mut is_prompt = true;
    loop {
        let slot = slots.take(is_prompt).await;
        let begun = Instant::now();
        let answer = look_up(&lookup, &name.name, &slots, slot).await;
        is_prompt = answer.is_ok() && begun.elapsed() < PROMPT;
        let is_known = {
            let mut knowledge = name.knowledge();
            let news = knowledge.learn(answer);
            log_news(&name.name, &news, &knowledge);
            if news != News::None {
                publish(&name.users(), &knowledge, &sender);
            }
            !knowledge.addresses.is_empty()
        };
        let pause = if !is_known {
            let pause = name.resolve.map_or(retry, |resolve| resolve.min(retry));
            retry = (retry * 2).min(RETRY_MAX);
            pause
        } else if let Some(resolve) = name.resolve {
            resolve
        } else {
            return;
        };
        time::sleep(pause).await;
    }
}

/// The look-ups that may be under way. Most slots are for slow look-ups, and a look-up moves to one of these
/// when it turns out to be slow; so a few hundred dead names delay no name that is answered at once.
struct Slots {
    quick: Semaphore,
    slow: Semaphore,
}

impl Default for Slots {
    fn default() -> Self {
        let quick = limits::LOOKUPS_MAX / 8;
        Self { quick: Semaphore::new(quick), slow: Semaphore::new(limits::LOOKUPS_MAX - quick) }
    }
}

impl Slots {
    async fn take(&self, quick: bool) -> SemaphorePermit<'_> {
        let slots = if quick { &self.quick } else { &self.slow };
        slots.acquire().await.expect("the semaphore is never closed")
    }
}

/// Makes one look-up, however long it takes; a slow one is reported while it lasts.
async fn look_up<'a>(
    lookup: &impl Lookup,
    name: &str,
    slots: &'a Slots,
    mut slot: SemaphorePermit<'a>,
) -> io::Result<Vec<IpAddr>> {
    let mut answer = std::pin::pin!(lookup.lookup(name));
    if let Ok(answer) = time::timeout(QUICK, &mut answer).await {
        return answer;
    }
    if let Ok(slow) = slots.slow.try_acquire() {
        slot = slow;
    }
    let answered = time::timeout(SLOW - QUICK, &mut answer).await;
    if let Ok(answer) = answered {
        drop(slot);
        return answer;
    }
    log::warn!("the resolver has not answered for {name} in {} s; still waiting", SLOW.as_secs());
    answer.await
}

/// What is known of one name.
#[derive(Clone, Debug, Default)]
struct Knowledge {
    /// The last good answer; empty before the first.
    addresses: Vec<IpAddr>,
    /// Why the last look-up failed, if it did.
    trouble: Option<String>,
}

/// What changed with an answer.
#[derive(Debug, PartialEq, Eq)]
enum News {
    /// Nothing.
    None,
    /// The first addresses.
    First,
    /// Other addresses than before.
    Changed,
    /// The same addresses as before, after look-ups that failed.
    Recovered,
    /// Look-ups fail, or fail for a new reason.
    Trouble(String),
}

impl Knowledge {
    /// Returns it for a user with this port.
    fn resolved(&self, port: u16) -> Resolved {
        let addresses = self.addresses.iter().map(|&ip| Address::Tcp(SocketAddr::new(ip, port))).collect();
        Resolved { addresses, has_failed: self.addresses.is_empty() && self.trouble.is_some() }
    }

    fn learn(&mut self, answer: io::Result<Vec<IpAddr>>) -> News {
        let found = match answer {
            Ok(found) if found.is_empty() => return self.fail("the answer holds no address".to_owned()),
            Ok(found) => found,
            Err(error) => return self.fail(Plain(&error).to_string()),
        };
        let had_trouble = self.trouble.take().is_some();
        let mut addresses: Vec<IpAddr> = Vec::new();
        for ip in found {
            if addresses.len() < limits::ADDRESSES_PER_BACKEND_MAX && !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
        // Name servers rotate their answers: the same addresses in another order are not news.
        let same = addresses.len() == self.addresses.len()
            && addresses.iter().all(|address| self.addresses.contains(address));
        if same {
            return if had_trouble { News::Recovered } else { News::None };
        }
        let first = self.addresses.is_empty();
        self.addresses = addresses;
        if first { News::First } else { News::Changed }
    }

    fn fail(&mut self, cause: String) -> News {
        if self.trouble.as_ref() == Some(&cause) {
            return News::None;
        }
        self.trouble = Some(cause.clone());
        News::Trouble(cause)
    }
}

fn log_news(name: &str, news: &News, knowledge: &Knowledge) {
    let addresses = || {
        let texts: Vec<String> = knowledge.addresses.iter().map(ToString::to_string).collect();
        texts.join(", ")
    };
    match news {
        News::None => {}
        News::First => {
            log::info!(event = "name_resolved", name, addresses = addresses();
                "{name} resolves to {}", addresses())
        }
        News::Changed => {
            log::info!(event = "name_resolved", name, addresses = addresses();
                "{name} resolves to {} now", addresses())
        }
        News::Recovered => log::info!("{name} resolves again, unchanged"),
        News::Trouble(cause) if knowledge.addresses.is_empty() => {
            log::warn!("cannot resolve {name}: {cause}; its backends take no sessions until it resolves");
        }
        News::Trouble(cause) => log::warn!("cannot resolve {name}: {cause}; keeping {}", addresses()),
    }
}

/// Hands what is known of a name to its users.
fn publish(users: &[User], knowledge: &Knowledge, sender: &watch::Sender<Arc<Addresses>>) {
    sender.send_if_modified(|published| {
        let mut next = Addresses::clone(published);
        for user in users {
            let known = &mut next.upstreams[user.key.upstream.index()][user.key.backend.index()];
            if !user.once || known.addresses.is_empty() {
                *known = knowledge.resolved(user.port);
            }
        }
        let modified = next != **published;
        *published = Arc::new(next);
        modified
    });
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use tokio::sync::watch::Receiver;

    use crate::config::{BackendAddress, Config};
    use crate::health::testing::*;

    use super::*;

    /// Answers by name; a name without an entry hangs.
    #[derive(Clone, Default)]
    struct Script(Arc<Mutex<World>>);

    #[derive(Default)]
    struct World {
        answers: HashMap<String, Result<Vec<IpAddr>, String>>,
        asked: Vec<(String, Instant)>,
    }

    impl Script {
        fn set(&self, name: &str, answer: Result<&[&str], &str>) {
            let parse = |ips: &[&str]| ips.iter().map(|ip| ip.parse().unwrap()).collect();
            let answer = answer.map(parse).map_err(str::to_owned);
            self.0.lock().unwrap().answers.insert(name.to_owned(), answer);
        }

        /// Returns the seconds from `begin` at which a name was looked up.
        fn asked(&self, name: &str, begin: Instant) -> Vec<u64> {
            let world = self.0.lock().unwrap();
            let of_name = world.asked.iter().filter(|(asked, _)| asked == name);
            of_name.map(|(_, time)| (*time - begin).as_secs()).collect()
        }
    }

    impl Lookup for Script {
        async fn lookup(&self, name: &str) -> io::Result<Vec<IpAddr>> {
            let answer = {
                let mut world = self.0.lock().unwrap();
                world.asked.push((name.to_owned(), Instant::now()));
                world.answers.get(name).cloned()
            };
            match answer {
                Some(answer) => answer.map_err(io::Error::other),
                None => std::future::pending().await,
            }
        }
    }

    /// The resolver of a configuration that stays.
    fn of(config: Config) -> (Resolver, Receiver<Arc<Addresses>>) {
        let snapshot = Snapshot::build(Arc::new(config), 1, None, None).expect("numbers");
        Resolver::new(watch::channel(Arc::new(snapshot)).1)
    }

    fn addresses(receiver: &Receiver<Arc<Addresses>>, backend: usize) -> Vec<String> {
        receiver.borrow().upstreams[0][backend].addresses.iter().map(ToString::to_string).collect()
    }

    const EVERY_MINUTE: Option<Duration> = Some(Duration::from_secs(60));

    #[test]
    fn literal_addresses_files_and_localhost_are_known_at_once() {
        let entries = [ip(1), unix("/run/x"), host("localhost", 2), host("LocalHost.", 3), host("name", 4)];
        let (resolver, receiver) = of(config(&[(None, None, &entries)]));
        let known: Vec<_> = (0..entries.len()).map(|backend| addresses(&receiver, backend)).collect();
        assert_eq!(known[0], ["127.0.0.1:1"]);
        assert_eq!(known[1], ["unix:/run/x"]);
        assert_eq!(known[2], ["[::1]:2", "127.0.0.1:2"]);
        assert_eq!(known[3], ["[::1]:3", "127.0.0.1:3"]);
        assert!(known[4].is_empty());
        assert_eq!(resolver.followed.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_looked_up_again_and_keeps_its_last_good_answer() {
        let script = Script::default();
        script.set("a", Ok(&["10.0.0.1", "10.0.0.2", "10.0.0.1"]));
        let entries = [host("a", 80), host("A", 81)];
        let (resolver, mut receiver) = of(config(&[(None, EVERY_MINUTE, &entries)]));
        let begin = Instant::now();
        tokio::spawn(resolver.run(script.clone()));
        receiver.changed().await.unwrap();
        assert_eq!(addresses(&receiver, 0), ["10.0.0.1:80", "10.0.0.2:80"]);
        assert_eq!(addresses(&receiver, 1), ["10.0.0.1:81", "10.0.0.2:81"]);

        for same in [Ok(&["10.0.0.2", "10.0.0.1"][..]), Err("no such name"), Ok(&[])] {
            script.set("a", same);
            let quiet = time::timeout(Duration::from_secs(120), receiver.changed()).await;
            assert!(quiet.is_err(), "{:?} after {same:?}", addresses(&receiver, 0));
        }
        script.set("a", Ok(&["::5"]));
        receiver.changed().await.unwrap();
        assert_eq!(addresses(&receiver, 0), ["[::5]:80"]);
        let asked = script.asked("a", begin);
        assert!(asked.windows(2).all(|pair| pair[1] - pair[0] == 60), "one look-up for both: {asked:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn next_configuration_keeps_what_is_known_and_looks_up_what_is_new() {
        let script = Script::default();
        script.set("a", Ok(&["10.0.0.1"]));
        script.set("b", Ok(&["10.0.0.2"]));
        let built = |entries: &[BackendAddress], previous: Option<&Snapshot>| {
            let config = config(&[(None, EVERY_MINUTE, entries)]);
            Arc::new(Snapshot::build(Arc::new(config), 1, None, previous).expect("numbers"))
        };
        let first = built(&[host("a", 80), host("gone", 80)], None);
        let (sender, snapshots) = watch::channel(Arc::clone(&first));
        let (resolver, mut receiver) = Resolver::new(snapshots);
        let begin = Instant::now();
        tokio::spawn(resolver.run(script.clone()));
        receiver.changed().await.unwrap();
        assert_eq!(addresses(&receiver, 0), ["10.0.0.1:80"]);

        sender.send_replace(built(&[host("b", 81), host("A", 82), ip(3)], Some(&first)));
        receiver.changed().await.unwrap();
        assert_eq!(receiver.borrow().generation, 2);
        assert_eq!(addresses(&receiver, 1), ["10.0.0.1:82"], "the name is known");
        assert_eq!(addresses(&receiver, 2), ["127.0.0.1:3"]);
        receiver.wait_for(|found| !found.upstreams[0][0].addresses.is_empty()).await.unwrap();
        assert_eq!(addresses(&receiver, 0), ["10.0.0.2:81"]);
        assert_eq!((script.asked("a", begin).len(), script.asked("gone", begin).len()), (1, 1));
        time::sleep(Duration::from_secs(3_600)).await;
        assert_eq!(script.asked("gone", begin).len(), 1, "nobody wants it any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_without_an_answer_is_tried_sooner_and_ever_less_often() {
        let script = Script::default();
        script.set("a", Err("no such name"));
        let (resolver, mut receiver) = of(config(&[(None, EVERY_MINUTE, &[host("a", 80)])]));
        let begin = Instant::now();
        tokio::spawn(resolver.run(script.clone()));
        time::sleep(Duration::from_secs(100)).await;
        assert_eq!(script.asked("a", begin), [0, 1, 3, 7, 15, 31, 61, 91]);
        receiver.mark_unchanged();
        script.set("a", Ok(&["10.0.0.1"]));
        receiver.changed().await.unwrap();
        assert_eq!(addresses(&receiver, 0), ["10.0.0.1:80"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_looked_up_once_where_nobody_wants_more() {
        let script = Script::default();
        script.set("a", Ok(&["10.0.0.1"]));
        let once: (_, _, &[_]) = (None, None, &[host("a", 80)]);
        let again: (_, _, &[_]) = (None, EVERY_MINUTE, &[host("b", 80)]);
        let (resolver, mut receiver) = of(config(&[once, again]));
        script.set("b", Ok(&["10.0.0.1"]));
        let begin = Instant::now();
        tokio::spawn(resolver.run(script.clone()));
        receiver.changed().await.unwrap();
        time::sleep(Duration::from_secs(599)).await;
        assert_eq!((script.asked("a", begin).len(), script.asked("b", begin).len()), (1, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_content_with_one_answer_keeps_it_beside_one_that_wants_more() {
        let script = Script::default();
        script.set("a", Ok(&["10.0.0.1"]));
        let entries = [host("a", 80)];
        let (resolver, mut receiver) = of(config(&[(None, None, &entries), (None, EVERY_MINUTE, &entries)]));
        tokio::spawn(resolver.run(script.clone()));
        receiver.changed().await.unwrap();
        script.set("a", Ok(&["10.0.0.2"]));
        receiver.changed().await.unwrap();
        assert_eq!(addresses(&receiver, 0), ["10.0.0.1:80"]);
        assert_eq!(receiver.borrow().upstreams[1][0].addresses[0].to_string(), "10.0.0.2:80");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_up_that_hangs_is_alone_and_holds_up_nobody() {
        let script = Script::default();
        script.set("b", Ok(&["10.0.0.1"]));
        let entries = [host("hangs", 80), host("b", 80)];
        let (resolver, mut receiver) = of(config(&[(None, EVERY_MINUTE, &entries)]));
        let begin = Instant::now();
        let running = tokio::spawn(resolver.run(script.clone()));
        receiver.changed().await.unwrap();
        assert_eq!(addresses(&receiver, 1), ["10.0.0.1:80"]);
        time::sleep(Duration::from_secs(3_600)).await;
        assert_eq!(script.asked("hangs", begin), [0]);
        assert!(addresses(&receiver, 0).is_empty());
        running.abort();
        assert!(running.await.unwrap_err().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn hundreds_of_names_that_hang_hold_up_no_other() {
        let script = Script::default();
        script.set("b", Ok(&["10.0.0.1"]));
        let mut entries: Vec<_> = (0..300).map(|number| host(&format!("hangs{number}"), 80)).collect();
        entries.push(host("b", 80));
        let (resolver, mut receiver) = of(config(&[(None, EVERY_MINUTE, &entries)]));
        let begin = Instant::now();
        tokio::spawn(resolver.run(script.clone()));
        receiver.changed().await.unwrap();
        assert_eq!(addresses(&receiver, 300), ["10.0.0.1:80"]);
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        script.set("b", Ok(&["10.0.0.2"]));
        receiver.changed().await.unwrap();
        assert!(begin.elapsed() < Duration::from_secs(62), "{:?}", begin.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_look_up_that_fails_is_made_known() {
        let script = Script::default();
        script.set("a", Err("no such name"));
        let (resolver, mut receiver) = of(config(&[(None, EVERY_MINUTE, &[host("a", 80)])]));
        let known = |receiver: &Receiver<Arc<Addresses>>| receiver.borrow().upstreams[0][0].clone();
        assert!(!known(&receiver).has_failed);
        tokio::spawn(resolver.run(script.clone()));
        receiver.changed().await.unwrap();
        assert!(known(&receiver).has_failed);
        script.set("a", Ok(&["10.0.0.1"]));
        receiver.changed().await.unwrap();
        assert_eq!((known(&receiver).has_failed, known(&receiver).addresses.len()), (false, 1));
    }

    #[test]
    fn only_a_change_is_news() {
        let mut knowledge = Knowledge::default();
        let ok = |ips: &[&str]| Ok(ips.iter().map(|ip| ip.parse().unwrap()).collect());
        let err = |text: &str| Err(io::Error::other(text.to_owned()));
        let trouble = |text: &str| News::Trouble(text.to_owned());
        assert_eq!(knowledge.learn(err("timed out")), trouble("timed out"));
        assert_eq!(knowledge.learn(err("timed out")), News::None);
        assert_eq!(knowledge.learn(err("no such name")), trouble("no such name"));
        assert_eq!(knowledge.learn(ok(&["::1", "::2"])), News::First);
        assert_eq!(knowledge.learn(ok(&["::2", "::1"])), News::None);
        assert_eq!(knowledge.learn(err("no such name")), trouble("no such name"));
        assert_eq!(knowledge.learn(ok(&["::1", "::2"])), News::Recovered);
        assert_eq!(knowledge.learn(ok(&["::1"])), News::Changed);
    }

    #[test]
    fn the_number_of_addresses_is_bounded_and_their_order_kept() {
        let many: Vec<IpAddr> = (0..100).rev().map(|last| IpAddr::from([10, 0, 0, last])).collect();
        let mut knowledge = Knowledge::default();
        knowledge.learn(Ok(many.clone()));
        assert_eq!(knowledge.addresses, many[..limits::ADDRESSES_PER_BACKEND_MAX]);
        assert_eq!(knowledge.learn(Ok(many)), News::None);
    }

    #[tokio::test]
    async fn the_resolver_of_the_system_answers() {
        // A literal needs no name server, but goes through the same code.
        let found = SystemLookup.lookup("127.0.0.1").await.unwrap();
        assert_eq!(found, [IpAddr::from([127, 0, 0, 1])]);
        assert!(SystemLookup.lookup("not a name").await.is_err());
    }
}
