//! Which pages are stored already, by content.

use crate::{Digest, PageNumber};
use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

/// Shards grow one after another, so that the old and the new table of one that grows are a few hundred KiB, not the whole map.
const SHARDS: usize = 64;
/// Pages that a shard remembers: what 2^16 buckets hold at the standard map's load of 7/8.
const MAX_PER_SHARD: usize = (1 << 16) / 8 * 7;

/// Pages that are remembered: 14 GiB of distinct content. A page takes 21 bytes in the table (16 of digest, 4 of page number, 1 of
/// the map's own), 24 to 48 with the room for growth; full, the map is 88 MiB. Later pages are looked up but not added:
/// the store of a larger checkpoint may hold some of them more than once.
pub(super) const MAX_REMEMBERED: usize = SHARDS * MAX_PER_SHARD;

/// From content to page number. 128 bits of BLAKE3 stand for the content: no two pages that differ have ever been seen to
/// share them, and what the store verifies rests on the same.
pub(super) struct PageMap {
    shards: Vec<HashMap<Digest, u32, BuildHasherDefault<Tail>>>,
    max_per_shard: usize,
}

impl PageMap {
    pub(super) fn new() -> Self {
        Self::with_limit(MAX_REMEMBERED)
    }

    /// Remembers fewer pages: for tests.
    pub(super) fn with_limit(pages: usize) -> Self {
        Self { shards: (0..SHARDS).map(|_| HashMap::default()).collect(), max_per_shard: pages / SHARDS }
    }

    fn shard(digest: &Digest) -> usize {
        usize::from(digest.0[0]) % SHARDS
    }

    /// Where a page of this content was stored last.
    pub(super) fn get(&self, digest: &Digest) -> Option<PageNumber> {
        self.shards[Self::shard(digest)].get(digest).map(|&n| PageNumber(n.into()))
    }

    /// Remembers where a page was stored, if there is room.
    pub(super) fn set(&mut self, digest: Digest, page: PageNumber) {
        // Beyond 16 TiB of distinct pages the map has been full for long.
        let Ok(page) = u32::try_from(page.0) else { return };
        let shard = &mut self.shards[Self::shard(&digest)];
        if shard.len() < self.max_per_shard {
            shard.insert(digest, page);
        } else if let Some(known) = shard.get_mut(&digest) {
            *known = page;
        }
    }
}

/// A digest is its own hash; its first byte has chosen the shard.
#[derive(Default)]
struct Tail(u64);

impl Hasher for Tail {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        if let Some(&tail) = bytes.last_chunk() {
            self.0 = u64::from_le_bytes(tail);
        }
    }
    fn write_usize(&mut self, _length_prefix: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u64) -> Digest {
        Digest::of(&n.to_le_bytes())
    }

    #[test]
    fn remembers_the_latest_place() {
        let mut map = PageMap::new();
        map.set(digest(1), PageNumber(10));
        map.set(digest(2), PageNumber(11));
        assert_eq!(map.get(&digest(1)), Some(PageNumber(10)));
        map.set(digest(1), PageNumber(12));
        assert_eq!(map.get(&digest(1)), Some(PageNumber(12)));
        assert_eq!(map.get(&digest(3)), None);
    }

    #[test]
    fn a_full_map_stays_as_large_and_still_answers() {
        let mut map = PageMap::with_limit(SHARDS * 8);
        for n in 0..10_000 {
            map.set(digest(n), PageNumber(n));
        }
        let held: Vec<_> = (0..10_000).filter(|&n| map.get(&digest(n)).is_some()).collect();
        assert_eq!(held.len(), SHARDS * 8);
        map.set(digest(held[0]), PageNumber(77));
        assert_eq!(map.get(&digest(held[0])), Some(PageNumber(77)));
    }

    #[test]
    fn an_entry_is_as_large_as_the_doc_says() {
        assert_eq!(size_of::<(Digest, u32)>(), 20);
        let mut shard: HashMap<Digest, u32, BuildHasherDefault<Tail>> = HashMap::default();
        shard.extend((0..MAX_PER_SHARD as u64).map(|n| (digest(n), 0)));
        assert_eq!(shard.capacity(), MAX_PER_SHARD, "one more would double the table");
    }
}
