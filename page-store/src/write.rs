//! The writer: a checkpoint in, objects out, memory bounded, all cores used.
//!
//! ```text
//! read      one thread    lazy pages in (task, address) order, 4 MiB at a time
//! place     one thread    zero pages and digests (on the pool), then what is stored already and what is not
//! encode    one thread    frames compressed and digested (on the pool)
//! write     this thread   packs, frame table, runs; parts of the index as they fill
//! ```
//!
//! Bounded channels join the stages, so memory does not depend on the size of the checkpoint. Beside the [`Checkpoint`] itself it
//! is under 200 MiB: at most 88 MiB for remembered pages (full at 14 GiB of distinct ones), 40 MiB for a part of the index and
//! its encoding, a dozen batches of 4 MiB between the stages. Measured: 45 MiB for 300 MB, 66 MiB for 3 GB.
//!
//! The slim dump and the manifest follow, and nothing is visible before [`ObjectSink::commit`]. The same checkpoint gives the
//! same bytes on any machine: where a batch ends depends on addresses only, and every decision is taken by one thread in order.

mod base;
mod batch;
mod dedup;
pub(crate) mod describe;
mod local;
mod objects;
mod pipeline;
mod place;
mod remote;
mod slim;
#[cfg(test)]
mod tests;

pub use base::{Base, BaseFrame};
pub use local::LocalSink;
pub(crate) use objects::put;
pub use remote::{Conditions, RemoteSink};

use crate::{Backend, Error, FRAME_PAGES, Links, Manifest, ObjectRef, Result, bucket::Bucket, manifest};
use criu_images::{Checkpoint, PAGE_SIZE};
use std::{io::Write, path::Path, sync::Arc};

/// The default zstd level. On redis, node, JVM and prefork Python checkpoints 3 takes half as long again and stores 12 % more, 1 % more,
/// 0.5 % less and 4 % less: what repeats in memory is words and pointers, which short hash tables find as well.
pub const DEFAULT_LEVEL: i32 = 1;

/// How to write a store.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// zstd level.
    pub level: i32,
    /// Whether the slim dump carries the tripwire.
    pub tripwire: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { level: DEFAULT_LEVEL, tripwire: true }
    }
}

/// Takes objects. Immutable ones first; the manifest last, and only if all went well.
pub trait ObjectSink: Send + Sync {
    /// Begins an object whose name is known only at its end.
    fn begin(&self) -> Result<Box<dyn ObjectWriter>>;
    /// Makes the store visible: `checkpoint.json`, atomically, durable objects first.
    fn commit(&self, manifest: &[u8]) -> Result<()>;
}

/// A place that a store can be written to, and looked into meanwhile.
pub trait StoreSink: ObjectSink {
    /// As [`ObjectSink::commit`]; `before` runs when only the step that makes the store visible is left to do, and an error of it prevents
    /// that.
    fn commit_after(&self, manifest: &[u8], before: &mut dyn FnMut() -> Result<()>) -> Result<()>;
    /// Whether `checkpoint.json` is in its place.
    fn is_committed(&self) -> bool;
    /// What was written: all of it is there once this returns.
    fn written(&self) -> Result<Arc<dyn Backend>>;
    /// Whether an object is there already, so that it need not be written: its name is its digest.
    fn has(&self, object: &ObjectRef) -> bool;
}

/// The place at a path or an address. `conditions` counts for object stores; a folder of this machine is locked.
pub fn create(location: &str, replace: bool, conditions: Conditions) -> Result<Box<dyn StoreSink>> {
    if Links::is_location(location) {
        let what = "nothing can be written by way of links; use a path, s3://, gs:// or az://".into();
        return Err(Error::Unsupported { object: location.into(), what });
    }
    match location.split_once("://") {
        _ if Bucket::is_address(location) => Ok(Box::new(RemoteSink::create(location, replace, conditions)?)),
        Some(("file", path)) if path.starts_with('/') => Ok(Box::new(LocalSink::create(path, replace)?)),
        Some((scheme, _)) if !Path::new(location).exists() => {
            let what = format!("nothing can be written to {scheme}:// addresses; use a path, s3://, gs:// or az://");
            Err(Error::Unsupported { object: location.into(), what })
        }
        _ => Ok(Box::new(LocalSink::create(location, replace)?)),
    }
}

/// An object being written. Dropped without [`ObjectWriter::finish`], nothing of it is left.
pub trait ObjectWriter: Write + Send {
    /// Gives it its name.
    fn finish(self: Box<Self>, name: &str) -> Result<()>;
}

/// Told how far it is.
pub trait Progress: Sync {
    /// `bytes` more of the checkpoint's pages were read and handed on.
    fn advance(&self, bytes: u64);
    /// Asked now and then; when true, the writer stops with an error and leaves nothing.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Nobody is told.
impl Progress for () {
    fn advance(&self, _bytes: u64) {}
}

/// Writes all objects of `checkpoint` to `sink`, and commits.
pub fn split(
    checkpoint: &Checkpoint,
    sink: &dyn ObjectSink,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Manifest> {
    split_with(checkpoint, Base::none(), sink, options, progress)
}

/// The same, but pages that `base` has are not stored again, as far as memory that lies together stays together.
///
/// The base must still be there once this returns, and name the packs that it named: whoever removes it looks first who else does, but cannot
/// see a store before it is committed.
pub fn split_with(
    checkpoint: &Checkpoint,
    base: Base,
    sink: &dyn ObjectSink,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Manifest> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let base_pages = base.stored_pages;
    let pipeline::Written { packs, index, counts } =
        pipeline::run(checkpoint, sink, options.level, progress, threads, base)?;
    let (slim, checkpoint_id) = slim::write_slim(checkpoint, sink, options.tripwire, &index, progress)?;
    let manifest = Manifest {
        format: manifest::FORMAT.into(),
        version: Manifest::version_for(&packs),
        page_size: PAGE_SIZE,
        frame_pages: FRAME_PAGES,
        checkpoint_id,
        image_version: checkpoint.image_version,
        tasks: describe::task_entries(checkpoint),
        totals: describe::totals(checkpoint, counts, base_pages, packs.iter().map(|p| p.object.size).sum()),
        index,
        packs,
        slim,
        working_sets: Vec::new(),
    };
    if progress.cancelled() {
        return Err(batch::stopped());
    }
    sink.commit(&manifest.to_json()?)?;
    Ok(manifest)
}
