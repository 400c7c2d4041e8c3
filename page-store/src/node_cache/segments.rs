//! The segments that this process knows, and those that it has open.

use super::{
    folder::{Folder, Found, nofollow},
    index::{Entry, Place},
    segment::{self, SLOTS},
};
use crate::{Error, Result, backend::Buffers, backend::Opened};
use std::{
    collections::{HashMap, HashSet},
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// Files that are kept open, 4 GiB of segments: a process often may have no more than 1024.
const OPEN_FILES: usize = 64;
/// How exact the times of files are taken to be: a record may be added so long after a look without making its segment younger than that.
const CLOCK: Duration = Duration::from_secs(2);
/// A segment that is used says so to those who look for one to remove, but not more often than this.
const TOUCH_EVERY: Duration = Duration::from_secs(30);

/// Segments by the numbers that this process has given them. A number is never another segment's.
#[derive(Debug)]
pub(super) struct Segments {
    folder: PathBuf,
    buffers: Arc<Buffers>,
    known: Mutex<Known>,
    /// Held by whoever looks for news.
    looking: Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    segments: Vec<Segment>,
    numbers: HashMap<u64, u32>,
    open: usize,
}

#[derive(Debug)]
struct Segment {
    id: u64,
    /// Slots before this one are in the index.
    next: u16,
    /// When that was found out.
    looked: Option<SystemTime>,
    file: Option<Opened>,
    touched: Option<Instant>,
}

/// What has changed in the folder.
#[derive(Default)]
pub(super) struct News {
    pub(super) records: Vec<Entry>,
    /// Segments that are no more.
    pub(super) gone: Vec<u32>,
}

impl Segments {
    pub(super) fn new(folder: &Folder) -> Self {
        Self {
            folder: folder.path().into(),
            buffers: Arc::default(),
            known: Mutex::default(),
            looking: Mutex::default(),
        }
    }

    /// Looks for segments and records that others have added, at most so many records; `None` if somebody does so already.
    pub(super) fn news(&self, folder: &Folder, most: usize) -> io::Result<Option<News>> {
        let Ok(_alone) = self.looking.try_lock() else { return Ok(None) };
        let mut news = News::default();
        let segments = folder.segments()?;
        let ids: HashSet<_> = segments.iter().map(|segment| segment.id).collect();
        let mut known = self.lock();
        let gone: Vec<_> = known.numbers.iter().filter(|(id, _)| !ids.contains(id)).map(|(_, n)| *n).collect();
        gone.iter().for_each(|number| known.forget(*number));
        drop(known);
        news.gone = gone;
        // The latest first: if there are too many records, those of the oldest are left out.
        for Found { id, modified, .. } in segments.into_iter().rev() {
            let number = self.number(id);
            let (next, looked, file) = self.state(number);
            let is_as_it_was = looked.is_some_and(|looked| modified + CLOCK < looked);
            if next >= SLOTS || is_as_it_was || news.records.len() >= most {
                continue;
            }
            let now = SystemTime::now();
            // A segment that cannot be opened may be another time: it was just removed, or descriptors are short.
            let opened = file.map_or_else(|| self.open_file(id), Ok);
            let Ok(opened) = opened else { continue };
            let end = match segment::capacity(&opened.file) {
                Some(_) => segment::slots(&opened.file, next, |slot, record| {
                    news.records.push(Entry::new(&record.digest, Place { segment: number, slot }));
                })?,
                // Not complete yet, or of another version.
                None => next,
            };
            self.advance(number, end);
            let mut known = self.lock();
            known.keep(number, opened, false);
            if let Some(segment) = known.segments.get_mut(number as usize) {
                segment.looked = Some(now);
            }
        }
        Ok(Some(news))
    }

    /// The number of a segment.
    pub(super) fn number(&self, id: u64) -> u32 {
        let mut known = self.lock();
        if let Some(number) = known.numbers.get(&id) {
            return *number;
        }
        let number = u32::try_from(known.segments.len()).unwrap_or(u32::MAX - 1);
        known.segments.push(Segment { id, next: 1, looked: None, file: None, touched: None });
        known.numbers.insert(id, number);
        number
    }

    /// Slots before `next` are in the index.
    pub(super) fn advance(&self, number: u32, next: u16) {
        if let Some(segment) = self.lock().segments.get_mut(number as usize) {
            segment.next = segment.next.max(next);
        }
    }

    /// A segment's file, if it is open.
    pub(super) fn opened(&self, number: u32) -> Option<Opened> {
        self.lock().segments.get(number as usize)?.file.clone()
    }

    /// Opens a segment's file and keeps it.
    pub(super) fn open(&self, number: u32) -> Result<Opened> {
        let id = self.lock().segments.get(number as usize).map(|segment| segment.id);
        let id = id.ok_or_else(|| Error::NotFound { object: self.folder.display().to_string() })?;
        let opened = self.open_file(id).map_err(|source| {
            let object = segment::path(&self.folder, id).display().to_string();
            match source.kind() {
                io::ErrorKind::NotFound => Error::NotFound { object },
                _ => Error::Io { object, source },
            }
        })?;
        self.lock().keep(number, opened.clone(), true);
        Ok(opened)
    }

    /// A segment is gone.
    pub(super) fn forget(&self, number: u32) {
        self.lock().forget(number);
    }

    /// Whether somebody should tell the others that a segment is used; then it is the caller.
    pub(super) fn is_to_be_touched(&self, number: u32) -> bool {
        let mut known = self.lock();
        let Some(segment) = known.segments.get_mut(number as usize) else { return false };
        let due = segment.touched.is_none_or(|touched| touched.elapsed() > TOUCH_EVERY);
        if due {
            segment.touched = Some(Instant::now());
        }
        due
    }

    fn state(&self, number: u32) -> (u16, Option<SystemTime>, Option<Opened>) {
        let known = self.lock();
        let segment = known.segments.get(number as usize);
        segment.map_or((SLOTS, None, None), |segment| (segment.next, segment.looked, segment.file.clone()))
    }

    fn open_file(&self, id: u64) -> io::Result<Opened> {
        let path = segment::path(&self.folder, id);
        let file = OpenOptions::new().read(true).custom_flags(nofollow()).open(&path)?;
        if !file.metadata()?.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Opened::new(path.into(), file, Arc::clone(&self.buffers)))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Keeps a file open; if there are many, only in the place of all others.
    fn keep(&mut self, number: u32, file: Opened, instead: bool) {
        if self.open >= OPEN_FILES {
            if !instead {
                return;
            }
            self.segments.iter_mut().for_each(|segment| segment.file = None);
            self.open = 0;
        }
        if let Some(segment) = self.segments.get_mut(number as usize)
            && segment.file.replace(file).is_none()
        {
            self.open += 1;
        }
    }

    fn forget(&mut self, number: u32) {
        let Some(segment) = self.segments.get_mut(number as usize) else { return };
        if self.numbers.get(&segment.id) == Some(&number) {
            self.numbers.remove(&segment.id);
        }
        if segment.file.take().is_some() {
            self.open -= 1;
        }
    }
}

/// Tells others that a segment is used.
pub(super) fn touch(file: &File) {
    use rustix::fs::{Timespec, Timestamps, UTIME_NOW, futimens};
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    // On a read-only disk nobody removes anything either.
    let _ = futimens(file, &Timestamps { last_access: now, last_modification: now });
}
