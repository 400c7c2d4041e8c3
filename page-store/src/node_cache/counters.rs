//! What a cache was good for.

use std::sync::atomic::AtomicU64;

/// Counters of one process; they only grow.
#[derive(Debug, Default)]
pub struct CacheCounters {
    /// Frames and objects that came from the cache.
    pub hits: AtomicU64,
    /// Frames and objects that it did not have.
    pub misses: AtomicU64,
    /// Bytes that came from it, as stored.
    pub bytes: AtomicU64,
    /// Bytes that were put into it, as stored.
    pub kept_bytes: AtomicU64,
    /// Frames and objects that were not put into it: the disk could not keep up, or there was no room.
    pub skipped: AtomicU64,
    /// Records that were not what they should be, or could not be read; the store was asked instead.
    pub wrong: AtomicU64,
}
