//! A store in a directory of this machine.

mod folder;
mod sync;

use super::{ObjectSink, ObjectWriter, StoreSink};
use crate::{Backend, Error, LocalBackend, MANIFEST_NAME, Manifest, ObjectRef, Result, folder::neighbours_of};
use folder::{is_object_name, make_folders, open_root};
use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};
use sync::Syncer;
use tempfile::TempDir;

/// Folders of a store, below its root.
const FOLDERS: [&str; 4] = ["index", "packs", "slim", "working-sets"];
/// Prefix of the folder in which objects grow. It is not part of the layout: nobody who reads a store looks there.
const INCOMING: &str = ".incoming-";
/// Frames are handed over in pieces of some 20 KiB.
const BUFFER_BYTES: usize = 256 << 10;

/// Writes a store to a directory.
///
/// Objects grow in a folder of their own below the root and are moved to their names once they are whole; when all are on
/// disk, `checkpoint.json` follows, by rename. Dropped without [`ObjectSink::commit`] it removes whatever it made, folders
/// included, and nothing else: a store that was there before stays as it was. A run that is killed leaves its folder
/// `.incoming-*`, and perhaps objects, but no `checkpoint.json`; the next run on the same path clears both.
///
/// One writer at a time: the directory is locked (`flock`) as long as this value lives.
#[derive(Debug)]
pub struct LocalSink {
    root: PathBuf,
    shared: Arc<Shared>,
    /// Before the lock, so that it is gone before another run can look.
    incoming: Option<TempDir>,
    _lock: File,
}

/// What the sink and the objects that it hands out have in common.
#[derive(Debug, Default)]
struct Shared {
    made: Mutex<Made>,
    syncer: Mutex<Option<Syncer>>,
}

impl Shared {
    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn syncer(&self) -> MutexGuard<'_, Option<Syncer>> {
        self.syncer.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Has an object synced before [`Shared::sync`] returns.
    fn sync_later(&self, path: PathBuf, object: File) -> Result<()> {
        let mut syncer = self.syncer();
        if syncer.get_or_insert_with(Syncer::start).sync_later(path, object) {
            return Ok(());
        }
        // It ended early, so it has an error.
        syncer.take().map_or(Ok(()), Syncer::finish)
    }

    fn sync(&self) -> Result<()> {
        let syncer = self.syncer().take();
        syncer.map_or(Ok(()), Syncer::finish)
    }
}

/// What this run made and would have to remove again.
#[derive(Debug, Default)]
struct Made {
    folders: Vec<PathBuf>,
    objects: Vec<PathBuf>,
    committed: bool,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let object = path.display().to_string();
    move |source| Error::Io { object, source }
}

fn refused(path: &Path, what: &str) -> Error {
    Error::Unsupported { object: path.display().to_string(), what: what.into() }
}

impl LocalSink {
    /// A store at `root`, which is made if it does not exist. Refused: a folder with anything in it that is not part of a store,
    /// and, unless `replace` is set, a store. With it, the old `checkpoint.json` stays in force until the new one takes its
    /// place; then the objects that only the old one named are removed, from under processes that still read them too.
    pub fn create(root: impl Into<PathBuf>, replace: bool) -> Result<Self> {
        let root = root.into();
        let mut made = Made::default();
        let opened = make_folders(&root, &mut made).and_then(|()| open_root(&root, replace));
        match opened {
            Ok((lock, incoming)) => {
                let shared = Arc::new(Shared { made: Mutex::new(made), syncer: Mutex::default() });
                Ok(Self { root, shared, incoming: Some(incoming), _lock: lock })
            }
            Err(e) => {
                made.undo();
                Err(e)
            }
        }
    }

    /// Its root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn incoming(&self) -> &Path {
        self.incoming.as_ref().map_or(&self.root, TempDir::path)
    }

    /// Removes objects that neither `manifest` names nor a store beside this one: those of the store that it replaced, or of a run that was
    /// killed.
    fn prune(&self, manifest: &Manifest) {
        let named: HashSet<PathBuf> = manifest.own_objects().map(|o| self.root.join(&o.object)).collect();
        let entries = FOLDERS.iter().filter_map(|f| fs::read_dir(self.root.join(f)).ok()).flatten().flatten();
        let is_old = |entry: &fs::DirEntry| {
            is_object_name(&entry.file_name().to_string_lossy()) && !named.contains(&entry.path())
        };
        let old: Vec<PathBuf> = entries.filter(is_old).map(|entry| entry.path()).collect();
        if old.is_empty() {
            return;
        }
        // The order matters: whoever shares a pack of the old store from now on finds that its manifest has changed.
        let neighbours = match neighbours_of(&self.root) {
            Ok(neighbours) => neighbours,
            Err(error) => return tracing::warn!("{error}; so what the old store had is left where it is"),
        };
        let name = self.root.canonicalize().ok().and_then(|root| Some(root.file_name()?.to_str()?.to_owned()));
        let name = name.unwrap_or_default();
        for path in old {
            let object = path.strip_prefix(&self.root).ok().and_then(Path::to_str);
            if !object.is_some_and(|object| neighbours.need(&name, object)) {
                // What cannot be removed is not named any more: it costs room, nothing else.
                let _ = fs::remove_file(path);
            }
        }
    }
}

fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(at(path))
}

impl ObjectSink for LocalSink {
    fn begin(&self) -> Result<Box<dyn ObjectWriter>> {
        let file = tempfile::Builder::new()
            .prefix("object-")
            .make_in(self.incoming(), |path| File::create_new(path))
            .map_err(at(self.incoming()))?;
        let (file, path) = file.into_parts();
        let file = BufWriter::with_capacity(BUFFER_BYTES, file);
        Ok(Box::new(LocalObject { file, path, root: self.root.clone(), shared: self.shared.clone() }))
    }

    fn commit(&self, manifest: &[u8]) -> Result<()> {
        self.commit_after(manifest, &mut || Ok(()))
    }
}

impl StoreSink for LocalSink {
    fn is_committed(&self) -> bool {
        self.shared.made().committed
    }

    fn has(&self, object: &ObjectRef) -> bool {
        fs::metadata(self.root.join(&object.object)).is_ok_and(|there| there.len() == object.size)
    }

    fn written(&self) -> Result<Arc<dyn Backend>> {
        Ok(Arc::new(LocalBackend::new(&self.root)))
    }

    fn commit_after(&self, manifest: &[u8], before: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let target = self.root.join(MANIFEST_NAME);
        let parsed = Manifest::parse(&target.display().to_string(), manifest)?;
        self.shared.sync()?;
        for folder in FOLDERS.map(|f| self.root.join(f)) {
            if folder.is_dir() {
                sync_dir(&folder)?;
            }
        }
        sync_dir(&self.root)?;
        let growing = self.incoming().join(MANIFEST_NAME);
        let write = || {
            let mut file = File::create(&growing)?;
            file.write_all(manifest)?;
            file.sync_all()
        };
        write().map_err(at(&growing))?;
        before()?;
        fs::rename(&growing, &target).map_err(at(&target))?;
        // From here on it is a store; what fails now is said, but nothing is taken back.
        let made = {
            let mut made = self.shared.made();
            made.committed = true;
            made.folders.clone()
        };
        sync_dir(&self.root)?;
        for parent in made.iter().filter_map(|f| f.parent()).filter(|p| !p.as_os_str().is_empty()) {
            sync_dir(parent)?;
        }
        self.prune(&parsed);
        Ok(())
    }
}

impl Made {
    /// Removes it, newest first. Errors are not reported: there is one already, and what remains is no store.
    fn undo(&mut self) {
        for object in self.objects.drain(..).rev() {
            let _ = fs::remove_file(object);
        }
        for folder in self.folders.drain(..).rev() {
            let _ = fs::remove_dir(folder);
        }
    }
}

impl Drop for LocalSink {
    fn drop(&mut self) {
        self.incoming = None;
        // What is about to be removed need not be synced, but the thread is ours.
        let _ = self.shared.sync();
        let mut made = self.shared.made();
        if !made.committed {
            made.undo();
        }
    }
}

/// An object in the folder of incoming ones; removed with it, or on drop.
struct LocalObject {
    file: BufWriter<File>,
    path: tempfile::TempPath,
    root: PathBuf,
    shared: Arc<Shared>,
}

impl LocalObject {
    /// A full disk is best told by which disk it is.
    fn in_store(&self) -> impl FnOnce(io::Error) -> io::Error {
        let root = self.root.display().to_string();
        move |e| io::Error::new(e.kind(), format!("{root}: {e}"))
    }
}

impl Write for LocalObject {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes).map_err(self.in_store())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush().map_err(self.in_store())
    }
}

impl ObjectWriter for LocalObject {
    /// An object of that name that is there already is replaced: its bytes are the same, unless they have rotted.
    fn finish(self: Box<Self>, name: &str) -> Result<()> {
        let target = self.root.join(name);
        let file = self.file.into_inner().map_err(|e| at(&target)(e.into_error()))?;
        let is_new = !target.exists();
        if !is_new {
            // A store in force may name it: a power cut must not leave it half.
            file.sync_all().map_err(at(&target))?;
        }
        {
            let mut made = self.shared.made();
            if let Some(folder) = target.parent() {
                make_folders(folder, &mut made)?;
            }
            self.path.persist(&target).map_err(|e| at(&target)(e.error))?;
            if is_new {
                made.objects.push(target.clone());
            }
        }
        if is_new { self.shared.sync_later(target, file) } else { Ok(()) }
    }
}
