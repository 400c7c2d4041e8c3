//! The units everything else counts in: pids, page addresses, page ranges.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Bytes in a page. CRIU on x86-64 and aarch64 with 4 KiB pages is what we read; the inventory has no field for it.
pub const PAGE_SIZE: u64 = 4096;

/// A *virtual* pid: the one inside the pid namespace of the checkpoint, unique in one checkpoint only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Pid(u32);

impl Pid {
    /// The largest pid that Linux hands out (`PID_MAX_LIMIT`, 2^22).
    pub const MAX: u32 = 1 << 22;

    /// `None` for 0 and for anything above [`Pid::MAX`].
    pub fn new(pid: u32) -> Option<Self> {
        (1..=Self::MAX).contains(&pid).then_some(Self(pid))
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {}", self.0)
    }
}

/// The address of a page in user space: a multiple of [`PAGE_SIZE`], below [`PageAddr::LIMIT`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct PageAddr(u64);

impl PageAddr {
    /// User space ends here at the latest (5-level page tables on x86-64: 56 bits, Documentation/arch/x86/x86_64/mm.rst).
    pub const LIMIT: u64 = 1 << 56;

    /// `None` if `addr` is not page-aligned or not in user space.
    pub fn new(addr: u64) -> Option<Self> {
        (addr.is_multiple_of(PAGE_SIZE) && addr < Self::LIMIT).then_some(Self(addr))
    }

    /// The page that holds byte `addr`; `None` if that is not in user space.
    pub fn containing(addr: u64) -> Option<Self> {
        Self::new(addr & !(PAGE_SIZE - 1))
    }

    /// The address, in bytes.
    pub fn get(self) -> u64 {
        self.0
    }

    /// `pages` further up; `None` past the end of user space.
    pub fn checked_add(self, pages: u64) -> Option<Self> {
        Self::new(pages.checked_mul(PAGE_SIZE)?.checked_add(self.0)?)
    }
}

impl fmt::LowerHex for PageAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

impl fmt::Display for PageAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for PageAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A run of at least one page, all of it in user space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(PageAddr, u64)", into = "(PageAddr, u64)")]
pub struct PageRange {
    start: PageAddr,
    pages: u64,
}

impl PageRange {
    /// `None` if `pages` is 0 or the range leaves user space.
    pub fn new(start: PageAddr, pages: u64) -> Option<Self> {
        let end = pages.checked_mul(PAGE_SIZE)?.checked_add(start.0)?;
        (pages > 0 && end <= PageAddr::LIMIT).then_some(Self { start, pages })
    }

    /// From byte addresses; `None` unless both are page-aligned, in user space, and `start < end`.
    pub fn from_bytes(start: u64, end: u64) -> Option<Self> {
        let len = end.checked_sub(start)?;
        if !len.is_multiple_of(PAGE_SIZE) {
            return None;
        }
        Self::new(PageAddr::new(start)?, len / PAGE_SIZE)
    }

    /// The first page.
    pub fn start(self) -> PageAddr {
        self.start
    }

    /// How many pages.
    pub fn pages(self) -> u64 {
        self.pages
    }

    /// The byte address just past the range (it may equal [`PageAddr::LIMIT`], so it is a plain number).
    pub fn end(self) -> u64 {
        self.start.0 + self.bytes()
    }

    /// Length in bytes.
    pub fn bytes(self) -> u64 {
        self.pages * PAGE_SIZE
    }

    /// Whether `addr` lies in it.
    pub fn contains(self, addr: PageAddr) -> bool {
        self.start <= addr && addr.0 < self.end()
    }

    /// What both have in common.
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::from_bytes(self.start.0.max(other.start.0), self.end().min(other.end()))
    }
}

impl fmt::Display for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.start.0, self.end())
    }
}

impl fmt::Debug for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl TryFrom<u32> for Pid {
    type Error = &'static str;

    fn try_from(pid: u32) -> Result<Self, Self::Error> {
        Self::new(pid).ok_or("not a pid")
    }
}

impl From<Pid> for u32 {
    fn from(pid: Pid) -> Self {
        pid.0
    }
}

impl TryFrom<u64> for PageAddr {
    type Error = &'static str;

    fn try_from(addr: u64) -> Result<Self, Self::Error> {
        Self::new(addr).ok_or("not the address of a page in user space")
    }
}

impl From<PageAddr> for u64 {
    fn from(addr: PageAddr) -> Self {
        addr.0
    }
}

impl TryFrom<(PageAddr, u64)> for PageRange {
    type Error = &'static str;

    fn try_from((start, pages): (PageAddr, u64)) -> Result<Self, Self::Error> {
        Self::new(start, pages).ok_or("not a range of pages in user space")
    }
}

impl From<PageRange> for (PageAddr, u64) {
    fn from(range: PageRange) -> Self {
        (range.start, range.pages)
    }
}
