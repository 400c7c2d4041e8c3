//! Where what is kept lies: 16 bytes for each record, in order of digest, and a little more for the latest.
//!
//! Only half of a digest is here. A record that is not the one that was looked for is told by its slot, which has all of it.

use crate::Digest;
use std::collections::BTreeSet;

/// Records that are known at most: 64 MiB of index, for some 100 GB of frames. What is beyond that is not found.
pub(super) const MOST_RECORDS: usize = 1 << 22;
/// Records that were added one by one until they are sorted in among the others: that takes some milliseconds for a million of them.
const MOST_RECENT: usize = 1 << 15;
/// No segment has this slot.
const NOWHERE: Place = Place { segment: u32::MAX, slot: u16::MAX };

/// A record: its segment, by the number that this process has given it, and its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) segment: u32,
    pub(super) slot: u16,
}

/// A row of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    prefix: u64,
    place: Place,
}

impl Entry {
    pub(super) fn new(digest: &Digest, place: Place) -> Self {
        Self { prefix: prefix(digest), place }
    }
}

/// What is kept, as far as this process knows.
#[derive(Debug, Default)]
pub(super) struct Index {
    sorted: Vec<Entry>,
    recent: BTreeSet<Entry>,
}

impl Index {
    /// Adds records.
    pub(super) fn extend(&mut self, mut records: Vec<Entry>) {
        if self.recent.len() + records.len() <= MOST_RECENT {
            self.recent.extend(records);
            return;
        }
        self.sorted.retain(|entry| entry.place != NOWHERE);
        records.extend(std::mem::take(&mut self.recent));
        if self.sorted.is_empty() {
            self.sorted = records;
        } else {
            self.sorted.reserve_exact(records.len());
            self.sorted.append(&mut records);
        }
        self.sorted.sort_unstable();
        self.sorted.dedup();
    }

    /// Records that may be the one with this digest, the latest first.
    pub(super) fn places(&self, digest: &Digest) -> Vec<Place> {
        let prefix = prefix(digest);
        let first = Entry { prefix, place: Place { segment: 0, slot: 0 } };
        let recent = self.recent.range(first..=Entry { prefix, place: NOWHERE }).rev().map(|entry| entry.place);
        recent.chain(self.run(prefix).iter().map(|entry| entry.place).filter(|place| *place != NOWHERE)).collect()
    }

    pub(super) fn has(&self, digest: &Digest) -> bool {
        let prefix = prefix(digest);
        let first = Entry { prefix, place: Place { segment: 0, slot: 0 } };
        self.run(prefix).iter().any(|entry| entry.place != NOWHERE)
            || self.recent.range(first..=Entry { prefix, place: NOWHERE }).next().is_some()
    }

    /// Whether it was here.
    pub(super) fn remove(&mut self, digest: &Digest, place: Place) -> bool {
        let prefix = prefix(digest);
        if self.recent.remove(&Entry { prefix, place }) {
            return true;
        }
        let from = self.sorted.partition_point(|entry| entry.prefix < prefix);
        let run = self.sorted[from..].iter_mut().take_while(|entry| entry.prefix == prefix);
        let found = run.into_iter().find(|entry| entry.place == place);
        found.map(|entry| entry.place = NOWHERE).is_some()
    }

    /// Forgets all records of a segment.
    pub(super) fn remove_segment(&mut self, segment: u32) {
        self.sorted.retain(|entry| entry.place.segment != segment);
        self.recent.retain(|entry| entry.place.segment != segment);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.sorted.len() + self.recent.len()
    }

    fn run(&self, prefix: u64) -> &[Entry] {
        let from = self.sorted.partition_point(|entry| entry.prefix < prefix);
        let run = self.sorted.get(from..).unwrap_or_default();
        let len = run.iter().take_while(|entry| entry.prefix == prefix).count();
        &run[..len]
    }
}

fn prefix(digest: &Digest) -> u64 {
    digest.0.first_chunk().copied().map(u64::from_le_bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_takes_sixteen_bytes() {
        assert_eq!(size_of::<Entry>(), 16);
    }

    #[test]
    fn what_was_added_is_found_until_it_is_removed() {
        let digest = |n: usize| Digest::of(&n.to_le_bytes());
        let place = |n: usize| Place { segment: (n % 7) as u32, slot: (n / 7) as u16 };
        let entry = |n| Entry::new(&digest(n), place(n));
        let mut index = Index::default();
        let many = 2 * MOST_RECENT;
        index.extend((0..many).map(entry).collect());
        (many..many + 100).for_each(|n| index.extend(vec![entry(n)]));
        for n in (0..many + 100).step_by(11) {
            assert_eq!(index.places(&digest(n)), [place(n)], "{n}");
            assert!(index.has(&digest(n)));
        }
        assert!(index.places(&digest(many + 100)).is_empty() && !index.has(&digest(many + 100)));
        // A second copy.
        index.extend(vec![Entry::new(&digest(5), place(1000))]);
        assert_eq!(index.places(&digest(5)), [place(1000), place(5)]);
        assert!(index.remove(&digest(5), place(5)) && !index.remove(&digest(5), place(5)));
        assert_eq!(index.places(&digest(5)), [place(1000)]);
        assert!(index.remove(&digest(5), place(1000)) && !index.has(&digest(5)));
        let before = index.len();
        index.remove_segment(3);
        assert!(index.len() < before);
        for n in (20..many + 100).step_by(11) {
            assert_eq!(index.has(&digest(n)), n % 7 != 3, "{n}");
        }
        // The same again changes nothing.
        index.extend((0..many).map(entry).collect());
        let once = index.len();
        index.extend((0..many).map(entry).collect());
        assert_eq!(index.len(), once);
    }
}
