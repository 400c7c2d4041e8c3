//! One file of the cache: a table of slots, then what was kept, one after another.
//!
//! ```text
//!   slot 0      magic, capacity
//!   slot 1..    digest (16) | offset u32 | length u32 | zeros (7) | kind u8        32 bytes each, little-endian
//!   TABLE ..    bytes as they came from the store
//! ```
//! A record's bytes are written before its slot, and a slot that was never written is zeros: a file system gives it no room, and a reader
//! stops there. Nothing in a file is believed: the bytes of a record count only if they match the digest that was asked for.

use crate::{Digest, PackEncoding};
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Bytes of a slot.
pub(super) const SLOT: u64 = 32;
/// Slots of a segment, the first one included. A segment of 64 MiB is full before its table if records have 8 KiB; the best compressed memory that
/// was measured has 9 KiB per frame.
pub(super) const SLOTS: u16 = 8192;
/// Where records begin.
pub(super) const TABLE: u64 = SLOT * SLOTS as u64;
/// First bytes of a segment.
const MAGIC: [u8; 8] = *b"PFCACHE1";
/// What segments are called, behind 16 hexadecimal digits.
const SUFFIX: &str = ".segment";
/// Slots that are read at once: 8 KiB.
const SLOTS_AT_ONCE: usize = 256;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A frame, as it is in packs of this encoding. Its digest is that of the plain bytes.
    Frame(PackEncoding),
    /// A whole object: an index part, a slim dump, a working set. Its digest is its own.
    Object,
}

impl Kind {
    fn to_byte(self) -> u8 {
        match self {
            Self::Frame(PackEncoding::Plain) => 1,
            Self::Frame(PackEncoding::Zstd) => 2,
            Self::Object => 3,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Frame(PackEncoding::Plain)),
            2 => Some(Self::Frame(PackEncoding::Zstd)),
            3 => Some(Self::Object),
            _ => None,
        }
    }
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) digest: Digest,
    pub(super) kind: Kind,
    /// Where its bytes begin in the file.
    pub(super) offset: u32,
    pub(super) len: u32,
}

impl Slot {
    pub(super) fn to_bytes(self) -> [u8; SLOT as usize] {
        let mut bytes = [0; SLOT as usize];
        bytes[..16].copy_from_slice(&self.digest.0);
        bytes[16..20].copy_from_slice(&self.offset.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.len.to_le_bytes());
        bytes[31] = self.kind.to_byte();
        bytes
    }

    /// `None` for what is no slot, or not of this version.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; SLOT as usize] = bytes.try_into().ok()?;
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let mut digest = Digest([0; 16]);
        digest.0.copy_from_slice(&bytes[..16]);
        let slot = Self { digest, kind: Kind::from_byte(bytes[31])?, offset: number(16), len: number(20) };
        (u64::from(slot.offset) >= TABLE && slot.len > 0 && bytes[24..31] == [0; 7]).then_some(slot)
    }
}

/// Where slot `number` is in the file.
pub(super) fn slot_offset(number: u16) -> u64 {
    SLOT * u64::from(number)
}

/// The first slot of a segment that may have up to `capacity` bytes.
pub(super) fn header(capacity: u64) -> [u8; SLOT as usize] {
    let mut bytes = [0; SLOT as usize];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&capacity.to_le_bytes());
    bytes
}

/// How many bytes a segment may have in the end; `None` if it is none, or of another version.
pub(super) fn capacity(file: &File) -> Option<u64> {
    let mut bytes = [0; SLOT as usize];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let (magic, rest) = bytes.split_first_chunk::<8>()?;
    (*magic == MAGIC).then(|| rest.first_chunk().copied().map(u64::from_le_bytes)).flatten()
}

/// Calls `each` for every slot from `from` on, and returns the first one that was not written. One that makes no sense is passed over.
pub(super) fn slots(file: &File, from: u16, mut each: impl FnMut(u16, Slot)) -> io::Result<u16> {
    let mut bytes = vec![0; SLOTS_AT_ONCE * SLOT as usize];
    let mut next = from.max(1);
    while next < SLOTS {
        let room = usize::from(SLOTS - next).min(SLOTS_AT_ONCE) * SLOT as usize;
        let read = match file.read_at(&mut bytes[..room], slot_offset(next)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        let (whole, _) = bytes[..read].as_chunks::<{ SLOT as usize }>();
        for slot in whole {
            if *slot == [0; SLOT as usize] {
                return Ok(next);
            }
            if let Some(slot) = Slot::parse(slot) {
                each(next, slot);
            }
            next += 1;
        }
        if whole.is_empty() {
            return Ok(next);
        }
    }
    Ok(next)
}

/// The file of a segment.
pub(super) fn path(folder: &Path, id: u64) -> PathBuf {
    folder.join(format!("{id:016x}{SUFFIX}"))
}

/// The segment that a file of this name is.
pub(super) fn id(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    let canonical = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    canonical.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: Slot = Slot { digest: Digest([7; 16]), kind: Kind::Object, offset: TABLE as u32 + 5, len: 9 };

    #[test]
    fn slots_are_what_they_were() {
        for kind in [Kind::Frame(PackEncoding::Plain), Kind::Frame(PackEncoding::Zstd), Kind::Object] {
            let slot = Slot { kind, ..SOME };
            assert_eq!(Slot::parse(&slot.to_bytes()), Some(slot));
        }
        assert_eq!(Slot::parse(&[0; 32]), None);
        assert_eq!(Slot::parse(&[1; 31]), None);
        assert_eq!(Slot::parse(&Slot { len: 0, ..SOME }.to_bytes()), None);
        assert_eq!(Slot::parse(&Slot { offset: 5, ..SOME }.to_bytes()), None, "in the table");
    }

    #[test]
    fn names_are_told_from_others() {
        let name = path(Path::new("/x"), 0xab);
        assert_eq!(name.to_str(), Some("/x/00000000000000ab.segment"));
        assert_eq!(id("00000000000000ab.segment"), Some(0xab));
        for other in ["ab.segment", "00000000000000AB.segment", "+0000000000000ab.segment", "00000000000000ab", ""] {
            assert_eq!(id(other), None, "{other}");
        }
    }

    #[test]
    fn a_table_is_read_to_its_first_empty_slot() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!((capacity(&file), slots(&file, 0, |_, _| panic!()).unwrap()), (None, 1));
        file.write_all_at(&header(77), 0).unwrap();
        assert_eq!(capacity(&file), Some(77));
        for number in (1..300).chain([301]) {
            file.write_all_at(&SOME.to_bytes(), slot_offset(number)).unwrap();
        }
        file.write_all_at(&[0xff; 32], slot_offset(200)).unwrap();
        let read = |from| {
            let mut seen = Vec::new();
            let end = slots(&file, from, |number, slot| {
                assert_eq!(slot, SOME);
                seen.push(number);
            });
            (seen.len(), end.unwrap())
        };
        assert_eq!(read(0), (298, 300), "all but the one that makes no sense");
        assert_eq!(read(298), (2, 300));
        assert_eq!(read(SLOTS), (0, SLOTS));
        file.set_len(slot_offset(100) + 5).unwrap();
        assert_eq!(read(0), (99, 100), "a table that was cut");
    }
}
