//! What the events of a userfaultfd do to an address space; why it is not simpler, the module above tells.

use super::{AddressSpace, Place, ranges::without};
use criu_images::{PageAddr, PageRange};

/// What is known to have happened, but is not reported yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Outstanding {
    /// The old ranges of moves: an UNMAP of each follows. With MREMAP_DONTUNMAP none does: the range is still registered.
    vacated: Vec<PageRange>,
    /// Memory that has left its place, as something else moved in there: oldest first. An UNMAP or REMAP will tell.
    displaced: Vec<Displaced>,
}

#[derive(Clone, Debug)]
struct Displaced {
    range: PageRange,
    missing: Vec<Place>,
}

impl Outstanding {
    pub(super) fn pages(&self) -> u64 {
        self.displaced.iter().flat_map(|d| &d.missing).map(|place| place.runtime.pages()).sum()
    }

    /// Takes out of `range` the parts whose UNMAP was expected.
    fn take_vacated(&mut self, range: PageRange) -> Vec<PageRange> {
        let mut taken: Vec<PageRange> = Vec::new();
        let mut kept = Vec::new();
        for old in self.vacated.drain(..) {
            // An address that was left twice has two UNMAPs to come: one event answers one of them.
            let parts: Vec<_> = without(range, &taken).into_iter().filter_map(|part| part.intersection(old)).collect();
            kept.extend(without(old, &parts));
            taken.extend(parts);
            taken.sort_unstable();
        }
        self.vacated = kept;
        taken
    }

    /// Takes out of `range` the parts that hold displaced memory, with what is missing of them.
    fn take_displaced(&mut self, range: PageRange) -> (Vec<PageRange>, Vec<Place>) {
        let (mut taken, mut missing) = (Vec::<PageRange>::new(), Vec::new());
        let mut kept = Vec::new();
        for old in self.displaced.drain(..) {
            let parts: Vec<_> =
                without(range, &taken).into_iter().filter_map(|part| part.intersection(old.range)).collect();
            let clip = |parts: &[PageRange]| -> Vec<Place> {
                parts.iter().flat_map(|part| old.missing.iter().filter_map(|place| place.clip(*part))).collect()
            };
            missing.extend(clip(&parts));
            for range in without(old.range, &parts) {
                kept.push(Displaced { range, missing: clip(&[range]) });
            }
            taken.extend(parts);
            taken.sort_unstable();
        }
        self.displaced = kept;
        (taken, missing)
    }
}

impl AddressSpace {
    /// REMOVE (madvise MADV_DONTNEED and its like): the pages read as zeros from now on; the range stays registered.
    pub fn remove(&mut self, range: PageRange) {
        self.missing.take(range);
    }

    /// UNMAP: the range is gone, and so are its pages.
    pub fn unmap(&mut self, range: PageRange) {
        let expected = self.outstanding.take_vacated(range);
        for part in without(range, &expected) {
            let (displaced, _) = self.outstanding.take_displaced(part);
            for part in without(part, &displaced) {
                self.missing.take(part);
                self.registered.take(part);
            }
        }
    }

    /// REMAP: memory moved from `from` to an equally long range at `to`, which is registered from now on (so is what an mremap
    /// that enlarges adds behind it, but that is not reported). Does nothing if `to` leaves user space.
    pub fn remap(&mut self, from: PageRange, to: PageAddr) {
        let Some(destination) = PageRange::new(to, from.pages()) else { return };
        let (displaced, mut moving) = self.outstanding.take_displaced(from);
        for part in without(from, &displaced) {
            moving.extend(self.missing.take(part));
            self.registered.take(part);
        }
        self.outstanding.vacated.extend(without(from, &[destination]));

        let missing = self.missing.take(destination);
        for range in self.registered.take(destination) {
            let missing = missing.iter().filter_map(|place| place.clip(range)).collect();
            self.outstanding.displaced.push(Displaced { range, missing });
        }
        self.registered.insert(destination);
        for place in moving {
            if let Some(place) = place.moved(from.start(), to) {
                self.put(place);
            }
        }
    }

    /// FORK: the child, as the parent is now. What is still to be reported of the parent is not reported of the child.
    pub fn fork(&self) -> Self {
        Self { outstanding: Outstanding::default(), ..self.clone() }
    }

    /// Whether no event is outstanding that the events so far announced.
    pub fn is_settled(&self) -> bool {
        self.outstanding.vacated.is_empty() && self.outstanding.displaced.is_empty()
    }

    /// No event is outstanding: the kernel let an ioctl through (anything but EAGAIN) after all events read so far were
    /// applied. To be called before a copy is decided, unless [`is_settled`](Self::is_settled).
    pub fn settle(&mut self) {
        for range in std::mem::take(&mut self.outstanding.vacated) {
            // MREMAP_DONTUNMAP: empty memory, still registered; unless something else is there by now.
            let there = self.registered.parts(range);
            for free in without(range, &there) {
                self.registered.insert(free);
            }
        }
        self.outstanding.displaced.clear();
    }
}
