//! Sets of page ranges.

use criu_images::{PageAddr, PageRange};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Ranges that do not overlap. Neighbours stay apart: a border between mappings is something to know, because one
/// UFFDIO_COPY may not cross it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Ranges(BTreeMap<PageAddr, PageRange>);

impl Ranges {
    /// The range that holds `addr`.
    pub(super) fn at(&self, addr: PageAddr) -> Option<PageRange> {
        let (_, range) = self.0.range(..=addr).next_back()?;
        range.contains(addr).then_some(*range)
    }

    /// Whether a range begins at `addr`.
    pub(super) fn begins_at(&self, addr: PageAddr) -> bool {
        self.0.contains_key(&addr)
    }

    /// What of `range` is in the set, sorted.
    pub(super) fn parts(&self, range: PageRange) -> Vec<PageRange> {
        let before = self.0.range(..range.start()).next_back();
        let inside = self.0.range(range.start()..=last_page(range));
        before.into_iter().chain(inside).filter_map(|(_, part)| part.intersection(range)).collect()
    }

    /// Adds `range`; what was there becomes part of it.
    pub(super) fn insert(&mut self, range: PageRange) {
        self.take(range);
        self.0.insert(range.start(), range);
    }

    /// Removes `range` and returns what of it was in the set, sorted.
    pub(super) fn take(&mut self, range: PageRange) -> Vec<PageRange> {
        let mut taken = Vec::new();
        while let Some((_, &last)) = self.0.range(..=last_page(range)).next_back()
            && let Some(part) = last.intersection(range)
        {
            self.0.remove(&last.start());
            let before = PageRange::from_bytes(last.start().get(), part.start().get());
            let after = PageRange::from_bytes(part.end(), last.end());
            self.0.extend(before.into_iter().chain(after).map(|rest| (rest.start(), rest)));
            taken.push(part);
        }
        taken.reverse();
        taken
    }
}

/// What of `range` is not in `holes`, which are sorted and do not overlap.
pub(super) fn without(range: PageRange, holes: &[PageRange]) -> Vec<PageRange> {
    let mut from = range.start().get();
    let mut rest = Vec::new();
    for hole in holes {
        rest.extend(PageRange::from_bytes(from, hole.start().get().min(range.end())));
        from = from.max(hole.end());
    }
    rest.extend(PageRange::from_bytes(from, range.end()));
    rest
}

fn last_page(range: PageRange) -> PageAddr {
    range.start().checked_add(range.pages() - 1).unwrap_or(range.start())
}
