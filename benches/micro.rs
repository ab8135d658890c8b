//! Micro-benchmarks with criterion: a pick by every registered algorithm, a pick in the table of a shard among many,
//! the parsing of a configuration and of what clients begin with, what a record of the access log costs a shard, and what a
//! scrape costs the control thread.
//!
//! ```text
//! cargo bench                                    after the comparison of benches/load
//! cargo bench -- --quick                         both, as a smoke run
//! cargo bench -- --only TEXT                     of both, what has the text in its name
//! cargo bench --bench micro -- [OPTION]...       with criterion's own options, such as --save-baseline
//! ```

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use criterion::{BenchmarkId, Criterion};
use ringway::admission::{ClientSet, SourceRules, Sources};
use ringway::balance::{self, Candidate, Demand, Registered, Start, Tried};
use ringway::base::{
    Address, BackendId, ClientAddress, CloseReason, ListenerId, Moment, SessionPhase, ShardId, ShardPlace,
    Tick, UpstreamId,
};
use ringway::config::{self, AccessEntry, AccessList};
use ringway::control::{metrics::expose, process::Exposition};
use ringway::net;
use ringway::protocol::{client_hello, proxy};
use ringway::server::{Attached, Server};
use ringway::telemetry::access_log::{AccessLog, AccessRecord, End};
use ringway::upstream::{BackendState, Current, Health, InFlight, Pick, Request, Snapshot, UpstreamTable};

/// Sizes of the upstream.
const BACKENDS: [u16; 3] = [10, 100, 1000];

/// Shards of the process that least connections adds up.
const SHARDS: u16 = 64;

/// The only shard.
const START: Start = Start { shard: 0, shards: 1, seed: 1 };

/// Every algorithm of the registry, by its own name.
fn algorithms() -> impl Iterator<Item = &'static Registered> {
    balance::names().filter_map(|name| balance::find(name).filter(|found| found.name == name))
}

/// Weights that are not all the same.
fn weight(backend: u16) -> u32 {
    u32::from(backend % 3) + 1
}

fn name_hash(backend: u16) -> u64 {
    balance::hash(format!("10.0.0.1:{backend}").as_bytes())
}

fn candidates(backends: u16, weight: fn(u16) -> u32) -> Vec<Candidate> {
    let candidate = |backend| Candidate {
        id: BackendId(backend),
        weight: weight(backend),
        name_hash: name_hash(backend),
        position: backend.into(),
    };
    (0..backends).map(candidate).collect()
}

/// A pick alone: all backends are candidates, with some sessions each.
fn picks(criterion: &mut Criterion) {
    for (weights, weight) in [("equal weights", (|_| 1) as fn(u16) -> u32), ("different weights", weight)] {
        for algorithm in algorithms() {
            let mut group = criterion.benchmark_group(format!("pick, {weights}/{}", algorithm.name));
            for backends in BACKENDS {
                let mut instance = (algorithm.build)(START);
                instance.update(&candidates(backends, weight));
                let loads: Vec<u32> = (0..u32::from(backends)).map(|backend| 7 + backend * 31 % 5).collect();
                let (tried, mut key) = (Tried::default(), 0_u64);
                group.bench_function(BenchmarkId::from_parameter(backends), |bencher| {
                    bencher.iter(|| {
                        key = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
                        let demand = Demand { loads: &loads, tried: &tried, key, now: Tick(1) };
                        instance.pick(black_box(&demand))
                    });
                });
            }
            group.finish();
        }
    }
}

/// What a change of the candidates costs: the table of maglev is built anew.
fn updates(criterion: &mut Criterion) {
    for algorithm in algorithms() {
        let mut group = criterion.benchmark_group(format!("update/{}", algorithm.name));
        for backends in BACKENDS {
            let mut instance = (algorithm.build)(START);
            let candidates = candidates(backends, weight);
            group.bench_function(BenchmarkId::from_parameter(backends), |bencher| {
                bencher.iter(|| instance.update(black_box(&candidates)));
            });
        }
        group.finish();
    }
}

/// A pick as a session has it, on one of many shards that all hold sessions: with the counts of the other
/// shards at hand, and with them added up anew, which happens at the first pick of a millisecond.
fn picks_in_a_table(criterion: &mut Criterion) {
    for algorithm in algorithms() {
        let mut group = criterion.benchmark_group(format!("table of {SHARDS} shards/{}", algorithm.name));
        for backends in BACKENDS {
            let tables = Shards::new(algorithm, backends);
            let table = &tables.tables[0];
            let tried = Tried::default();
            group.bench_function(BenchmarkId::new("same millisecond", backends), |bencher| {
                bencher.iter(|| pick(table, black_box(1), &tried));
            });
            let mut now = 1;
            group.bench_function(BenchmarkId::new("next millisecond", backends), |bencher| {
                bencher.iter(|| {
                    now += 1;
                    pick(table, black_box(now), &tried)
                });
            });
        }
        group.finish();
    }
}

