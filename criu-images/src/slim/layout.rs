//! How a task's pages are laid out: in the slim dump, and in the checkpoint that it came from.

use crate::{
    FileNumber, PageRun, Stored,
    pagemap::{Flags, PagemapWriter},
};

/// The pagemap of a slim dump. `pages_id` as in the checkpoint.
pub(super) fn slim_pagemap(pages_id: u32, runs: &[PageRun], tripwire: bool) -> Vec<u8> {
    let lazy = if tripwire { Flags::LAZY | Flags::PARENT } else { Flags::LAZY };
    let mut pagemap = PagemapWriter::new(pages_id);
    for run in runs {
        pagemap.push(run.range, if run.lazy { lazy } else { Flags::PRESENT });
    }
    pagemap.finish()
}

/// The pagemap of the checkpoint once its parents are flattened: what a full `criu dump` would have written.
pub(super) fn full_pagemap(pages_id: u32, runs: &[PageRun]) -> Vec<u8> {
    let mut pagemap = PagemapWriter::new(pages_id);
    for run in runs {
        pagemap.push(run.range, if run.lazy { Flags::LAZY | Flags::PRESENT } else { Flags::PRESENT });
    }
    pagemap.finish()
}

/// Bytes of a pages file that are copied in one go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) file: FileNumber,
    /// Bytes from its beginning.
    pub(super) offset: u64,
    /// Bytes.
    pub(super) len: u64,
}

/// The bytes of the `runs` that are eager, in order, neighbours joined.
pub(super) fn eager_chunks(runs: &[PageRun]) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = Vec::new();
    for run in runs.iter().filter(|run| !run.lazy) {
        let Stored::Here { file, offset } = run.stored else { continue };
        let len = run.range.bytes();
        match chunks.last_mut().filter(|c| c.file == file && c.offset + c.len == offset) {
            Some(chunk) => chunk.len += len,
            None => chunks.push(Chunk { file, offset, len }),
        }
    }
    chunks
}
