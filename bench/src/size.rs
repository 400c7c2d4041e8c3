//! Stored size against dumped size, and the size of the index.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use pageferry_tests::folder_size;

use crate::{
    figures::{self, Figure},
    report::Outcome,
    run::Scene,
    stats::Samples,
};

/// Everything that the store holds, per byte of dumped pages.
pub(crate) fn stored(scene: &Scene) -> Result<Outcome> {
    let store = scene.split()?.store.as_path();
    let dumped = dumped_pages(&scene.checkpoint.dir)?;
    let part = |name: &str| folder_size(&store.join(name));
    let (packs, index, slim) = (part("packs")?, part("index")?, part("slim")?);
    let all = folder_size(store)?;
    let ratio = dumped as f64 / all as f64;
    let name = scene.subject.name;
    let (mb, kb) =
        (|bytes: u64| format!("{:.1}", bytes as f64 / 1e6), |bytes: u64| format!("{:.1}", bytes as f64 / 1e3));
    let row = [name.to_owned(), mb(dumped), mb(packs), kb(index), kb(slim), mb(all), format!("1/{ratio:.2}")];
    let figures = figures::stored(name, ratio).into_iter().collect();
    Ok(Outcome { figures, rows: vec![row.to_vec()] })
}

/// The index objects of a checkpoint of 1 GB.
pub(crate) fn index(scene: &Scene) -> Result<Outcome> {
    let dumped = dumped_pages(&scene.checkpoint.dir)?;
    let index = folder_size(&scene.split()?.store.join("index"))?;
    let name = scene.subject.name;
    let title = format!("index of a checkpoint of {:.2} GB ({name})", dumped as f64 / 1e9);
    let samples = Samples::from_iter([index as f64 / 1024.0]);
    Ok(Outcome { figures: vec![Figure::below(title, figures::INDEX_KIB, "KiB", samples)], rows: Vec::new() })
}

/// The bytes of pages in a checkpoint: its `pages-*.img`.
pub(crate) fn dumped_pages(checkpoint: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(checkpoint).with_context(|| checkpoint.display().to_string())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("pages-") {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes)
}
