//! Which memory of a running process still lacks which stored pages. Pure: no kernel, no network, no clock.
//!
//! An [`AddressSpace`] is one process. It starts as what CRIU registered, follows the process through the events that its
//! userfaultfd reports, and answers two questions: what does this fault need, and where does this stored page belong.
//!
//! # Using it
//! Events are applied in the order read, a copy is decided from the state after them, under one lock. When the kernel refuses
//! a copy with EAGAIN, an event is unread: read it, apply it, ask again (the answer may have changed). In between stands
//! [`settle`](AddressSpace::settle).
//!
//! # Events come late, and out of order
//! The kernel changes a mapping under its lock and queues the event after it let go of the lock (fs/userfaultfd.c,
//! mm/mremap.c), so calls of several threads may be reported in another order than they took effect. The common case: a thread moves R away by
//! mremap. That gives REMAP R -> X, and only when this was read, as a second event, UNMAP R. By then another thread may have
//! got R as the new address of *its* mremap. Applied blindly, the late UNMAP R throws away pages that just moved in, and they
//! would read as zeros for ever.
//!
//! What helps is that memory can move to a place only when that is free. So
//! * the UNMAP that belongs to a REMAP is expected, and does not count against what moved in meanwhile;
//! * what is still registered at the destination of a REMAP has left already; its own event is just not here yet. It is set
//!   aside until that event says where it went.
//!
//! The kernel refuses every copy with EAGAIN from the moment a mapping changes until the event is read. So once it does not,
//! no event is outstanding, and `settle` forgets what is still expected. The sooner it is called the better: after every batch of
//! events, if the kernel is quiet by then. What is no longer expected cannot be mistaken for what happens next.
//!
//! What no order of the events can tell: mappings grow without one, and mremap may leave a mapping behind (MREMAP_DONTUNMAP); an
//! mremap onto mapped memory (MREMAP_FIXED) reports first an UNMAP and only then, late, the move. If other threads reuse such addresses
//! in between, and again before the first change is reported, memory may be taken for another's. `tests/kernel.rs` names these gaps
//! where it leaves them out.

mod kernel_range;
mod missing;
mod moves;
mod place;
mod ranges;
#[cfg(test)]
mod tests;

pub use kernel_range::{apply, pages_moved, pages_touched};
pub use place::Place;

use criu_images::{PageAddr, PageRange};
use missing::Missing;
use moves::Outstanding;
use ranges::Ranges;
use serde::{Deserialize, Serialize};

/// What a fault needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A stored page.
    Stored {
        /// The address that the faulting page had in the checkpoint.
        origin: PageAddr,
        /// The missing pages around it that are neighbours in memory and in the checkpoint, it included.
        run: PageRange,
    },
    /// A zero page.
    Zero {
        /// The faulting page and those after it, inside its mapping, of which none is to have stored content: they may be
        /// zero-filled together. (A page of them that is present stops UFFDIO_ZEROPAGE with EEXIST.)
        run: PageRange,
    },
    /// Outside every mapping that we know of. If the kernel reports a fault here and no event is outstanding, there is one: it has
    /// grown (by mremap, or as a stack), or mremap has left it behind empty, which no event tells. The page is new, and zero.
    NotOurs,
}

/// One process at run time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AddressSpace {
    task: u32,
    registered: Ranges,
    missing: Missing,
    outstanding: Outstanding,
}

impl AddressSpace {
    /// A process as CRIU hands it over. `task` is its position in the manifest's tasks; `registered` are its lazy mappings, `missing` the
    /// pages that come from the store. What is missing outside of every mapping is left out: it could not be installed.
    pub fn new(
        task: u32,
        registered: impl IntoIterator<Item = PageRange>,
        missing: impl IntoIterator<Item = PageRange>,
    ) -> Self {
        let mut space = Self {
            task,
            registered: Ranges::default(),
            missing: Missing::default(),
            outstanding: Outstanding::default(),
        };
        for range in registered {
            space.registered.insert(range);
        }
        for range in missing {
            space.missing.take(range);
            for part in space.registered.parts(range) {
                space.put(Place::unmoved(part));
            }
        }
        space
    }

    /// Whose stored pages it lacks: a position in the manifest's tasks. The same for all its forked children.
    pub fn task(&self) -> u32 {
        self.task
    }

    /// What a fault at `addr` needs.
    pub fn fault(&self, addr: PageAddr) -> Answer {
        if let Some(place) = self.missing.at(addr)
            && let Some(origin) = place.origin_of(addr)
        {
            return Answer::Stored { origin, run: place.runtime };
        }
        let end = |mapping: PageRange| {
            let next = self.missing.next(addr).map_or(u64::MAX, |place| place.runtime.start().get());
            PageRange::from_bytes(addr.get(), mapping.end().min(next))
        };
        // What MREMAP_DONTUNMAP left behind, or it is about to be unmapped: then the kernel refuses with EAGAIN.
        let vacated = || self.outstanding.is_vacated(addr).then(|| PageRange::new(addr, 1))?;
        self.registered.at(addr).and_then(end).or_else(vacated).map_or(Answer::NotOurs, |run| Answer::Zero { run })
    }

    /// Stored pages that are not installed yet.
    pub fn missing_pages(&self) -> u64 {
        self.missing.pages() + self.outstanding.pages()
    }

    /// Whether nothing is missing: from here on every fault is answered with zeros.
    pub fn is_whole(&self) -> bool {
        self.missing_pages() == 0
    }

    /// Adds to `out` where pages of the stored range `origin` are still missing, sorted by run-time address.
    pub fn places(&self, origin: PageRange, out: &mut Vec<Place>) {
        let first = out.len();
        out.extend(self.missing.of_origin(origin));
        out[first..].sort_unstable_by_key(|place| place.runtime.start());
    }

    /// Whether any page of the stored range `origin` is still missing.
    pub fn lacks(&self, origin: PageRange) -> bool {
        self.missing.of_origin(origin).next().is_some()
    }

    /// The first missing pages at or after run-time address `from`, for a walk over all of them.
    pub fn next_missing(&self, from: PageAddr) -> Option<Place> {
        self.missing.next(from)
    }

    /// These pages are present now (or can never be: the kernel does not know the range any more).
    pub fn installed(&mut self, runtime: PageRange) {
        self.missing.take(runtime);
    }

    fn put(&mut self, place: Place) {
        let registered = &self.registered;
        self.missing.put(place, |border| !registered.begins_at(border));
    }
}
