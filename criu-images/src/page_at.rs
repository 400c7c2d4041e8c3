//! What is at an address of a task.

use crate::{Checkpoint, Mapping, PAGE_SIZE, PageAddr, PageRun, Pid, SharedMemory, Stored, bits::*};

/// What a dump knows of one page of a task, at the moment it was dumped.
#[derive(Debug, Clone, Copy)]
pub enum PageAt<'a> {
    /// A page of private memory that the dump holds.
    Private {
        /// `None` for pages outside of every mapping: a dump may have them, a restore has no place for them.
        mapping: Option<&'a Mapping>,
        /// Where its 4096 bytes are; elsewhere for a slim dump's lazy pages.
        stored: Stored,
        /// As [`PageRun::lazy`].
        lazy: bool,
    },
    /// A page of a shared segment (anonymous, memfd, System V) that the dump holds.
    Shared {
        /// Where it is mapped.
        mapping: &'a Mapping,
        /// The segment.
        segment: &'a SharedMemory,
        /// Where its 4096 bytes are.
        stored: Stored,
    },
    /// Memory without a file behind it that was never written (or dropped): reads as zero.
    Zero {
        /// Where it lies.
        mapping: &'a Mapping,
    },
    /// A page of a mapped file ([`Mapping::name`], if known) as it is in the file: no dump holds it.
    File {
        /// Where it is mapped.
        mapping: &'a Mapping,
        /// Byte in the file where the page begins.
        offset: u64,
    },
    /// Made by the kernel ([`Mapping::name`] says what for), in no dump.
    Special {
        /// Where it lies.
        mapping: &'a Mapping,
    },
    /// Nothing is mapped there.
    Unmapped {
        /// The nearest mapping below.
        below: Option<&'a Mapping>,
        /// The nearest mapping above.
        above: Option<&'a Mapping>,
    },
    /// The task was dead, or only a name in the tree: it has no memory.
    NoMemory,
}

impl Checkpoint {
    /// What is at page `addr` of task `pid`; `None` if there is no such task.
    pub fn page_at(&self, pid: Pid, addr: PageAddr) -> Option<PageAt<'_>> {
        let Some(memory) = &self.task(pid)?.memory else { return Some(PageAt::NoMemory) };
        let above = memory.mappings.partition_point(|m| m.range.end() <= addr.get());
        let next = memory.mappings.get(above);
        let mapping = next.filter(|m| m.range.contains(addr));
        if let Some((run, stored)) = find(&memory.runs, addr) {
            return Some(PageAt::Private { mapping, stored, lazy: run.lazy });
        }
        let Some(mapping) = mapping else {
            let below = above.checked_sub(1).and_then(|i| memory.mappings.get(i));
            return Some(PageAt::Unmapped { below, above: next });
        };
        Some(self.not_private(mapping, addr))
    }

    /// What is at `addr` of `mapping`, where the task has no page of its own.
    fn not_private<'a>(&'a self, mapping: &'a Mapping, addr: PageAddr) -> PageAt<'a> {
        if mapping.is_special() {
            return PageAt::Special { mapping };
        }
        // `open` checked that this does not overflow.
        let offset = mapping.file_offset + (addr.get() - mapping.range.start().get());
        if let Some(segment) = mapping.segment.and_then(|shmid| self.segment(shmid)) {
            let page = PageAddr::containing(offset);
            return match page.and_then(|page| find(&segment.runs, page)) {
                Some((_, stored)) => PageAt::Shared { mapping, segment, stored },
                None => PageAt::Zero { mapping },
            };
        }
        if mapping.status & (STATUS_FILE_PRIVATE | STATUS_FILE_SHARED | STATUS_ANON_SHARED | STATUS_SYSVIPC) != 0 {
            return PageAt::File { mapping, offset };
        }
        PageAt::Zero { mapping }
    }

    /// The shared segment of that id, if the dump holds it.
    pub fn segment(&self, shmid: u64) -> Option<&SharedMemory> {
        let index = self.shared.binary_search_by_key(&shmid, |segment| segment.shmid).ok()?;
        self.shared.get(index)
    }
}

/// The run that has `addr`, and where that page's bytes are.
fn find(runs: &[PageRun], addr: PageAddr) -> Option<(&PageRun, Stored)> {
    let index = runs.partition_point(|run| run.range.end() <= addr.get());
    let run = runs.get(index).filter(|run| run.range.contains(addr))?;
    let stored = match run.stored {
        Stored::Here { file, offset } => {
            let skipped = addr.get() - run.range.start().get();
            debug_assert!(skipped.is_multiple_of(PAGE_SIZE));
            Stored::Here { file, offset: offset + skipped }
        }
        Stored::Elsewhere => Stored::Elsewhere,
    };
    Some((run, stored))
}
