//! The benchmark's pure parts: its program has no tests of its own, because a benchmark has no harness.

#![expect(dead_code, reason = "the benchmark uses what is not tested here")]

#[path = "../benches/load/counters.rs"]
mod counters;
#[path = "../benches/load/kernel.rs"]
mod kernel;
#[path = "../benches/load/network.rs"]
mod network;
#[path = "../benches/load/generator/pace.rs"]
mod pace;
#[path = "../benches/load/pattern.rs"]
mod pattern;
#[path = "../benches/load/request.rs"]
mod request;

use std::time::{Duration, Instant};

use network::Network;
use pace::Pace;
use pattern::Pattern;

#[test]
fn counters_of_tcp_are_found_by_name() {
    let snmp = "Ip: Forwarding DefaultTTL\nIp: 1 64\n\
                Tcp: RtoMin MaxConn OutSegs RetransSegs\nTcp: 200 -1 5000 7\n";
    let netstat = "TcpExt: SyncookiesSent TCPTimeWaitOverflow\nTcpExt: 0 12\nIpExt: InOctets\nIpExt: 9\n";
    let counted = Network { segments: 5000, retransmissions: 7, time_wait_overflows: 12 };
    assert_eq!(Network::parse(snmp, netstat), counted);
    assert_eq!(Network::parse("", "TcpExt: A\n"), Network::default());
}

#[test]
fn counters_of_a_round_are_what_came_between() {
    let later = Network { segments: 10, retransmissions: 3, time_wait_overflows: 5 };
    let earlier = Network { segments: 4, retransmissions: 1, time_wait_overflows: 5 };
    let between = Network { segments: 6, retransmissions: 2, time_wait_overflows: 0 };
    assert_eq!(later.since(earlier), between);
}

#[test]
fn more_than_one_retransmission_in_a_thousand_segments_disturbs() {
    let network = |retransmissions| Network { segments: 5000, retransmissions, time_wait_overflows: 0 };
    assert!(!network(5).is_disturbed());
    assert!(network(6).is_disturbed());
    assert!(!Network::default().is_disturbed());
}

#[test]
fn memory_of_the_kernel_is_slabs_and_pages_of_tcp() {
    let slabinfo = "slabinfo - version: 2.1\n# name <active_objs> <num_objs> <objsize>\n\
                    TCP 10 13 2560 13 8 : tunables 0 0 0 : slabdata 1 1 0\n\
                    filp 3 32 256 16 1 : tunables 0 0 0 : slabdata 2 2 0\n";
    assert_eq!(kernel::slab_bytes(slabinfo), 26_368.0);
    assert_eq!(kernel::slab_bytes(""), 0.0);
    let sockstat = "sockets: used 7\nTCP: inuse 5 orphan 0 tw 3 alloc 7 mem 2\nUDP: inuse 1 mem 9\n";
    assert_eq!(kernel::tcp_bytes(sockstat), Some(8192.0));
    assert_eq!(kernel::tcp_bytes("UDP: inuse 1 mem 9\n"), None);
}

#[test]
fn switches_of_all_threads_and_interrupts_of_all_cores_are_summed() {
    let threads = "Name:\tshard-0\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t2\n\
                   Name:\tlog\nvoluntary_ctxt_switches:\t30\nnonvoluntary_ctxt_switches:\t1\n";
    assert_eq!(counters::sum(threads, "voluntary_ctxt_switches:"), 37);
    assert_eq!(counters::sum(threads, "nonvoluntary_ctxt_switches:"), 3);
    let interrupts = "           CPU0       CPU1\n  1:          5          6   IO-APIC   1-edge\n\
                      RES:       7553       5898   Rescheduling interrupts\n\
                      CAL:         10         20   Function call interrupts\n";
    assert_eq!(counters::sum(interrupts, "RES:"), 13_451);
    assert_eq!(counters::sum(interrupts, "CAL:"), 30);
    assert_eq!(counters::sum(interrupts, "TLB:"), 0);
}

#[test]
fn contentions_are_what_perf_counted() {
    let counted = "# started\n16,,lock:contention_begin,250000000,100.00,,\n";
    assert_eq!(counters::perf_count(counted), Some(16));
    assert_eq!(counters::perf_count("<not counted>,,lock:contention_begin,0,100.00,,\n"), None);
    assert_eq!(counters::perf_count("event syntax error: 'lock:contention_begin'\n"), None);
}

#[test]
fn counts_of_a_second_become_those_of_a_message() {
    let second = counters::Counters {
        voluntary: 500.0,
        involuntary: 10.0,
        contentions: Some(20.0),
        wake_ups: 30.0,
        calls: 40.0,
        flushes: 0.0,
    };
    let message = second.each(1000.0);
    assert_eq!((message.voluntary, message.involuntary), (0.5, 0.01));
    assert_eq!(message.contentions, Some(0.02));
    assert_eq!((message.wake_ups, message.calls, message.flushes), (0.03, 0.04, 0.0));
}

#[test]
fn a_pace_hands_out_each_number_when_it_is_due() {
    let before = Instant::now();
    let mut pace = Pace::new(10.0).expect("a rate");
    let late = Instant::now() + Duration::from_millis(250);
    let taken: Vec<(u64, Instant)> = std::iter::from_fn(|| pace.take(late)).collect();
    let numbers: Vec<u64> = taken.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [0, 1, 2]);
    assert!(taken[0].1 >= before);
    assert_eq!(taken[2].1 - taken[0].1, Duration::from_millis(200));
    assert!(pace.rest() <= Duration::from_millis(300));
    assert!(Pace::new(0.0).is_none());
}

#[test]
fn a_request_is_read_as_it_was_written() {
    let pattern = Pattern::new();
    let mut request = vec![0; request::BYTES];
    request::write(&mut request, 768, 65_536, &pattern);
    assert_eq!(request::parse(&request, 768, &pattern), Some(65_536));
    // Of another place in the stream, too short, or damaged.
    assert_eq!(request::parse(&request, 512, &pattern), None);
    assert_eq!(request::parse(&request[..200], 768, &pattern), None);
    request[100] ^= 1;
    assert_eq!(request::parse(&request, 768, &pattern), None);
}
