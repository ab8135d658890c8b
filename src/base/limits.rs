//! Bounds that several modules share, or that an operator meets. A bound of one module stands in that module.

use std::time::Duration;

/// Largest configuration file, bytes. A thousand backends in long form take about 100 KiB.
pub const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Deepest nesting of a configuration file; the format itself needs six levels.
pub const CONFIG_DEPTH_MAX: usize = 32;
/// Most nodes of a configuration file after aliases are resolved.
pub const CONFIG_NODES_MAX: usize = 100_000;
/// Most problems of one configuration file that are shown; further ones are only counted.
pub const CONFIG_PROBLEMS_MAX: usize = 100;
/// Longest name of a listener, upstream or backend, bytes: a host name of 253 with its port.
pub const NAME_BYTES_MAX: usize = 259;
/// Longest path of a unix socket, bytes: `sun_path` without its final NUL, unix(7).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Largest CPU_MAX number; the kernel's `NR_CPUS` is at most 8,192 on the platforms we build for.
pub const CPU_MAX: u32 = 8_191;
/// Most consecutive results that `rise` and `fall` may ask for.
pub const CONSECUTIVE_CHECKS_MAX: u32 = 1_000;
/// Most consecutive failures that `outlier` may ask for.
pub const CONSECUTIVE_FAILURES_MAX: u32 = 1_000;
/// Steps in which `slow_start` raises a share to the whole of it...
pub const RAMP_STEPS: u32 = 20;
/// ...and the shortest time between two states that are broadcast for it.
pub const RAMP_PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest ejection, in first ones.
pub const EJECTION_GROWTH_MAX: u32 = 10;
/// Longest `TCP_KEEPIDLE`, tcp(7): the kernel's `MAX_TCP_KEEPIDLE`.
pub const KEEPALIVE_MAX: Duration = Duration::from_secs(32_767);
/// Most keepalive probes, `MAX_TCP_KEEPCNT` of the kernel.
pub const KEEPALIVE_PROBES_MAX: u32 = 127;
/// Longest `TCP_USER_TIMEOUT`: the kernel keeps milliseconds in an `int`.
pub const USER_TIMEOUT_MAX: Duration = Duration::from_millis(i32::MAX as u64);
/// Most listeners.
pub const LISTENERS_MAX: usize = 256;
/// Most upstreams.
pub const UPSTREAMS_MAX: usize = 1_024;
/// Most backends in one upstream.
pub const BACKENDS_PER_UPSTREAM_MAX: usize = 4_096;
/// Most shards: one for each core of the largest servers sold.
pub const SHARDS_MAX: usize = 1_024;
/// Largest weight of a backend.
pub const WEIGHT_MAX: u32 = 1_000;
/// Most addresses of one host name that are tried, in the order the resolver gave.
pub const ADDRESSES_PER_BACKEND_MAX: usize = 16;
/// How long others wait for the first look-up of a name: backups and panic, and listeners with accepting.
pub const FIRST_LOOKUP_MAX: Duration = Duration::from_secs(5);
/// First checks are spread over this much at most; others wait so much longer than a `timeout` for the first verdict.
pub const FIRST_CHECK_SPREAD_MAX: Duration = Duration::from_millis(200);
/// A time-out that is noticed this much later is not the peer's: the process was stopped, or is starved.
pub const LATE: Duration = Duration::from_millis(250);
/// Look-ups of different names that run at the same time, each on a thread of its own while it lasts.
pub const LOOKUPS_MAX: usize = 512;
/// Connections of checks that are over and wait for the end of the backend, each with one descriptor.
pub const PROBES_ENDING_MAX: usize = 64;
/// Health checks that run at the same time, each with one descriptor.
pub const PROBES_MAX: usize = 1_024;
/// Most steps of a `send_expect` check.
pub const CHECK_STEPS_MAX: usize = 32;
/// Most bytes that one step of it sends or expects.
pub const CHECK_STEP_BYTES_MAX: usize = 4 << 10;
/// Most bytes that it looks through for those it expects; beside `PROBES_MAX` this bounds the memory of all checks.
pub const CHECK_RECEIVED_BYTES_MAX: usize = 64 << 10;
/// Longest path of an `http` check, bytes.
pub const CHECK_PATH_BYTES_MAX: usize = 2 << 10;
/// Largest head of the response to an `http` check, bytes.
pub const CHECK_HEAD_BYTES_MAX: usize = 16 << 10;
/// Most statuses and ranges in `expect_status`.
pub const CHECK_STATUS_RANGES_MAX: usize = 32;
/// New sessions of a listener in one turn of a shard, so that open sessions have theirs while a crowd comes.
pub const SESSIONS_PER_TURN_MAX: u32 = 16;
/// Connections on their way to a shard from all others; further ones stay where they came.
pub const HANDOFFS_MAX: usize = 64;
/// Most retries of one session.
pub const RETRIES_MAX: u32 = 100;
/// Retries of an upstream in a second that its `retry_budget` always leaves.
pub const RETRIES_PER_SECOND_MIN: u64 = 10;
/// Most clients of an upstream that wait for a place.
pub const QUEUE_MAX: u32 = 65_535;
/// Most ready connections for each backend; whoever takes one looks at those of its shard.
pub const POOL_MAX: u32 = 4_096;
/// Most local addresses of an upstream.
pub const LOCAL_ADDRESSES_MAX: usize = 256;
/// Longest configurable duration.
pub const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Shortest configurable duration.
pub const DURATION_MIN: Duration = Duration::from_millis(1);
/// Largest listen backlog.
pub const BACKLOG_MAX: u32 = 1 << 20;
/// Smallest and largest provided buffer, bytes.
pub const BUFFER_BYTES: std::ops::RangeInclusive<u32> = (1 << 10)..=(1 << 20);
/// Fewest and most provided buffers of a core; the kernel's rings hold at most 32,768.
pub const BUFFERS_PER_CORE: std::ops::RangeInclusive<u32> = 64..=32_768;
/// Smallest and largest pipe that splicing uses, bytes. A smaller one moves too little at once to be worth its calls.
pub const PIPE_BYTES: std::ops::RangeInclusive<u32> = (64 << 10)..=(16 << 20);
/// Most pipes of a core.
pub const PIPES_PER_CORE_MAX: u32 = 4_096;
/// Log records waiting for the writer thread; further ones are dropped and counted.
pub const LOG_QUEUE_MAX: usize = 8_192;
/// Length of one log record, bytes; the rest is cut off and marked.
pub const LOG_RECORD_BYTES_MAX: usize = 8_192;

const _: () = assert!(LISTENERS_MAX <= u16::MAX as usize);
const _: () = assert!(UPSTREAMS_MAX <= u16::MAX as usize);
const _: () = assert!(BACKENDS_PER_UPSTREAM_MAX <= u16::MAX as usize);
const _: () = assert!(SHARDS_MAX <= u16::MAX as usize);
const _: () = assert!(CHECK_STEP_BYTES_MAX < CHECK_RECEIVED_BYTES_MAX);
