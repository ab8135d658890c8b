//! The metrics of a status that was made up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, date_time_ymd};
use tokio::sync::watch;

use super::*;
use crate::admission::Gate;
use crate::config::Overlay;
use crate::config::testing::{Ca, Folder};
use crate::control::{Departed, Peaks, PhaseCell, Source, Written};
use crate::steering::CoreLoads;
use crate::upstream::{Current, Snapshot, UpstreamStates};

/// Files with two certificates for one name, which end in 2030 and in 2029.
fn folder() -> Folder {
    let ca = Ca::new("CA");
    let until = |year| move |params: &mut CertificateParams| params.not_after = date_time_ymd(year, 1, 1);
    let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    Folder::default()
        .with_pem("web", &ca.leaf_with(&["web.example.com", "b"], KeyPair::generate().unwrap(), until(2030)))
        .with_pem("rsa", &ca.leaf_with(&["web.example.com"], rsa, until(2029)))
}

#[test]
fn a_certificate_is_one_series_with_its_end() {
    let text = expose(source(1, 1).status(), Exposition::Text);
    let name = "ringway_certificate_not_after_timestamp_seconds";
    let series: Vec<_> = text.lines().filter(|line| line.starts_with(name)).collect();
    assert_eq!(series, [format!("{name}{{listener=\"default\",name=\"web.example.com\"}} 1861920000.0")]);
}

fn source(backends: usize, shards: usize) -> Source {
    let entries: Vec<_> =
        (2..backends + 2).map(|port| format!("{{address: 127.0.0.1, port: {port}}}")).collect();
    let tls =
        "certificates: [{certificate: web.pem, key: web-key.pem}, {certificate: rsa.pem, key: rsa-key.pem}]";
    let yaml =
        format!("loadbalancer: {{listen_address: ':1', tls: {{{tls}}}}}\nbackends: [{}]", entries.join(", "));
    let config = folder().parse(&yaml).unwrap().config;
    let snapshot = Snapshot::build(Arc::new(config), shards, None, None).unwrap();
    let states = UpstreamStates { generation: 1, version: 0, upstreams: Vec::new() };
    Source {
        written: Mutex::new(Written { file: Arc::clone(snapshot.config()), overlay: Overlay::default() }),
        reloads: Mutex::default(),
        upgrades: Mutex::default(),
        departed: Departed::default(),
        current: Current::new(Arc::new(snapshot)),
        states: watch::channel(Arc::new(states)).1,
        counters: (0..shards).map(|_| Arc::default()).collect(),
        heartbeats: (0..shards).map(|_| Arc::default()).collect(),
        cpus: (0..shards).collect(),
        cores: CoreLoads::new(shards),
        health: Arc::default(),
        gate: Arc::new(Gate::new(100, shards)),
        upgrade_error: Default::default(),
        log: None,
        access_log: None,
        begun: Instant::now(),
        peaks: Peaks::default(),
        phase: PhaseCell::default(),
    }
}

/// Returns the families of a text with their types, and the labels of each.
fn families(text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut families = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').unwrap();
            current = name.to_owned();
            families.insert(current.clone(), (kind.to_owned(), BTreeSet::new()));
        } else if let Some((_, rest)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
            let labels =
                rest.split("\",").filter_map(|label| label.split_once('=')).map(|(name, _)| name.to_owned());
            let known = &mut families.get_mut(&current).unwrap().1;
            known.extend(labels.filter(|label| label != "le"));
        }
    }
    families
}

#[test]
fn page_about_metrics_lists_exactly_those_that_exist() {
    let page = include_str!("../../../docs/METRICS.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")).filter(|line| !line.starts_with('-'));
    let listed: BTreeMap<_, _> = rows
        .filter_map(|row| {
            let cells: Vec<_> =
                row.trim_end_matches(" |").split(" | ").map(|cell| cell.trim_matches('`')).collect();
            let labels = cells.get(2)?.split(['`', ' ', '-']).filter(|label| !label.is_empty());
            Some((cells[0].to_owned(), (cells[1].to_owned(), labels.map(str::to_owned).collect())))
        })
        .collect();
    let exposed = families(&expose(source(1, 1).status(), Exposition::Text));
    for (family, shape) in &exposed {
        assert_eq!(listed.get(family), Some(shape), "{family}");
    }
    assert_eq!(listed.len(), exposed.len());
}

#[test]
fn both_formats_have_the_same_series() {
    let status = source(2, 2).status();
    let [text, open] =
        [Exposition::Text, Exposition::OpenMetrics].map(|format| expose(status.clone(), format));
    let series = |text: &str| -> BTreeSet<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.starts_with("process_"));
        // The formats differ in the order of the labels, and in how they write numbers.
        let sorted = |line: &str| {
            let (series, _) = line.rsplit_once(' ').unwrap();
            let mut parts: Vec<_> =
                series.split(['{', '}', ',']).filter(|part| !part.starts_with("le=")).collect();
            parts.sort_unstable();
            parts.join(" ")
        };
        lines.map(sorted).collect()
    };
    let (text_series, open_series) = (series(&text), series(&open));
    let differ: Vec<_> = text_series.symmetric_difference(&open_series).collect();
    assert!(differ.is_empty(), "{differ:?}");
    assert!(open.ends_with("# EOF\n") && !text.contains("# EOF"));
}

#[test]
fn sums_are_those_of_all_shards() {
    let source = source(1, 2);
    let key =
        crate::base::BackendKey { upstream: crate::base::UpstreamId(0), backend: crate::base::BackendId(0) };
    for (shard, millis) in source.counters.iter().zip([1, 2]) {
        shard.backend(key).round_trip.observe(Duration::from_millis(millis));
    }
    let text = expose(source.status(), Exposition::Text);
    let line =
        |begin: &str| text.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("{begin}"));
    let labels = "{upstream=\"default\",backend=\"127.0.0.1:2\"";
    assert!(line(&format!("ringway_backend_round_trip_seconds_count{labels}")).ends_with(" 2"));
    assert!(line(&format!("ringway_backend_round_trip_seconds_sum{labels}")).ends_with(" 0.003"));
    assert!(line(&format!("ringway_backend_round_trip_seconds_bucket{labels},le=\"0.001\"")).ends_with(" 1"));
}

/// Most of the work of a scrape: the rest is HTTP. The bound is that of a release build, which a debug build may exceed
/// many times over.
#[test]
fn scrape_of_a_thousand_backends_on_16_shards_takes_less_than_50_ms() {
    let source = source(1_000, 16);
    let most = Duration::from_millis(if cfg!(debug_assertions) { 2_000 } else { 50 });
    for format in [Exposition::Text, Exposition::OpenMetrics] {
        let scrape = || {
            let begun = Instant::now();
            let text = expose(source.status(), format);
            (begun.elapsed(), text.len())
        };
        // The quickest: other tests run beside this one.
        let (took, size) = std::iter::repeat_with(scrape).take(5).min().unwrap();
        println!("{took:?} for {size} bytes");
        assert!(took < most, "{took:?} for {size} bytes");
    }
}
