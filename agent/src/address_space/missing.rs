//! The stored pages that a process still lacks, found by where they belong and by what they are.

use super::Place;
use criu_images::{PageAddr, PageRange};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Places that do not overlap, in two orders. Neighbours are one place whenever they can be.
///
/// A stored page is missing in at most one place of a process, so the second map needs no lists. mremap is the only call that
/// gives memory another address. It moves page table entries: what it leaves behind (MREMAP_DONTUNMAP) is fresh, empty memory,
/// which reads as zeros. The one form that shows the same memory twice, `old_size` 0, is refused for private mappings (EINVAL,
/// mm/mremap.c since Linux 4.14), and only private anonymous memory is ever lazy. A forked child has an address space of its own.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Missing {
    by_address: BTreeMap<PageAddr, Place>,
    /// Stored address of a place's first page to its run-time address.
    by_origin: BTreeMap<PageAddr, PageAddr>,
    pages: u64,
}

impl Missing {
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    /// The place that holds `addr`.
    pub(super) fn at(&self, addr: PageAddr) -> Option<&Place> {
        let (_, place) = self.by_address.range(..=addr).next_back()?;
        place.runtime.contains(addr).then_some(place)
    }

    /// The first place at or after `from`, without what of it lies before.
    pub(super) fn next(&self, from: PageAddr) -> Option<Place> {
        if let Some(place) = self.at(from) {
            return place.clip(PageRange::from_bytes(from.get(), place.runtime.end())?);
        }
        self.by_address.range(from..).next().map(|(_, place)| *place)
    }

    /// What is missing of the stored range `origin`, sorted by stored address.
    pub(super) fn of_origin(&self, origin: PageRange) -> impl Iterator<Item = Place> {
        let before = self.by_origin.range(..origin.start()).next_back();
        let inside = self.by_origin.range(origin.start()..).take_while(move |(start, _)| start.get() < origin.end());
        before
            .into_iter()
            .chain(inside)
            .filter_map(move |(_, address)| self.by_address.get(address)?.clip_origin(origin))
    }

    /// Removes and returns what is missing in `range`, sorted by address.
    pub(super) fn take(&mut self, range: PageRange) -> Vec<Place> {
        let mut taken = Vec::new();
        while let Some(place) = self.next(range.start()).and_then(|next| self.at(next.runtime.start())).copied() {
            let Some(part) = place.clip(range) else { break };
            self.remove(&place);
            for rest in [
                PageRange::from_bytes(place.runtime.start().get(), part.runtime.start().get()),
                PageRange::from_bytes(part.runtime.end(), place.runtime.end()),
            ] {
                if let Some(rest) = rest.and_then(|rest| place.clip(rest)) {
                    self.insert(rest);
                }
            }
            taken.push(part);
        }
        taken
    }

    /// Adds a place where nothing is missing yet, as one with its neighbours where it continues them and `joins` allows it at
    /// the border between them.
    pub(super) fn put(&mut self, mut place: Place, joins: impl Fn(PageAddr) -> bool) {
        if let Some((_, &before)) = self.by_address.range(..place.runtime.start()).next_back()
            && let Some(both) = before.joined(&place)
            && joins(place.runtime.start())
        {
            self.remove(&before);
            place = both;
        }
        if let Some(end) = PageAddr::new(place.runtime.end())
            && let Some(&after) = self.by_address.get(&end)
            && let Some(both) = place.joined(&after)
            && joins(end)
        {
            self.remove(&after);
            place = both;
        }
        self.insert(place);
    }

    fn insert(&mut self, place: Place) {
        self.pages += place.runtime.pages();
        self.by_address.insert(place.runtime.start(), place);
        self.by_origin.insert(place.origin, place.runtime.start());
    }

    fn remove(&mut self, place: &Place) {
        self.pages -= place.runtime.pages();
        self.by_address.remove(&place.runtime.start());
        self.by_origin.remove(&place.origin);
    }

    /// Both orders hold the same.
    #[cfg(test)]
    pub(super) fn check(&self) {
        assert_eq!(self.by_address.len(), self.by_origin.len());
        assert_eq!(self.pages, self.by_address.values().map(|place| place.runtime.pages()).sum::<u64>());
        let mut end = 0;
        for (start, place) in &self.by_address {
            assert!(*start == place.runtime.start() && end <= start.get());
            assert_eq!(self.by_origin[&place.origin], *start);
            end = place.runtime.end();
        }
    }
}
