//! Backend addresses that are listeners of this process, as far as only the machine can tell: a name may
//! resolve to it, and it may have addresses besides the loopback ones.
//!
//! A session on such an address would open another one here, and that one the next, until the process is
//! full. So an address that closes a circle is reported once and not used. A backend that is another
//! listener, from which no path leads back, is left alone. Circles that the configuration file alone reveals
//! are refused earlier (`config::reach`).

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use tokio::sync::watch::{self, Receiver, Sender};

use super::resolve::Resolver;
use crate::base::{Address, BackendKey};
use crate::config::{Circle, Config, ListenAddress};
use crate::upstream::{Addresses, Snapshot};

/// Removes the addresses that close a circle from what the resolver knows.
pub(super) struct Circles {
    snapshots: Receiver<Arc<Snapshot>>,
    found: Receiver<Arc<Addresses>>,
    used: Sender<Arc<Addresses>>,
    /// The texts that were reported.
    reported: BTreeSet<String>,
}

/// Returns the circles that the addresses of this machine close, for backends whose addresses are known
/// without a look-up.
#[must_use]
pub fn circles_here(config: &Config) -> Vec<String> {
    // A configuration alone has numbers enough.
    let Ok(snapshot) = Snapshot::build(Arc::new(config.clone()), 1, None, None) else { return Vec::new() };
    let (_sender, snapshots) = watch::channel(Arc::new(snapshot));
    let (_resolver, found) = Resolver::new(snapshots.clone());
    let (circles, _used) = Circles::new(snapshots, found);
    circles.reported.into_iter().collect()
}

impl Circles {
    /// Returns what remains of the addresses in `found`, now and while [`Circles::run`] runs.
    pub(super) fn new(
        snapshots: Receiver<Arc<Snapshot>>,
        found: Receiver<Arc<Addresses>>,
    ) -> (Self, Receiver<Arc<Addresses>>) {
        let (used, receiver) = watch::channel(Arc::default());
        let mut circles = Self { snapshots, found, used, reported: BTreeSet::new() };
        circles.pass_on();
        (circles, receiver)
    }

    /// Passes on what the resolver finds, until the future is dropped.
    pub(super) async fn run(mut self) {
        while self.found.changed().await.is_ok() {
            self.pass_on();
        }
        // The resolver has ended, and so has the control thread.
    }

    fn pass_on(&mut self) {
        let found = Arc::clone(&self.found.borrow_and_update());
        let snapshot = Arc::clone(&self.snapshots.borrow());
        let left = self.without_circles(&snapshot, &found, is_own);
        self.used.send_replace(left.map_or(found, Arc::new));
    }

    /// Returns the remaining addresses, or `None` if all remain; `is_own` returns whether an address is one
    /// of this machine.
    fn without_circles(
        &mut self,
        snapshot: &Snapshot,
        found: &Addresses,
        is_own: impl Fn(SocketAddr) -> bool,
    ) -> Option<Addresses> {
        let listeners = &snapshot.config().listeners;
        let meetings = meetings(snapshot, found, is_own);
        let counts: Vec<usize> = snapshot.upstreams().iter().map(|shared| shared.numbers().len()).collect();
        let circles = Circle::all(listeners, &counts, |upstream, backend, listener| {
            meetings.contains_key(&Circle { upstream, backend, listener })
        });
        if circles.is_empty() {
            return None;
        }
        let mut left = found.clone();
        for circle in circles {
            let shared = &snapshot.upstreams()[circle.upstream];
            let known = &mut left.upstreams[shared.id().index()][shared.numbers()[circle.backend].index()];
            for closing in &meetings[&circle] {
                self.report(snapshot.config(), circle, closing);
                known.addresses =
                    known.addresses.iter().filter(|address| *address != closing).cloned().collect();
            }
            // A backend without any other address need not be waited for.
            known.has_failed |= known.addresses.is_empty();
        }
        Some(left)
    }

    fn report(&mut self, config: &Config, circle: Circle, address: &Address) {
        let (upstream, listener) =
            (&config.upstreams[circle.upstream], &config.listeners[circle.listener].name);
        let (backend, upstream) = (&upstream.backends[circle.backend].name, &upstream.name);
        let message = format!(
            "{upstream}/{backend} has the address {address}, which is the listener {listener} of this process: sessions \
             would go \
             in a circle, so the address is not used"
        );
        if !self.reported.contains(&message) {
            log::warn!("{message}");
            self.reported.insert(message);
        }
    }
}