fn pick(table: &UpstreamTable, now: u64, tried: &Tried) -> Pick {
    table.pick(Request { now: Tick(now), tried, key: 7, spills: false }, |_| None)
}

/// The tables of all shards, and sessions on each of them.
struct Shards {
    tables: Vec<UpstreamTable>,
    _sessions: Vec<InFlight>,
}

impl Shards {
    fn new(algorithm: &Registered, backends: u16) -> Shards {
        let mut yaml =
            "listeners: [{name: l, address: ':1', upstream: u}]\nupstreams:\n  - name: u\n".to_owned();
        let _ = writeln!(yaml, "    algorithm: {}\n    backends:", algorithm.name);
        for backend in 0..backends {
            let weight = weight(backend);
            let _ = writeln!(
                yaml,
                "      - {{name: b{backend}, address: 127.0.0.1, port: 80, weight: {weight}}}"
            );
        }
        let config = config::parse("bench.yaml", yaml.as_bytes()).expect("a valid configuration").config;
        let snapshot = Snapshot::build(Arc::new(config), usize::from(SHARDS), None, None).expect("numbers");
        let addresses: Arc<[Address]> = Arc::from([Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 80)))]);
        let up = BackendState { health: Health::Up, addresses, ..BackendState::unknown() };
        let states = vec![up; usize::from(backends)];
        let table = |shard| {
            let place = ShardPlace { shard: ShardId(shard), shards: usize::from(SHARDS), seed: 1 };
            let table = UpstreamTable::new(Arc::clone(&snapshot.upstreams()[0]), place, None);
            table.apply(&states);
            table
        };
        let tables: Vec<_> = (0..SHARDS).map(table).collect();
        let tried = Tried::default();
        let picked = |table: &UpstreamTable| match pick(table, 0, &tried) {
            Pick::Backend(in_flight) => Some(in_flight),
            Pick::Full | Pick::Nobody => None,
        };
        let sessions = tables.iter().flat_map(|table| (0..64).filter_map(|_| picked(table))).collect();
        Shards { tables, _sessions: sessions }
    }
}

/// From the text of a file to the configuration that runs.
fn configurations(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse configuration");
    let mut many = "upstreams:\n  - name: many\n    backends:\n".to_owned();
    for backend in 0..1000 {
        let _ = writeln!(many, "      - {{address: 10.0.{}.{}, port: 80}}", backend / 250, backend % 250 + 1);
    }
    many += "listeners:\n  - {name: many, address: \":8080\", upstream: many}\n";
    let texts = [
        ("short form", include_str!("../configs/config.yaml")),
        ("commented example", include_str!("../configs/example.yaml")),
        ("1000 backends", many.as_str()),
    ];
    for (name, text) in texts {
        assert!(config::parse(name, text.as_bytes()).is_ok(), "{name} is valid");
        group.bench_function(name, |bencher| {
            bencher.iter(|| config::parse(name, black_box(text.as_bytes())));
        });
    }
    group.finish();
}

/// What comes before the bytes of a client.
fn first_bytes(criterion: &mut Criterion) {
    let (client, destination) =
        (SocketAddr::from(([192, 0, 2, 7], 40_112)), SocketAddr::from(([192, 0, 2, 1], 443)));
    let endpoints = Some(proxy::Endpoints::new(client, destination));
    let tlvs = [proxy::Tlv::Alpn(b"h2"), proxy::Tlv::Authority("web.example.com")];
    let headers = [
        ("v1", proxy::write(proxy::Version::V1, endpoints, &[])),
        ("v2", proxy::write(proxy::Version::V2, endpoints, &[])),
        ("v2 with ALPN and authority", proxy::write(proxy::Version::V2, endpoints, &tlvs)),
    ];
    let mut group = criterion.benchmark_group("PROXY header");
    for (name, header) in &headers {
        assert!(matches!(proxy::read(header), proxy::Progress::Complete { .. }), "{name} is whole");
        group.bench_function(*name, |bencher| bencher.iter(|| proxy::read(black_box(header))));
    }
    group.finish();

    let hello: &[u8] = include_bytes!("../src/protocol/client_hello/tests/data/curl-h2.bin");
    let whole = client_hello::read(hello);
    let client_hello::Progress::Complete(parsed) = whole else { panic!("{whole:?}") };
    assert_eq!(parsed.server_name(), Some("web.example.com"));
    criterion.bench_function("ClientHello of curl", |bencher| {
        bencher.iter(|| client_hello::read(black_box(hello)));
    });
}

