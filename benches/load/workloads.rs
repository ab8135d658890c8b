//! What is measured: each workload is a command line for the generator.

/// What a generator is asked to do, and which service of the backend it needs.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// Index into the ports of a subject.
    pub(crate) service: usize,
    pub(crate) arguments: &'static [&'static str],
    pub(crate) subjects: Subjects,
    /// Another generator that works beside.
    pub(crate) beside: Option<Beside>,
    /// Its rate is this share of the best that a balancer reaches in [`ECHO_64`], which comes before it.
    pub(crate) share: Option<f64>,
    /// A smoke run has it: one of each kind.
    pub(crate) quick: bool,
}

/// Who does a workload.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Subjects {
    /// Nobody, and every balancer on its one core.
    All,
    /// Every balancer. Clients speak TLS to it, and it speaks plainly to the backend.
    WithTls,
    /// Every balancer that takes first bytes with the SYN, as an expert sets it; clients send theirs so.
    FastOpen,
    /// Those that have threads, with one and with two, each on a core.
    Sharded,
    /// Those that read their configuration again when they are told to; they are, each second.
    Reloaded,
}

/// See [`Workload::beside`].
pub(crate) struct Beside {
    pub(crate) service: usize,
    pub(crate) arguments: &'static [&'static str],
}

// Of `topology::SERVICES`.
const ECHO: usize = 0;
const SINK: usize = 1;
const SOURCE: usize = 2;
const BOTH: usize = 3;
const ANSWER: usize = 4;

// The names that the verdicts and the figures speak of.
pub(crate) const IDLE: &str = "4000 idle sessions";
/// A process that may open 20,000 descriptors has room for hardly more.
const MANY_IDLE: &str = "9500 idle sessions";
pub(crate) const ECHO_64: &str = "echo 64 B, 64 sessions";
pub(crate) const ECHO_1000: &str = "echo 64 B, 1000 sessions";
pub(crate) const ECHO_16K: &str = "echo 16 KiB, 64 sessions";
pub(crate) const PACED_64: &str = "30000/s of 64 B, 64 sessions";
pub(crate) const PACED_1000: &str = "30000/s of 64 B, 1000 sessions";
pub(crate) const PACED_4K: &str = "20000/s of 4 KiB, 64 sessions";
pub(crate) const PACED_16K: &str = "15000/s of 16 KiB, 64 sessions";
pub(crate) const PACED_64K: &str = "5000/s of 64 KiB, 64 sessions";
pub(crate) const PACED_256K: &str = "1500/s of 256 KiB, 64 sessions";
pub(crate) const PACED_ASK_16K: &str = "15000/s: ask 256 B, answer 16 KiB, 64 sessions";
pub(crate) const PACED_ASK_64K: &str = "6000/s: ask 256 B, answer 64 KiB, 64 sessions";
pub(crate) const PACED_ASK_256K: &str = "2000/s: ask 256 B, answer 256 KiB, 64 sessions";
pub(crate) const CONNECT: &str = "connect, 64 B, close; 64 at a time";
pub(crate) const PACED_CONNECT: &str = "5000/s: connect, 64 B, close";
pub(crate) const TO_BACKEND_1: &str = "bulk to backend, 1 session";
pub(crate) const TO_BACKEND_16: &str = "bulk to backend, 16 sessions";
pub(crate) const TO_CLIENT_1: &str = "bulk to client, 1 session";
pub(crate) const TO_CLIENT_16: &str = "bulk to client, 16 sessions";
pub(crate) const STORM: &str = "64 open sessions while 4000 clients connect";
pub(crate) const MIXED: &str = "echo 64 B, 1000 sessions, beside 1 bulk session";
pub(crate) const TLS_FULL: &str = "TLS: connect, full handshake, 64 B, close";
pub(crate) const TLS_RESUMED: &str = "TLS: connect, resumed handshake, 64 B, close";
pub(crate) const TLS_TO_BACKEND: &str = "TLS: bulk to backend, 16 sessions";
pub(crate) const TLS_TO_CLIENT: &str = "TLS: bulk to client, 16 sessions";
pub(crate) const TLS_PACED_16K: &str = "TLS: 5000/s of 16 KiB, 64 sessions";

