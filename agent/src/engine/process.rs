//! One process: its userfaultfd and what it still lacks.

use crate::{
    address_space::{AddressSpace, Place, apply},
    guard::{Journal, Known, Record},
    placement::Piece,
    uffd::{Batch, Event, Stop, Uffd},
};
use anyhow::{Context, Result};
use criu_images::{PAGE_SIZE, PageAddr, PageRange};
use page_store::{Frame, PageNumber};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, AsRawFd};

/// Names a process of this restore; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct ProcessId(pub u64);

/// A restored task, or a child that it forked since.
#[derive(Debug)]
pub(crate) struct Process {
    id: ProcessId,
    /// `4711 (redis-server)`, for the log.
    pub name: String,
    pub uffd: Uffd,
    pub space: AddressSpace,
    /// Whether the log has told that the kernel refused a page of it.
    complained: bool,
    /// Whether CRIU has registered all its mappings, so that one which is not will not be.
    pub registered: bool,
    /// Pages to be had at once when the restore is finished, though nothing faults on them.
    pub first: Vec<PageRange>,
    /// Stored pages that are not to come to a child.
    wiped: Vec<PageRange>,
    /// Whether its zero pages have still to be taken off the list of what is missing.
    pub leave_zeros: bool,
    journal: Journal,
}

/// How far an install came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// All of it is there, or no longer wanted.
    Done,
    /// An unread event is in the way: read events, look again what is missing, retry.
    Again,
    /// The process is gone.
    Gone,
}

/// Pages that a step of work put in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    pub installed: u64,
    pub dropped: u64,
}

impl Process {
    /// A process of which `known` is known; what is done to it goes to `journal`.
    pub(crate) fn new(id: ProcessId, known: Known, uffd: Uffd, journal: Journal) -> Self {
        let Known { name, space, registered, first, wiped, fd: _ } = known;
        Self { id, name, uffd, space, complained: false, registered, first, wiped, leave_zeros: true, journal }
    }

    /// What another agent has to know of it.
    pub(crate) fn known(&self) -> Known {
        Known {
            fd: self.uffd.as_fd().as_raw_fd(),
            name: self.name.clone(),
            space: self.space.clone(),
            registered: self.registered,
            first: self.first.clone(),
            wiped: self.wiped.clone(),
        }
    }

    pub(crate) fn read_events(&self) -> Result<Batch> {
        let batch = self.journal.read_events(self.id, &self.uffd);
        batch.with_context(|| format!("reading events of {}", self.name))
    }

    /// Whether the address space is as the kernel has it. Else an event is on its way that earlier ones announced, and nothing may be
    /// decided before it was read.
    pub(crate) fn settled(&mut self) -> bool {
        if !self.space.is_settled() && self.uffd.is_quiet() {
            self.space.settle();
            self.journal.note(Record::Settled(self.id));
        }
        self.space.is_settled()
    }

    fn installed(&mut self, range: PageRange) {
        self.space.installed(range);
        self.journal.note(Record::Installed(self.id, range));
    }

    /// Copies `bytes`, the content of `place`, to where it is missing.
    ///
    /// The kernel stops a copy at a page that is present and where one mapping ends and the next begins (the program may have split
    /// its mappings since, with mprotect, of which no event tells): then the rest goes page by page.
    pub(crate) fn copy(&mut self, place: Place, bytes: &[u8], moved: &mut Moved) -> Result<Progress> {
        self.fill(place.runtime, moved, |uffd, dst, offset, pages| {
            let from = usize::try_from(offset * PAGE_SIZE)?;
            let to = usize::try_from((offset + pages) * PAGE_SIZE)?;
            Ok(uffd.copy(dst, &bytes[from..to]))
        })
    }

