//! Set-up: upstreams with a pool. Claim: sessions take ready connections; no client notices that there is a
//! pool, or gets a byte that was meant for another one.

mod fill;
mod limits;
mod reuse;
mod take;

use std::io;

use ringway::telemetry::counters::PoolCounters;

use crate::support::{Backend, Balancer, Connection, backend, eventually};

fn count(balancer: &Balancer, counter: impl Fn(&PoolCounters<u64>) -> u64) -> u64 {
    counter(&balancer.status().upstreams[0].pool)
}

fn pooled(balancer: &Balancer) -> u64 {
    balancer.status().upstreams[0].backends[0].totals.pooled
}

/// Waits until the pool is filled: so many connections stand.
#[track_caller]
fn await_pool(balancer: &Balancer, backend: &Backend, size: u64) {
    let filled =
        || count(balancer, |pool| pool.made) >= size && pooled(balancer) == size && backend.open() >= size;
    eventually("the pool is filled", filled);
}

const RESET: &str = "pool: {size: 2, reuse: reset, clients: trusted, reset: {send: 'RESET\\r\\n', expect: '+RESET\\r\\n', timeout: 300ms}}";

/// Sends back each line, but answers `RESET` in its own way.
fn with_reset(answer: impl Fn(&Connection) -> io::Result<()> + Send + Sync + 'static) -> Backend {
    backend()
        .serve(move |connection| {
            let mut line = Vec::new();
            let mut byte = [0];
            while connection.receive(&mut byte)? > 0 {
                line.push(byte[0]);
                if line.ends_with(b"\r\n") {
                    match &*line {
                        b"RESET\r\n" => answer(connection)?,
                        line => connection.send(line)?,
                    }
                    line.clear();
                }
            }
            connection.end()
        })
        .start()
}

fn one_session(balancer: &Balancer, round: u32) {
    let client = balancer.client();
    client.echo(format!("client {round}\r\n").as_bytes()).unwrap();
    client.finish().unwrap();
}
