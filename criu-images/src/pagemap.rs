//! A pagemap image: which pages there are, and where their bytes lie.

use crate::{
    Error, PAGE_SIZE, PageAddr, PageRange, Result,
    frame::{self, Entries, Kind},
    messages::{self, PAGEMAP_ENTRY, PAGEMAP_HEAD, PagemapHead},
};
use prost::Message as _;
use std::fmt;

/// CRIU holds the length of an entry in an `int` in places and never writes more pages than this into one (pipe size:
/// `PIPE_MAX_SIZE`).
pub(crate) const MAX_ENTRY_PAGES: u64 = 1024;

/// `PE_*` of CRIU's `include/pagemap.h`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flags(u32);

impl Flags {
    /// The pages are in the parent.
    pub(crate) const PARENT: Self = Self(1);
    /// `criu restore --lazy-pages` leaves them to the daemon.
    pub(crate) const LAZY: Self = Self(2);
    /// The pages file has the bytes.
    pub(crate) const PRESENT: Self = Self(4);

    pub(crate) fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl std::ops::BitOr for Flags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "flags {:#x}", self.0)
    }
}

/// One entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PagemapEntry {
    pub(crate) range: PageRange,
    pub(crate) flags: Flags,
    /// Byte in the pages file, if PRESENT.
    pub(crate) offset: u64,
}

/// A pagemap, whole. Entries are sorted and do not overlap.
#[derive(Debug)]
pub(crate) struct Pagemap {
    pub(crate) pages_id: u32,
    pub(crate) entries: Vec<PagemapEntry>,
    /// How long the pages file has to be, in bytes.
    pub(crate) bytes: u64,
}

impl Pagemap {
    /// Reads a pagemap; `file` is for messages.
    pub(crate) fn parse(file: &str, bytes: &[u8]) -> Result<Self> {
        let mut images = Entries::new(file, bytes, Kind::PAGEMAP)?;
        let head: PagemapHead = messages::decode_exact(file, &images.expect("pagemap_head")?, &PAGEMAP_HEAD)?;
        let mut pagemap = Self { pages_id: head.pages_id, entries: Vec::new(), bytes: 0 };
        for image in images {
            let image = image?;
            let message: messages::PagemapEntry = messages::decode_exact(file, &image, &PAGEMAP_ENTRY)?;
            let place = || format!("entry {} at byte {}", image.number, image.offset);
            pagemap.push(&message).map_err(|problem| match problem {
                Problem::Corrupt(problem) => Error::corrupt(file, place(), problem),
                Problem::Unsupported(what) => Error::unsupported(file, format_args!("{}: {what}", place())),
            })?;
        }
        Ok(pagemap)
    }

    fn push(&mut self, message: &messages::PagemapEntry) -> Result<(), Problem> {
        let pages = match message.nr_pages {
            None => u64::from(message.compat_nr_pages),
            Some(pages) if message.compat_nr_pages == 0 || u64::from(message.compat_nr_pages) == pages => pages,
            Some(pages) => {
                let compat = message.compat_nr_pages;
                return Err(Problem::Corrupt(format!("says {compat} pages in one place and {pages} in another")));
            }
        };
        let vaddr = message.vaddr;
        let range = PageAddr::new(vaddr).and_then(|start| PageRange::new(start, pages));
        let range =
            range.ok_or_else(|| Problem::Corrupt(format!("{pages} pages at {vaddr:#x} are not in user space")))?;
        if let Some(before) = self.entries.last().filter(|before| before.range.end() > range.start().get()) {
            return Err(Problem::Corrupt(format!(
                "{range} overlaps or precedes {}, which stands before it",
                before.range
            )));
        }
        let flags = flags(message)?;
        let offset = self.bytes;
        if flags.has(Flags::PRESENT) {
            // Cannot overflow: the ranges do not overlap and end below 2^56.
            self.bytes += range.bytes();
        }
        self.entries.push(PagemapEntry { range, flags, offset });
        Ok(())
    }

    /// The entries that have something of `range`.
    pub(crate) fn overlapping(&self, range: PageRange) -> &[PagemapEntry] {
        let from = self.entries.partition_point(|e| e.range.end() <= range.start().get());
        let len = self.entries[from..].partition_point(|e| e.range.start().get() < range.end());
        &self.entries[from..from + len]
    }
}

enum Problem {
    Corrupt(String),
    Unsupported(String),
}

/// As CRIU fills in what its older versions did not write (`init_compat_pagemap_entry`).
fn flags(message: &messages::PagemapEntry) -> Result<Flags, Problem> {
    let bits = match message.flags {
        Some(bits) => bits,
        None if message.in_parent == Some(true) => 0,
        None => Flags::PRESENT.0,
    };
    let flags = Flags(bits | if message.in_parent == Some(true) { Flags::PARENT.0 } else { 0 });
    match flags.0 {
        _ if flags.0 & 8 != 0 => Err(Problem::Unsupported("LZ4-compressed pages: flag 8 is set".into())),
        0 => Err(Problem::Corrupt("says nowhere where its pages are (no flags)".into())),
        1..8 if flags.has(Flags::PARENT) && flags.has(Flags::PRESENT) => {
            Err(Problem::Corrupt("says that its pages are here and in the parent".into()))
        }
        1..8 => Ok(flags),
        unknown => Err(Problem::Unsupported(format!("flags {unknown:#x}, which are not known"))),
    }
}

/// Writes a pagemap.
pub(crate) struct PagemapWriter {
    image: Vec<u8>,
}

impl PagemapWriter {
    pub(crate) fn new(pages_id: u32) -> Self {
        let mut image = Kind::PAGEMAP.header();
        frame::push_entry(&mut image, &PagemapHead { pages_id }.encode_to_vec());
        Self { image }
    }

    /// Appends entries for `range`, none longer than CRIU's own.
    ///
    /// Both ways of counting are filled in: CRIU up to 4.1 reads field 2 and skips field 5, which it does not know; 4.2 reads
    /// field 5 (`init_compat_pagemap_entry`).
    pub(crate) fn push(&mut self, range: PageRange, flags: Flags) {
        let mut start = range.start().get();
        while start < range.end() {
            let pages = ((range.end() - start) / PAGE_SIZE).min(MAX_ENTRY_PAGES);
            let message = messages::PagemapEntry {
                vaddr: start,
                compat_nr_pages: pages as u32,
                in_parent: None,
                flags: Some(flags.0),
                nr_pages: Some(pages),
            };
            frame::push_entry(&mut self.image, &message.encode_to_vec());
            start += pages * PAGE_SIZE;
        }
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.image
    }
}
