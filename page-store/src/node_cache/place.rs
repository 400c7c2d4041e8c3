//! What a cache would find at a place, before there is one. Nothing stays changed there.

use super::folder::{Folder, is_cache, try_lock};
use crate::{Error, Result};
use rustix::fs::{OFlags, fstatfs, fstatvfs};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Where a write ends up that a cache makes: past the end of the file, as records come after a table that has room for more.
const FAR: u64 = 128 << 10;

/// A folder, as a cache sees it.
#[derive(Debug)]
pub struct CachePlace {
    /// Whether it is a cache already.
    pub is_cache: bool,
    /// If it is not there: the folder that is, and that it would be made in.
    pub made_in: Option<PathBuf>,
    /// What the cache takes on the disk, in bytes.
    pub used: u64,
    /// What is free there for this user, in bytes.
    pub free: u64,
    /// Whether the file system has no room for one more file, however small.
    pub has_no_inodes: bool,
    /// Name of the file system if it is none of a disk of this machine.
    pub file_system: Option<&'static str>,
    /// What went wrong when a file was written.
    pub write: io::Result<()>,
    /// What went wrong when that was locked.
    pub lock: io::Result<()>,
    /// Whether a new file is its owner's alone, as it was made.
    pub keeps_modes: bool,
}

impl CachePlace {
    /// Looks. A folder that a cache would refuse is [`Error::Unsupported`]; other errors say why there can be none. May wait for the disk.
    pub fn look(folder: &Path) -> Result<Self> {
        let failed = |source| Error::Io { object: folder.display().to_string(), source };
        let there = nearest(folder).map_err(failed)?;
        let made_in = (there != folder).then(|| there.clone());
        let is_cache = made_in.is_none() && is_cache(folder)?;
        let used = match is_cache {
            true => Folder::unlocked(folder).segments().map_err(failed)?.iter().map(|segment| segment.used).sum(),
            false => 0,
        };
        let opened = File::open(&there).map_err(failed)?;
        let (disk, kind) = (fstatvfs(&opened), fstatfs(&opened));
        let (disk, kind) = (disk.map_err(|e| failed(e.into()))?, kind.map_err(|e| failed(e.into()))?);
        let mut place = Self {
            is_cache,
            made_in,
            used,
            free: disk.f_bavail.saturating_mul(disk.f_frsize),
            // Some file systems make them as they need them, and say that they have none at all.
            has_no_inodes: disk.f_files > 0 && disk.f_favail == 0,
            file_system: name(kind.f_type as u64 & 0xffff_ffff),
            write: Ok(()),
            lock: Ok(()),
            keeps_modes: true,
        };
        match unnamed(&there).and_then(|file| write(&file).map(|()| file)) {
            Ok(file) => {
                place.lock = try_lock(&file).map(drop);
                let user = rustix::process::geteuid().as_raw();
                place.keeps_modes =
                    file.metadata().is_ok_and(|file| file.uid() == user && file.mode() & 0o777 == 0o600);
            }
            Err(error) => place.write = Err(error),
        }
        Ok(place)
    }
}

/// The folder, or the one nearest to it on the way up that is there.
fn nearest(folder: &Path) -> io::Result<PathBuf> {
    for path in folder.ancestors() {
        // "" is what comes above a name alone.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => return Ok(path.into()),
            Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if fs::symlink_metadata(path).is_ok() {
                    return Err(io::Error::new(io::ErrorKind::NotFound, "it is a link to nothing"));
                }
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// A file that nobody finds: it has no name, or where that cannot be, loses it at once.
fn unnamed(folder: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(OFlags::TMPFILE.bits() as i32);
    options.open(folder).or_else(|_| tempfile::tempfile_in(folder))
}

fn write(file: &File) -> io::Result<()> {
    let (sent, mut back) = ([7; 4096], [0; 4096]);
    file.write_all_at(&sent, FAR)?;
    file.sync_all()?;
    file.read_exact_at(&mut back, FAR)?;
    match back == sent {
        true => Ok(()),
        false => Err(io::Error::other("what was written there is read as something else")),
    }
}

/// Of the numbers in linux/magic.h and statfs(2).
fn name(magic: u64) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "NFS",
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x00c3_6400 => "Ceph",
        0x5346_414f => "AFS",
        0x0102_1997 => "9p",
        0x6573_5546 => "FUSE",
        0x0102_1994 => "tmpfs",
        0x8584_58f6 => "ramfs",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CacheCounters, MIN_CACHE_BYTES, NodeCache};
    use std::{os::unix::fs::PermissionsExt, sync::Arc};

    #[test]
    fn nothing_is_made_and_what_is_there_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let place = CachePlace::look(&at("a/b")).unwrap();
        assert_eq!((place.is_cache, place.made_in.as_deref()), (false, Some(dir.path())));
        assert!(place.free > 0 && place.used == 0 && !place.has_no_inodes && place.keeps_modes);
        assert!(place.write.is_ok() && place.lock.is_ok(), "{place:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

        fs::create_dir(at("empty")).unwrap();
        let place = CachePlace::look(&at("empty")).unwrap();
        assert_eq!((place.is_cache, place.made_in), (false, None));
        assert_eq!(fs::read_dir(at("empty")).unwrap().count(), 0);

        drop(NodeCache::open(&at("cache"), MIN_CACHE_BYTES, Arc::<CacheCounters>::default()).unwrap());
        assert!(CachePlace::look(&at("cache")).unwrap().is_cache);
    }

    #[test]
    fn what_a_cache_refuses_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("photos")).unwrap();
        fs::write(at("photos/one.jpg"), "").unwrap();
        fs::create_dir(at("open")).unwrap();
        fs::set_permissions(at("open"), fs::Permissions::from_mode(0o777)).unwrap();
        for name in ["photos", "open"] {
            assert!(matches!(CachePlace::look(&at(name)), Err(Error::Unsupported { .. })), "{name}");
        }
        std::os::unix::fs::symlink(at("nowhere"), at("link")).unwrap();
        for name in ["photos/one.jpg", "photos/one.jpg/below", "link", "link/below"] {
            assert!(matches!(CachePlace::look(&at(name)), Err(Error::Io { .. })), "{name}");
        }
        assert_eq!(nearest(Path::new("no-such-folder-here")).unwrap(), Path::new("."));
    }
}
