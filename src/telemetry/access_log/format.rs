//! How a record looks: HAProxy's line for TCP, or a JSON object.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use serde::Serialize;

use super::record::AccessRecord;
use crate::base::{BackendId, ListenerId, Moment, UpstreamId};
use crate::config::AccessFormat;
use crate::net::TcpInfo;
use crate::telemetry::counters::ShardCounters;
use crate::tls::Agreed;
use crate::upstream::{Current, SharedUpstream, Snapshot};

/// What the numbers of a record stand for, and how many sessions there are now.
pub(super) struct Scene {
    current: Arc<Current>,
    /// As of this batch.
    snapshot: Arc<Snapshot>,
    counters: Vec<Arc<ShardCounters>>,
    /// The CPU of each shard.
    cpus: Vec<usize>,
    /// What a moment is by the wall clock, which may be set: read anew for each batch.
    now: (Moment, SystemTime),
    /// Open sessions of the process, as of this batch.
    process: Option<u64>,
    /// Open sessions by listener, as of this batch; indexed by `ListenerId`.
    active: Vec<Option<u64>>,
    /// Sessions in flight by backend, as of this batch; indexed by `UpstreamId`, then by `BackendId`.
    in_flight: Vec<Option<Vec<u32>>>,
    /// Lines are put together here.
    line: String,
}

impl Scene {
    pub(super) fn new(current: Arc<Current>, counters: Vec<Arc<ShardCounters>>, cpus: Vec<usize>) -> Self {
        let mut scene = Self {
            snapshot: current.get(),
            current,
            counters,
            cpus,
            now: (Moment::default(), SystemTime::UNIX_EPOCH),
            process: None,
            active: Vec::new(),
            in_flight: Vec::new(),
            line: String::new(),
        };
        scene.begin_batch();
        scene
    }

    /// Forgets what was read for the batch before.
    pub(super) fn begin_batch(&mut self) {
        self.snapshot = self.current.get();
        self.now = (Moment::read_clock(), SystemTime::now());
        self.process = None;
        self.active.clear();
        self.in_flight.clear();
    }

    /// Appends the record and its line feed, the only one in it.
    pub(super) fn render(&mut self, record: &AccessRecord, format: AccessFormat, out: &mut Vec<u8>) {
        // Writing to memory does not fail.
        match format {
            AccessFormat::Tcplog => {
                let mut line = std::mem::take(&mut self.line);
                line.clear();
                let _ = self.write_tcplog(record, &mut line);
                out.extend_from_slice(line.as_bytes());
                self.line = line;
            }
            AccessFormat::Json => {
                let _ = serde_json::to_writer(&mut *out, &self.json(record)).map(|()| writeln!(out));
            }
        }
    }

