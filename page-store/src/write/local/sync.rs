//! Brings objects to disk while later ones are made.

use super::at;
use crate::Result;
use std::{
    fs::File,
    path::PathBuf,
    sync::mpsc::{SyncSender, sync_channel},
    thread::JoinHandle,
};

/// Objects that wait to be synced: a disk that is slower than we are holds us up, rather than the page cache.
const SYNCS_WAITING: usize = 2;

/// A thread that syncs. Waiting for each object took half the time of `split` on a slow disk.
#[derive(Debug)]
pub(super) struct Syncer {
    objects: SyncSender<(PathBuf, File)>,
    thread: JoinHandle<Result<()>>,
}

impl Syncer {
    pub(super) fn start() -> Self {
        let (objects, to_sync) = sync_channel::<(PathBuf, File)>(SYNCS_WAITING);
        let thread = std::thread::spawn(move || {
            to_sync.into_iter().try_for_each(|(path, object)| object.sync_all().map_err(at(&path)))
        });
        Self { objects, thread }
    }

    /// Has an object synced before [`Syncer::finish`] returns. `false` if that failed for an earlier one: `finish` says how.
    pub(super) fn sync_later(&self, path: PathBuf, object: File) -> bool {
        self.objects.send((path, object)).is_ok()
    }

    /// Waits until everything is on disk.
    pub(super) fn finish(self) -> Result<()> {
        drop(self.objects);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
