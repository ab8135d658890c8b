//! The local addresses of backend connections, used in turn.

use std::cell::Cell;
use std::net::IpAddr;

use crate::base::Address;
use crate::base::ShardId;

/// The local addresses of one upstream on one shard.
#[derive(Debug)]
pub struct LocalAddresses {
    all: Vec<IpAddr>,
    next: Cell<usize>,
}

impl LocalAddresses {
    /// Creates the addresses; each shard starts at a different one.
    #[must_use]
    pub fn new(all: &[IpAddr], shard: ShardId) -> Self {
        Self { all: all.to_vec(), next: Cell::new(shard.index()) }
    }

    /// Iterates over the addresses that a connection to `address` may come from, in the order to try; `None`
    /// lets the kernel choose. Yields nothing if no address is of the same family.
    pub fn in_turn(&self, address: &Address) -> impl Iterator<Item = Option<IpAddr>> {
        let ipv4 = match address {
            Address::Tcp(address) if !self.all.is_empty() => Some(address.is_ipv4()),
            _ => None,
        };
        let first = if ipv4.is_some() { self.next.replace(self.next.get().wrapping_add(1)) } else { 0 };
        let count = self.all.len();
        let turn = (0..count).map(move |step| self.all[first.wrapping_add(step) % count]);
        let fitting = turn.filter(move |source| ipv4 == Some(source.is_ipv4())).map(Some);
        ipv4.is_none().then_some(None).into_iter().chain(fitting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn addresses_of_the_family_take_turns() {
        let sources = LocalAddresses::new(&[ip("10.0.0.1"), ip("10.0.0.2"), ip("fd00::1")], ShardId(0));
        let backend = Address::Tcp("10.0.0.9:80".parse().expect("an address"));
        let firsts: Vec<_> = (0..6).filter_map(|_| sources.in_turn(&backend).next()).collect();
        let (one, two) = (Some(ip("10.0.0.1")), Some(ip("10.0.0.2")));
        assert_eq!(firsts, [one, two, one, one, two, one]);
        assert_eq!(sources.in_turn(&backend).count(), 2);
        let six = Address::Tcp("[fd00::9]:80".parse().expect("an address"));
        assert!(sources.in_turn(&six).eq([Some(ip("fd00::1"))]));
        assert!(LocalAddresses::new(&[ip("10.0.0.1")], ShardId(0)).in_turn(&six).eq([]));
    }

    #[test]
    fn without_a_list_and_for_a_socket_file_the_kernel_chooses() {
        let backend = Address::Tcp("10.0.0.9:80".parse().expect("an address"));
        assert!(LocalAddresses::new(&[], ShardId(3)).in_turn(&backend).eq([None]));
        let file = Address::Unix("/run/b.sock".into());
        assert!(LocalAddresses::new(&[ip("10.0.0.1")], ShardId(0)).in_turn(&file).eq([None]));
    }
}
