//! Pages, frames, runs: the words of the format.

use bytes::Bytes;
use criu_images::{PAGE_SIZE, PageRange};
use std::fmt;

/// Pages in a full frame. zstd's ratio saturates at 64 KiB; 4 KiB frames lose 10-19 % (DESIGN.md, measured).
pub const FRAME_PAGES: u64 = 16;
/// Bytes in a full frame, plain.
pub const FRAME_BYTES: u64 = FRAME_PAGES * PAGE_SIZE;

/// BLAKE3, the first 128 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 16]);

impl Digest {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut short = [0; 16];
        short.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
        Self(short)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Every page that is served says its digest: formatting it byte by byte took a twentieth of the time.
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 32];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        f.write_str(str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Position of a page in the array of distinct pages. Its frame is that number divided by [`FRAME_PAGES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNumber(pub u64);

impl PageNumber {
    /// The frame that holds it.
    pub fn frame(self) -> FrameNumber {
        FrameNumber(self.0 / FRAME_PAGES)
    }
    /// Its place in that frame, in pages.
    pub fn in_frame(self) -> usize {
        (self.0 % FRAME_PAGES) as usize
    }
}

/// Position of a frame in the frame table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameNumber(pub u64);

impl FrameNumber {
    /// Its first page.
    pub fn first_page(self) -> PageNumber {
        PageNumber(self.0 * FRAME_PAGES)
    }
}

/// Where the content of a run of memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// In the array of distinct pages, from this page on: page `i` of the run is page `number + i`.
    Page(PageNumber),
    /// All zeros; not stored.
    Zero,
}

impl Location {
    /// The location `pages` further on in the same run.
    pub fn advance(self, pages: u64) -> Self {
        match self {
            Self::Page(page) => Self::Page(PageNumber(page.0 + pages)),
            Self::Zero => Self::Zero,
        }
    }
}

/// Neighbouring lazy pages of one task whose content is neighbouring in the store (or all zero).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Addresses.
    pub range: PageRange,
    /// Content.
    pub location: Location,
}

impl Run {
    /// One run from two, if `next` continues this one in memory and in content.
    pub fn merge(self, next: Self) -> Option<Self> {
        let content_continues = match (self.location, next.location) {
            (Location::Zero, Location::Zero) => true,
            (Location::Page(a), Location::Page(b)) => a.0.checked_add(self.range.pages()) == Some(b.0),
            _ => false,
        };
        if !content_continues || self.range.end() != next.range.start().get() {
            return None;
        }
        let range = PageRange::from_bytes(self.range.start().get(), next.range.end())?;
        Some(Self { range, location: self.location })
    }
}

/// A row of the frame table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameInfo {
    /// Position in the manifest's `packs`.
    pub pack: u32,
    /// First byte in that pack.
    pub offset: u64,
    /// Bytes in the pack.
    pub stored_len: u32,
    /// Pages in it: [`FRAME_PAGES`], fewer in the last one of a pack.
    pub pages: u8,
    /// Of the plain bytes.
    pub digest: Digest,
}

/// A frame's plain bytes, which matched their digest.
#[derive(Clone, Debug)]
pub struct Frame {
    number: FrameNumber,
    bytes: Bytes,
    stored_len: u32,
}

impl Frame {
    /// Only for bytes that were verified.
    pub(crate) fn verified(number: FrameNumber, bytes: Bytes, stored_len: u32) -> Self {
        Self { number, bytes, stored_len }
    }
    /// Which.
    pub fn number(&self) -> FrameNumber {
        self.number
    }
    /// All of it: a multiple of a page.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
    /// Bytes that it has in its pack: what it cost on the way here.
    pub fn stored_len(&self) -> u32 {
        self.stored_len
    }
    /// The bytes of `pages` pages from `first` on; `None` if they are not all in this frame.
    pub fn pages(&self, first: PageNumber, pages: u64) -> Option<&[u8]> {
        let from = first.0.checked_sub(self.number.first_page().0)?.checked_mul(PAGE_SIZE)?;
        let to = pages.checked_mul(PAGE_SIZE)?.checked_add(from)?;
        self.bytes.get(usize::try_from(from).ok()?..usize::try_from(to).ok()?)
    }
}
