//! Why bytes are no header, and the bound of one.

/// The most bytes that a header of version 2 may have behind its first 16: one with a client certificate
/// fits.
pub const V2_REST_MAX: usize = 4096;

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Neither version begins like this.
    #[error("no PROXY header")]
    NoHeader,
    /// Version 1: the line does not end in time.
    #[error("version 1: no end of the line within 107 bytes")]
    LineTooLong,
    /// Version 1: neither TCP4 nor TCP6 nor UNKNOWN.
    #[error("version 1: the protocol is not TCP4, TCP6 or UNKNOWN")]
    Protocol,
    /// Version 1: a byte that no address and no port has, or a lone CR or LF.
    #[error("version 1: unexpected byte {0:#04x}")]
    Byte(u8),
    /// Version 1: not two addresses and two ports, with one space between.
    #[error("version 1: not two addresses and two ports, with one space between")]
    Fields,
    /// Version 1: no address of the announced family.
    #[error("version 1: not an address of the announced family")]
    Address,
    /// Version 1: not a port, or one with a leading zero.
    #[error("version 1: not a port")]
    Port,
    /// Version 2 begins, but another version follows.
    #[error("version {0} instead of 2")]
    Version(u8),
    /// Version 2: neither LOCAL nor PROXY.
    #[error("version 2: unknown command {0}")]
    Command(u8),
    /// Version 2: unknown address family or transport protocol.
    #[error("version 2: unknown family or protocol {0:#04x}")]
    Family(u8),
    /// Version 2: longer than the bound.
    #[error("version 2: {0} bytes behind the first 16, which is more than {V2_REST_MAX}")]
    TooLong(u16),
    /// Version 2: too short for the addresses of its family.
    #[error("version 2: too short for its addresses")]
    AddressesCut,
    /// Version 2: a TLV is longer than the header, or not as its type demands.
    #[error("version 2: malformed TLV of type {0:#04x}")]
    Tlv(u8),
    /// Version 2: the checksum is another one.
    #[error("version 2: wrong checksum")]
    Checksum,
}
