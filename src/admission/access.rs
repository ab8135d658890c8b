//! Lists of clients as sets of addresses: a binary search over sorted, disjoint ranges.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::base::ClientAddress;
use crate::config::{AccessEntry, AccessList};

/// A set of clients.
#[derive(Debug, Default)]
pub struct ClientSet {
    four: Ranges<u32>,
    six: Ranges<u128>,
    unix: bool,
}

impl ClientSet {
    /// Returns whether a client belongs to the set. With 100,000 prefixes that takes less than 200 ns
    /// (`cargo bench --bench micro`).
    #[must_use]
    pub fn contains(&self, client: ClientAddress) -> bool {
        match client.ip() {
            None => self.unix,
            Some(IpAddr::V4(ip)) => self.four.contains(ip.to_bits()),
            Some(IpAddr::V6(ip)) => self.six.contains(ip.to_bits()),
        }
    }
}

impl From<&AccessList> for ClientSet {
    fn from(list: &AccessList) -> Self {
        let (mut four, mut six, mut unix) = (Vec::new(), Vec::new(), false);
        let mut add = |prefix: &IpNet| match prefix {
            IpNet::V4(net) => four.push((net.network().to_bits(), net.broadcast().to_bits())),
            IpNet::V6(net) => six.push((net.network().to_bits(), net.broadcast().to_bits())),
        };
        for entry in &list.0 {
            match entry {
                AccessEntry::Any => {
                    add(&IpNet::V4(Ipv4Net::default()));
                    add(&IpNet::V6(Ipv6Net::default()));
                    unix = true;
                }
                AccessEntry::Unix => unix = true,
                AccessEntry::Prefix(prefix) => add(prefix),
                AccessEntry::File { prefixes, .. } => prefixes.iter().for_each(&mut add),
            }
        }
        Self { four: Ranges::new(four), six: Ranges::new(six), unix }
    }
}

/// Sorted ranges that neither overlap nor touch. The search reads the firsts alone.
#[derive(Debug, Default)]
struct Ranges<T> {
    firsts: Box<[T]>,
    lasts: Box<[T]>,
}

impl<T: Copy + Ord> Ranges<T> {
    fn new(mut ranges: Vec<(T, T)>) -> Self {
        ranges.sort_unstable();
        let (mut firsts, mut lasts) = (Vec::<T>::new(), Vec::<T>::new());
        for (first, last) in ranges {
            match lasts.last_mut().filter(|end| **end >= first) {
                Some(end) => *end = last.max(*end),
                None => {
                    firsts.push(first);
                    lasts.push(last);
                }
            }
        }
        Self { firsts: firsts.into(), lasts: lasts.into() }
    }

    fn contains(&self, value: T) -> bool {
        let behind = self.firsts.partition_point(|first| *first <= value);
        behind.checked_sub(1).is_some_and(|at| value <= self.lasts[at])
    }
}

/// Who may have a session: `deny` wins, and a non-empty `allow` denies the rest.
#[derive(Debug)]
pub struct Access {
    /// `allow` and `deny` as they were written.
    lists: (AccessList, AccessList),
    allow: Option<ClientSet>,
    deny: ClientSet,
}

/// The list that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    /// `deny` has the client.
    Denied,
    /// `allow` has the client.
    Allowed,
    /// `allow` does not have the client.
    NotAllowed,
    /// There is no `allow`, and `deny` does not have the client.
    Open,
}

impl Access {
    pub(super) fn new(allow: &AccessList, deny: &AccessList) -> Self {
        let lists = (allow.clone(), deny.clone());
        Self { lists, allow: (!allow.is_empty()).then(|| allow.into()), deny: deny.into() }
    }

    /// Returns whether it was made of these lists.
    pub(super) fn is_of(&self, allow: &AccessList, deny: &AccessList) -> bool {
        self.lists.0 == *allow && self.lists.1 == *deny
    }

    /// Returns what the lists say of a client.
    #[must_use]
    pub fn decide(&self, client: ClientAddress) -> Decided {
        match &self.allow {
            _ if self.deny.contains(client) => Decided::Denied,
            None => Decided::Open,
            Some(allow) if allow.contains(client) => Decided::Allowed,
            Some(_) => Decided::NotAllowed,
        }
    }

