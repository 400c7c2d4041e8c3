//! Where image files come from.

use crate::{Error, Result};
use std::{fs::File, path::PathBuf, sync::Arc};

/// A set of image files: a directory, or the members of an archive.
pub trait ImageSource: Send + Sync {
    /// `name` as the user would type it (path of the file), for messages.
    fn describe(&self, name: &str) -> String;
    /// Relative paths of all regular files, sorted, recursively ('/' between components).
    fn names(&self) -> Result<Vec<String>>;
    /// A small image file, whole. `None` if it does not exist.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>>;
    /// A file to be read in place (pages files, and for copying). `None` if it does not exist.
    fn open(&self, name: &str) -> Result<Option<PagesFile>>;
    /// The checkpoint that this one builds on, if it is incremental.
    fn parent(&self) -> Result<Option<Box<dyn ImageSource>>>;
}

/// A directory on disk.
#[derive(Debug)]
pub struct ImageDir {
    path: PathBuf,
}

impl ImageDir {
    /// Opens a directory.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        Ok(Self { path: path.into() })
    }
}

impl ImageSource for ImageDir {
    fn describe(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
    fn names(&self) -> Result<Vec<String>> {
        todo!()
    }
    fn read(&self, _name: &str) -> Result<Option<Vec<u8>>> {
        todo!()
    }
    fn open(&self, _name: &str) -> Result<Option<PagesFile>> {
        todo!()
    }
    fn parent(&self) -> Result<Option<Box<dyn ImageSource>>> {
        todo!()
    }
}

/// A file, or a slice of an archive, that is read in place by position.
#[derive(Debug, Clone)]
pub struct PagesFile {
    name: String,
    file: Arc<File>,
    base: u64,
    len: u64,
}

impl PagesFile {
    /// `len` bytes of `file` from byte `base`; `name` is for messages.
    pub fn new(name: String, file: Arc<File>, base: u64, len: u64) -> Self {
        Self { name, file, base, len }
    }
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }
    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Name for messages.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Fills `buf` from byte `offset`; an error if the file ends before.
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        use std::os::unix::fs::FileExt;
        let io = |source| Error::Io { file: self.name.clone(), source };
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io(std::io::ErrorKind::UnexpectedEof.into()));
        }
        self.file.read_exact_at(buf, self.base + offset).map_err(io)
    }
}
