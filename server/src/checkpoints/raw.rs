//! Checkpoints as `criu dump` left them, in folders of this machine.

use page_store::MANIFEST_NAME;
use std::{fs, os::unix::fs::MetadataExt, path::Path};

/// What every unpacked slim dump has (page-store/FORMAT.md, "The slim dump").
const SLIM_MARK: &str = ".pageferry/checkpoint-id";

/// What changes when a folder gets another raw checkpoint: device, inode and time of the `inventory.img`, which is written last.
pub(super) type Stamp = (u64, u64, i64, i64);

/// `None` unless a raw checkpoint is there, and no store as well.
pub(super) fn stamp(location: &str) -> Option<Stamp> {
    let folder = Path::new(location);
    let inventory = fs::metadata(folder.join("inventory.img")).ok()?;
    let is_store = folder.join(MANIFEST_NAME).exists();
    // A slim dump lacks the pages that are asked for.
    let is_slim = folder.join(SLIM_MARK).exists();
    (!is_store && !is_slim).then(|| (inventory.dev(), inventory.ino(), inventory.mtime(), inventory.mtime_nsec()))
}

/// Names of raw checkpoints in a folder.
pub(super) fn below(location: &str) -> Vec<String> {
    let entries = fs::read_dir(location).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| !name.starts_with('.') && stamp(&format!("{location}/{name}")).is_some()).collect()
}

/// Whether there are files in a folder, and not only folders.
pub(super) fn has_files(location: &str) -> bool {
    fs::read_dir(location).is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|entry| entry.path().is_file())))
}
