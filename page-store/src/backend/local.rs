//! Objects in a directory.

use super::{Backend, ByteStream, buffers::Buffers, check_range};
use crate::{Error, Result, names};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use criu_images::PagesFile;
use futures::{StreamExt, stream};
use rustix::io::{Errno, ReadWriteFlags};
use std::{
    collections::HashMap,
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::task::spawn_blocking;

/// Bytes of a range that are read at once: large enough for a disk to stream, small enough that the first frame of an extent does
/// not wait for the last.
pub(super) const CHUNK: u64 = 256 << 10;
/// Files that are kept open. A pack is 64 MiB: what is open covers 8 GiB.
const OPEN_FILES: usize = 128;
/// Buffers that wait for the next read: 2 MiB, and more reads than this at once are rare.
const KEPT_BUFFERS: usize = 8;

impl Default for Buffers {
    /// For chunks of files.
    fn default() -> Self {
        Self::new(to_usize(CHUNK), KEPT_BUFFERS)
    }
}

/// A directory. What the page cache holds is read at once; what it does not, on the runtime's blocking threads.
#[derive(Debug, Clone)]
pub struct LocalBackend {
    root: PathBuf,
    files: Arc<OpenFiles>,
    buffers: Arc<Buffers>,
}

impl LocalBackend {
    /// Objects below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), files: Arc::default(), buffers: Arc::default() }
    }

    fn path(&self, object: &str) -> Result<PathBuf> {
        if names::is_object(object) {
            return Ok(self.root.join(object));
        }
        let what = format!("{object:?} is not a name that a store can have");
        Err(Error::Unsupported { object: self.root.display().to_string(), what })
    }
}

#[async_trait]
impl Backend for LocalBackend {
    fn describe(&self, object: &str) -> String {
        self.root.join(object).display().to_string()
    }

    async fn get(&self, object: &str, limit: u64) -> Result<Bytes> {
        let path = self.path(object)?;
        blocking(move || {
            let (file, len) = open(&path)?;
            check_limit(&path.display().to_string(), len, limit)?;
            let mut bytes = BytesMut::zeroed(to_usize(len));
            file.read_exact_at(&mut bytes, 0).map_err(|e| failed(&path, e))?;
            Ok(bytes.freeze())
        })
        .await
    }

    async fn get_range(&self, object: &str, range: Range<u64>) -> Result<ByteStream> {
        check_range(|| self.describe(object), &range)?;
        let file = match self.files.get(object) {
            Some(file) => file,
            None => {
                let (files, name, path) = (Arc::clone(&self.files), object.to_owned(), self.path(object)?);
                let buffers = Arc::clone(&self.buffers);
                blocking(move || {
                    let file = open(&path)?.0;
                    Ok(files.keep(name, Opened::new(path.into(), file, buffers)))
                })
                .await?
            }
        };
        Ok(stream_range(file, range))
    }

    fn fresh(&self) -> Arc<dyn Backend> {
        Arc::new(self.clone())
    }
}

/// What a range is streamed from.
pub(crate) trait Positioned: Clone + Send + Sync + 'static {
    /// The bytes, if all of them can be had without waiting for a disk.
    fn read_cached(&self, at: u64, len: usize) -> Option<Bytes>;
    /// Fills `buffer`; may wait.
    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> Result<()>;
}

/// Streams `range` of `file`.
pub(crate) fn stream_range(file: impl Positioned, range: Range<u64>) -> ByteStream {
    stream::try_unfold((file, range), move |(file, range)| async move {
        if range.is_empty() {
            return Ok(None);
        }
        let end = range.end.min(range.start.saturating_add(CHUNK));
        let bytes = read_at(&file, range.start..end).await?;
        Ok(Some((bytes, (file, end..range.end))))
    })
    .boxed()
}

