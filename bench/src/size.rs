//! Stored size against dumped size, and the size of the index.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use pageferry_tests::{folder_size, tools};

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
    let row = [
        name.to_owned(),
        mb(dumped),
        mb(packs),
        kb(index),
        kb(slim),
        mb(all),
        format!("1/{ratio:.2}"),
        mb(zstd(&scene.checkpoint.dir)?),
    ];
    let figures = figures::stored(name, ratio).into_iter().collect();
    Ok(Outcome { figures, rows: vec![row.to_vec()], ..Outcome::default() })
}

/// The index objects of a checkpoint of 1 GB.
pub(crate) fn index(scene: &Scene) -> Result<Outcome> {
    let dumped = dumped_pages(&scene.checkpoint.dir)?;
    let index = folder_size(&scene.split()?.store.join("index"))?;
    let name = scene.subject.name;
    let title = format!("index of a checkpoint of {:.2} GB ({name})", dumped as f64 / 1e9);
    let samples = Samples::from_iter([index as f64 / 1024.0]);
    let figures = vec![Figure::below(title, figures::INDEX_KIB, "KiB", samples)];
    Ok(Outcome { figures, ..Outcome::default() })
}

/// The bytes of pages in a checkpoint: its `pages-*.img`.
pub(crate) fn dumped_pages(checkpoint: &Path) -> Result<u64> {
    pages_files(checkpoint)?.iter().map(|path| Ok(fs::metadata(path)?.len())).sum()
}

fn pages_files(checkpoint: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(checkpoint).with_context(|| checkpoint.display().to_string())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("pages-") {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// What zstd makes of the pages files.
fn zstd(checkpoint: &Path) -> Result<u64> {
    let mut zstd = Command::new(tools::program("zstd")?);
    zstd.args(["-3", "-T0", "-q", "-c"]).args(pages_files(checkpoint)?).stdout(Stdio::piped());
    let mut zstd = zstd.spawn().context("cannot start zstd")?;
    let bytes = io::copy(zstd.stdout.as_mut().context("stdout is piped")?, &mut io::sink())?;
    ensure!(zstd.wait()?.success(), "zstd failed");
    Ok(bytes)
}
