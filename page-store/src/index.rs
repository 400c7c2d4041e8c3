//! The index: where the pages of a task are (runs) and where frames are (the frame table), in one or more parts.
//!
//! [`IndexBuilder`] is fed by a writer and hands out encoded parts as they fill; [`IndexPart`] is one of them read back. The
//! bytes are described in [`crate::format`].

mod builder;
mod columns;
mod decode;
mod lookup;
mod varint;

pub use builder::{EncodedPart, IndexBuilder};
pub use decode::PartBounds;
pub use lookup::IndexPart;

use crate::FRAME_BYTES;

/// First bytes of a part.
pub const MAGIC: [u8; 8] = *b"pf-index";
/// Version of the encoding.
pub const VERSION: u32 = 1;
/// Bytes before the zstd frame of a part.
pub const HEADER_LEN: usize = 40;

/// Most frames in a part: 4 GiB of pages. A 100 GiB process faults first with about 1.5 MiB of index, not 30.
pub const MAX_PART_FRAMES: u64 = 1 << 16;
/// Most runs in a part. Memory so scattered that 4 GiB of it need more is cut into more parts, so that a part is at most
/// 24 MiB when read.
pub const MAX_PART_RUNS: u64 = 1 << 20;
/// Most bytes of a part when unpacked: what a full one can need, rounded up.
pub const MAX_PART_PLAIN: u64 = 32 << 20;
/// Most bytes of a part as an object. zstd adds little to what it cannot compress.
pub const MAX_PART_STORED: u64 = MAX_PART_PLAIN + (1 << 20);
/// Most bytes of a frame in a pack: zstd's own bound for 64 KiB is 256 bytes more than that.
pub const MAX_STORED_LEN: u64 = FRAME_BYTES + 1024;
/// Page numbers are below this: 2^48 pages are more than any address space holds.
pub const MAX_PAGES: u64 = 1 << 48;

#[cfg(test)]
mod tests;
