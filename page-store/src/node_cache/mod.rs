//! What came over the network, kept on this machine's disk for the next restore, by all agents together.
//!
//! ```text
//!   agent ─┐            ┌─ 0f3a….segment   one writer at a time, many readers
//!   agent ─┼─ a folder ─┼─ 81c2….segment
//!   agent ─┘            └─ pageferry-node-cache   the marker, and the lock for adding and removing segments
//! ```
//! * Records are frames, as they came (by the digest of their plain bytes, so stores share them), and whole objects.
//! * A writer has a segment to itself, by `flock`, which ends with it however it ends. It appends bytes first, then the slot that names them
//!   (`segment`). Nothing is ever changed in place, so readers need no lock, and what a killed writer has begun is never seen.
//! * There is no common index: each process reads the tables of all segments when it opens the cache, and what was added since when it misses
//!   something (`segments`, `index`).
//! * Every byte is checked against its digest after it was read, as if the disk were a network. What is wrong is asked from the store.
//! * The segment that was used longest ago is removed as a whole when there has to be room (`room`). Readers set the time of what they use.
//! * A thread writes (`writer`), and looks from time to time what others have done. No one waits for it, and nothing that goes wrong with a cache is an error of who uses it.

mod counters;
mod folder;
mod index;
mod place;
mod room;
mod segment;
mod segments;
#[cfg(test)]
mod tests;
mod writer;

pub use counters::CacheCounters;
pub use place::CachePlace;
pub use room::MIN_CACHE_BYTES;

use crate::{
    ByteStream, Digest, Error, ObjectRef, PackEncoding, Result,
    backend::{Opened, blocking, read_at, stream_range},
    index::MAX_STORED_LEN,
};
use bytes::Bytes;
use folder::Folder;
use index::{Index, MOST_RECORDS, Place};
use segment::{Kind, SLOT, Slot, slot_offset};
use segments::Segments;
use std::{
    fs::File,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use writer::{Job, Payload, Queue};

/// What others have added is looked for when something is missed, but not more often than this.
const NEWS_EVERY: Duration = Duration::from_millis(500);

/// A record that takes longer than this is asked from the store: a disk that hangs is worse than a network.
const PATIENCE: Duration = Duration::from_millis(300);
/// And the disk is left alone for so long; each read that hangs has a thread of its own.
const REST: Duration = Duration::from_secs(10);

/// A cache. Cloning it shares it; with the last one its thread ends.
#[derive(Clone, Debug)]
pub struct NodeCache(Arc<Handle>);

#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.queue.end();
    }
}

/// What readers and the writer share.
#[derive(Debug)]
struct Shared {
    folder: Folder,
    limit: u64,
    counters: Arc<CacheCounters>,
    index: RwLock<Index>,
    segments: Segments,
    queue: Queue,
    /// When news were last looked for.
    looked: Mutex<Instant>,
    told_wrong: AtomicBool,
    /// When a read took too long.
    hung: Mutex<Option<Instant>>,
}

/// An object's bytes, unverified.
pub(crate) struct Found {
    pub(crate) body: ByteStream,
    pub(crate) record: Record,
}

/// Which record an object came from.
pub(crate) struct Record {
    digest: Digest,
    place: Place,
}

impl NodeCache {
    /// Opens the cache in a folder, which is made if there is none, and reads which records it has; `limit` bytes on the disk are its share.
    ///
    /// A folder that is something else, or in which others may write, is [`Error::Unsupported`]; other errors come from the disk, and a
    /// restore does as well without a cache. May wait for the disk.
    pub fn open(folder: &Path, limit: u64, counters: Arc<CacheCounters>) -> Result<Self> {
        let folder = Folder::open(folder)?;
        let shared = Shared {
            segments: Segments::new(&folder),
            limit: limit.max(MIN_CACHE_BYTES),
            counters,
            index: RwLock::default(),
            queue: Queue::default(),
            looked: Mutex::new(Instant::now()),
            told_wrong: false.into(),
            hung: Mutex::default(),
            folder,
        };
        if !shared.folder.is_writable() {
            shared.queue.close();
        }
        shared
            .look_for_news()
            .map_err(|source| Error::Io { object: shared.folder.path().display().to_string(), source })?;
        let shared = Arc::new(shared);
        if let Err(error) = writer::start(Arc::clone(&shared)) {
            shared.queue.close();
            tracing::warn!("node cache: no thread to write it: {error}: it is read, nothing is added");
        }
        Ok(Self(Arc::new(Handle(shared))))
    }

