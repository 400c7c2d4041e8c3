//! What the events of a userfaultfd do to an address space; why it is not simpler, the module above tells.

use super::{AddressSpace, Place, ranges::Ranges, ranges::without};
use criu_images::{PageAddr, PageRange};
use serde::{Deserialize, Serialize};

/// What is known to have happened, but is not reported yet.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Outstanding {
    /// The old ranges of moves: an UNMAP of each follows. With MREMAP_DONTUNMAP none does.
    vacated: Vec<PageRange>,
    /// Moves into a place, oldest first, since no event was outstanding.
    arrivals: Vec<Arrival>,
}

/// Memory that moved to `to`, and what we took to be there: that had left before. An UNMAP or REMAP will tell.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Arrival {
    to: PageRange,
    displaced: Ranges,
    missing: Vec<Place>,
}

/// What a range held when it was unmapped or moved.
struct Departed {
    missing: Vec<Place>,
    /// Parts of the range that another memory has moved into since, as far as we know of it: it stays.
    taken: Vec<PageRange>,
}

impl Outstanding {
    pub(super) fn pages(&self) -> u64 {
        self.arrivals.iter().flat_map(|arrival| &arrival.missing).map(|place| place.runtime.pages()).sum()
    }

    pub(super) fn is_vacated(&self, addr: PageAddr) -> bool {
        self.vacated.iter().any(|range| range.contains(addr))
    }

    /// Whether this UNMAP was expected; it is not from here on. It reports exactly the old range of the move, so another one that
    /// covers a part of it (of what moved in there meanwhile) is told apart.
    fn is_expected(&mut self, unmapped: PageRange) -> bool {
        let found = self.vacated.iter().position(|range| *range == unmapped);
        found.is_some_and(|index| {
            self.vacated.swap_remove(index);
            true
        })
    }

    /// Takes out what was displaced from `range`. If anything was, the event that is being applied is older than the arrival that
    /// displaced it; then what came by that arrival or a later one is not what the event is about.
    fn depart(&mut self, range: PageRange) -> Departed {
        let mut departed = Departed { missing: Vec::new(), taken: Vec::new() };
        for arrival in &mut self.arrivals {
            let free = without(range, &departed.taken);
            // Exactly what arrived: that leaves again, unless all of it had displaced something.
            let all_displaced = without(range, &arrival.displaced.parts(range)).is_empty();
            let own = arrival.to == range && departed.taken.is_empty() && !all_displaced;
            let take = |part: &PageRange| if own { Vec::new() } else { arrival.displaced.take(*part) };
            let displaced: Vec<_> = free.iter().flat_map(take).collect();
            if displaced.is_empty() && departed.taken.is_empty() {
                continue;
            }
            arrival.missing = std::mem::take(&mut arrival.missing)
                .into_iter()
                .flat_map(|place| {
                    departed.missing.extend(displaced.iter().filter_map(|part| place.clip(*part)));
                    without(place.runtime, &displaced).into_iter().filter_map(move |part| place.clip(part))
                })
                .collect();
            departed.taken.extend(free.iter().filter_map(|part| part.intersection(arrival.to)));
            departed.taken.sort_unstable();
        }
        departed
    }
}

impl AddressSpace {
    /// REMOVE (madvise MADV_DONTNEED and its like): the pages read as zeros from now on; the range stays registered.
    pub fn remove(&mut self, range: PageRange) {
        self.missing.take(range);
    }

    /// UNMAP: the range is gone, and so are its pages.
    pub fn unmap(&mut self, range: PageRange) {
        if self.outstanding.is_expected(range) {
            return;
        }
        let departed = self.outstanding.depart(range);
        for part in without(range, &departed.taken) {
            self.missing.take(part);
            self.registered.take(part);
        }
    }

    /// REMAP: memory moved from `from` to an equally long range at `to`, which is registered from now on (so is what an mremap
    /// that enlarges adds behind it, but that is not reported). Does nothing if `to` leaves user space.
    pub fn remap(&mut self, from: PageRange, to: PageAddr) {
        let Some(destination) = PageRange::new(to, from.pages()) else { return };
        let departed = self.outstanding.depart(from);
        let mut moving = departed.missing;
        for part in without(from, &departed.taken) {
            moving.extend(self.missing.take(part));
            self.registered.take(part);
        }
        self.outstanding.vacated.push(from);

        let missing = self.missing.take(destination);
        let mut displaced = Ranges::default();
        self.registered.take(destination).into_iter().for_each(|range| displaced.insert(range));
        self.outstanding.arrivals.push(Arrival { to: destination, displaced, missing });
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
        self.outstanding.vacated.is_empty() && self.outstanding.arrivals.is_empty()
    }

    /// No event is outstanding: the kernel let an ioctl through (anything but EAGAIN) after all events read so far were
    /// applied. To be called before a copy is decided, unless [`is_settled`](Self::is_settled).
    ///
    /// An UNMAP that is still expected will not come: MREMAP_DONTUNMAP left the mapping where it was, empty. It is not taken for
    /// registered again, as what is registered without being so does harm: the next memory that moves there would seem
    /// to displace it. A fault there is answered [`NotOurs`](super::Answer::NotOurs), like one in a mapping that grew.
    pub fn settle(&mut self) {
        self.outstanding.vacated.clear();
        self.outstanding.arrivals.clear();
    }
}
