//! `rm`: a store, and nothing that another one needs.

use crate::{Stop, human};
use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use page_store::{Error, Folder, MANIFEST_NAME, Manifest, Neighbours, ObjectRef};
use serde::Serialize;
use std::{collections::BTreeSet, fmt};

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
    /// Packs that stay, as stores beside it share them.
    pub kept: usize,
    /// Their bytes.
    pub kept_bytes: u64,
    /// Whether nothing was removed, as that was asked for.
    pub dry_run: bool,
}

/// Removes `checkpoint.json` first, so that no reader finds half a store, then what it named and no store beside it names.
pub async fn rm(options: &RmOptions, stop: &Stop) -> Result<RmReport> {
    stop.check()?;
    // From the moment that `checkpoint.json` is gone it is no store any more: what is left of it is only room, so a signal does not end this.
    remove(options).await
}

pub(crate) async fn remove(options: &RmOptions) -> Result<RmReport> {
    let store = Folder::parse(&options.store)?;
    let cannot = || format!("{} cannot be removed", options.store);
    let manifest = store.manifest().await.with_context(cannot)?;
    let unknown =
        || format!("{}: what stores beside it need of it cannot be told; mend or remove that one first", cannot());
    let mut neighbours = store.neighbours().await.with_context(unknown)?;
    if !options.dry_run {
        store.remove(MANIFEST_NAME).await?;
        // Only now: a store that shares its packs, and came after the first look, sees from here on that it is gone.
        neighbours = store.neighbours().await.context(LEFT)?;
    }
    let plan = Plan::new(&store, &manifest, &neighbours)?;
    if !options.dry_run {
        plan.carry_out().await?;
    }
    let bytes = |objects: &[&ObjectRef]| objects.iter().map(|object| object.size).sum();
    let gone: Vec<&ObjectRef> = plan.gone.iter().map(|(_, _, object)| *object).collect();
    Ok(RmReport {
        store: options.store.clone(),
        checkpoint_id: manifest.checkpoint_id.clone(),
        objects: gone.len() + 1,
        bytes: bytes(&gone),
        kept: plan.kept.len(),
        kept_bytes: bytes(&plan.kept),
        dry_run: options.dry_run,
    })
}

const LEFT: &str = "checkpoint.json is gone; what else is left can be removed by hand";

/// What goes and what stays.
struct Plan<'a> {
    /// A folder, an object's name in it, the object.
    gone: Vec<(Folder, String, &'a ObjectRef)>,
    kept: Vec<&'a ObjectRef>,
}

impl<'a> Plan<'a> {
    fn new(store: &Folder, manifest: &'a Manifest, neighbours: &Neighbours) -> Result<Self, Error> {
        let (own, parent) = (store.name().unwrap_or_default(), store.parent());
        let mut plan = Self { gone: Vec::new(), kept: Vec::new() };
        for object in manifest.objects() {
            match (object.sibling(), &parent) {
                (None, _) if neighbours.need(&own, &object.object) => plan.kept.push(object),
                (None, _) => plan.gone.push((store.clone(), object.object.clone(), object)),
                // What is left of a store that was removed or replaced before, for the sake of this one.
                (Some((name, object_there)), Some(parent)) if !neighbours.need(name, object_there) => {
                    plan.gone.push((parent.child(name)?, object_there.to_owned(), object));
                }
                (Some(_), _) => {}
            }
        }
        Ok(plan)
    }

    async fn carry_out(&self) -> Result<()> {
        let remove = |(folder, name, _): &'_ (Folder, String, &ObjectRef)| {
            let (folder, name) = (folder.clone(), name.clone());
            async move { folder.remove(&name).await }
        };
        let removed = stream::iter(&self.gone).map(remove).buffer_unordered(AT_ONCE);
        removed.try_collect::<Vec<()>>().await.context(LEFT)?;
        let mut seen = BTreeSet::new();
        for (folder, ..) in &self.gone {
            if seen.insert(folder.to_string()) {
                folder.remove_empty_folders().await;
            }
        }
        Ok(())
    }
}

impl fmt::Display for RmReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.dry_run { "would remove" } else { "removed" };
        writeln!(f, "{verb} {} objects, {}, of {}", self.objects, human::bytes(self.bytes), self.store)?;
        if self.kept > 0 {
            writeln!(f, "{} packs, {}, stay: stores beside it share them", self.kept, human::bytes(self.kept_bytes))?;
        }
        Ok(())
    }
}