    /// What its thread does every few seconds.
    #[cfg(test)]
    fn tidy(&self) {
        self.shared().look_for_news().unwrap();
    }

    /// Waits until what was put into it is on its way to the disk, but not longer than `patience`.
    pub fn flush(&self, patience: Duration) {
        self.shared().queue.flush(patience);
    }

    /// Whether a frame is there, or seems to be.
    pub(crate) fn has_frame(&self, digest: &Digest) -> bool {
        self.shared().index().has(digest)
    }

    /// A frame that `decode` finds to be the right one.
    pub(crate) async fn frame(
        &self,
        digest: &Digest,
        decode: impl Fn(PackEncoding, Bytes) -> Result<Bytes, String>,
    ) -> Option<Bytes> {
        let shared = self.shared();
        let places = shared.index().places(digest);
        for place in places {
            match shared.in_time(shared.frame(place, digest, &decode)).await? {
                Ok(Some((plain, stored_len))) => {
                    shared.hit(stored_len.into());
                    return Some(plain);
                }
                Ok(None) => {}
                Err(error) => shared.wrong(digest, place, &error),
            }
        }
        None
    }

    /// Keeps a frame's stored bytes, which were verified; if there is time for it.
    pub(crate) fn keep_frame(&self, digest: &Digest, encoding: PackEncoding, stored: Bytes) {
        let len = u32::try_from(stored.len()).unwrap_or(u32::MAX);
        self.keep(Job { digest: *digest, kind: Kind::Frame(encoding), len, payload: Payload::Bytes(stored) });
    }

    /// An object. Whoever reads it has to verify it, and to say how that went.
    pub(crate) async fn object(&self, object: &ObjectRef) -> Option<Found> {
        let shared = self.shared();
        let digest = object_digest(object)?;
        let places = shared.index().places(&digest);
        for place in places {
            match shared.in_time(shared.record(place, &digest)).await? {
                Ok((slot, file)) if slot.kind == Kind::Object && u64::from(slot.len) == object.size => {
                    let from = u64::from(slot.offset);
                    let body = stream_range(file, from..from + object.size);
                    return Some(Found { body, record: Record { digest, place } });
                }
                Ok(_) => {}
                Err(error) => shared.wrong(&digest, place, &error),
            }
        }
        None
    }

    /// An object that came from here was the right one.
    pub(crate) fn object_was_right(&self, object: &ObjectRef) {
        self.shared().hit(object.size);
    }

    /// It was not, or could not be read. Returns whether it is worth looking for another copy.
    pub(crate) fn object_was_wrong(&self, record: &Record, error: &Error) -> bool {
        self.shared().wrong(&record.digest, record.place, error);
        // Another error is one of who read it, and would be again.
        matches!(error, Error::Corrupt { .. } | Error::NotFound { .. })
    }

    /// Keeps an object, which was verified; if there is time for it.
    pub(crate) fn keep_object(&self, object: &ObjectRef, bytes: Bytes) {
        self.keep_payload(object, Payload::Bytes(bytes));
    }

    /// The same; the file has nothing else.
    pub(crate) fn keep_file(&self, object: &ObjectRef, file: File) {
        self.keep_payload(object, Payload::File(file));
    }

    fn keep_payload(&self, object: &ObjectRef, payload: Payload) {
        if let (Some(digest), Ok(len)) = (object_digest(object), u32::try_from(object.size)) {
            self.keep(Job { digest, kind: Kind::Object, len, payload });
        }
    }

    fn keep(&self, job: Job) {
        let shared = self.shared();
        if shared.index().has(&job.digest) {
            return;
        }
        shared.counters.misses.fetch_add(1, Relaxed);
        shared.missed();
        if !shared.queue.push(job) {
            shared.counters.skipped.fetch_add(1, Relaxed);
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }
}

impl Shared {
    /// The slot of a record, which has this digest, and the file that it is in.
    async fn record(self: &Arc<Self>, place: Place, digest: &Digest) -> Result<(Slot, Opened)> {
        let file = match self.segments.opened(place.segment) {
            Some(file) => file,
            None => {
                let shared = Arc::clone(self);
                blocking(move || shared.segments.open(place.segment)).await?
            }
        };
        let at = slot_offset(place.slot);
        let slot = Slot::parse(&read_at(&file, at..at + SLOT).await?).filter(|slot| slot.digest == *digest);
        let slot = slot.ok_or_else(|| self.corrupt(place, "not the record that was there"))?;
        if self.segments.is_to_be_touched(place.segment) {
            let file = Arc::clone(&file.file);
            tokio::task::spawn_blocking(move || segments::touch(&file));
        }
        Ok((slot, file))
    }

