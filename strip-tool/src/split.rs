//! `split`: a checkpoint directory to a page store, and to a slim dump.

mod base;
mod slim_dir;

use crate::{Meter, Stop, human};
use anyhow::{Result, bail};
use base::SharedBase;
use criu_images::{Checkpoint, ImageDir, PAGE_SIZE};
use page_store::{
    Manifest, PackObject, is_of_this_machine,
    write::{Base, Conditions, ObjectSink, Options, Progress, create},
};
use serde::Serialize;
use slim_dir::WithSlimDir;
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

/// What to split, and where to.
#[derive(Debug, Clone)]
pub struct SplitOptions {
    /// The directory that `criu dump` wrote.
    pub checkpoint: PathBuf,
    /// Where the page store is to be: a path, or the address of a place in an object store.
    pub store: String,
    /// Where the slim dump is to be unpacked, if anywhere: it is an object of the store, too.
    pub slim: Option<PathBuf>,
    /// Path or address of a store beside it, of which pages are not stored again.
    pub base: Option<String>,
    /// Whether a store that is there already is replaced.
    pub replace: bool,
    /// Whether `checkpoint.json` is put only if nobody else has put one meanwhile; for object stores.
    pub conditions: Conditions,
    /// How to write it.
    pub write: Options,
}

/// What came of it. Sizes are in bytes.
#[derive(Debug, Clone, Serialize)]
pub struct SplitReport {
    /// The store.
    pub store: String,
    /// The unpacked slim dump.
    pub slim: Option<PathBuf>,
    /// Identity of the checkpoint.
    pub checkpoint_id: String,
    /// How many tasks.
    pub tasks: usize,
    /// Sizes.
    #[serde(flatten)]
    pub sizes: Sizes,
    /// Wall-clock time.
    pub seconds: f64,
    /// Dumped pages per second.
    pub bytes_per_second: f64,
}

/// What a checkpoint came to, in bytes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Sizes {
    /// Pages in the checkpoint's pages files.
    pub dumped: u64,
    /// Of these, what can be restored lazily.
    pub lazy: u64,
    /// Of the lazy ones, zeros: not stored.
    pub zero: u64,
    /// Distinct lazy pages, not compressed.
    pub distinct: u64,
    /// Pages in the store, not compressed: the distinct ones and those stored again to keep memory together.
    pub stored_plain: u64,
    /// Its own packs.
    pub packs: u64,
    /// Packs of stores beside it that it shares.
    pub shared: u64,
    /// Index.
    pub index: u64,
    /// The slim dump as an object.
    pub slim: u64,
    /// The slim dump, unpacked.
    pub slim_unpacked: u64,
    /// Its own objects together.
    pub stored: u64,
    /// `dumped` divided by `stored`.
    pub ratio: f64,
}

impl Sizes {
    /// Those of a store.
    pub fn of(manifest: &Manifest) -> Self {
        let totals = &manifest.totals;
        let index = manifest.index.iter().map(|part| part.object.size).sum();
        let slim = manifest.slim.object.size;
        let is_shared = |pack: &&PackObject| pack.object.sibling().is_some();
        let shared = manifest.packs.iter().filter(is_shared).map(|pack| pack.object.size).sum();
        let packs = totals.pack_bytes - shared;
        let (dumped, stored) = (totals.dumped_pages * PAGE_SIZE, packs + index + slim);
        Self {
            dumped,
            lazy: totals.lazy_pages * PAGE_SIZE,
            zero: totals.zero_pages * PAGE_SIZE,
            distinct: totals.distinct_pages * PAGE_SIZE,
            stored_plain: totals.stored_pages * PAGE_SIZE,
            packs,
            shared,
            index,
            slim,
            slim_unpacked: manifest.slim.unpacked,
            stored,
            ratio: human::ratio(dumped, stored),
        }
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = human::bytes;
        writeln!(f, "dumped    {}", bytes(self.dumped))?;
        writeln!(f, "lazy      {}, of it zeros {}", bytes(self.lazy), bytes(self.zero))?;
        writeln!(f, "distinct  {}", bytes(self.distinct))?;
        let parts = [("packs", self.packs), ("index", self.index), ("slim dump", self.slim)];
        let parts: Vec<String> = parts.iter().map(|(what, n)| format!("{what} {}", bytes(*n))).collect();
        writeln!(f, "stored    {} ({}): {:.1}x smaller", bytes(self.stored), parts.join(", "), self.ratio)?;
        if self.shared > 0 {
            writeln!(f, "shares    {} of packs with stores beside it", bytes(self.shared))?;
        }
        Ok(())
    }
}

impl fmt::Display for SplitReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "store     {}", self.store)?;
        if let Some(slim) = &self.slim {
            writeln!(f, "slim dump {} ({})", slim.display(), human::bytes(self.sizes.slim_unpacked))?;
        }
        self.sizes.fmt(f)?;
        writeln!(f, "time      {:.2} s, {}/s", self.seconds, human::bytes(self.bytes_per_second as u64))
    }
}

