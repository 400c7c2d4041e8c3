//! The bytes of a working set.

use crate::{Error, FRAME_BYTES, FrameNumber, Result};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::HashSet;

/// First bytes of the object.
const MAGIC: &[u8; 8] = b"PFWSET01";
/// Bytes of a row: frame number, stored length.
const ROW: usize = 12;
/// Most frames: 64 MiB of memory. An agent holds a set while CRIU prepares the process.
pub const MAX_SET_FRAMES: usize = 1024;
/// A frame that zstd cannot make smaller is stored as it is, with a header.
const MAX_STORED: u64 = FRAME_BYTES + 64;
/// Most bytes of an object.
pub const MAX_SET_BYTES: u64 = 12 + MAX_SET_FRAMES as u64 * (ROW as u64 + MAX_STORED);

/// Frames in first-touch order, as they are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkingSet {
    /// Number and stored bytes; no number twice.
    pub frames: Vec<(FrameNumber, Bytes)>,
}

impl WorkingSet {
    /// The object: magic, `u32` count, per frame `u64` number and `u32` stored length, then the stored bytes; all little-endian.
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_slice(MAGIC);
        bytes.put_u32_le(self.frames.len() as u32);
        for (number, stored) in &self.frames {
            bytes.put_u64_le(number.0);
            bytes.put_u32_le(stored.len() as u32);
        }
        self.frames.iter().for_each(|(_, stored)| bytes.put_slice(stored));
        bytes.freeze()
    }

    /// Reads an object of a store with `frame_count` frames; `name` is for messages.
    pub fn parse(name: &str, mut bytes: Bytes, frame_count: u64) -> Result<Self> {
        let corrupt =
            |place: String, problem: &str| Error::Corrupt { object: name.into(), place, problem: problem.into() };
        if bytes.len() < MAGIC.len() + 4 || !bytes.starts_with(MAGIC) {
            return Err(corrupt("byte 0".into(), "not a working set"));
        }
        bytes.advance(MAGIC.len());
        let count = bytes.get_u32_le() as usize;
        if count > MAX_SET_FRAMES || bytes.len() < count * ROW {
            return Err(corrupt("byte 8".into(), "more frames than there can be"));
        }
        let mut rows = bytes.split_to(count * ROW);
        let mut seen = HashSet::new();
        let mut frames = Vec::with_capacity(count);
        for row in 0..count {
            let place = || format!("row {row}");
            let (number, len) = (rows.get_u64_le(), rows.get_u32_le() as usize);
            if number >= frame_count || !seen.insert(number) {
                return Err(corrupt(place(), "a frame that the store does not have, or twice"));
            }
            if len > bytes.len() {
                return Err(corrupt(place(), "the object ends before the frame does"));
            }
            frames.push((FrameNumber(number), bytes.split_to(len)));
        }
        if !bytes.is_empty() {
            return Err(corrupt("end".into(), "something follows the last frame"));
        }
        Ok(Self { frames })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> WorkingSet {
        let frame = |n, bytes: &'static [u8]| (FrameNumber(n), Bytes::from_static(bytes));
        WorkingSet { frames: vec![frame(7, b"seven"), frame(0, b""), frame(9, b"nine")] }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(WorkingSet::parse("set", set().to_bytes(), 10).unwrap(), set());
        let empty = WorkingSet::default();
        assert_eq!(WorkingSet::parse("set", empty.to_bytes(), 0).unwrap(), empty);
    }

    #[test]
    fn every_truncation_and_every_lie_about_lengths_is_refused() {
        let bytes = set().to_bytes();
        for end in 0..bytes.len() {
            assert!(WorkingSet::parse("set", bytes.slice(..end), 10).is_err(), "{end}");
        }
        for at in 0..12 + 3 * ROW {
            for bit in 0..8 {
                let mut flipped = bytes.to_vec();
                flipped[at] ^= 1 << bit;
                // Another number that the store has is not seen here; the frame's digest tells.
                if let Ok(read) = WorkingSet::parse("set", flipped.into(), 10) {
                    assert!(read != set() && read.frames.len() == 3);
                }
            }
        }
        let more = [&bytes[..], b"x"].concat();
        assert!(WorkingSet::parse("set", more.into(), 10).is_err());
        assert!(WorkingSet::parse("set", bytes, 9).is_err(), "frame 9 of 9");
    }
}