    async fn frame(
        self: &Arc<Self>,
        place: Place,
        digest: &Digest,
        decode: &impl Fn(PackEncoding, Bytes) -> Result<Bytes, String>,
    ) -> Result<Option<(Bytes, u32)>> {
        let (slot, file) = self.record(place, digest).await?;
        let Kind::Frame(encoding) = slot.kind else { return Ok(None) };
        if u64::from(slot.len) > MAX_STORED_LEN {
            return Err(self.corrupt(place, "longer than a frame can be"));
        }
        let from = u64::from(slot.offset);
        let stored = read_at(&file, from..from + u64::from(slot.len)).await?;
        let plain = decode(encoding, stored).map_err(|problem| self.corrupt(place, &problem))?;
        Ok(Some((plain, slot.len)))
    }

    /// What `read` comes to, unless the disk hangs, or did so a moment ago.
    async fn in_time<T>(&self, read: impl Future<Output = T>) -> Option<T> {
        let hung = || self.hung.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *hung();
        if before.is_some_and(|hung| hung.elapsed() < REST) {
            return None;
        }
        let read = tokio::time::timeout(PATIENCE, read).await.ok();
        if read.is_none() {
            *hung() = Some(Instant::now());
            let folder = self.folder.path().display();
            tracing::warn!(
                "node cache {folder}: no answer from the disk within {} ms: asking the store for {} s",
                PATIENCE.as_millis(),
                REST.as_secs()
            );
        }
        read
    }

    fn corrupt(&self, place: Place, problem: &str) -> Error {
        let object = self.folder.path().display().to_string();
        Error::Corrupt { object, place: format!("slot {}", place.slot), problem: problem.into() }
    }

    fn hit(&self, bytes: u64) {
        self.counters.hits.fetch_add(1, Relaxed);
        self.counters.bytes.fetch_add(bytes, Relaxed);
    }

    /// A record is of no use.
    fn wrong(&self, digest: &Digest, place: Place, error: &Error) {
        if matches!(error, Error::NotFound { .. }) {
            // Removed by another, to make room.
            self.segments.forget(place.segment);
            self.index_mut().remove_segment(place.segment);
            return;
        }
        // An attempt that was called off says nothing about the record; and what several have read is told by one.
        if matches!(error, Error::Unavailable { .. }) || !self.index_mut().remove(digest, place) {
            return;
        }
        self.counters.wrong.fetch_add(1, Relaxed);
        if self.told_wrong.swap(true, Relaxed) {
            tracing::debug!(%error, "node cache: a record is wrong");
        } else {
            tracing::warn!(
                "node cache: {error}: asking the store instead. After a power failure that is to be expected; if it goes on, empty {} and see to its disk",
                self.folder.path().display()
            );
        }
    }

    /// Something is not here; perhaps somebody else has added it. Who missed it does not wait.
    fn missed(self: &Arc<Self>) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.elapsed() < NEWS_EVERY {
            return;
        }
        *looked = Instant::now();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let shared = Arc::clone(self);
            runtime.spawn_blocking(move || shared.look_for_news());
        }
    }

    fn look_for_news(&self) -> std::io::Result<()> {
        let room = MOST_RECORDS.saturating_sub(self.index().len());
        let Some(news) = self.segments.news(&self.folder, room)? else { return Ok(()) };
        if !news.gone.is_empty() || !news.records.is_empty() {
            let mut index = self.index_mut();
            news.gone.iter().for_each(|segment| index.remove_segment(*segment));
            index.extend(news.records);
        }
        Ok(())
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first half of an object's digest.
fn object_digest(object: &ObjectRef) -> Option<Digest> {
    let mut digest = Digest([0; 16]);
    let (pairs, _) = object.blake3.as_bytes().as_chunks::<2>();
    for (byte, pair) in digest.0.iter_mut().zip(pairs) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    (pairs.len() == 32).then_some(digest)
}
