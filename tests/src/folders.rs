//! Comparing and measuring folders.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};

/// Both folders hold the same files with the same bytes (and links with the same targets).
pub fn assert_same_files(expected: &Path, actual: &Path) -> Result<()> {
    let (left, right) = (names(expected)?, names(actual)?);
    let missing: Vec<_> = left.keys().filter(|name| !right.contains_key(*name)).collect();
    let extra: Vec<_> = right.keys().filter(|name| !left.contains_key(*name)).collect();
    ensure!(missing.is_empty() && extra.is_empty(), "missing files: {missing:?}, extra files: {extra:?}");
    for (name, link) in &left {
        if link.is_some() {
            ensure!(right[name] == *link, "{name} links to {:?}, not {link:?}", right[name]);
            continue;
        }
        let (left, right) = (fs::read(expected.join(name))?, fs::read(actual.join(name))?);
        let same = left.iter().zip(&right).take_while(|(left, right)| left == right).count();
        ensure!(
            left == right,
            "{name} differs at byte {same}; it has {} bytes and should have {}",
            right.len(),
            left.len()
        );
    }
    Ok(())
}

/// Files by name, with the target of those that are links.
fn names(folder: &Path) -> Result<BTreeMap<String, Option<String>>> {
    let mut names = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        names.insert(name, fs::read_link(&path).ok().map(|target| target.display().to_string()));
    }
    Ok(names)
}

/// The bytes of all files in a folder and below.
pub fn folder_size(folder: &Path) -> Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        size += if metadata.is_dir() { folder_size(&entry.path())? } else { metadata.len() };
    }
    Ok(size)
}
