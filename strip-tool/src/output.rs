//! A folder that appears whole or not at all.

use anyhow::{Context, Result, bail};
use page_store::ScratchDir;
use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// A folder that is filled beside its final place and moved there at the end. Dropped before, it is gone.
#[derive(Debug)]
pub(crate) struct OutputDir {
    target: PathBuf,
    /// Whether an empty folder was at that place.
    was_there: bool,
    growing: ScratchDir,
}

impl OutputDir {
    /// `target` must not exist, or be an empty folder.
    pub(crate) fn create(target: &Path) -> Result<Self> {
        let shown = target.display();
        let was_there = match fs::read_dir(target) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    bail!("{shown} is not empty; give a folder that is empty or does not exist");
                }
                true
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
            Err(e) => return Err(e).with_context(|| shown.to_string()),
        };
        if target.file_name().is_none() {
            bail!("{shown} has no name; give a folder by its name");
        }
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let growing = ScratchDir::create(parent, ".pageferry-out-");
        let growing = growing.with_context(|| format!("cannot make a folder in {}", parent.display()))?;
        Ok(Self { target: target.to_path_buf(), was_there, growing })
    }

    /// Where to write meanwhile: a folder inside ours, which does not exist yet.
    pub(crate) fn path(&self) -> PathBuf {
        self.growing.path().join("whole")
    }

    /// Moves it to its place. It keeps the permissions of an empty folder that was there, and is else its owner's alone: it holds
    /// the memory of processes. After an error it is not there.
    pub(crate) fn finish(&self) -> io::Result<()> {
        let from = self.path();
        let mode = fs::metadata(&self.target).map_or(0o700, |m| m.permissions().mode() & 0o7777);
        let parent = self.growing.path().parent().unwrap_or(Path::new("."));
        let in_place = fs::set_permissions(&from, Permissions::from_mode(mode))
            .and_then(|()| fs::rename(&from, &self.target))
            .and_then(|()| File::open(parent)?.sync_all().inspect_err(|_| self.take_back()));
        let shown = |e: io::Error| format!("cannot put {} in its place: {e}", self.target.display());
        in_place.map_err(|e| io::Error::new(e.kind(), shown(e)))
    }

    /// Undoes [`OutputDir::finish`], after a failure elsewhere. What cannot be taken back is whole, at least.
    pub(crate) fn take_back(&self) {
        let permissions = fs::metadata(&self.target).map(|m| m.permissions());
        if fs::rename(&self.target, self.path()).is_ok() && self.was_there {
            let _ = fs::create_dir(&self.target);
            let _ = permissions.and_then(|permissions| fs::set_permissions(&self.target, permissions));
        }
    }
}

/// Brings a folder and all in it to disk.
pub(crate) fn sync_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => sync_tree(&entry.path())?,
            kind if kind.is_file() => match File::open(entry.path()) {
                // Permissions are as in the checkpoint; the kernel writes it out without us, later.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
                file => file?.sync_all()?,
            },
            _ => {}
        }
    }
    File::open(folder)?.sync_all()
}
