//! Where a stored page belongs in a running process.

use criu_images::{PAGE_SIZE, PageAddr, PageRange};
use serde::{Deserialize, Serialize};

/// Neighbouring missing pages whose stored addresses are neighbours too: page `i` of `runtime` is the stored page `origin + i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Where the pages are missing now.
    pub runtime: PageRange,
    /// The address that the first of them had in the checkpoint.
    pub origin: PageAddr,
}

impl Place {
    /// A place where memory lies as it did in the checkpoint.
    pub fn unmoved(range: PageRange) -> Self {
        Self { runtime: range, origin: range.start() }
    }

    /// The stored address of the page at `addr`; `None` if that is outside.
    pub fn origin_of(&self, addr: PageAddr) -> Option<PageAddr> {
        self.runtime.contains(addr).then(|| self.origin.checked_add(pages_between(self.runtime.start(), addr)))?
    }

    /// The stored addresses.
    pub fn origins(&self) -> Option<PageRange> {
        PageRange::new(self.origin, self.runtime.pages())
    }

    /// The part of it inside `range`.
    pub fn clip(&self, range: PageRange) -> Option<Self> {
        let runtime = self.runtime.intersection(range)?;
        Some(Self { runtime, origin: self.origin_of(runtime.start())? })
    }

    /// The part of it whose stored addresses lie inside `origin`.
    pub fn clip_origin(&self, origin: PageRange) -> Option<Self> {
        let common = self.origins()?.intersection(origin)?;
        let start = self.runtime.start().checked_add(pages_between(self.origin, common.start()))?;
        Some(Self { runtime: PageRange::new(start, common.pages())?, origin: common.start() })
    }

    /// The same stored pages after their memory moved by mremap from `from` to `to`.
    pub(super) fn moved(&self, from: PageAddr, to: PageAddr) -> Option<Self> {
        let start = to.checked_add(pages_between(from, self.runtime.start()))?;
        Some(Self { runtime: PageRange::new(start, self.runtime.pages())?, origin: self.origin })
    }

    /// Both as one, if `next` continues this one in memory and in the checkpoint.
    pub(super) fn joined(&self, next: &Self) -> Option<Self> {
        let fits = self.runtime.end() == next.runtime.start().get() && self.origins()?.end() == next.origin.get();
        let runtime = PageRange::new(self.runtime.start(), self.runtime.pages() + next.runtime.pages())?;
        fits.then_some(Self { runtime, origin: self.origin })
    }
}

/// `to - from` in pages; 0 if `to` comes first.
fn pages_between(from: PageAddr, to: PageAddr) -> u64 {
    to.get().saturating_sub(from.get()) / PAGE_SIZE
}