/// All metrics of a process with one shard.
fn scrape(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scrape");
    for backends in BACKENDS {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
        let mut text = format!(
            "admin: {{listen_address: off, socket: off}}\nlogging: {{level: warn}}\n\
             listeners: [{{name: in, address: '{free}', upstream: many}}]\n\
             upstreams:\n  - name: many\n    healthcheck: off\n    backends:\n"
        );
        for backend in 0..backends {
            let _ =
                writeln!(text, "      - {{address: 10.0.{}.{}, port: 80}}", backend / 250, backend % 250 + 1);
        }
        let config = Arc::new(config::parse("bench.yaml", text.as_bytes()).expect("a valid file").config);
        let server = Server::start_on(&[CoreId { id: 0 }], config, Attached::default(), || Ok(()))
            .expect("one shard starts anywhere");
        group.bench_function(BenchmarkId::new("backends", backends), |bencher| {
            bencher.iter(|| expose(server.status(), Exposition::Text));
        });
    }
    group.finish();
}

/// What the access log costs a shard that ends 50,000 sessions a second: leaving a record, while another thread takes
/// and writes it, and asking the kernel about a connection.
fn access_log(criterion: &mut Criterion) {
    const EACH_SECOND: u64 = 50_000;
    const EACH_BATCH: u64 = 500;
    let file = "logging: {access_log: /dev/null}\nloadbalancer: {listen_address: ':1'}\n\
                backends: [{address: 127.0.0.1, port: 2}]\n";
    let config = Arc::new(config::parse("bench.yaml", file.as_bytes()).expect("a valid file").config);
    let logging = config.logging.clone();
    let snapshot = Arc::new(Snapshot::build(config, 1, None, None).expect("numbers"));
    let log = AccessLog::start(&logging, Current::new(Arc::clone(&snapshot)), vec![Arc::default()], vec![0]);
    let log = log.expect("a writer").expect("a target");
    let logger = log.logger(0);
    let now = Moment::read_clock();
    let record = AccessRecord {
        id: 1,
        begun: now,
        ended: now,
        client: ClientAddress::from(Some(SocketAddr::from(([192, 0, 2, 7], 40_112)))),
        peer: ClientAddress::from(Some(SocketAddr::from(([192, 0, 2, 7], 40_112)))),
        listener: snapshot.listeners()[0],
        upstream: UpstreamId(0),
        backend: Some(BackendId(0)),
        shard: ShardId(0),
        end: End::Closed(CloseReason::Normal, SessionPhase::Relaying),
        queue_micros: 0,
        connect_micros: Some(100),
        to_backend: 64,
        to_client: 64,
        retries: 0,
        ahead: 0,
        server_name: None,
        tls: None,
        client_info: None,
        backend_info: None,
    };
    let mut group = criterion.benchmark_group("access log");
    group.bench_function("record, 50000/s", |bencher| {
        bencher.iter_custom(|times| {
            let mut taken = Duration::ZERO;
            for batch in (0..times).step_by(EACH_BATCH as usize) {
                let count = EACH_BATCH.min(times - batch);
                let begin = Instant::now();
                (0..count).for_each(|_| logger.write(black_box(record.clone())));
                taken += begin.elapsed();
                std::thread::sleep(Duration::from_secs(1) * count as u32 / EACH_SECOND as u32);
            }
            taken
        });
    });
    assert_eq!(log.dropped(), 0, "every record is taken");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    group.bench_function("TCP_INFO", |bencher| {
        bencher.iter(|| net::tcp_info(black_box(&client).into()));
    });
    group.finish();
}

