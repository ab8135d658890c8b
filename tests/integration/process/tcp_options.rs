//! Set-up: a balancer in a network of its own, with options of its sockets. Claim: each option does what its sentence in
//! the reference says, as the kernel's counters or a client see it; what the kernel does not take is refused by name.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;

use ringway::base::CloseReason;
use ringway::control::command::Refused;
use socket2::{Domain, Socket, Type};

use crate::support::{
    Balancer, Client, NO_ADMIN, Reserved, V4, add_address, backend, balancer, in_own_network, run_to_end,
    set_network,
};

/// A counter of `TcpExt` in this network.
fn counted(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let position = names.split(' ').position(|known| known == name).unwrap();
    values.split(' ').nth(position).unwrap().parse().unwrap()
}

/// The second session of a client that has a cookie sends its first bytes with the SYN.
#[test]
fn clients_may_send_their_first_bytes_with_the_syn() {
    in_own_network(|| {
        set_network("ipv4/tcp_fastopen", "3");
        let only = backend().echo().start();
        let balancer = balancer().listener("tcp: {fast_open: true}").backends([&only]).start();
        for _ in 0..3 {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            // It connects, too (tcp(7)).
            socket.send_to_with_flags(b"first", &balancer.address().into(), libc::MSG_FASTOPEN).unwrap();
            let mut client = TcpStream::from(socket);
            client.read_exact(&mut [0; 5]).unwrap();
        }
        assert!(counted("TCPFastOpenPassive") >= 2, "{}", counted("TCPFastOpenPassive"));
        balancer.await_closed(CloseReason::Normal, 3);
        balancer.finish();
    });
}

/// With the client's bytes in hand, they go out with the SYN once the backend has allowed it; and one that refuses is
/// replaced by another, which gets the same bytes.
#[test]
fn backends_get_the_first_bytes_with_the_syn_and_one_that_refuses_is_replaced() {
    in_own_network(|| {
        // All listeners take them, also those that have not asked for it.
        set_network("ipv4/tcp_fastopen", "1027");
        let (mut first, second) = (backend().echo().start(), backend().echo().start());
        let balancer = balancer()
            .listener("client_first: 1h")
            .upstream("algorithm: first")
            .upstream("tcp: {fast_open: true}")
            .backends([&first, &second])
            .start();
        for _ in 0..3 {
            balancer.echoing_client().finish().unwrap();
        }
        assert!(counted("TCPFastOpenActive") >= 2, "{}", counted("TCPFastOpenActive"));
        first.refuse();
        for _ in 0..3 {
            balancer.echoing_client().finish().unwrap();
        }
        balancer.await_closed(CloseReason::Normal, 6);
        assert_eq!(second.connections(), 3);
        // Switched off, they go out behind the handshake.
        let active = counted("TCPFastOpenActive");
        for sysctl in ["0", "2"] {
            set_network("ipv4/tcp_fastopen", sysctl);
            balancer.echoing_client().finish().unwrap();
        }
        balancer.await_closed(CloseReason::Normal, 8);
        assert_eq!(counted("TCPFastOpenActive"), active);
        balancer.finish();
    });
}

/// The kernel holds the end of a handshake back for 200 ms if bytes are said to follow; a greeting must not wait for it.
#[test]
fn acknowledgement_waits_for_first_bytes_only_where_there_are_some() {
    in_own_network(|| {
        let only = backend().greet(b"220 here\r\n").start();
        let balancer = balancer().upstream("tcp: {quick_ack: off}").backends([&only]).start();
        let client = balancer.client();
        assert_eq!(client.receive_exact(10).unwrap(), b"220 here\r\n");
        assert_eq!(counted("DelayedACKs"), 0);
        client.end().unwrap();
        balancer.await_closed(CloseReason::Normal, 1);
        balancer.finish();
    });
}

#[test]
fn connection_comes_with_its_first_byte() {
    in_own_network(|| {
        let only = backend().echo().start();
        let balancer = balancer().listener("tcp: {defer_accept: 1h}").backends([&only]).start();
        let silent = balancer.client();
        balancer.echoing_client().finish().unwrap();
        assert_eq!(balancer.totals().accepted, 1, "the silent one was there first");
        silent.echo(b"now").unwrap();
        assert_eq!(balancer.totals().accepted, 2);
        silent.finish().unwrap();
        balancer.finish();
    });
}

#[test]
fn address_may_come_later_and_clients_over_an_interface() {
    in_own_network(|| {
        let only = backend().echo().start();
        let address = Ipv4Addr::new(192, 0, 2, 1);
        let yaml = |tcp: &str| {
            format!(
                "{NO_ADMIN}listeners: [{{name: l, address: '{address}:8080', upstream: u, tcp: {{{tcp}}}}}]\n\
                 upstreams: [{{name: u, healthcheck: off, backends: [{{{}}}]}}]\n",
                only.entry()
            )
        };
        let balancer = Balancer::of(&yaml("freebind: true, interface: lo"), None, false);
        add_address(address);
        let at = SocketAddr::new(IpAddr::V4(address), 8080);
        Client::connect(at).unwrap().echo(b"it is here now").unwrap();
        balancer.finish();
    });
}

#[test]
fn what_the_kernel_does_not_take_is_refused_by_name() {
    let only = backend().echo().start();
    let mut balancer = balancer().on(V4).backends([&only]).start();
    let yaml = |listener: &str, upstream: &str| {
        format!(
            "{NO_ADMIN}runtime: {{cores: 2}}\nlisteners: [{{name: l, address: '{}', upstream: u{listener}}}, \
             {{name: m, address: 'unix:/nowhere/at/all', upstream: u}}]\n\
             upstreams: [{{name: u, healthcheck: off, backends: [{{{}}}]{upstream}}}]\n",
            balancer.address(),
            only.entry()
        )
    };
    let files = [
        (
            yaml("", ", tcp: {congestion_control: nope}"),
            "upstream u: congestion control nope is not available",
        ),
        (yaml(", tcp: {interface: lo}", ""), "listeners.l.tcp.interface cannot change while"),
    ];
    for (file, words) in files {
        let Err(Refused { errors }) = balancer.reload(&file) else { panic!("{words}") };
        assert!(errors.iter().any(|error| error.contains(words)), "{errors:?}");
    }
    balancer.echoing_client().finish().unwrap();
    balancer.finish();

    for (tcp, words) in [
        ("congestion_control: nope", "congestion control nope is not available here"),
        ("interface: nope", "there is no interface nope here"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (path, port) = (folder.path().join("ringway.yaml"), Reserved::at(V4));
        let text = format!(
            "{NO_ADMIN}loadbalancer: {{listen_address: '{}', tcp: {{{tcp}}}}}\n\
             backends: [{{address: 127.0.0.1, port: 1}}]\n",
            port.address()
        );
        fs::write(&path, text).unwrap();
        for arguments in [&["check", "-f"][..], &["-f"]] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
            let output = run_to_end(command.args(arguments).arg(&path));
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert!(said.contains(words), "{said}");
        }
    }
}
