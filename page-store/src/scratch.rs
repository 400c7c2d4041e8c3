//! Folders for what is not whole yet. None outlives its run for long: a run that ends removes its own, and one that is killed leaves its
//! folder to the next run that works in the same place.

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use std::{
    fs::{self, File, Permissions},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

/// Characters behind the prefix. With the prefix they make a name that nobody gives to a folder of his own.
const RANDOM: usize = 12;
/// A folder may be lost to another run's clearing up between its making and its locking, once in a while; not so often.
const ATTEMPTS: usize = 100;

/// A folder, its owner's alone, removed on drop. It is locked (`flock`) as long as anybody has this value's descriptor.
#[derive(Debug)]
pub struct ScratchDir {
    path: PathBuf,
    /// Whether it has another name now.
    is_named: bool,
    /// Open, and locked where the file system knows locks; where it knows none, nothing is ever taken for abandoned.
    dir: File,
}

impl ScratchDir {
    /// Makes a folder in `parent`, and removes those that killed runs left there under the same `prefix`.
    pub fn create(parent: &Path, prefix: &str) -> io::Result<Self> {
        for _ in 0..ATTEMPTS {
            let dir = tempfile::Builder::new()
                .prefix(prefix)
                .rand_bytes(RANDOM)
                .permissions(Permissions::from_mode(0o700))
                .tempdir_in(parent)?;
            match lock(dir.path()) {
                Locked::Ours(lock) if is_at(&lock, dir.path()) => {
                    remove_abandoned(parent, prefix, lock.metadata()?.uid());
                    return Ok(Self::adopt(dir.keep(), lock));
                }
                Locked::Unknown => {
                    let open = File::open(dir.path())?;
                    return Ok(Self::adopt(dir.keep(), open));
                }
                Locked::Ours(_) | Locked::Taken => {}
            }
        }
        Err(io::Error::other(format!("{}: somebody removes folders here as soon as they are made", parent.display())))
    }

    /// Takes over a folder that another process has made, and its descriptor with the lock.
    pub fn adopt(path: PathBuf, dir: File) -> Self {
        Self { path, is_named: false, dir }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name, instead of removing it; an empty folder of that name is replaced.
    pub fn rename(mut self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to)?;
        self.is_named = true;
        Ok(())
    }
}

impl AsFd for ScratchDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        if !self.is_named {
            // Before the lock goes: nobody takes it for abandoned meanwhile. What cannot be removed is left to the next run.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

enum Locked {
    Ours(File),
    /// By another run, which uses it or has removed it.
    Taken,
    /// A file system without locks, most likely.
    Unknown,
}

fn lock(path: &Path) -> Locked {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = match open(path, flags, Mode::empty()) {
        Ok(dir) => dir,
        Err(rustix::io::Errno::NOENT) => return Locked::Taken,
        Err(_) => return Locked::Unknown,
    };
    match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Locked::Ours(dir.into()),
        Err(rustix::io::Errno::WOULDBLOCK) => Locked::Taken,
        Err(_) => Locked::Unknown,
    }
}

/// Whether `path` still leads to the open folder.
fn is_at(dir: &File, path: &Path) -> bool {
    let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    dir.metadata().and_then(|open| Ok(same(open, fs::symlink_metadata(path)?))).unwrap_or(false)
}

/// What cannot be looked at or removed stays: it is in nobody's way.
fn remove_abandoned(parent: &Path, prefix: &str, own: u32) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let random = name.to_str().and_then(|name| name.strip_prefix(prefix));
        let ours = random.is_some_and(|r| r.len() == RANDOM && r.bytes().all(|b| b.is_ascii_alphanumeric()));
        // In /tmp anybody may make a folder of that name.
        if ours
            && entry.metadata().is_ok_and(|m| m.is_dir() && m.uid() == own)
            && let Locked::Ours(lock) = lock(&entry.path())
            && is_at(&lock, &entry.path())
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = ".pageferry-test-";

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// What a killed run leaves: the folder stays, the lock goes.
    fn abandon(mut scratch: ScratchDir) -> String {
        scratch.is_named = true;
        scratch.path.file_name().unwrap().to_str().unwrap().into()
    }

    #[test]
    fn what_a_killed_run_left_is_removed_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let abandoned = abandon(ScratchDir::create(parent.path(), PREFIX).unwrap());
        fs::create_dir(parent.path().join(&abandoned).join("inside")).unwrap();
        let running = ScratchDir::create(parent.path(), ".pageferry-test-").unwrap();
        assert!(!names(parent.path()).contains(&abandoned));
        let other = abandon(ScratchDir::create(parent.path(), ".pageferry-other-").unwrap());
        let not_ours = [format!("{PREFIX}mine"), format!("{PREFIX}with spaces "), format!("{PREFIX}twelve_chars")];
        not_ours.iter().for_each(|name| fs::create_dir(parent.path().join(name)).unwrap());
        std::os::unix::fs::symlink("/", parent.path().join(format!("{PREFIX}symboliclink"))).unwrap();
        let before = names(parent.path());
        drop(ScratchDir::create(parent.path(), PREFIX).unwrap());
        assert_eq!(names(parent.path()), before);
        assert!(running.path().is_dir() && before.contains(&other));
    }

    #[test]
    fn it_is_its_owners_alone_and_can_be_given_a_name() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = ScratchDir::create(parent.path(), PREFIX).unwrap();
        assert_eq!(fs::metadata(scratch.path()).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(scratch.path().join("file"), "x").unwrap();
        scratch.rename(&parent.path().join("named")).unwrap();
        assert_eq!(names(parent.path()), ["named"]);
        assert!(parent.path().join("named/file").exists());
    }

    #[test]
    fn runs_at_once_do_not_remove_each_others() {
        let parent = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let scratch = ScratchDir::create(parent.path(), PREFIX).unwrap();
                        fs::write(scratch.path().join("file"), "x").unwrap();
                    }
                });
            }
        });
        assert_eq!(names(parent.path()), [""; 0]);
    }
}
