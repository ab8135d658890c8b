//! Which backend a client gets, when it waits for one, and when there is none.

mod balancing;
mod circles;
mod connecting;
mod ejection;
mod health;
mod pool;
mod queue;
mod resort;
mod retries;
mod sources;
