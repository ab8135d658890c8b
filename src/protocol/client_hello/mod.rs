//! ClientHello: the first message of a client of TLS, which names the server that it wants, unencrypted.
//!
//! Written from RFC 8446 (TLS 1.3; sections 4.1.2 and 5.1), RFC 5246 (TLS 1.2), RFC 6066 section 3 (server name) and
//! RFC 7301 (ALPN). [`read()`] takes the bytes that have come so far.
//!
//! Where the specifications leave a choice, or clients do not keep to them:
//!
//! * Of the version of a record the first byte alone counts; clients write 0x0301 to 0x0303, and RFC 8446 has the rest
//!   ignored. Nothing but whole and not empty handshake records may come before the message is complete.
//! * A message without extensions, as in TLS 1.0, is one without a name. Unknown extensions, GREASE among them, are skipped.
//!   Of Encrypted Client Hello the outer name is the one that is seen.
//! * A name goes without a final dot and in lower case, whatever the client wrote. See [`host_name`] for what is no name:
//!   an address, a byte that is not ASCII, NUL, an empty label, more than 253 bytes. Such a message counts as one without a
//!   name, because clients that break the rule are served by default hosts elsewhere, too.
//! * Two names, an empty name, an empty list and two extensions of names or of ALPN break the format; RFC 6066 and RFC 8446
//!   forbid them. Names of other types are skipped: the RFC promises that each has a length.
//! * What follows the message in its record is not looked at.

mod extensions;
mod hello;
mod invalid;
mod name;
mod read;
mod reader;

pub use hello::{ClientHello, Progress};
pub use invalid::{Invalid, MESSAGE_MAX, RECORDS_MAX};
pub use name::host_name;
pub use read::read;

#[cfg(test)]
mod tests;
