//! Decoded frames that are likely to be asked for again: neighbours of a page are asked for one by one.

use crate::metrics::Metrics;
use bytes::Bytes;
use criu_images::PAGE_SIZE;
use page_store::{Buffers, Digest, FRAME_BYTES, FRAME_PAGES, FrameNumber, PageNumber, Result, Store};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError, atomic::Ordering::Relaxed},
};
use tokio::sync::OnceCell;

/// A bounded cache; a frame that several requests want at once is read once.
#[derive(Debug)]
pub(crate) struct FrameCache {
    slots: Mutex<Slots>,
    capacity: usize,
    buffers: Arc<Buffers>,
}

#[derive(Debug, Default)]
struct Slots {
    by_number: HashMap<FrameNumber, Slot>,
    clock: u64,
}

#[derive(Debug)]
struct Slot {
    frame: Arc<Cell>,
    last_used: u64,
}

#[derive(Debug, Default)]
struct Cell {
    /// Set by the first request that wants it, awaited by the others. If the first fails or goes away, the next one tries.
    bytes: OnceCell<Bytes>,
    /// Of each page that was asked for by itself. To hash it again took a tenth of the time that a page of a kept frame costs.
    digests: [OnceLock<Digest>; FRAME_PAGES as usize],
}

impl FrameCache {
    /// Holds at most `capacity` frames.
    pub(crate) fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self { slots: Mutex::default(), capacity, buffers: Arc::new(Buffers::new(FRAME_BYTES as usize, capacity)) }
    }

    /// All pages of a frame of `store` (the same one for every call).
    pub(crate) async fn get(&self, store: &Store, number: FrameNumber, metrics: &Metrics) -> Result<Bytes> {
        self.fill(&self.slot(number), store, number, metrics).await
    }

    /// One page and its digest; `None` if its frame is too short to have it.
    pub(crate) async fn page(
        &self,
        store: &Store,
        page: PageNumber,
        metrics: &Metrics,
    ) -> Result<Option<(Bytes, Digest)>> {
        let cell = self.slot(page.frame());
        let frame = self.fill(&cell, store, page.frame(), metrics).await?;
        let from = page.in_frame() * PAGE_SIZE as usize;
        let to = from + PAGE_SIZE as usize;
        let (Some(bytes), Some(digest)) = (frame.get(from..to), cell.digests.get(page.in_frame())) else {
            return Ok(None);
        };
        let digest = *digest.get_or_init(|| Digest::of(bytes));
        Ok(Some((frame.slice(from..to), digest)))
    }

    async fn fill(&self, cell: &Arc<Cell>, store: &Store, number: FrameNumber, metrics: &Metrics) -> Result<Bytes> {
        let mut read_here = false;
        let frame = cell
            .bytes
            .get_or_try_init(|| async {
                read_here = true;
                let frame = store.read_frame(number).await?;
                Ok(self.buffers.copy_of(frame.bytes()))
            })
            .await;
        match (&frame, read_here) {
            (Ok(_), true) => &metrics.frames_decoded,
            (Ok(_), false) => &metrics.cache_hits,
            (Err(_), _) => {
                self.forget(number, cell);
                return frame.cloned();
            }
        }
        .fetch_add(1, Relaxed);
        frame.cloned()
    }

    fn slot(&self, number: FrameNumber) -> Arc<Cell> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.clock += 1;
        let now = slots.clock;
        if slots.by_number.len() >= self.capacity && !slots.by_number.contains_key(&number) {
            // A look at 256 entries costs less than the frame that is about to be read.
            let oldest = slots.by_number.iter().min_by_key(|(_, slot)| slot.last_used).map(|(number, _)| *number);
            oldest.and_then(|oldest| slots.by_number.remove(&oldest));
        }
        let slot = slots.by_number.entry(number).or_insert_with(|| Slot { frame: Arc::default(), last_used: now });
        slot.last_used = now;
        slot.frame.clone()
    }

    fn forget(&self, number: FrameNumber, cell: &Arc<Cell>) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.by_number.get(&number).is_some_and(|slot| Arc::ptr_eq(&slot.frame, cell) && !cell.bytes.initialized())
        {
            slots.by_number.remove(&number);
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).by_number.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes() {
        let cache = FrameCache::new(2);
        let (first, _) = (cache.slot(FrameNumber(1)), cache.slot(FrameNumber(2)));
        assert!(Arc::ptr_eq(&first, &cache.slot(FrameNumber(1))));
        cache.slot(FrameNumber(3));
        assert_eq!(cache.len(), 2);
        assert!(Arc::ptr_eq(&first, &cache.slot(FrameNumber(1))));
        cache.forget(FrameNumber(1), &first);
        assert_eq!(cache.len(), 1);
    }
}
