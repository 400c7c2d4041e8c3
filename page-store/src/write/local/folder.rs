//! The folder that a store is to be in: made, locked, checked.

use super::{FOLDERS, INCOMING, Made, at, refused};
use crate::{MANIFEST_NAME, Result, manifest};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use std::{
    fs::{self, File},
    io,
    path::Path,
};
use tempfile::TempDir;

/// `<64 hex digits>.<extension>`
pub(super) fn is_object_name(name: &str) -> bool {
    name.split_once('.').is_some_and(|(stem, _)| stem.len() == 64 && stem.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Makes `path` and what lacks above it, noting each.
pub(super) fn make_folders(path: &Path, made: &mut Made) -> Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_folders(parent, made)?;
    }
    match fs::create_dir(path) {
        Ok(()) => made.folders.push(path.into()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(e) => return Err(at(path)(e)),
    }
    Ok(())
}

/// Locks the root, checks that it may be written to, clears what a killed run left.
pub(super) fn open_root(root: &Path, replace: bool) -> Result<(File, TempDir)> {
    let lock = File::open(root).map_err(at(root))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
        Errno::WOULDBLOCK => refused(root, "another run is writing to it; wait for that, or choose another place"),
        errno => at(root)(errno.into()),
    })?;
    let mut left_over = Vec::new();
    for entry in fs::read_dir(root).map_err(at(root))? {
        let entry = entry.map_err(at(root))?;
        match entry.file_name().to_string_lossy().as_ref() {
            MANIFEST_NAME => may_replace(&entry.path(), replace)?,
            name if name.starts_with(INCOMING) => left_over.push(entry.path()),
            name if FOLDERS.contains(&name) || name == "lost+found" => {}
            name => {
                let what = format!("neither empty nor a page store (it has {name:?}); give a new or empty folder");
                return Err(refused(root, &what));
            }
        }
    }
    for path in left_over {
        fs::remove_dir_all(&path).map_err(at(&path))?;
    }
    let incoming = tempfile::Builder::new().prefix(INCOMING).tempdir_in(root).map_err(at(root))?;
    Ok((lock, incoming))
}

fn may_replace(path: &Path, replace: bool) -> Result<()> {
    if !replace {
        let what = "there is a page store already; give another place, or say --replace to put this one in its stead";
        return Err(refused(path, what));
    }
    let json = fs::read(path).map_err(at(path))?;
    let value: serde_json::Value = serde_json::from_slice(&json).unwrap_or_default();
    if value.get("format").and_then(|f| f.as_str()) == Some(manifest::FORMAT) {
        return Ok(());
    }
    Err(refused(path, "not the manifest of a page store, so nothing here is replaced; give another place"))
}
