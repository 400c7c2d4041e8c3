//! A folder that appears whole or not at all.

use anyhow::{Context, Result, bail};
use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// A folder that is filled beside its final place and moved there at the end. Dropped before, it is gone.
#[derive(Debug)]
pub(crate) struct OutputDir {
    target: PathBuf,
    growing: TempDir,
}

impl OutputDir {
    /// `target` must not exist, or be an empty folder.
    pub(crate) fn create(target: &Path) -> Result<Self> {
        let shown = target.display();
        match fs::read_dir(target) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    bail!("{shown} is not empty; give a folder that is empty or does not exist");
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).with_context(|| shown.to_string()),
        }
        let Some(name) = target.file_name() else { bail!("{shown} has no name; give a folder by its name") };
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let prefix = format!(".{}.", name.to_string_lossy());
        let growing = tempfile::Builder::new().prefix(&prefix).tempdir_in(parent);
        let growing = growing.with_context(|| format!("cannot make a folder in {}", parent.display()))?;
        Ok(Self { target: target.to_path_buf(), growing })
    }

    /// Where to write meanwhile: a folder inside ours, which does not exist yet.
    pub(crate) fn path(&self) -> PathBuf {
        self.growing.path().join("whole")
    }

    /// Moves it to its place. It keeps the permissions of an empty folder that was there, and is else its owner's alone: it holds
    /// the memory of processes.
    pub(crate) fn finish(self) -> Result<()> {
        let from = self.path();
        let mode = fs::metadata(&self.target).map_or(0o700, |m| m.permissions().mode() & 0o7777);
        let shown = || format!("cannot put {} in its place", self.target.display());
        fs::set_permissions(&from, fs::Permissions::from_mode(mode)).with_context(shown)?;
        fs::rename(&from, &self.target).with_context(shown)?;
        if let Some(parent) = self.growing.path().parent() {
            File::open(parent).and_then(|dir| dir.sync_all()).with_context(shown)?;
        }
        Ok(())
    }
}