/// Reads a range that is no longer than [`CHUNK`].
pub(crate) async fn read_at(file: &impl Positioned, range: Range<u64>) -> Result<Bytes> {
    let (at, len) = (range.start, to_usize(range.end - range.start));
    if let Some(bytes) = file.read_cached(at, len) {
        return Ok(bytes);
    }
    let file = file.clone();
    let read = move || {
        let mut bytes = BytesMut::zeroed(len);
        file.read_exact_at(&mut bytes, at)?;
        Ok(bytes.freeze())
    };
    blocking(read).await
}

/// An open file, and what to call it.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    path: Arc<Path>,
    pub(crate) file: Arc<File>,
    buffers: Arc<Buffers>,
}

impl Opened {
    pub(crate) fn new(path: Arc<Path>, file: File, buffers: Arc<Buffers>) -> Self {
        Self { path, file: Arc::new(file), buffers }
    }
}

impl Positioned for Opened {
    /// A blocking thread costs more than the copy: measured for a frame that is in the page cache, 7 us here and 16 us there.
    /// Where RWF_NOWAIT is not known (old kernels, some file systems) the answer is `None`.
    fn read_cached(&self, at: u64, len: usize) -> Option<Bytes> {
        let mut buffer = self.buffers.take();
        loop {
            let into = &mut [io::IoSliceMut::new(buffer.room(len)?)];
            return match rustix::io::preadv2(&*self.file, into, at, ReadWriteFlags::NOWAIT) {
                Ok(read) if read == len => Some(buffer.freeze(len)),
                Err(Errno::INTR) => continue,
                _ => None,
            };
        }
    }

    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> Result<()> {
        self.file.read_exact_at(buffer, at).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => Error::Corrupt {
                object: self.path.display().to_string(),
                place: format!("bytes {at}..{}", at.saturating_add(buffer.len() as u64)),
                problem: "the file ends before".into(),
            },
            _ => Error::Io { object: self.path.display().to_string(), source },
        })
    }
}

impl Positioned for PagesFile {
    fn read_cached(&self, _at: u64, _len: usize) -> Option<Bytes> {
        None
    }
    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> Result<()> {
        Ok(PagesFile::read_exact_at(self, buffer, at)?)
    }
}

/// An error, before anything is read, for an object that is larger than it should be.
pub(crate) fn check_limit(object: &str, len: u64, limit: u64) -> Result<()> {
    if len <= limit {
        return Ok(());
    }
    let problem = format!("{len} bytes; at most {limit} were expected");
    Err(Error::Corrupt { object: object.into(), place: "length".into(), problem })
}

/// Opens a regular file.
fn open(path: &Path) -> Result<(File, u64)> {
    // Asked by path first: opening a fifo would wait for a writer.
    let metadata = std::fs::metadata(path).map_err(|e| failed(path, e))?;
    if !metadata.is_file() {
        return Err(Error::Unsupported { object: path.display().to_string(), what: "not a regular file".into() });
    }
    let file = File::open(path).map_err(|e| failed(path, e))?;
    let len = file.metadata().map_err(|e| failed(path, e))?.len();
    Ok((file, len))
}

fn failed(path: &Path, source: io::Error) -> Error {
    let object = path.display().to_string();
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Error::NotFound { object },
        _ => Error::Io { object, source },
    }
}

fn to_usize(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

/// Runs `work` where it may wait for a disk.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        // The runtime is going away.
        Err(e) => Err(Error::unavailable("local file", e.to_string())),
    }
}

/// Packs that were opened, by name. Objects never change, so an open file stays good even after a new store took the name.
#[derive(Debug, Default)]
struct OpenFiles(Mutex<HashMap<String, Opened>>);

impl OpenFiles {
    fn get(&self, name: &str) -> Option<Opened> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn keep(&self, name: String, file: Opened) -> Opened {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if files.len() >= OPEN_FILES {
            // Any order will do: opening again costs microseconds.
            files.clear();
        }
        files.insert(name, file.clone());
        file
    }
}
