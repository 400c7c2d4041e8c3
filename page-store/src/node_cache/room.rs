//! Room for a writer: a segment that it has to itself, within the limit for all of them.
//!
//! All of it happens under the folder's lock. A segment that a writer holds counts with all that it may grow to, so that the limit holds
//! however many write at once.

use super::{
    folder::{Folder, Found, nofollow, try_lock},
    segment::{self, SLOT, SLOTS, TABLE, slot_offset},
};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
};

/// The smallest cache there can be.
pub const MIN_CACHE_BYTES: u64 = 16 << 20;
/// A segment has up to 64 MiB: few enough files, and little enough that goes at once when one is removed.
const LARGEST: u64 = 64 << 20;
/// A small cache has so many.
const SEGMENTS: u64 = 16;
/// An object may take so much of a cache.
const LARGEST_SHARE: u64 = 4;

/// A segment that this process writes to, and holds a lock on.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) id: u64,
    pub(super) file: File,
    pub(super) next_slot: u16,
    /// Where the next record begins.
    pub(super) end: u64,
    capacity: u64,
}

impl Live {
    /// Whether a record of `len` bytes finds room.
    pub(super) fn has_room(&self, len: u64) -> bool {
        self.next_slot < SLOTS && self.end.saturating_add(len) <= self.capacity
    }

    /// Whether anybody can still find it: folders are cleared by hand, too.
    pub(super) fn is_there(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
    }
}

/// Whether a record of `len` bytes can be in a cache of `limit` bytes.
pub(super) fn fits(limit: u64, len: u64) -> bool {
    let most = (limit / LARGEST_SHARE).min(u32::MAX.into());
    len > 0 && len.saturating_add(TABLE) <= most
}

fn usual_capacity(limit: u64) -> u64 {
    (limit / SEGMENTS).clamp(2 * TABLE, LARGEST)
}

/// A segment for a record of `len` bytes and more: one that another has left unfinished, or a new one. Segments that were used longest ago make
/// room for it. `None` if there is none: others write, and what they have reserved is all there may be.
pub(super) fn find(folder: &Folder, limit: u64, len: u64) -> io::Result<Option<Live>> {
    let Some(_lock) = folder.lock()? else { return Ok(None) };
    let segments = folder.segments()?;
    let mut total = 0;
    let mut live: Option<Live> = None;
    for segment in segments.iter().rev() {
        let (reserved, mine) = look(segment, live.is_none(), len)?;
        total += reserved;
        live = live.or(mine);
    }
    // One that is taken over counts with what it may grow to.
    let capacity = live.as_ref().map_or(usual_capacity(limit).max(TABLE + len), |live| live.capacity);
    let before = live.as_ref().and_then(|live| segments.iter().find(|s| s.id == live.id)).map_or(0, |s| s.used);
    total = total - before + capacity.max(before);
    for segment in segments.iter().filter(|segment| live.as_ref().is_none_or(|live| live.id != segment.id)) {
        if total <= limit {
            break;
        }
        if remove(segment)? {
            tracing::debug!(segment = %segment.path.display(), bytes = segment.used, "node cache: removed");
            total -= segment.used;
        }
    }
    if total > limit {
        return Ok(None);
    }
    live.map_or_else(|| create(folder, capacity), Ok).map(Some)
}

/// How much of the limit a segment takes, and itself if it is to be gone on with and can.
fn look(segment: &Found, wanted: bool, len: u64) -> io::Result<(u64, Option<Live>)> {
    let mut options = OpenOptions::new();
    let Ok(file) = options.read(true).write(true).custom_flags(nofollow()).open(&segment.path) else {
        return Ok((segment.used, None));
    };
    let capacity = segment::capacity(&file);
    if !try_lock(&file)? {
        return Ok((segment.used.max(capacity.unwrap_or(0)), None));
    }
    let metadata = file.metadata()?;
    let own = metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o777 == 0o600;
    let end = metadata.len().max(TABLE);
    let room = capacity.is_some_and(|capacity| capacity <= LARGEST && end.saturating_add(len) <= capacity);
    if !wanted || !own || !room {
        return Ok((segment.used, None));
    }
    let next_slot = segment::slots(&file, 0, |_, _| {})?;
    let live = Live { id: segment.id, file, next_slot, end, capacity: capacity.unwrap_or(0) };
    // One that is nearly full is left alone.
    let worth_it = next_slot < SLOTS - SLOTS / 8 && end < live.capacity - live.capacity / 8;
    Ok((segment.used, worth_it.then_some(live)))
}

/// Removes a segment that nobody writes to. Those who have it open can read it to its end.
fn remove(segment: &Found) -> io::Result<bool> {
    let free = match OpenOptions::new().read(true).custom_flags(nofollow()).open(&segment.path) {
        Ok(file) => try_lock(&file)?,
        Err(_) => true,
    };
    match free.then(|| fs::remove_file(&segment.path)) {
        None => Ok(false),
        Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Some(_) => Ok(true),
    }
}

fn create(folder: &Folder, capacity: u64) -> io::Result<Live> {
    let id = fastrand::u64(..);
    let path = segment::path(folder.path(), id);
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    let begun = try_lock(&file).and_then(|_| file.write_all_at(&segment::header(capacity), slot_offset(0)));
    if let Err(error) = begun {
        let _ = fs::remove_file(&path);
        return Err(error);
    }
    Ok(Live { id, file, next_slot: 1, end: TABLE, capacity })
}

const _: () = assert!(SLOT * SLOTS as u64 == TABLE && MIN_CACHE_BYTES / SEGMENTS >= 2 * TABLE);
