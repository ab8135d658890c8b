//! The PROXY protocol, versions 1 and 2: what a proxy says about its client before the client's bytes.
//!
//! Written from the specification of HAProxy (`doc/proxy-protocol.txt`). [`read()`] takes the bytes that have
//! come so far, [`write()`] makes a header.
//!
//! Where the specification leaves a choice:
//!
//! * A header without addresses that we use (LOCAL, UNKNOWN, UNSPEC, Unix sockets, datagrams) leaves the
//!   connection its own addresses.
//! * The rest of a LOCAL or UNSPEC header is skipped: nothing tells where its addresses end.
//! * An IPv6 address in version 1 may end in dotted notation, as inet_ntop(3) writes mapped addresses.
//! * Mapped addresses become IPv4.

mod checksum;
mod header;
mod invalid;
mod read;
mod tlv;
mod v1;
mod v2;
mod write;

pub use header::{Endpoints, Header, Progress, Version};
pub use invalid::{Invalid, V2_REST_MAX};
pub use read::read;
pub use tlv::{Ssl, SslDetails, Tlv, Tlvs};
pub use write::write;

#[cfg(test)]
mod tests;