/// Latency under load.
pub(crate) const LOADS: [&str; 5] = [
    "10 % of the best rate of 64 B, 64 sessions",
    "30 % of the best rate of 64 B, 64 sessions",
    "50 % of the best rate of 64 B, 64 sessions",
    "70 % of the best rate of 64 B, 64 sessions",
    "90 % of the best rate of 64 B, 64 sessions",
];

/// The calibration: the generator against the backend alone.
pub(crate) const CALIBRATION: [Workload; 2] = [
    of("closed loop", ECHO, &["echo", "--bytes", "64", "--sessions", "64"]),
    of("30000/s", ECHO, &["echo", "--bytes", "64", "--sessions", "64", "--rate", "30000"]),
];

pub(crate) const WORKLOADS: &[Workload] = &[
    quick(of(IDLE, ECHO, &["idle", "--sessions", "4000"])),
    of(MANY_IDLE, ECHO, &["idle", "--sessions", "9500"]),
    of("echo 64 B, 1 session", ECHO, &["echo", "--bytes", "64", "--sessions", "1"]),
    quick(of(ECHO_64, ECHO, &["echo", "--bytes", "64", "--sessions", "64"])),
    of(ECHO_1000, ECHO, &["echo", "--bytes", "64", "--sessions", "1000"]),
    of("echo 1 KiB, 64 sessions", ECHO, &["echo", "--bytes", "1024", "--sessions", "64"]),
    of("echo 4 KiB, 1 session", ECHO, &["echo", "--bytes", "4096", "--sessions", "1"]),
    of("echo 4 KiB, 64 sessions", ECHO, &["echo", "--bytes", "4096", "--sessions", "64"]),
    of("echo 4 KiB, 1000 sessions", ECHO, &["echo", "--bytes", "4096", "--sessions", "1000"]),
    of("echo 16 KiB, 1 session", ECHO, &["echo", "--bytes", "16384", "--sessions", "1"]),
    of(ECHO_16K, ECHO, &["echo", "--bytes", "16384", "--sessions", "64"]),
    of("echo 16 KiB, 1000 sessions", ECHO, &["echo", "--bytes", "16384", "--sessions", "1000"]),
    of("echo 64 KiB, 1 session", ECHO, &["echo", "--bytes", "65536", "--sessions", "1"]),
    of("echo 64 KiB, 64 sessions", ECHO, &["echo", "--bytes", "65536", "--sessions", "64"]),
    of("echo 256 KiB, 1 session", ECHO, &["echo", "--bytes", "262144", "--sessions", "1"]),
    quick(of("echo 256 KiB, 64 sessions", ECHO, &["echo", "--bytes", "262144", "--sessions", "64"])),
    of("ask 256 B, answer 16 KiB, 64 sessions", ANSWER, &["ask", "--bytes", "16384", "--sessions", "64"]),
    of("ask 256 B, answer 64 KiB, 64 sessions", ANSWER, &["ask", "--bytes", "65536", "--sessions", "64"]),
    of("ask 256 B, answer 256 KiB, 64 sessions", ANSWER, &["ask", "--bytes", "262144", "--sessions", "64"]),
    quick(of(PACED_64, ECHO, &["echo", "--bytes", "64", "--sessions", "64", "--rate", "30000"])),
    of(PACED_1000, ECHO, &["echo", "--bytes", "64", "--sessions", "1000", "--rate", "30000"]),
    of(
        "20000/s of 1 KiB, 64 sessions",
        ECHO,
        &["echo", "--bytes", "1024", "--sessions", "64", "--rate", "20000"],
    ),
    of(PACED_4K, ECHO, &["echo", "--bytes", "4096", "--sessions", "64", "--rate", "20000"]),
    of(
        "20000/s of 4 KiB, 1000 sessions",
        ECHO,
        &["echo", "--bytes", "4096", "--sessions", "1000", "--rate", "20000"],
    ),
    of(PACED_16K, ECHO, &["echo", "--bytes", "16384", "--sessions", "64", "--rate", "15000"]),
    of(
        "15000/s of 16 KiB, 1000 sessions",
        ECHO,
        &["echo", "--bytes", "16384", "--sessions", "1000", "--rate", "15000"],
    ),
    of(PACED_64K, ECHO, &["echo", "--bytes", "65536", "--sessions", "64", "--rate", "5000"]),
    of(PACED_256K, ECHO, &["echo", "--bytes", "262144", "--sessions", "64", "--rate", "1500"]),
    // One session cannot have as many: each message waits for the answer to the one before.
    of("4000/s of 64 B, 1 session", ECHO, &["echo", "--bytes", "64", "--sessions", "1", "--rate", "4000"]),
    of("4000/s of 4 KiB, 1 session", ECHO, &["echo", "--bytes", "4096", "--sessions", "1", "--rate", "4000"]),
    of(
        "3000/s of 16 KiB, 1 session",
        ECHO,
        &["echo", "--bytes", "16384", "--sessions", "1", "--rate", "3000"],
    ),
    of(
        "1500/s of 64 KiB, 1 session",
        ECHO,
        &["echo", "--bytes", "65536", "--sessions", "1", "--rate", "1500"],
    ),
    of(
        "500/s of 256 KiB, 1 session",
        ECHO,
        &["echo", "--bytes", "262144", "--sessions", "1", "--rate", "500"],
    ),
    of(PACED_ASK_16K, ANSWER, &["ask", "--bytes", "16384", "--sessions", "64", "--rate", "15000"]),
    quick(of(PACED_ASK_64K, ANSWER, &["ask", "--bytes", "65536", "--sessions", "64", "--rate", "6000"])),
    of(PACED_ASK_256K, ANSWER, &["ask", "--bytes", "262144", "--sessions", "64", "--rate", "2000"]),
    under_load(LOADS[0], 0.1),
    under_load(LOADS[1], 0.3),
    under_load(LOADS[2], 0.5),
    under_load(LOADS[3], 0.7),
    under_load(LOADS[4], 0.9),
    quick(of(CONNECT, ECHO, &["connect", "--bytes", "64", "--sessions", "64"])),
    quick(of(PACED_CONNECT, ECHO, &["connect", "--bytes", "64", "--sessions", "64", "--rate", "5000"])),
    Workload {
        subjects: Subjects::FastOpen,
        ..of(
            "5000/s: connect with TCP Fast Open, 64 B, close",
            ECHO,
            &["connect", "--bytes", "64", "--sessions", "64", "--rate", "5000", "--fast-open"],
        )
    },
    quick(of(STORM, ECHO, &["storm", "--bytes", "64", "--sessions", "64", "--clients", "4000"])),
    of(TO_BACKEND_1, SINK, &["bulk", "--direction", "to-backend", "--sessions", "1"]),
    quick(of(TO_BACKEND_16, SINK, &["bulk", "--direction", "to-backend", "--sessions", "16"])),
    of(TO_CLIENT_1, SOURCE, &["bulk", "--direction", "to-client", "--sessions", "1"]),
    of(TO_CLIENT_16, SOURCE, &["bulk", "--direction", "to-client", "--sessions", "16"]),
    of("bulk both ways, 1 session", BOTH, &["bulk", "--direction", "both", "--sessions", "1"]),
    of("bulk both ways, 16 sessions", BOTH, &["bulk", "--direction", "both", "--sessions", "16"]),
    quick(of(
        "2 Gbit/s to backend, 16 sessions",
        SINK,
        &["bulk", "--direction", "to-backend", "--sessions", "16", "--rate", "2"],
    )),
    of(
        "2 Gbit/s to client, 16 sessions",
        SOURCE,
        &["bulk", "--direction", "to-client", "--sessions", "16", "--rate", "2"],
    ),
    Workload {
        beside: Some(Beside {
            service: SINK,
            arguments: &["bulk", "--direction", "to-backend", "--sessions", "1"],
        }),
        ..quick(of(MIXED, ECHO, &["echo", "--bytes", "64", "--sessions", "1000"]))
    },
    quick(sharded(
        "one shard and two: 30000/s of 64 B, 64 sessions",
        &["echo", "--bytes", "64", "--sessions", "64", "--rate", "30000"],
    )),
    sharded(
        "one shard and two: 5000/s: connect, 64 B, close",
        &["connect", "--bytes", "64", "--sessions", "64", "--rate", "5000"],
    ),
    quick(Workload {
        subjects: Subjects::Reloaded,
        ..of(
            "1000/s: connect, 64 B, close, while the configuration is reloaded each second",
            ECHO,
            &["connect", "--bytes", "64", "--sessions", "64", "--rate", "1000"],
        )
    }),
    with_tls("TLS: 1000 idle sessions", ECHO, &["idle", "--sessions", "1000"]),
    quick(with_tls(TLS_FULL, ECHO, &["connect", "--bytes", "64", "--sessions", "64"])),
    with_tls(TLS_RESUMED, ECHO, &["connect", "--bytes", "64", "--sessions", "64", "--resume"]),
    with_tls(
        "TLS: bulk to backend, 1 session",
        SINK,
        &["bulk", "--direction", "to-backend", "--sessions", "1"],
    ),
    quick(with_tls(TLS_TO_BACKEND, SINK, &["bulk", "--direction", "to-backend", "--sessions", "16"])),
    with_tls(
        "TLS: bulk to client, 1 session",
        SOURCE,
        &["bulk", "--direction", "to-client", "--sessions", "1"],
    ),
    with_tls(TLS_TO_CLIENT, SOURCE, &["bulk", "--direction", "to-client", "--sessions", "16"]),
    quick(with_tls(TLS_PACED_16K, ECHO, &["echo", "--bytes", "16384", "--sessions", "64", "--rate", "5000"])),
];