/// Returns the backend addresses that are also a listener's; mostly there are none.
fn meetings(
    snapshot: &Snapshot,
    found: &Addresses,
    is_own: impl Fn(SocketAddr) -> bool,
) -> HashMap<Circle, Vec<Address>> {
    let listeners = &snapshot.config().listeners;
    let mut known = HashMap::new();
    let mut meets = |address: &Address, listener: &ListenAddress| match (address, listener) {
        (Address::Tcp(address), _) => {
            // Only addresses with a listener's port are looked up.
            listener.takes(*address, |_| true) && {
                // With its scope: a link-local address belongs to this machine on one interface only.
                let host = match address.ip().to_canonical() {
                    IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
                    IpAddr::V6(_) => *address,
                };
                let own = *known.entry(host).or_insert_with(|| is_own(host));
                listener.takes(*address, |_| own)
            }
        }
        (Address::Unix(one), ListenAddress::Unix(two)) => {
            one.canonicalize().is_ok_and(|one| two.canonicalize().is_ok_and(|two| one == two))
        }
        (Address::Unix(_), _) => false,
    };
    let mut meetings: HashMap<Circle, Vec<Address>> = HashMap::new();
    for (upstream, shared) in snapshot.upstreams().iter().enumerate() {
        for (backend, number) in shared.numbers().iter().enumerate() {
            let key = BackendKey { upstream: shared.id(), backend: *number };
            let addresses = found.of(key).map_or(&[][..], |resolved| &resolved.addresses);
            for (address, (listener, one)) in addresses
                .iter()
                .flat_map(|address| listeners.iter().enumerate().map(move |one| (address, one)))
            {
                if meets(address, &one.address) {
                    let circle = Circle { upstream, backend, listener };
                    meetings.entry(circle).or_default().push(address.clone());
                }
            }
        }
    }
    meetings
}

/// Returns whether an address belongs to this machine: a connection to such an address also comes from it.
/// Nothing is sent.
fn is_own(mut address: SocketAddr) -> bool {
    let ip = address.ip();
    if ip.is_loopback() || ip.is_unspecified() {
        return true;
    }
    let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        // The port does not matter, but it must not be 0.
        address.set_port(9);
        socket.connect(address)?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == ip)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Resolved;

    /// Two listeners; the upstream of the first one has two names, and the upstream of the second one has
    /// another.
    const FILE: &str =
        "listeners: [{name: a, address: ':80', upstream: a}, {name: b, address: '10.0.0.1:81', upstream: b}]
upstreams:
  - {name: a, backends: ['one:80', 'two:81']}
  - {name: b, backends: ['three:90']}
";

    fn addresses(upstreams: &[&[&str]]) -> Addresses {
        let list = |text: &&str| {
            let all = text.split_whitespace().map(|address| Address::Tcp(address.parse().unwrap()));
            Resolved { addresses: all.collect(), has_failed: text.trim().is_empty() }
        };
        let upstreams = upstreams.iter().map(|backends| backends.iter().map(list).collect()).collect();
        Addresses { generation: 1, upstreams }
    }

    fn snapshots() -> (Sender<Arc<Snapshot>>, Receiver<Arc<Snapshot>>) {
        let config = crate::config::parse("f", FILE.as_bytes()).unwrap().config;
        watch::channel(Arc::new(Snapshot::build(Arc::new(config), 1, None, None).unwrap()))
    }

    #[tokio::test]
    async fn addresses_that_close_a_circle_are_left_out_and_others_stay() {
        let (_keeper, snapshots) = snapshots();
        let snapshot = Arc::clone(&snapshots.borrow());
        let all = addresses(&[&["10.0.0.9:80 10.0.0.1:80", "10.0.0.1:81"], &["10.0.0.1:90"]]);
        let (sender, found) = watch::channel(Arc::new(all.clone()));
        let (mut circles, _used) = Circles::new(snapshots, found);
        let own = |address: SocketAddr| address.ip() == IpAddr::from([10, 0, 0, 1]);
        // From the second listener, no path leads back.
        let left = circles.without_circles(&snapshot, &all, own).unwrap();
        assert_eq!(left, addresses(&[&["10.0.0.9:80", "10.0.0.1:81"], &["10.0.0.1:90"]]));
        assert_eq!(circles.without_circles(&snapshot, &left, own), None);
        // Now a path leads back.
        let all = addresses(&[&["10.0.0.9:80", "10.0.0.1:81"], &["10.0.0.1:80 10.0.0.3:80"]]);
        let left = circles.without_circles(&snapshot, &all, own).unwrap();
        assert_eq!(left, addresses(&[&["10.0.0.9:80", ""], &["10.0.0.3:80"]]));
        assert_eq!(circles.reported.len(), 3, "each once");
        drop(sender);
    }

    #[tokio::test]
    async fn what_is_found_is_passed_on() {
        let (_keeper, snapshots) = snapshots();
        let (sender, found) = watch::channel(Arc::new(addresses(&[&["", ""], &[""]])));
        let (circles, mut used) = Circles::new(snapshots, found);
        assert_eq!(*used.borrow_and_update().upstreams, addresses(&[&["", ""], &[""]]).upstreams);
        let running = tokio::spawn(circles.run());
        sender.send_replace(Arc::new(addresses(&[&["127.0.0.1:80 192.0.2.1:80", ""], &[""]])));
        used.changed().await.unwrap();
        assert_eq!(**used.borrow(), addresses(&[&["192.0.2.1:80", ""], &[""]]));
        drop(sender);
        running.await.unwrap();
    }

    #[test]
    fn loopback_is_own_and_a_documentation_address_is_not() {
        let at = |ip: [u8; 4]| SocketAddr::from((ip, 80));
        assert!(is_own(at([127, 0, 0, 9])) && is_own(at([0, 0, 0, 0])));
        assert!(!is_own(at([192, 0, 2, 1])));
    }
}
