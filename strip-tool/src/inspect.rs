//! `inspect`: what a store or a checkpoint holds.

use crate::{
    Meter, Stop,
    dry_run::Nowhere,
    human,
    retry::open_store,
    split::{Run, Sizes, lazy_bytes, open_checkpoint},
};
use anyhow::Result;
use criu_images::PAGE_SIZE;
use page_store::{MANIFEST_NAME, Manifest, TaskEntry, write::Options};
use serde::Serialize;
use std::{fmt, path::Path};

/// Whether it is a store or a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A page store.
    Store,
    /// A checkpoint directory; the sizes are those that `split` would come to.
    Checkpoint,
}

/// What is in it. Sizes are in bytes.
#[derive(Debug, Clone, Serialize)]
pub struct InspectReport {
    /// Path or address.
    pub location: String,
    /// What it is.
    pub kind: Kind,
    /// Identity of the checkpoint.
    pub checkpoint_id: String,
    /// CRIU's image version.
    pub image_version: u32,
    /// In the order of `pstree.img`.
    pub tasks: Vec<TaskEntry>,
    /// Sizes.
    pub sizes: Sizes,
    /// Numbers of objects.
    pub objects: Objects,
    /// Whether the slim dump carries the tripwire.
    pub tripwire: bool,
    /// Working sets.
    pub working_sets: usize,
}

/// How many objects there are.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Objects {
    /// Packs.
    pub packs: usize,
    /// Frames in them.
    pub frames: u64,
    /// Parts of the index.
    pub index: usize,
}

/// Inspects a store at a path or address, or a checkpoint directory. A checkpoint is read whole, as `split` would, but for
/// writing: that is how its ratio is known.
pub async fn inspect(location: &str, options: Options, meter: Meter, stop: &Stop) -> Result<InspectReport> {
    let path = Path::new(location);
    let is_checkpoint = path.is_dir() && !path.join(MANIFEST_NAME).exists();
    let (kind, manifest) = if is_checkpoint {
        (Kind::Checkpoint, dry_run(location, options, meter, stop).await?)
    } else {
        let opened = stop.or(async { Ok(open_store(location).await?) });
        (Kind::Store, opened.await?.manifest().clone())
    };
    Ok(InspectReport {
        location: location.into(),
        kind,
        checkpoint_id: manifest.checkpoint_id.clone(),
        image_version: manifest.image_version,
        sizes: Sizes::of(&manifest),
        objects: Objects {
            packs: manifest.packs.len(),
            frames: manifest.packs.iter().map(|pack| pack.frames).sum(),
            index: manifest.index.len(),
        },
        tripwire: manifest.slim.tripwire,
        working_sets: manifest.working_sets.len(),
        tasks: manifest.tasks,
    })
}

async fn dry_run(location: &str, options: Options, meter: Meter, stop: &Stop) -> Result<Manifest> {
    let (location, stop) = (location.to_owned(), stop.clone());
    let work = move || {
        let checkpoint = open_checkpoint(Path::new(&location))?;
        meter.begin("inspect", lazy_bytes(&checkpoint));
        let run = Run { meter: &meter, stop: &stop };
        let written = page_store::write::split(&checkpoint, &Nowhere, &options, &run);
        written.or_else(|e| stop.check().and(Err(e.into())))
    };
    tokio::task::spawn_blocking(work).await?
}

impl fmt::Display for InspectReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Store => "page store",
            Kind::Checkpoint => "checkpoint; what is stored is what split would store",
        };
        writeln!(f, "{} ({kind})", self.location)?;
        writeln!(f, "id        {}", self.checkpoint_id)?;
        writeln!(f, "images    CRIU image version {}", self.image_version)?;
        self.sizes.fmt(f)?;
        let Objects { packs, frames, index } = self.objects;
        let frames = human::count(frames);
        writeln!(f, "objects   {packs} packs with {frames} frames, {index} parts of the index, 1 slim dump")?;
        if self.kind == Kind::Store {
            writeln!(f, "tripwire  {}", if self.tripwire { "yes" } else { "no" })?;
            writeln!(f, "working sets {}", self.working_sets)?;
        }
        writeln!(f)?;
        let mut rows =
            vec![["pid", "parent", "state", "threads", "lazy", "eager", "program"].map(String::from).to_vec()];
        rows.extend(self.tasks.iter().map(|task| {
            vec![
                task.pid.to_string(),
                task.parent.map_or("-".into(), |pid| pid.to_string()),
                task.state.clone(),
                task.threads.len().to_string(),
                human::bytes(task.lazy_pages.saturating_mul(PAGE_SIZE)),
                human::bytes(task.slim_pages.saturating_mul(PAGE_SIZE)),
                // It came from a file, and a terminal obeys control characters.
                task.comm.chars().map(|c| if c.is_control() { '?' } else { c }).collect(),
            ]
        }));
        f.write_str(&human::table(&rows, &[true, true, false, true, true, true, false]))
    }
}