/// What a new client costs: a look into a list of 100,000 prefixes, and the limits of one source among a million.
fn admission(criterion: &mut Criterion) {
    const PREFIXES: u32 = 100_000;
    // Every second network, so that none of them touch.
    let four = (0..PREFIXES).map(|number| format!("{}/24", Ipv4Addr::from_bits((number * 2) << 8)));
    let six = (0..PREFIXES).map(|number| {
        format!("{}/64", Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(number * 2) << 64))
    });
    let mut random = fastrand::Rng::with_seed(1);
    let mut address = |is_four: bool| {
        let (number, host) = (random.u32(..PREFIXES * 2), random.u8(..));
        let ip = match is_four {
            true => IpAddr::V4(Ipv4Addr::from_bits(number << 8 | u32::from(host))),
            false => {
                let bits = 0x2001_0db8 << 96 | u128::from(number) << 64 | u128::from(host);
                IpAddr::V6(Ipv6Addr::from_bits(bits))
            }
        };
        ClientAddress::from(Some(SocketAddr::new(ip, 1)))
    };
    let mut group = criterion.benchmark_group("admission, 100,000 prefixes");
    for (family, prefixes) in [("IPv4", four.collect::<Vec<_>>()), ("IPv6", six.collect())] {
        let entry = |prefix: &String| AccessEntry::Prefix(prefix.parse().expect("a prefix"));
        let set = ClientSet::from(&AccessList(prefixes.iter().map(entry).collect()));
        let clients: Vec<_> = (0..10_000).map(|_| address(family == "IPv4")).collect();
        let mut next = clients.iter().cycle();
        group.bench_function(family, |bencher| {
            bencher.iter(|| set.contains(black_box(*next.next().expect("it goes round"))));
        });
    }
    group.finish();

    let yaml = "loadbalancer: {listen_address: ':1', per_source: {max_connections: 5, rate: 1/s}}\n\
                backends: [{address: 127.0.0.1, port: 2}]\n";
    let config = config::parse("bench.yaml", yaml.as_bytes()).expect("a valid configuration").config;
    let rules = SourceRules::from(config.listeners[0].per_source.as_ref().expect("it is written"));
    let sources = Sources::default();
    let ip = |number: u32| IpAddr::V4(Ipv4Addr::from_bits(number));
    for number in 0..1_000_000 {
        let _ = sources.take(ListenerId(0), ip(number), &rules, Moment(0));
    }
    criterion.bench_function("admission, one of 1,000,000 sources", |bencher| {
        let (mut number, mut now) = (0_u32, 1_000_000);
        bencher.iter(|| {
            number = (number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223)) % 1_000_000;
            now += 10;
            if let Ok(Some(slot)) = sources.take(ListenerId(0), ip(number), &rules, Moment(now)) {
                sources.give_back(slot);
            }
        });
    });
}

const OPTIONS_OF_LOAD: [&str; 6] = ["--only", "--rounds", "--seconds", "--other", "--figures", "--from"];

/// Criterion as the command line wants it.
///
/// Options of the comparison are unknown to criterion, and would end it: where one is given, only what both
/// understand is taken from the command line.
fn criterions() -> Vec<Criterion> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let is_for_load = |word: &String| OPTIONS_OF_LOAD.contains(&word.as_str());
    if !words.iter().any(is_for_load) {
        return vec![Criterion::default().configure_from_args()];
    }
    // To print a report again, nothing is measured.
    if words.iter().any(|word| word == "--from") {
        return Vec::new();
    }
    let quick = words.iter().any(|word| word == "--quick");
    let only: Vec<&String> =
        words.windows(2).filter(|pair| pair[0] == "--only").map(|pair| &pair[1]).collect();
    let configured = |filter: Option<&String>| {
        let mut criterion = Criterion::default();
        if quick {
            criterion = criterion
                .sample_size(10)
                .warm_up_time(Duration::from_millis(50))
                .measurement_time(Duration::from_millis(100));
        }
        match filter {
            // What is matched is a regular expression; the text is meant as it is.
            Some(text) => criterion.with_filter(escaped(text)),
            None => criterion,
        }
    };
    if only.is_empty() {
        return vec![configured(None)];
    }
    only.into_iter().map(|text| configured(Some(text))).collect()
}

/// A regular expression that matches this text alone.
fn escaped(text: &str) -> String {
    text.chars()
        .flat_map(|letter| {
            let special = !letter.is_alphanumeric() && letter.is_ascii() && letter != ' ';
            special.then_some('\\').into_iter().chain([letter])
        })
        .collect()
}

fn main() {
    for criterion in criterions() {
        let mut criterion = criterion.without_plots();
        picks(&mut criterion);
        updates(&mut criterion);
        picks_in_a_table(&mut criterion);
        configurations(&mut criterion);
        first_bytes(&mut criterion);
        access_log(&mut criterion);
        scrape(&mut criterion);
        admission(&mut criterion);
        criterion.final_summary();
    }
}
