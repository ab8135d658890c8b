//! The control plane: what may block, wait or talk to the operator runs here and never on a shard.

pub mod resolve;
