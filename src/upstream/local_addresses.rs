//! The local addresses of backend connections, used in turn, and the ports of a shard.

use std::cell::Cell;
use std::net::IpAddr;

use crate::base::{Address, LocalEnd, PortRange, ShardId};

/// The local addresses of one upstream on one shard.
#[derive(Debug)]
pub struct LocalAddresses {
    all: Vec<IpAddr>,
    /// Those that are tried before any other one.
    ports: Option<PortRange>,
    next: Cell<usize>,
}

impl LocalAddresses {
    /// Creates the addresses; each shard starts at a different one.
    #[must_use]
    pub fn new(all: &[IpAddr], ports: Option<PortRange>, shard: ShardId) -> Self {
        Self { all: all.to_vec(), ports, next: Cell::new(shard.index()) }
    }

    /// Iterates over where a connection to `address` may come from, in the order to try: once no address has one of
    /// the ports left, from all addresses and any port. Yields nothing if no address is of the same family.
    pub fn in_turn(&self, address: &Address) -> impl Iterator<Item = LocalEnd> {
        let ipv4 = match address {
            Address::Tcp(address) if !self.all.is_empty() => Some(address.is_ipv4()),
            _ => None,
        };
        let first = if ipv4.is_some() { self.next.replace(self.next.get().wrapping_add(1)) } else { 0 };
        let count = self.all.len();
        let turn = (0..count).map(move |step| self.all[first.wrapping_add(step) % count]);
        let fitting = turn.filter(move |source| ipv4 == Some(source.is_ipv4())).map(Some);
        let addresses = ipv4.is_none().then_some(None).into_iter().chain(fitting);
        let ports = self.ports.filter(|_| matches!(address, Address::Tcp(_)));
        let rounds = ports.map(Some).into_iter().chain([None]);
        rounds.flat_map(move |ports| addresses.clone().map(move |ip| LocalEnd { ip, ports }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: PortRange = PortRange { first: 40_000, last: 40_009 };

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn from(ip: IpAddr, ports: Option<PortRange>) -> LocalEnd {
        LocalEnd { ip: Some(ip), ports }
    }

    #[test]
    fn addresses_of_the_family_take_turns() {
        let sources = LocalAddresses::new(&[ip("10.0.0.1"), ip("10.0.0.2"), ip("fd00::1")], None, ShardId(0));
        let backend = Address::Tcp("10.0.0.9:80".parse().expect("an address"));
        let firsts: Vec<_> = (0..6).filter_map(|_| sources.in_turn(&backend).next()).collect();
        let (one, two) = (from(ip("10.0.0.1"), None), from(ip("10.0.0.2"), None));
        assert_eq!(firsts, [one, two, one, one, two, one]);
        assert_eq!(sources.in_turn(&backend).count(), 2);
        let six = Address::Tcp("[fd00::9]:80".parse().expect("an address"));
        assert!(sources.in_turn(&six).eq([from(ip("fd00::1"), None)]));
        assert!(LocalAddresses::new(&[ip("10.0.0.1")], None, ShardId(0)).in_turn(&six).eq([]));
    }

    #[test]
    fn without_a_list_and_for_a_socket_file_the_kernel_chooses() {
        let backend = Address::Tcp("10.0.0.9:80".parse().expect("an address"));
        assert!(LocalAddresses::new(&[], None, ShardId(3)).in_turn(&backend).eq([LocalEnd::default()]));
        let file = Address::Unix("/run/b.sock".into());
        let with_both = LocalAddresses::new(&[ip("10.0.0.1")], Some(PORTS), ShardId(0));
        assert!(with_both.in_turn(&file).eq([LocalEnd::default()]));
    }

    #[test]
    fn any_port_follows_the_own_ones_of_all_addresses() {
        let backend = Address::Tcp("10.0.0.9:80".parse().expect("an address"));
        let (one, two) = (ip("10.0.0.1"), ip("10.0.0.2"));
        let sources = LocalAddresses::new(&[one, two], Some(PORTS), ShardId(1));
        let all = [from(two, Some(PORTS)), from(one, Some(PORTS)), from(two, None), from(one, None)];
        assert!(sources.in_turn(&backend).eq(all));
        let without = LocalAddresses::new(&[], Some(PORTS), ShardId(1));
        let ends = [LocalEnd { ip: None, ports: Some(PORTS) }, LocalEnd::default()];
        assert!(without.in_turn(&backend).eq(ends));
    }
}
