//! A folder per test.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::tools;

/// A folder of its own for each test and run, below the target directory (dumps are large, and `/tmp` may be memory).
/// It goes away with the test, unless `PAGEFERRY_KEEP` is set.
pub struct Workdir {
    path: PathBuf,
    /// Removes the folder when dropped.
    _temporary: Option<tempfile::TempDir>,
}

impl Workdir {
    /// `name` only helps a reader of the folder list.
    pub fn new(name: &str) -> Result<Self> {
        let base = tools::target()?.join("tmp");
        std::fs::create_dir_all(&base).with_context(|| base.display().to_string())?;
        let mut temporary = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(&base)?;
        temporary.disable_cleanup(std::env::var_os("PAGEFERRY_KEEP").is_some());
        Ok(Self { path: temporary.path().to_path_buf(), _temporary: Some(temporary) })
    }

    /// A folder that stays.
    pub fn at(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path).with_context(|| path.display().to_string())?;
        Ok(Self { path: path.canonicalize()?, _temporary: None })
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder in it, made if need be.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(path)
    }
}
