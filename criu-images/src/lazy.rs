//! Which pages may be lazy.
//!
//! PE_LAZY in a dump is not to be trusted for *not* being set: CRIU's `is_stack` (mem.c) compares the offset inside the
//! page, so one thread whose stack pointer is page-aligned leaves no page of the task lazy. So it is computed again here.

use crate::{Mapping, PAGE_SIZE, PageAddr, PageRange, bits::*};
use std::ops::Range;

/// Whether CRIU's restorer registers a mapping with userfaultfd: `vma_entry_can_be_lazy`, include/vma.h.
///
/// It registers whole mappings; a page that is lazy outside of such a mapping would come up as zero.
pub(crate) fn can_be_lazy(flags: u32, status: u32) -> bool {
    flags & MAP_ANONYMOUS != 0
        && flags & MAP_PRIVATE != 0
        && flags & (MAP_LOCKED | MAP_HUGETLB) == 0
        && status & (STATUS_VDSO | STATUS_VVAR | STATUS_VSYSCALL) == 0
}

/// Whether a slim dump leaves out the pages of a mapping. What stays though CRIU would register it: shadow stacks, which the
/// kernel must be able to read while it delivers a signal; AIO rings, which the kernel writes; and memory that is wiped on fork,
/// since a child made while its page was missing would fault for it, and be given what it must not see.
pub(crate) fn leave_out(mapping: &Mapping) -> bool {
    let Mapping { flags, status, wiped_on_fork, .. } = *mapping;
    can_be_lazy(flags, status) && status & (STATUS_SHADOW_STACK | STATUS_AIORING) == 0 && !wiped_on_fork
}

/// Pages that stay in a slim dump wherever they lie: argv and environment.
///
/// The kernel reads them on behalf of others, and not through userfaultfd: without them `/proc/<pid>/cmdline` and `environ`
/// come up empty.
#[derive(Debug, Default)]
pub(crate) struct KeepEager(Vec<PageRange>);

impl KeepEager {
    /// Byte ranges as `mm-*.img` has them; one that is empty, reversed or outside of user space is no range.
    pub(crate) fn new(ranges: [Range<u64>; 2]) -> Self {
        let pages = ranges.into_iter().filter(|r| r.start < r.end).filter_map(|r| {
            let end = PageAddr::containing(r.end - 1)?.get() + PAGE_SIZE;
            PageRange::from_bytes(PageAddr::containing(r.start)?.get(), end)
        });
        let mut pages: Vec<_> = pages.collect();
        pages.sort_unstable();
        Self(pages)
    }

    /// Whether the page at `start` stays, and up to which byte that holds; at most `end`.
    pub(crate) fn at(&self, start: PageAddr, end: u64) -> (bool, u64) {
        if let Some(stays) = self.0.iter().find(|r| r.contains(start)) {
            return (true, stays.end().min(end));
        }
        let next = self.0.iter().map(|r| r.start().get()).filter(|s| *s > start.get()).min();
        (false, next.unwrap_or(end).min(end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANON: u32 = MAP_PRIVATE | MAP_ANONYMOUS;

    #[test]
    fn the_rule_bit_by_bit() {
        assert!(can_be_lazy(ANON, STATUS_ANON_PRIVATE));
        assert!(can_be_lazy(ANON, STATUS_ANON_PRIVATE | STATUS_HEAP | STATUS_STACK));
        assert!(!can_be_lazy(MAP_PRIVATE, STATUS_FILE_PRIVATE), "file");
        assert!(!can_be_lazy(MAP_SHARED | MAP_ANONYMOUS, STATUS_ANON_SHARED), "shared");
        for bit in 0..32 {
            let flag = 1 << bit;
            assert_eq!(!can_be_lazy(ANON | flag, 0), flag == MAP_LOCKED || flag == MAP_HUGETLB, "flag {flag:#x}");
            let special = [STATUS_VDSO, STATUS_VVAR, STATUS_VSYSCALL].contains(&flag);
            assert_eq!(!can_be_lazy(ANON, flag), special, "status {flag:#x}");
        }
    }

    fn page(addr: u64) -> PageAddr {
        PageAddr::new(addr).unwrap()
    }

    #[test]
    fn argv_and_environment_stay() {
        let keep = KeepEager::new([0x7001..0x7fff, 0x7fff..0x9001]);
        assert_eq!(keep.at(page(0x6000), 0xf000), (false, 0x7000));
        assert_eq!(keep.at(page(0x7000), 0xf000), (true, 0x8000));
        assert_eq!(keep.at(page(0x8000), 0xf000), (true, 0xa000));
        assert_eq!(keep.at(page(0x9000), 0x9800), (true, 0x9800));
        assert_eq!(keep.at(page(0xa000), 0xf000), (false, 0xf000));
    }

    #[test]
    fn hostile_bounds_are_no_range() {
        let keep = KeepEager::new([u64::MAX - 1..u64::MAX, Range { start: 9, end: 3 }]);
        assert_eq!(keep.at(page(0), 0x5000), (false, 0x5000));
        let keep = KeepEager::new([0..u64::MAX, 0..0]);
        assert_eq!(keep.at(page(0), 0x5000), (false, 0x5000));
    }
}
