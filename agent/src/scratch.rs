//! A folder for one restore, that the agent which ends it removes: not always the one that made it.

use anyhow::{Context, Result};
use std::{
    fs::{self, File},
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

/// Removed, with all that is in it, when this is dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    /// Held open: where it is can be seen from the descriptor.
    dir: File,
}

impl Scratch {
    pub(crate) fn make() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("pageferry-").tempdir().context("making a temporary directory")?;
        let dir = File::open(folder.path()).with_context(|| format!("opening {}", folder.path().display()))?;
        Ok(Self { path: folder.keep(), dir })
    }

    /// The one that another agent has made.
    pub(crate) fn inherit(path: PathBuf) -> Result<Self> {
        let dir = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        Ok(Self { path, dir })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Scratch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!("removing {}: {error}", self.path.display());
        }
    }
}
