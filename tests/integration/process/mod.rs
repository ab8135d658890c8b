//! What concerns the whole process: its command line, start and end, its shards, and what the machine gives
//! it.

mod access_log;
mod admin;
mod admission;
mod command_line;
mod ctl;
mod drain;
mod explain;
mod inherited;
mod limits;
mod logging;
mod memory;
mod open_sessions;
mod proxy_protocol;
mod reload;
mod service_manager;
mod shortage;
mod signals;
mod silent_clients;
mod sni;
mod start;
mod steering;
mod tcp_options;
mod upgrade;
mod watchdog;
