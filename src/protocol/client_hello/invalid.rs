//! Why bytes are no ClientHello, and the bounds of one.

/// The longest message, bytes: a hello with two post-quantum key shares and a ticket has a quarter of it.
pub const MESSAGE_MAX: usize = 16 << 10;
/// The most bytes that a message and the headers of its records may have together.
pub const RECORDS_MAX: usize = 2 * MESSAGE_MAX;

/// Why bytes are no ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Not even a record of TLS.
    #[error("not TLS")]
    NotTls,
    /// A record of another type, before the message is complete.
    #[error("a record of type {0} instead of a handshake")]
    RecordType(u8),
    /// A record that is empty, or longer than TLS has them.
    #[error("a record of {0} bytes")]
    RecordLength(u16),
    /// Another message than a ClientHello.
    #[error("a handshake message of type {0} instead of a ClientHello")]
    MessageType(u8),
    /// Longer than [`MESSAGE_MAX`].
    #[error("a ClientHello of {0} bytes, which is more than {MESSAGE_MAX}")]
    TooLong(usize),
    /// In so many records that they have more than [`RECORDS_MAX`] bytes.
    #[error("a ClientHello in records of more than {RECORDS_MAX} bytes")]
    TooManyRecords,
    /// Not the fields that every ClientHello has.
    #[error("a ClientHello whose fields do not fit its length")]
    Fields,
    /// The list of extensions does not fit.
    #[error("extensions that do not fit their length")]
    Extensions,
    /// Two extensions of the same type.
    #[error("two extensions of type {0}")]
    Twice(u16),
    /// Not a list of names, or one with two host names or an empty one.
    #[error("a malformed server name")]
    ServerName,
    /// Not a list of protocols.
    #[error("a malformed list of protocols")]
    Protocols,
}
