//! The answer to a bulk request: one stream of records, in the order asked, that says itself whether it is whole.
//!
//! ```text
//! stream = magic record* end
//! magic  = "PFPAGES" 0x01                                     8 bytes
//! record = address u64, pages u32, kind u8, 3 zero bytes      16 bytes, numbers little-endian
//!          then, for kind 1 only, pages * 4096 bytes
//! end    = data pages u64, records u32, 0 u8, 3 zero bytes    16 bytes
//!          then 32 bytes: BLAKE3 of everything before it, magic and end header included
//! ```
//!
//! Kinds: 1 data, 2 zeros, 3 absent (not mapped, or in a file that no dump holds). The records of one range cover it exactly,
//! by rising address; a record never goes beyond its range.

use criu_images::PageRange;

/// Media type of the stream.
pub(crate) const CONTENT_TYPE: &str = "application/vnd.pageferry.pages";
/// The first eight bytes; the last of them is the version.
pub const MAGIC: [u8; 8] = *b"PFPAGES\x01";
/// Length of a record without its pages.
pub const RECORD_BYTES: usize = 16;

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The stream ends here.
    End = 0,
    /// The pages' bytes follow.
    Data = 1,
    /// The pages are all zeros; nothing follows.
    Zero = 2,
    /// The pages are not to be had; nothing follows.
    Absent = 3,
}

/// The header of a record.
pub(crate) fn record(range: PageRange, kind: Kind) -> [u8; RECORD_BYTES] {
    // A request asks for fewer pages than fit into 32 bits (limits.rs).
    header(range.start().get(), u32::try_from(range.pages()).unwrap_or(u32::MAX), kind)
}

/// The header at the end.
pub(crate) fn end(data_pages: u64, records: u32) -> [u8; RECORD_BYTES] {
    header(data_pages, records, Kind::End)
}

fn header(first: u64, second: u32, kind: Kind) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    bytes[..8].copy_from_slice(&first.to_le_bytes());
    bytes[8..12].copy_from_slice(&second.to_le_bytes());
    bytes[12] = kind as u8;
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_for_byte() {
        let range = PageRange::from_bytes(0x7f12_3456_7000, 0x7f12_3456_9000).unwrap();
        assert_eq!(record(range, Kind::Data), *b"\x00\x70\x56\x34\x12\x7f\0\0\x02\0\0\0\x01\0\0\0");
        assert_eq!(end(3, 1), *b"\x03\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0");
    }
}
