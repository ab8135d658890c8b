//! Ringway: a Layer-4 (TCP) load balancer with one pinned thread per core.
//!
//! Ringway takes TCP connections, picks a backend for each, and moves bytes both ways until both sides are
//! done. It does so on an io_uring for each core, and shares nothing between cores that a byte would have to
//! wait for.
//!
//! Ringway does not look into the bytes: no HTTP, no rewriting, no UDP. The library exists for the binary
//! `ringway`, its tests and its benchmarks; its interface may change with each release.
//!
//! ```text
//!   control thread            health thread                 log thread
//!   (names, core loads,       (checks, ejections)           (writes records)
//!    admin API, watchdog)
//!          | addresses ------------> |                            ^
//!                                    | states of all backends     |
//!            +-----------------------+---------------+            |
//!            v                       v               v            |
//!        shard 0                 shard 1    ...  shard N ---------+
//!   clients -> listener -> session -> upstream table -> connection -> relay -> backend
//! ```
//!
//! # One connection in ten steps
//!
//! 1. A poll of the [ring](uring) says that a listener has connections; the accept loop (`shard/accept.rs`)
//!    takes them.
//! 2. [Steering](steering) may hand the connection off to a less busy core (`shard/handoff.rs`).
//! 3. The session is counted and gets one of the process's permits (`shard/session/record.rs`,
//!    [`admission::Limit`]). Where the listener has TLS, the handshake follows (`shard/session/handshake.rs`).
//! 4. [`upstream::Attempts`] decides which backend is next, whether to wait, and when to give up; the shard
//!    does what it says (`shard/session/open.rs`).
//! 5. [`upstream::UpstreamTable::pick`] goes through the order of resort ([`upstream::Order`]); in each tier
//!    an algorithm of [`balance`] chooses.
//! 6. The session owns the backend's [`upstream::Permit`], with a ready connection of the [pool] or a new one
//!    (`shard/connect.rs`).
//! 7. A [`relay::Relay`] moves bytes: small messages through buffers, bulk through a pipe.
//! 8. The truth table in [`relay`] says how the session ends.
//! 9. The leg (`shard/session/leg.rs`) tells what the end says of the backend, and whether the connection is
//!    tried again, given back to the pool, or closed with FIN or RST.
//! 10. The record's drop counts the close; the permit's drop lets the next client in.
//!
//! # Layers
//!
//! Lowest first: a module uses only modules that come earlier in this list; `tests/layering.rs` checks it.
//!
//! * [`base`]: identifiers, limits, time, addresses, the reasons for which a session ends.
//! * Pure, bytes, numbers and time in, values out: [`balance`], [`protocol`], [`config`], [`import`].
//! * What handshakes of TLS need: [`tls`].
//! * State that threads share: [`admission`], [`upstream`], [`steering`].
//! * Mechanisms: [`uring`], [`net`], [`telemetry`], [`relay`], [`pool`].
//! * Planes: [`shard`], [`health`], [`control`].
//! * Assembly: [`server`], [`cli`].
//!
//! # Where to start for ...
//!
//! | you want to | look at |
//! |---|---|
//! | add an algorithm | [`balance`]: a file, and two lines in `balance/mod.rs` |
//! | change when a session is retried | [`upstream::Attempts`] decides; `shard/session/open.rs` asks after a failed connect, `leg.rs` after a reset |
//! | change how the end of one side reaches the other | the table in [`relay`] (`Relay::outcome`), then `Leg::close` in `shard/session/leg.rs` |
//! | add a configuration key, or change a default | `config/schema.rs` (`healthcheck.rs` and `pool.rs` for theirs), and `config/model/` for its documentation |
//! | change what a check means | [`health::rules`] |
//! | change what happens when a backend goes down | [`health::rules`] (the verdict), [`upstream::UpstreamTable::apply`] (on each shard) |
//! | add a counter | [`telemetry::counters`]; [`control::Status`] shows it, and `control/metrics/families.rs` names it |
//! | add an endpoint | `control/admin/`, and [`control::process::Process`] for what it asks |
//! | read a header before a backend is picked | `shard/session/mod.rs`, before `Opening` is made |
//! | change what is said in TLS | [`tls`] for settings and records; `net/peer/` ties them to sockets, `shard/session/handshake.rs` and `shard/connect.rs` begin them |
//! | add a command for a running process | `control/command.rs` |
//! | change how the process starts or ends | [`server`] |
//!
//! `CONTRIBUTING.md` says how to build, test and measure; `docs/maintainers/ARCHITECTURE.md` why it is built
//! so.

pub mod admission;
pub mod balance;
pub mod base;
pub mod cli;
pub mod config;
pub mod control;
pub mod health;
pub mod import;
pub mod net;
pub mod pool;
pub mod protocol;
pub mod relay;
pub mod server;
pub mod shard;
pub mod steering;
pub mod telemetry;
pub mod tls;
pub mod upstream;
pub mod uring;
