//! Ringway: a Layer-4 (TCP) load balancer with one pinned thread per core.
//!
//! The folders are rooms in the order of the layers; a module imports only from its own layer or from
//! a lower one (`tests/layering.rs` checks it): [`base`], the pure [`balance`] and [`config`], the shared [`admission`], [`steering`] and [`upstream`], the mechanisms [`uring`],
//! [`net`], [`relay`], [`pool`] and [`telemetry`], the planes [`shard`], [`health`] and [`control`], and the
//! assembly [`server`] and [`cli`].

pub mod admission;
pub mod balance;
pub mod base;
pub mod cli;
pub mod config;
pub mod control;
pub mod health;
pub mod net;
pub mod pool;
pub mod relay;
pub mod server;
pub mod shard;
pub mod steering;
pub mod telemetry;
pub mod upstream;
pub mod uring;