    /// Returns whether a client may have a session.
    #[must_use]
    pub fn admits(&self, client: ClientAddress) -> bool {
        matches!(self.decide(client), Decided::Allowed | Decided::Open)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

    use proptest::prelude::*;

    use super::*;

    fn client(ip: IpAddr) -> ClientAddress {
        Some(SocketAddr::new(ip, 1)).into()
    }

    fn prefix() -> impl Strategy<Value = IpNet> {
        // Few bits vary, so that prefixes overlap, touch and repeat.
        let four = (0..=255_u32, 20..=32_u8)
            .prop_map(|(bits, length)| Ipv4Net::new(Ipv4Addr::from_bits(0x0a00_0000 | bits << 4), length));
        let six = (0..=255_u128, 110..=128_u8)
            .prop_map(|(bits, length)| Ipv6Net::new(Ipv6Addr::from_bits(0xfd << 120 | bits << 6), length));
        prop_oneof![
            four.prop_map(|net| IpNet::V4(net.expect("a length").trunc())),
            six.prop_map(|net| IpNet::V6(net.expect("a length").trunc())),
        ]
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0..=0xfff_u32).prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 | bits))),
            (0..=0x3fff_u128).prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(0xfd << 120 | bits))),
            any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        ]
    }

    proptest! {
        #[test]
        fn set_has_what_one_of_its_prefixes_has(
            prefixes in prop::collection::vec(prefix(), 0..40), addresses in prop::collection::vec(address(), 50),
        ) {
            let list = AccessList(prefixes.iter().map(|net| AccessEntry::Prefix(*net)).collect());
            let set = ClientSet::from(&list);
            for ip in addresses {
                let expected = prefixes.iter().any(|net| net.contains(&ip));
                prop_assert_eq!(set.contains(client(ip)), expected, "{} of {:?}", ip, &prefixes);
            }
        }
    }

    #[test]
    fn first_and_last_addresses_unix_sockets_and_any_are_what_they_say() {
        let all: IpNet = "0.0.0.0/0".parse().unwrap();
        let set = ClientSet::from(&AccessList(vec![AccessEntry::Prefix(all)]));
        let of = |text: &str| client(text.parse().unwrap());
        assert!(set.contains(of("0.0.0.0")) && set.contains(of("255.255.255.255")));
        assert!(set.contains(of("::ffff:1.2.3.4")), "it is IPv4");
        assert!(!set.contains(of("::1")) && !set.contains(ClientAddress::UNIX));
        let any = ClientSet::from(&AccessList(vec![AccessEntry::Any]));
        let last = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        assert!(["0.0.0.0", "255.255.255.255", "::", last].iter().all(|text| any.contains(of(text))));
        assert!(any.contains(ClientAddress::UNIX));
        let unix = ClientSet::from(&AccessList(vec![AccessEntry::Unix]));
        assert!(unix.contains(ClientAddress::UNIX) && !unix.contains(of("127.0.0.1")));
    }

    #[test]
    fn deny_wins_and_a_written_allow_denies_the_rest() {
        let list = |texts: &[&str]| {
            AccessList(texts.iter().map(|text| AccessEntry::Prefix(text.parse().unwrap())).collect())
        };
        let of = |text: &str| client(text.parse().unwrap());
        let access = Access::new(&list(&["10.0.0.0/8"]), &list(&["10.6.6.0/24"]));
        assert_eq!(access.decide(of("10.6.6.1")), Decided::Denied);
        assert_eq!(access.decide(of("10.6.7.1")), Decided::Allowed);
        assert_eq!(access.decide(of("192.0.2.1")), Decided::NotAllowed);
        let nothing = AccessList(vec![AccessEntry::File { path: "/f".into(), prefixes: [].into() }]);
        assert!(!Access::new(&nothing, &list(&[])).admits(of("10.0.0.1")), "an empty file allows nobody");
        assert_eq!(Access::new(&list(&[]), &list(&[])).decide(of("10.0.0.1")), Decided::Open);
    }
}
