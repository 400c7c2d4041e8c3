//! The folder of a cache: whose it is, and that it is one.

use super::segment;
use crate::{Error, Result};
use rustix::fs::FlockOperation;
use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, SystemTime},
};

/// The file that makes a folder a cache. Whoever adds or removes segments holds a lock on it (`flock`).
const MARKER: &str = "pageferry-node-cache";
const MARKER_TEXT: &str = "Frames of page stores, kept by pageferry-agent (--cache-dir). May be removed at any time.\n";
/// Keeps backups away (<https://bford.info/cachedir/>): what is here is the memory of processes, and can be had again.
const TAG: &str = "CACHEDIR.TAG";
const TAG_TEXT: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# Made by pageferry-agent.\n";
/// A file system of its own begins with it.
const LOST_AND_FOUND: &str = "lost+found";
/// What others do under the lock takes milliseconds.
const LOCK_ATTEMPTS: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// A folder that is a cache, and nobody else's.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// `None` where nothing can be written.
    marker: Option<File>,
}

/// A segment in it.
pub(super) struct Found {
    pub(super) id: u64,
    pub(super) path: PathBuf,
    /// Bytes on the disk.
    pub(super) used: u64,
    /// When somebody last read from it or wrote to it.
    pub(super) modified: SystemTime,
}

impl Folder {
    /// Makes the folder if there is none. What is obviously something else, or somebody else's, is [`Error::Unsupported`].
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |source| Error::Io { object: path.display().to_string(), source };
        make(path).map_err(failed)?;
        if !is_cache(path)? {
            found(path).map_err(failed)?;
        }
        let marker = OpenOptions::new().read(true).write(true).custom_flags(nofollow()).open(path.join(MARKER));
        match marker {
            Ok(marker) => Ok(Self { path: path.into(), marker: Some(marker) }),
            Err(error) if is_read_only(&error) => {
                tracing::warn!(
                    "node cache {}: cannot be written to ({error}): it is read, nothing is added",
                    path.display()
                );
                Ok(Self { path: path.into(), marker: None })
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// One that is only looked at.
    pub(super) fn unlocked(path: &Path) -> Self {
        Self { path: path.into(), marker: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_writable(&self) -> bool {
        self.marker.is_some()
    }

    /// Segments, the one that was used longest ago first.
    pub(super) fn segments(&self) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for id in self.ids()? {
            let path = segment::path(&self.path, id);
            // One that has just been removed, or is no file, is none.
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            if metadata.is_file() {
                let modified = metadata.modified()?;
                found.push(Found { id, path, used: metadata.blocks() * 512, modified });
            }
        }
        found.sort_by_key(|segment| segment.modified);
        Ok(found)
    }

    fn ids(&self) -> io::Result<Vec<u64>> {
        let names = fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name()));
        let ids = names.map(|name: io::Result<_>| Ok(name?.to_str().and_then(segment::id)));
        ids.filter_map(Result::transpose).collect()
    }

    /// Alone with the folder until the lock is dropped; `None` if another takes its time.
    pub(super) fn lock(&self) -> io::Result<Option<Lock<'_>>> {
        let Some(marker) = &self.marker else { return Ok(None) };
        for _ in 0..LOCK_ATTEMPTS {
            if try_lock(marker)? {
                return Ok(Some(Lock(marker)));
            }
            sleep(LOCK_PAUSE);
        }
        Ok(None)
    }
}

/// A lock on the folder.
pub(super) struct Lock<'a>(&'a File);

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(self.0, FlockOperation::Unlock);
    }
}

/// Takes the lock of a file that nobody else has.
pub(super) fn try_lock(file: &File) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Flags for opening what somebody else may have put there: no link is followed, and a fifo does not make us wait.
pub(super) fn nofollow() -> i32 {
    (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32
}

/// Whether a folder that is there is a cache; `false` if it may become one. What is obviously something else, or somebody else's, is
/// [`Error::Unsupported`].
pub(super) fn is_cache(path: &Path) -> Result<bool> {
    let failed = |source| Error::Io { object: path.display().to_string(), source };
    let refused = |what: String| Error::Unsupported { object: path.display().to_string(), what };
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_dir() {
        return Err(failed(io::ErrorKind::NotADirectory.into()));
    }
    let user = rustix::process::geteuid().as_raw();
    if metadata.uid() != user {
        let what = format!(
            "belongs to user {}, and this is user {user}: a node cache has the memory of processes, so it must be a folder of one's own",
            metadata.uid()
        );
        return Err(refused(what));
    }
    if metadata.mode() & 0o022 != 0 {
        let mode = metadata.mode() & 0o7777;
        return Err(refused(format!(
            "others can write to it (mode {mode:o}): a node cache has the memory of processes; chmod 700, or give another folder"
        )));
    }
    if path.join(MARKER).exists() {
        return Ok(true);
    }
    match is_empty(path).map_err(failed)? {
        true => Ok(false),
        false => Err(refused(format!(
            "has files in it and is no node cache (no {MARKER} in it); give a folder that is empty or does not exist"
        ))),
    }
}

fn make(path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        // By another at the same time.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Makes an empty folder a cache. Another may do the same at the same time.
fn found(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(0o700))?;
    for (name, text) in [(MARKER, MARKER_TEXT), (TAG, TAG_TEXT)] {
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nofollow())
            .open(path.join(name))?;
        std::os::unix::fs::FileExt::write_all_at(&file, text.as_bytes(), 0)?;
    }
    Ok(())
}

fn is_empty(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if name == MARKER {
            return Ok(true);
        }
        if name != LOST_AND_FOUND {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}
