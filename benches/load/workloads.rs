//! What is measured: each workload is a command line for the generator.

/// What a generator is asked to do, and which service of the backend it needs.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// Index into the ports of a subject.
    pub(crate) service: usize,
    pub(crate) arguments: &'static [&'static str],
    /// Clients speak TLS to the balancer, which speaks plainly to the backend.
    pub(crate) tls: bool,
    /// Another generator that works beside.
    pub(crate) beside: Option<Beside>,
}

/// See [`Workload::beside`].
pub(crate) struct Beside {
    pub(crate) service: usize,
    pub(crate) arguments: &'static [&'static str],
}

const ECHO: usize = 0;
const SINK: usize = 1;
const SOURCE: usize = 2;
const BOTH: usize = 3;

// The names that the verdicts and the figures speak of.
pub(crate) const IDLE: &str = "4000 idle sessions";
pub(crate) const ECHO_64: &str = "echo 64 B, 64 sessions";
pub(crate) const ECHO_1000: &str = "echo 64 B, 1000 sessions";
pub(crate) const ECHO_16K: &str = "echo 16 KiB, 64 sessions";
pub(crate) const PACED_64: &str = "30000/s of 64 B, 64 sessions";
pub(crate) const PACED_1000: &str = "30000/s of 64 B, 1000 sessions";
pub(crate) const CONNECT: &str = "connect, 64 B, close; 64 at a time";
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

/// The calibration: the generator against the backend alone.
pub(crate) const CALIBRATION: [Workload; 2] = [
    of("closed loop", ECHO, &["echo", "--bytes", "64", "--sessions", "64"]),
    of("30000/s", ECHO, &["echo", "--bytes", "64", "--sessions", "64", "--rate", "30000"]),
];

pub(crate) const WORKLOADS: &[Workload] = &[
    // First, while the balancers' memory is fresh.
    of(IDLE, ECHO, &["idle", "--sessions", "4000"]),
    of("echo 64 B, 1 session", ECHO, &["echo", "--bytes", "64", "--sessions", "1"]),
    of(ECHO_64, ECHO, &["echo", "--bytes", "64", "--sessions", "64"]),
    of(ECHO_1000, ECHO, &["echo", "--bytes", "64", "--sessions", "1000"]),
    of("echo 4 KiB, 1 session", ECHO, &["echo", "--bytes", "4096", "--sessions", "1"]),
    of("echo 4 KiB, 64 sessions", ECHO, &["echo", "--bytes", "4096", "--sessions", "64"]),
    of("echo 4 KiB, 1000 sessions", ECHO, &["echo", "--bytes", "4096", "--sessions", "1000"]),
    of("echo 16 KiB, 1 session", ECHO, &["echo", "--bytes", "16384", "--sessions", "1"]),
    of(ECHO_16K, ECHO, &["echo", "--bytes", "16384", "--sessions", "64"]),
    of("echo 16 KiB, 1000 sessions", ECHO, &["echo", "--bytes", "16384", "--sessions", "1000"]),
    of(PACED_64, ECHO, &["echo", "--bytes", "64", "--sessions", "64", "--rate", "30000"]),
    of(PACED_1000, ECHO, &["echo", "--bytes", "64", "--sessions", "1000", "--rate", "30000"]),
    of(CONNECT, ECHO, &["connect", "--bytes", "64", "--sessions", "64"]),
    of(STORM, ECHO, &["storm", "--bytes", "64", "--sessions", "64", "--clients", "4000"]),
    of(TO_BACKEND_1, SINK, &["bulk", "--direction", "to-backend", "--sessions", "1"]),
    of(TO_BACKEND_16, SINK, &["bulk", "--direction", "to-backend", "--sessions", "16"]),
    of(TO_CLIENT_1, SOURCE, &["bulk", "--direction", "to-client", "--sessions", "1"]),
    of(TO_CLIENT_16, SOURCE, &["bulk", "--direction", "to-client", "--sessions", "16"]),
    of("bulk both ways, 1 session", BOTH, &["bulk", "--direction", "both", "--sessions", "1"]),
    of("bulk both ways, 16 sessions", BOTH, &["bulk", "--direction", "both", "--sessions", "16"]),
    Workload {
        beside: Some(Beside {
            service: SINK,
            arguments: &["bulk", "--direction", "to-backend", "--sessions", "1"],
        }),
        ..of(MIXED, ECHO, &["echo", "--bytes", "64", "--sessions", "1000"])
    },
    with_tls("TLS: 1000 idle sessions", ECHO, &["idle", "--sessions", "1000"]),
    with_tls(TLS_FULL, ECHO, &["connect", "--bytes", "64", "--sessions", "64"]),
    with_tls(TLS_RESUMED, ECHO, &["connect", "--bytes", "64", "--sessions", "64", "--resume"]),
    with_tls(
        "TLS: bulk to backend, 1 session",
        SINK,
        &["bulk", "--direction", "to-backend", "--sessions", "1"],
    ),
    with_tls(TLS_TO_BACKEND, SINK, &["bulk", "--direction", "to-backend", "--sessions", "16"]),
    with_tls(
        "TLS: bulk to client, 1 session",
        SOURCE,
        &["bulk", "--direction", "to-client", "--sessions", "1"],
    ),
    with_tls(TLS_TO_CLIENT, SOURCE, &["bulk", "--direction", "to-client", "--sessions", "16"]),
    with_tls(TLS_PACED_16K, ECHO, &["echo", "--bytes", "16384", "--sessions", "64", "--rate", "5000"]),
];

const fn of(name: &'static str, service: usize, arguments: &'static [&'static str]) -> Workload {
    Workload { name, service, arguments, tls: false, beside: None }
}

const fn with_tls(name: &'static str, service: usize, arguments: &'static [&'static str]) -> Workload {
    Workload { tls: true, ..of(name, service, arguments) }
}

impl Workload {
    /// Memory is measured instead of speed.
    pub(crate) fn is_idle(&self) -> bool {
        self.arguments[0] == "idle"
    }

    /// How many sessions it opens.
    pub(crate) fn sessions(&self) -> f64 {
        let value = self.arguments.iter().skip_while(|word| **word != "--sessions").nth(1);
        value.and_then(|count| count.parse().ok()).expect("every workload says how many sessions")
    }
}
