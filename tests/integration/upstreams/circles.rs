//! Set-up: a backend that is the balancer itself, by an address that the file alone does not give away.
//! Claim: it gets no session, so that one client does not become a thousand; other backends serve; `check`
//! warns.

use std::net::{Ipv4Addr, Ipv6Addr};

use ringway::upstream::Health;

use crate::support::{
    Balancer, Client, NO_ADMIN, PATIENCE, Reserved, add_address, backend, expect_reset, in_own_network,
};

const OWN: Ipv4Addr = Ipv4Addr::new(10, 9, 8, 7);

#[test]
fn backend_that_is_the_balancer_itself_gets_no_session() {
    in_own_network(|| {
        add_address(OWN);
        let only = backend().echo().start();
        for other in [Some(only.entry()), None] {
            let port = Reserved::at(Ipv6Addr::UNSPECIFIED.into());
            let number = port.address().port();
            let other = other.map(|entry| format!(", {{{entry}}}")).unwrap_or_default();
            let yaml = format!(
                "{NO_ADMIN}loadbalancer: {{listen_address: ':{number}'}}\nhealthcheck: off\noutlier: off\n\
                 backends: [{{name: self, address: {OWN}, port: {number}}}{other}]\n"
            );
            let config = ringway::config::parse("f", yaml.as_bytes()).unwrap().config;
            let said = ringway::server::lacks(&config);
            assert!(said.iter().any(|lack| lack.contains("sessions would go in a circle")), "{said:?}");
            let balancer = Balancer::of(&yaml, Some(port), false);
            if other.is_empty() {
                (0..5).for_each(|_| expect_reset(balancer.address()));
                assert_eq!(balancer.finish().accepted, 5, "one for each client");
                continue;
            }
            assert!(balancer.server().wait_states(PATIENCE, |states| !states.upstreams.is_empty()));
            balancer.await_health(1, Health::Up);
            let clients: Vec<Client> = (0..10).map(|_| balancer.echoing_client()).collect();
            assert_eq!(balancer.totals().accepted, 10, "one for each client");
            clients.into_iter().for_each(|client| client.finish().unwrap());
        }
    });
}
