//! The index of a raw checkpoint.

use super::digest::FileDigests;
use crate::{
    Error, FRAME_BYTES, FRAME_PAGES, FrameInfo, Location, PageNumber, Result, Run,
    index::{EncodedPart, IndexBuilder},
};
use criu_images::{Checkpoint, FileNumber, PAGE_SIZE, PageRange, PageRun, Stored};
use std::collections::BTreeSet;

/// The lazy runs, with the position of their task: those that a slim dump leaves out, and what CRIU itself leaves to the pager when it
/// is given these images as they are (it marks argv and environment too).
fn lazy_runs(checkpoint: &Checkpoint) -> impl Iterator<Item = (u32, &PageRun)> {
    (0u32..).zip(&checkpoint.tasks).flat_map(|(position, task)| {
        let runs = task.memory.iter().flat_map(|memory| &memory.runs);
        runs.filter(|run| run.lazy || run.marked_lazy).map(move |run| (position, run))
    })
}

/// Files that lazy pages lie in, in the order of their numbers: the packs.
pub(super) fn files_with_lazy_pages(checkpoint: &Checkpoint) -> Result<Vec<FileNumber>> {
    let mut files = BTreeSet::new();
    for (_, run) in lazy_runs(checkpoint) {
        match run.stored {
            Stored::Here { file, .. } => files.insert(file),
            Stored::Elsewhere => {
                let object = checkpoint.source.describe("inventory.img");
                let what = format!(
                    "{} has no bytes here: this is a slim dump; open the page store that belongs to it",
                    run.range
                );
                return Err(Error::Unsupported { object, what });
            }
        };
    }
    Ok(files.into_iter().collect())
}

/// What was indexed.
pub(super) struct Built {
    pub(super) parts: Vec<EncodedPart>,
    /// Pages, by position of their task.
    pub(super) pages: Vec<u64>,
    /// Of them, all zeros.
    pub(super) zero_pages: u64,
}

/// The index over `files` and their digests.
pub(super) fn build(checkpoint: &Checkpoint, files: &[FileNumber], digests: Vec<FileDigests>) -> Result<Built> {
    let mut index = IndexBuilder::new(checkpoint.tasks.len() as u32);
    let mut first_pages = Vec::new();
    let mut frames = 0;
    for (pack, digests) in (0u32..).zip(&digests) {
        first_pages.push(frames * FRAME_PAGES);
        frames += digests.frames.len() as u64;
        let len = checkpoint.pages_files[files[pack as usize].0 as usize].len();
        for (i, digest) in (0u64..).zip(&digests.frames) {
            let offset = i * FRAME_BYTES;
            let stored = FRAME_BYTES.min(len - offset);
            let pages = (stored / PAGE_SIZE) as u8;
            index.push_frame(FrameInfo { pack, offset, stored_len: stored as u32, pages, digest: *digest })?;
        }
    }
    let mut zero_pages = 0;
    let mut pages = vec![0; checkpoint.tasks.len()];
    for (task, run) in lazy_runs(checkpoint) {
        let Stored::Here { file, offset } = run.stored else { continue };
        let Ok(pack) = files.binary_search(&file) else { continue };
        let first = offset / PAGE_SIZE;
        pages[task as usize] += run.range.pages();
        // Cut where zero pages begin and end.
        let mut from = 0;
        while from < run.range.pages() {
            let zero = digests[pack].is_zero(first + from);
            let same =
                (from..run.range.pages()).take_while(|i| digests[pack].is_zero(first + i) == zero).count() as u64;
            let start = run.range.start().checked_add(from);
            if let Some(range) = start.and_then(|start| PageRange::new(start, same)) {
                let page = PageNumber(first_pages[pack] + first + from);
                index.push_run(
                    task,
                    Run { range, location: if zero { Location::Zero } else { Location::Page(page) } },
                )?;
            }
            zero_pages += if zero { same } else { 0 };
            from += same;
        }
    }
    Ok(Built { parts: index.finish()?, pages, zero_pages })
}
