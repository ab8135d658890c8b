//! CRC32C, the checksum of a header of version 2.

use crc::{CRC_32_ISCSI, Crc, Table};

const CRC32C: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CRC_32_ISCSI);

/// Returns the checksum of a header whose checksum field, the four bytes at this position, counts as zero.
pub(super) fn of(header: &[u8], field: usize) -> u32 {
    static TABLE: Crc<u32, Table<1>> = CRC32C;
    let mut digest = TABLE.digest();
    let (before, rest) = header.split_at(field);
    digest.update(before);
    digest.update(&[0; 4]);
    digest.update(rest.get(4..).unwrap_or_default());
    digest.finalize()
}
