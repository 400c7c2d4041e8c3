//! Where image files come from.

use crate::Result;
use std::sync::Arc;

mod dir;
mod pages_file;

pub use dir::ImageDir;
pub use pages_file::{PagesFile, PagesReader};

/// A set of image files: a directory, or the members of an archive.
///
/// The folder or link `parent` at the top is not part of the set; it is what [`parent`](Self::parent) gives.
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
    /// Symbolic links and where they point, sorted, recursively.
    fn symlinks(&self) -> Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }
    /// Folders with nothing in them, sorted, recursively.
    fn empty_dirs(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    /// Permission bits of a regular file; what CRIU gives its images where a source does not know.
    fn mode(&self, _name: &str) -> Result<u32> {
        Ok(0o644)
    }
}

impl<S: ImageSource + ?Sized> ImageSource for Arc<S> {
    fn describe(&self, name: &str) -> String {
        (**self).describe(name)
    }
    fn names(&self) -> Result<Vec<String>> {
        (**self).names()
    }
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        (**self).read(name)
    }
    fn open(&self, name: &str) -> Result<Option<PagesFile>> {
        (**self).open(name)
    }
    fn parent(&self) -> Result<Option<Box<dyn ImageSource>>> {
        (**self).parent()
    }
    fn symlinks(&self) -> Result<Vec<(String, String)>> {
        (**self).symlinks()
    }
    fn empty_dirs(&self) -> Result<Vec<String>> {
        (**self).empty_dirs()
    }
    fn mode(&self, name: &str) -> Result<u32> {
        (**self).mode(name)
    }
}
