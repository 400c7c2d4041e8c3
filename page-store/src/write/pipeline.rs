//! The four stages, each a thread, joined by bounded channels.
//!
//! A stage that fails drops its ends of the channels: those before it find nobody to hand on to, those after it nothing more to
//! do, and all of them end. The first error in the order of the stages is the one that is reported.

use super::{
    ObjectSink, Progress,
    base::Base,
    batch::{Batch, read_batches},
    objects::{EncodedFrame, PackWriter, io_error, put},
    place::{Counts, Placed, Placer},
};
use crate::{
    Digest, Error, FRAME_BYTES, FrameInfo, IndexObject, PackObject, Result, Run,
    index::{EncodedPart, IndexBuilder},
    pack::FrameEncoder,
};
use criu_images::{Checkpoint, PAGE_SIZE};
use rayon::prelude::*;
use std::{
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::{self, ScopedJoinHandle},
};

/// Batches that wait between two stages. One keeps a stage busy while the one before it finishes the next.
const WAITING: usize = 1;
/// Threads of the pool at most: each holds a compressor, and 32 of them outrun every disk.
const MAX_THREADS: usize = 32;
/// Pages that are digested, or frames that are compressed, without looking for other work.
const PAGES_AT_ONCE: usize = 32;

/// All lazy pages, stored.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) packs: Vec<PackObject>,
    pub(super) index: Vec<IndexObject>,
    pub(super) counts: Counts,
}

/// A batch, ready to be written.
struct Encoded {
    frames: Vec<EncodedFrame>,
    runs: Vec<(u32, Run)>,
}

/// Stores the lazy pages of `checkpoint` and their index.
pub(super) fn run(
    checkpoint: &Checkpoint,
    sink: &dyn ObjectSink,
    level: i32,
    progress: &dyn Progress,
    threads: usize,
    base: Base,
) -> Result<Written> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.clamp(1, MAX_THREADS))
        .thread_name(|n| format!("split-{n}"))
        .build()
        .map_err(|e| io_error("threads", std::io::Error::other(e)))?;
    let (batches, to_place) = sync_channel(WAITING);
    let (placed, to_encode) = sync_channel(WAITING);
    let (encoded, to_write) = sync_channel(WAITING);
    let pool = &pool;
    let end = base.end();
    let Base { packs, frames, map, .. } = base;
    let placer = Placer::new(map, end);
    thread::scope(|scope| {
        let read = scope.spawn(move || read_batches(checkpoint, progress, |batch| batches.send(batch).is_ok()));
        let place = scope.spawn(move || place(pool, placer, to_place, placed));
        let encode = scope.spawn(move || encode(pool, &FrameEncoder::new(level), to_encode, encoded));
        let written = write(sink, checkpoint.tasks.len(), packs, frames, to_write);
        join(read)?;
        let counts = join(place);
        join(encode)?;
        let (packs, index) = written?;
        Ok(Written { packs, index, counts })
    })
}

fn join<T>(stage: ScopedJoinHandle<'_, T>) -> T {
    stage.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The digest of a page, `None` if it is all zeros.
pub(super) fn page_digest(page: &[u8]) -> Option<Digest> {
    let zero = page.chunks_exact(64).all(|line| line.iter().fold(0, |any, byte| any | byte) == 0);
    (!zero).then(|| Digest::of(page))
}

fn place(pool: &rayon::ThreadPool, mut placer: Placer, batches: Receiver<Batch>, placed: SyncSender<Placed>) -> Counts {
    let mut digests = Vec::new();
    for batch in batches {
        let pages = batch.bytes.par_chunks_exact(PAGE_SIZE as usize).with_min_len(PAGES_AT_ONCE);
        pool.install(|| pages.map(page_digest).collect_into_vec(&mut digests));
        if placed.send(placer.place(&batch, &digests)).is_err() {
            return placer.counts();
        }
    }
    // An error here is one of a later stage, which reports it.
    let _ = placed.send(placer.finish());
    placer.counts()
}

fn encode(
    pool: &rayon::ThreadPool,
    encoder: &FrameEncoder,
    placed: Receiver<Placed>,
    encoded: SyncSender<Encoded>,
) -> Result<()> {
    for Placed { plain, runs } in placed {
        let frames = plain.par_chunks(FRAME_BYTES as usize).map(|plain| {
            let stored = encoder.encode(plain).map_err(|source| io_error("zstd", source))?;
            Ok(EncodedFrame { stored, plain_len: plain.len() as u32, digest: Digest::of(plain) })
        });
        let frames = pool.install(|| frames.collect::<Result<Vec<_>, Error>>())?;
        if encoded.send(Encoded { frames, runs }).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn write(
    sink: &dyn ObjectSink,
    tasks: usize,
    base_packs: Vec<PackObject>,
    base_frames: Vec<FrameInfo>,
    encoded: Receiver<Encoded>,
) -> Result<(Vec<PackObject>, Vec<IndexObject>)> {
    let mut packs = PackWriter::new(sink, base_packs);
    let mut index = IndexBuilder::new(u32::try_from(tasks).unwrap_or(u32::MAX));
    let mut parts = Vec::new();
    let put_part = |part: EncodedPart| {
        Ok::<_, Error>(IndexObject {
            object: put(sink, "index", "idx", &part.bytes)?,
            frames: part.frames,
            first_task: part.first_task,
            first_address: part.first_address,
        })
    };
    for frame in base_frames {
        index.push_frame(frame)?;
    }
    for Encoded { frames, runs } in encoded {
        for (task, run) in runs {
            index.push_run(task, run)?;
        }
        for frame in frames {
            index.push_frame(packs.push(&frame)?)?;
        }
        while let Some(part) = index.take_part() {
            parts.push(put_part(part)?);
        }
    }
    let packs = packs.finish()?;
    for part in index.finish()? {
        parts.push(put_part(part)?);
    }
    Ok((packs, parts))
}