/// A run of the writer, shown and stoppable.
pub(crate) struct Run<'a> {
    pub(crate) meter: &'a Meter,
    pub(crate) stop: &'a Stop,
}

impl Progress for Run<'_> {
    fn advance(&self, bytes: u64) {
        self.meter.advance(bytes);
    }
    fn cancelled(&self) -> bool {
        self.stop.requested().is_some()
    }
}

/// Opens the directory that `criu dump` wrote.
pub(crate) fn open_checkpoint(path: &Path) -> Result<Checkpoint> {
    let shown = path.display();
    if !path.is_dir() {
        bail!("{shown} is not a directory; give the one that `criu dump -D` wrote (unpack an archive first)");
    }
    if !path.join("inventory.img").is_file() {
        let inner = path.join("checkpoint");
        if inner.join("inventory.img").is_file() {
            bail!("{shown} holds a checkpoint in a folder; give {}", inner.display());
        }
        bail!("{shown} is no CRIU checkpoint: it has no inventory.img");
    }
    Ok(Checkpoint::open(Arc::new(ImageDir::open(path)?))?)
}

/// Bytes of lazy pages.
pub(crate) fn lazy_bytes(checkpoint: &Checkpoint) -> u64 {
    let runs = checkpoint.tasks.iter().filter_map(|task| task.memory.as_ref()).flat_map(|memory| &memory.runs);
    runs.filter(|run| run.lazy).map(|run| run.range.bytes()).sum()
}

/// Splits a checkpoint. Blocks until all is on disk; after an error, or when stopped, nothing of it is left.
pub fn split(options: &SplitOptions, meter: &Meter, stop: &Stop) -> Result<SplitReport> {
    let began = Instant::now();
    let checkpoint = open_checkpoint(&options.checkpoint)?;
    check_apart(options)?;
    let sink = create(&options.store, options.replace, options.conditions)?;
    let shared = options.base.as_ref().map(|base| SharedBase::read(base, &options.store, meter, stop)).transpose()?;
    let (base, shared) = shared.unzip();
    meter.begin("split", lazy_bytes(&checkpoint));
    let manifest = match &options.slim {
        None => write(&checkpoint, base, &*sink, options, meter, stop)?,
        Some(dir) => {
            let with_slim = WithSlimDir::create(&*sink, dir, stop)?;
            write(&checkpoint, base, &with_slim, options, meter, stop)?
        }
    };
    meter.end();
    // Its lock and its folder for what grows must not be in the way.
    drop(sink);
    if let Some(shared) = shared {
        shared.check(&manifest, options.slim.as_deref())?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let sizes = Sizes::of(&manifest);
    Ok(SplitReport {
        store: options.store.clone(),
        slim: options.slim.clone(),
        checkpoint_id: manifest.checkpoint_id,
        tasks: manifest.tasks.len(),
        sizes,
        seconds,
        bytes_per_second: sizes.dumped as f64 / seconds,
    })
}

fn write(
    checkpoint: &Checkpoint,
    base: Option<Base>,
    sink: &dyn ObjectSink,
    options: &SplitOptions,
    meter: &Meter,
    stop: &Stop,
) -> Result<Manifest> {
    let run = Run { meter, stop };
    let written = match base {
        Some(base) => page_store::write::split_with(checkpoint, base, sink, &options.write, &run),
        None => page_store::write::split(checkpoint, sink, &options.write, &run),
    };
    // Being stopped shows as some error of the writer's; the signal says it better.
    written.or_else(|e| stop.check().and(Err(e.into())))
}

/// The store and the slim dump must not be inside the checkpoint or each other.
fn check_apart(options: &SplitOptions) -> Result<()> {
    let real = |path: &Path| -> PathBuf {
        // What does not exist yet is where its nearest existing ancestor is.
        path.ancestors()
            .find_map(|a| {
                let rest = path.strip_prefix(a).unwrap_or(path);
                // The last ancestor of a relative path is empty; it stands for the current folder.
                let a = if a.as_os_str().is_empty() { Path::new(".") } else { a };
                a.canonicalize().ok().map(|real| real.join(rest))
            })
            .unwrap_or_else(|| path.to_path_buf())
    };
    let store = is_of_this_machine(&options.store).then(|| PathBuf::from(&options.store));
    let named = [("the store", store.as_ref()), ("the slim dump", options.slim.as_ref())];
    let mut places = vec![("the checkpoint", real(&options.checkpoint))];
    for (what, path) in named {
        let Some(path) = path.map(|p| real(p)) else { continue };
        for (other, place) in &places {
            if path.starts_with(place) || place.starts_with(&path) {
                bail!("{what} and {other} would lie in each other ({}); give separate places", path.display());
            }
        }
        places.push((what, path));
    }
    Ok(())
}
