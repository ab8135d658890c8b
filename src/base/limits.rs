//! Bounds that several modules share, or that an operator can run into. A bound that concerns one module is
//! defined there.

use std::time::Duration;

/// Largest configuration file, bytes. A thousand backends in long form take about 100 KiB.
pub const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Deepest nesting of a configuration file; the format needs six levels.
pub const CONFIG_DEPTH_MAX: usize = 32;
/// Maximum number of nodes of a configuration file after aliases are resolved.
pub const CONFIG_NODES_MAX: usize = 100_000;
/// Maximum number of problems that are printed for one configuration file; further ones are only counted.
pub const CONFIG_PROBLEMS_MAX: usize = 100;
/// Longest name of a listener, upstream or backend, bytes: a host name of 253 bytes with its port.
pub const NAME_BYTES_MAX: usize = 259;
/// Longest path of a Unix socket, bytes: `sun_path` without its final NUL, unix(7).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Largest CPU number; the kernel's `NR_CPUS` is at most 8,192 on the platforms that we build for.
pub const CPU_MAX: u32 = 8_191;
/// Maximum number of consecutive results that `rise` and `fall` may ask for.
pub const CONSECUTIVE_CHECKS_MAX: u32 = 1_000;
/// Maximum number of consecutive failures that `outlier` may ask for.
pub const CONSECUTIVE_FAILURES_MAX: u32 = 1_000;
/// Number of steps in which `slow_start` raises a share to its full size.
pub const RAMP_STEPS: u32 = 20;
/// Shortest time between two states that are broadcast for `slow_start`.
pub const RAMP_PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest ejection, as a multiple of the first one.
pub const EJECTION_GROWTH_MAX: u32 = 10;
/// Longest `TCP_KEEPIDLE`, tcp(7): the kernel's `MAX_TCP_KEEPIDLE`.
pub const KEEPALIVE_MAX: Duration = Duration::from_secs(32_767);
/// Maximum number of keepalive probes: the kernel's `MAX_TCP_KEEPCNT`.
pub const KEEPALIVE_PROBES_MAX: u32 = 127;
/// Longest `TCP_DEFER_ACCEPT`: the kernel counts in repetitions of the SYN-ACK, at most 255.
pub const DEFER_ACCEPT_MAX: Duration = Duration::from_secs(3_600);
/// Longest `TCP_USER_TIMEOUT`: the kernel keeps milliseconds in an `int`.
pub const USER_TIMEOUT_MAX: Duration = Duration::from_millis(i32::MAX as u64);
/// Maximum number of listeners.
pub const LISTENERS_MAX: usize = 256;
/// Maximum number of upstreams.
pub const UPSTREAMS_MAX: usize = 1_024;
/// Maximum number of routes by name of a listener.
pub const SNI_ROUTES_MAX: usize = 1_024;
/// Maximum number of backends in one upstream.
pub const BACKENDS_PER_UPSTREAM_MAX: usize = 4_096;
/// Maximum number of shards: one for each core of the largest servers sold.
pub const SHARDS_MAX: usize = 1_024;
/// Largest weight of a backend.
pub const WEIGHT_MAX: u32 = 1_000;
/// Maximum number of addresses of one host name that are tried, in the order the resolver gave.
pub const ADDRESSES_PER_BACKEND_MAX: usize = 16;
/// How long the first look-up of a name is waited for: by backups and panic before they serve, and by
/// listeners before they accept.
pub const FIRST_LOOKUP_MAX: Duration = Duration::from_secs(5);
/// The first checks are spread over at most this time; the first verdict is waited for this much longer than
/// a `timeout`.
pub const FIRST_CHECK_SPREAD_MAX: Duration = Duration::from_millis(200);
/// A time-out that is noticed this much too late is not the peer's fault: the process was stopped or starved.
pub const LATE: Duration = Duration::from_millis(250);
/// Maximum number of names that are looked up at the same time, each on a thread of its own for the duration.
pub const LOOKUPS_MAX: usize = 512;
/// Maximum number of finished check connections that wait for the backend to close, each with one descriptor.
pub const PROBES_ENDING_MAX: usize = 64;
/// Maximum number of health checks that run at the same time, each with one descriptor.
pub const PROBES_MAX: usize = 1_024;
/// Maximum number of steps of a `send_expect` check.
pub const CHECK_STEPS_MAX: usize = 32;
/// Maximum number of bytes that one step of a `send_expect` check sends or expects.
pub const CHECK_STEP_BYTES_MAX: usize = 4 << 10;
/// Maximum number of bytes that a check takes from a backend, of what it reads itself; with `PROBES_MAX` this
/// bounds the memory of all checks.
pub const CHECK_RECEIVED_BYTES_MAX: usize = 64 << 10;
/// Longest path of an `http` check, bytes.
pub const CHECK_PATH_BYTES_MAX: usize = 2 << 10;
/// Largest head of the response to an `http` check, bytes.
pub const CHECK_HEAD_BYTES_MAX: usize = 16 << 10;
/// Longest name of a user or a database of a check, bytes. PostgreSQL has 63, MySQL 32 and MariaDB 128
/// characters.
pub const CHECK_NAME_BYTES_MAX: usize = 128;
/// Maximum number of statuses and ranges in `expect_status`.
pub const CHECK_STATUS_RANGES_MAX: usize = 32;
/// Maximum number of new sessions of a listener in one turn of a shard, so that a burst of clients leaves
/// time for open sessions.
pub const SESSIONS_PER_TURN_MAX: u32 = 16;
/// Maximum number of connections on their way to a shard from all others; further ones stay on the shard they
/// came to.
pub const HANDOFFS_MAX: usize = 64;
/// Maximum number of questions of operators that wait for a shard; further ones are not answered.
pub const QUESTIONS_MAX: usize = 64;
/// Maximum number of retries of one session.
pub const RETRIES_MAX: u32 = 100;
/// Number of retries per second that the `retry_budget` of an upstream always allows.
pub const RETRIES_PER_SECOND_MIN: u64 = 10;
/// Maximum number of clients in the queue of an upstream.
pub const QUEUE_MAX: u32 = 65_535;
/// Maximum number of pooled connections for each backend; taking one scans this shard's share.
pub const POOL_MAX: u32 = 4_096;
/// Maximum number of local addresses of an upstream.
pub const LOCAL_ADDRESSES_MAX: usize = 256;
/// Shortest time for a client's header: the PROXY protocol wants one lost segment to be sent again within it.
pub const HANDSHAKE_MIN: Duration = Duration::from_secs(3);
/// Maximum number of certificates of a listener.
pub const CERTIFICATES_MAX: usize = 1_024;
/// Maximum number of files with revoked certificates of a listener.
pub const CRL_FILES_MAX: usize = 64;
/// Maximum number of protocols that a listener or an upstream offers (ALPN).
pub const ALPN_MAX: usize = 16;
/// Maximum of the handshakes of TLS at a time of a listener.
pub const TLS_HANDSHAKES_MAX: u32 = 1 << 20;
/// Maximum number of entries of a list of clients, such as `allow`; files among them may have more prefixes.
pub const ACCESS_ENTRIES_MAX: usize = 10_000;
/// Largest file of prefixes, bytes: the whole routing table of the Internet fits twice.
pub const ACCESS_FILE_BYTES_MAX: u64 = 64 << 20;
/// Largest configurable rate, events a second.
pub const RATE_MAX: u32 = 1_000_000;
/// Maximum number of sources whose limits are known, for the whole process; further ones share one limit. They take 48 MiB.
pub const SOURCES_MAX: usize = 1 << 20;
/// Longest configurable duration.
pub const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Shortest configurable duration.
pub const DURATION_MIN: Duration = Duration::from_millis(1);
/// Largest listen backlog.
pub const BACKLOG_MAX: u32 = 1 << 20;
/// Smallest and largest provided buffer, bytes.
pub const BUFFER_BYTES: std::ops::RangeInclusive<u32> = (1 << 10)..=(1 << 20);
/// Minimum and maximum number of provided buffers of a core; the kernel's rings hold at most 32,768.
pub const BUFFERS_PER_CORE: std::ops::RangeInclusive<u32> = 64..=32_768;
/// Smallest and largest pipe for splicing, bytes. A smaller one would move too few bytes to be worth its
/// system calls.
pub const PIPE_BYTES: std::ops::RangeInclusive<u32> = (64 << 10)..=(16 << 20);
/// Rates of one direction of a session, bytes a second: from a slow modem to beyond any network card.
pub const BYTE_RATE: std::ops::RangeInclusive<u64> = (1 << 10)..=(64 << 30);
/// Maximum number of pipes of a core.
pub const PIPES_PER_CORE_MAX: u32 = 4_096;
/// Maximum number of log records waiting for the writer thread; further ones are dropped and counted.
pub const LOG_QUEUE_MAX: usize = 8_192;
/// Longest log record, bytes; the rest is truncated and marked.
pub const LOG_RECORD_BYTES_MAX: usize = 8_192;
/// Maximum number of access log records of a shard that wait for the writer thread, 80 ms of 50,000 sessions a second;
/// further ones are dropped and counted.
pub const ACCESS_LOG_QUEUE_MAX: usize = 4_096;
/// Maximum number of denied connections that the access log has in a second, for the whole process.
pub const DENIALS_LOGGED_PER_SECOND: u64 = 10;
/// Sessions that the admin API lists at a time where no number is asked for.
pub const SESSIONS_LISTED: usize = 100;
/// Maximum number of sessions that the admin API lists at a time.
pub const SESSIONS_LISTED_MAX: usize = 1_000;
/// Maximum number of connections to the TCP endpoint of the admin API, and to its Unix socket.
pub const ADMIN_TCP_CONNECTIONS_MAX: usize = 48;
/// See [`ADMIN_TCP_CONNECTIONS_MAX`].
pub const ADMIN_SOCKET_CONNECTIONS_MAX: usize = 16;

const _: () = assert!(LISTENERS_MAX <= u16::MAX as usize);
const _: () = assert!(UPSTREAMS_MAX <= u16::MAX as usize);
const _: () = assert!(BACKENDS_PER_UPSTREAM_MAX <= u16::MAX as usize);
const _: () = assert!(SHARDS_MAX <= u16::MAX as usize);
const _: () = assert!(CHECK_STEP_BYTES_MAX < CHECK_RECEIVED_BYTES_MAX);