    fn time(&self, moment: Moment) -> Timestamp {
        let (now, wall) = self.now;
        let then = wall.checked_sub(now.since(moment)).unwrap_or(SystemTime::UNIX_EPOCH);
        // A clock outside of the years -9999 to 9999 must not cost the record.
        Timestamp::try_from(then).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    fn cpu(&self, record: &AccessRecord) -> usize {
        self.cpus.get(record.shard.index()).copied().unwrap_or_default()
    }

    /// Also of a listener that was removed meanwhile.
    fn listener_name(&self, id: ListenerId) -> &str {
        self.snapshot.names().of_listener(id).unwrap_or("-")
    }

    fn upstream(&self, id: UpstreamId) -> Option<&SharedUpstream> {
        self.snapshot.upstream(id).map(|upstream| &**upstream)
    }

    /// Also of what was removed meanwhile.
    fn names(&self, record: &AccessRecord) -> (&str, Option<&str>) {
        let (names, id) = (self.snapshot.names(), record.upstream);
        let backend = record.backend.and_then(|backend| names.of_backend(id, backend));
        (names.of_upstream(id).unwrap_or("-"), backend)
    }

    fn active_of_process(&mut self) -> u64 {
        let (snapshot, counters) = (&self.snapshot, &self.counters);
        let of_shard = |shard: &Arc<ShardCounters>| {
            snapshot.listeners().iter().map(|id| shard.listener(*id).active.value()).sum::<u64>()
        };
        *self.process.get_or_insert_with(|| counters.iter().map(of_shard).sum())
    }

    fn active(&mut self, id: ListenerId) -> u64 {
        let index = id.index();
        if self.active.len() <= index {
            self.active.resize(index + 1, None);
        }
        let counters = &self.counters;
        let read = || counters.iter().map(|shard| shard.listener(id).active.value()).sum();
        *self.active[index].get_or_insert_with(read)
    }

    /// Returns the sessions in flight of an upstream, and those of one of its backends.
    fn in_flight(&mut self, upstream: UpstreamId, backend: Option<BackendId>) -> (u32, u32) {
        let index = upstream.index();
        if self.in_flight.len() <= index {
            self.in_flight.resize(index + 1, None);
        }
        if self.in_flight[index].is_none() {
            self.in_flight[index] = self.upstream(upstream).map(SharedUpstream::in_flight);
        }
        let counts = self.in_flight[index].as_deref().unwrap_or_default();
        let own = backend.and_then(|backend| counts.get(backend.index())).copied();
        (counts.iter().sum(), own.unwrap_or(0))
    }

    /// HAProxy's default format for TCP, section 8.2.2 of its configuration manual, and more behind it.
    fn write_tcplog(&mut self, record: &AccessRecord, line: &mut String) -> std::fmt::Result {
        let process = self.active_of_process();
        let (active, (upstream_now, backend_now)) =
            (self.active(record.listener), self.in_flight(record.upstream, record.backend));
        let (listener, (upstream, backend)) = (self.listener_name(record.listener), self.names(record));
        let millis = |micros: u32| micros / 1_000;
        let (client, date) = (record.client, self.time(record.begun).strftime("%d/%b/%Y:%H:%M:%S%.3f"));
        write!(line, "{client} [{date}] {listener} {upstream}/")?;
        match backend {
            Some(backend) => write!(line, "{backend} ")?,
            None => line.push_str("<NOSRV> "),
        }
        let total = record.ended.since(record.begun).as_millis();
        match (record.connect_micros, backend) {
            (Some(connect), _) => {
                write!(line, "{}/{}/{total}", millis(record.queue_micros), millis(connect))?
            }
            (None, Some(_)) => write!(line, "{}/-1/{total}", millis(record.queue_micros))?,
            (None, None) => write!(line, "-1/-1/{total}")?,
        }
        let [who, when] = record.end.letters().map(char::from);
        write!(
            line,
            " {} {who}{when} {process}/{active}/{upstream_now}/{backend_now}/{} 0/{} up={} core={} id={}",
            record.to_client,
            record.retries,
            record.ahead,
            record.to_backend,
            self.cpu(record),
            record.id,
        )?;
        if let Some(tls) = record.tls {
            write!(line, " tls={}", tls.version())?;
        }
        line.push('\n');
        Ok(())
    }

    fn json<'a>(&'a self, record: &'a AccessRecord) -> JsonRecord<'a> {
        let (upstream, backend) = self.names(record);
        let seconds = |micros: u32| f64::from(micros) / 1e6;
        JsonRecord {
            time: format!("{:.6}", self.time(record.begun)),
            client: record.client.to_string(),
            peer: record.peer.to_string(),
            listener: self.listener_name(record.listener),
            upstream,
            backend,
            core: self.cpu(record),
            id: record.id,
            queue_seconds: seconds(record.queue_micros),
            connect_seconds: record.connect_micros.map(seconds),
            duration_seconds: record.ended.since(record.begun).as_secs_f64(),
            to_backend_bytes: record.to_backend,
            to_client_bytes: record.to_client,
            state: record.end.letters().map(char::from).iter().collect(),
            reason: record.end.name(),
            retries: record.retries,
            sni: record.server_name.as_deref(),
            tls: record.tls.map(Into::into),
            client_tcp: record.client_info.map(Into::into),
            backend_tcp: record.backend_info.map(Into::into),
        }
    }
}

#[derive(Serialize)]
struct JsonRecord<'a> {
    time: String,
    client: String,
    peer: String,
    listener: &'a str,
    upstream: &'a str,
    backend: Option<&'a str>,
    core: usize,
    id: u64,
    queue_seconds: f64,
    connect_seconds: Option<f64>,
    duration_seconds: f64,
    to_backend_bytes: u64,
    to_client_bytes: u64,
    state: String,
    reason: &'static str,
    retries: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    sni: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<JsonTls>,
    client_tcp: Option<JsonTcp>,
    backend_tcp: Option<JsonTcp>,
}

#[derive(Serialize)]
struct JsonTls {
    version: &'static str,
    cipher: String,
    resumed: bool,
}

impl From<Agreed> for JsonTls {
    fn from(agreed: Agreed) -> Self {
        Self { version: agreed.version(), cipher: agreed.cipher(), resumed: agreed.resumed }
    }
}

#[derive(Serialize)]
struct JsonTcp {
    rtt_seconds: f64,
    retransmitted_segments: u32,
    delivery_rate_bytes_per_second: u64,
}

impl From<TcpInfo> for JsonTcp {
    fn from(TcpInfo { round_trip, retransmitted, delivery_rate }: TcpInfo) -> Self {
        Self {
            rtt_seconds: round_trip.as_secs_f64(),
            retransmitted_segments: retransmitted,
            delivery_rate_bytes_per_second: delivery_rate,
        }
    }
}