const fn of(name: &'static str, service: usize, arguments: &'static [&'static str]) -> Workload {
    Workload { name, service, arguments, subjects: Subjects::All, beside: None, share: None, quick: false }
}

const fn with_tls(name: &'static str, service: usize, arguments: &'static [&'static str]) -> Workload {
    Workload { subjects: Subjects::WithTls, ..of(name, service, arguments) }
}

const fn sharded(name: &'static str, arguments: &'static [&'static str]) -> Workload {
    Workload { subjects: Subjects::Sharded, ..of(name, ECHO, arguments) }
}

const fn under_load(name: &'static str, share: f64) -> Workload {
    Workload { share: Some(share), ..of(name, ECHO, &["echo", "--bytes", "64", "--sessions", "64"]) }
}

const fn quick(workload: Workload) -> Workload {
    Workload { quick: true, ..workload }
}

impl Workload {
    /// Memory is measured instead of speed.
    pub(crate) fn is_idle(&self) -> bool {
        self.arguments[0] == "idle"
    }

    /// Whether clients connect while it is measured.
    pub(crate) fn has_new_clients(&self) -> bool {
        matches!(self.arguments[0], "connect" | "storm")
    }

    /// Whether sessions move bytes without end, until one side has had enough.
    pub(crate) fn has_bulk(&self) -> bool {
        self.arguments[0] == "bulk" || self.beside.is_some()
    }

    /// How many sessions it opens.
    pub(crate) fn sessions(&self) -> f64 {
        self.number("--sessions").expect("every workload says how many sessions")
    }

    /// How many are open at most, with the clients that come to them.
    pub(crate) fn sessions_at_once(&self) -> f64 {
        self.sessions() + self.number("--clients").unwrap_or(0.0)
    }

    /// The fixed rate of its command line, in the unit that rates are reported in; `None` if it has none.
    pub(crate) fn pace(&self) -> Option<f64> {
        self.number("--rate")
    }

    fn number(&self, option: &str) -> Option<f64> {
        let value = self.arguments.iter().skip_while(|word| **word != option).nth(1);
        value.and_then(|number| number.parse().ok())
    }
}