    /// Copies what `frame` holds of `piece` to wherever it is missing.
    pub(crate) fn install(&mut self, frame: &Frame, piece: Piece, moved: &mut Moved) -> Result<Progress> {
        if !self.settled() {
            return Ok(Progress::Again);
        }
        let mut places = Vec::new();
        if let Some(stored) = piece.range() {
            self.space.places(stored, &mut places);
        }
        for place in places {
            let first = (place.origin.get() - piece.addr.get()) / PAGE_SIZE;
            let bytes = frame
                .pages(PageNumber(piece.first.0 + first), place.runtime.pages())
                .context("a frame is shorter than the index says")?;
            let progress = self.copy(place, bytes, moved)?;
            if progress != Progress::Done {
                return Ok(progress);
            }
        }
        Ok(Progress::Done)
    }

    /// Makes every access to a page fail from now on.
    pub(crate) fn poison(&mut self, page: PageAddr, moved: &mut Moved) -> Result<Progress> {
        let page = PageRange::new(page, 1).context("a page is a range")?;
        self.fill(page, moved, |uffd, dst, _, pages| {
            Ok(uffd.poison(PageRange::new(dst, pages).expect("a part of a range is a range")))
        })
    }

    /// Fills a range with zeros where it is missing.
    pub(crate) fn zero(&mut self, range: PageRange, moved: &mut Moved) -> Result<Progress> {
        self.fill(range, moved, |uffd, dst, _, pages| {
            Ok(uffd.zero(PageRange::new(dst, pages).expect("a part of a range is a range")))
        })
    }

    fn fill(
        &mut self,
        range: PageRange,
        moved: &mut Moved,
        put: impl Fn(&Uffd, PageAddr, u64, u64) -> Result<crate::uffd::Filled>,
    ) -> Result<Progress> {
        let mut done = 0;
        let mut step = range.pages();
        while done < range.pages() {
            step = step.min(range.pages() - done);
            let dst = range.start().checked_add(done).expect("inside a range");
            let filled = put(&self.uffd, dst, done, step)?;
            if let Some(range) = PageRange::new(dst, filled.pages) {
                self.installed(range);
                moved.installed += filled.pages;
                done += filled.pages;
            }
            let here = || range.start().checked_add(done).and_then(|at| PageRange::new(at, 1)).expect("inside a range");
            match filled.stop {
                None => step = step.saturating_mul(2),
                Some(Stop::Again) => return Ok(Progress::Again),
                Some(Stop::Gone) => return Ok(Progress::Gone),
                Some(Stop::Exists) => {
                    // Present already; but a thread may have faulted before it was, and a copy that stops does not wake it.
                    self.installed(here());
                    self.uffd.wake(here())?;
                    done += 1;
                }
                Some(Stop::NotRegistered) if step > 1 && filled.pages == 0 => step = 1,
                // CRIU has sent the userfaultfd but not registered this mapping yet.
                Some(Stop::NotRegistered) if !self.registered => done += 1,
                Some(Stop::NotRegistered) => {
                    // No mapping that is ours is there: nothing can fault on it, and nothing can be put there.
                    tracing::debug!("{}: {:#x} is not registered any more", self.name, here().start());
                    let before = self.space.missing_pages();
                    self.installed(here());
                    moved.dropped += before - self.space.missing_pages();
                    done += 1;
                }
                Some(Stop::Failed(errno)) => {
                    // Out of memory, most likely; what it is, giving up would mean zeros.
                    if !std::mem::replace(&mut self.complained, true) {
                        tracing::error!(
                            process = self.name,
                            page = format!("{:#x}", here().start()),
                            error = %errno,
                            "the kernel refuses a page just now; trying again"
                        );
                    }
                    return Ok(Progress::Again);
                }
            }
        }
        Ok(Progress::Done)
    }

    /// Applies a layout event; what it dropped is added to `moved`. A fault or fork changes nothing here.
    pub(crate) fn apply(&mut self, event: &Event, moved: &mut Moved) {
        let before = self.space.missing_pages();
        apply(&mut self.space, event);
        moved.dropped += before.saturating_sub(self.space.missing_pages());
    }
}
