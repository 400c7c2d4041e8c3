//! `rm`: a store, and nothing that another one needs.

use crate::{Stop, human};
use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use page_store::{Folder, MANIFEST_NAME};
use serde::Serialize;
use std::fmt;

/// Objects that are removed at once.
const AT_ONCE: usize = 16;

/// What to remove.
#[derive(Debug, Clone)]
pub struct RmOptions {
    /// Path or address of the store.
    pub store: String,
    /// Only say what would go.
    pub dry_run: bool,
}

/// What went.
#[derive(Debug, Clone, Serialize)]
pub struct RmReport {
    /// The store.
    pub store: String,
    /// Identity of the checkpoint.
    pub checkpoint_id: String,
    /// Objects that were removed, `checkpoint.json` among them.
    pub objects: usize,
    /// Their bytes, without `checkpoint.json`.
    pub bytes: u64,
    /// Whether nothing was removed, as that was asked for.
    pub dry_run: bool,
}

/// Removes `checkpoint.json` first, so that no reader finds half a store, then what it named.
pub async fn rm(options: &RmOptions, stop: &Stop) -> Result<RmReport> {
    let store = Folder::parse(&options.store)?;
    let manifest = store.manifest().await.with_context(|| format!("{} cannot be removed", options.store))?;
    let objects: Vec<_> = manifest.objects().cloned().collect();
    let report = RmReport {
        store: options.store.clone(),
        checkpoint_id: manifest.checkpoint_id,
        objects: objects.len() + 1,
        bytes: objects.iter().map(|object| object.size).sum(),
        dry_run: options.dry_run,
    };
    if options.dry_run {
        return Ok(report);
    }
    stop.check()?;
    store.remove(MANIFEST_NAME).await?;
    // From here on it is no store any more: what is left of it is only room, so a signal does not end this.
    let removed = stream::iter(&objects).map(|object| store.remove(&object.object)).buffer_unordered(AT_ONCE);
    removed
        .try_collect::<Vec<()>>()
        .await
        .context("checkpoint.json is gone; what else is left can be removed by hand")?;
    store.remove_empty_folders().await;
    Ok(report)
}

impl fmt::Display for RmReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.dry_run { "would remove" } else { "removed" };
        writeln!(f, "{verb} {} objects, {}, of {}", self.objects, human::bytes(self.bytes), self.store)
    }
}
