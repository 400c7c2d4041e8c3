//! The first stage: lazy pages, read in the order of (task, address).

use super::Progress;
use crate::{Error, FRAME_BYTES, Result};
use criu_images::{Checkpoint, PAGE_SIZE, PageAddr, PageRange, Stored};
use std::io;

/// Bytes of pages in a batch, rounded up to the end of a window. Large enough that a batch keeps every core busy for
/// milliseconds, small enough that a dozen in flight are nothing.
const BATCH_BYTES: u64 = 4 << 20;

/// Neighbouring pages of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// Position in `pstree.img`.
    pub(super) task: u32,
    /// Addresses.
    pub(super) range: PageRange,
}

/// Some memory: the bytes of its spans, one after another. A window (64 KiB of addresses) is never cut by the end of a batch.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) spans: Vec<Span>,
}

impl Batch {
    /// Whether `addr` is in the window of the last page.
    fn ends_in_window_of(&self, task: u32, addr: u64) -> bool {
        let last = self.spans.last();
        last.is_some_and(|s| s.task == task && (s.range.end() - PAGE_SIZE) / FRAME_BYTES == addr / FRAME_BYTES)
    }
}

/// The error of a run that was told to stop.
pub(super) fn stopped() -> Error {
    let source = io::Error::new(io::ErrorKind::Interrupted, "stopped; nothing was written");
    Error::Io { object: "split".into(), source }
}

fn out_of_order(task: u32, range: PageRange) -> Error {
    let problem = "not a range of pages, or out of order".into();
    Error::Corrupt { object: format!("task {task}"), place: format!("run {range}"), problem }
}

/// Reads every lazy page of `checkpoint` and hands on full batches; ends early, without error, once `hand_on` answers `false`.
pub(super) fn read_batches(
    checkpoint: &Checkpoint,
    progress: &dyn Progress,
    mut hand_on: impl FnMut(Batch) -> bool,
) -> Result<()> {
    let mut batch = Batch::default();
    for (task, runs) in (0u32..).zip(checkpoint.tasks.iter().map(|t| t.memory.iter().flat_map(|m| &m.runs))) {
        for run in runs.filter(|r| r.lazy) {
            let Stored::Here { file, offset } = run.stored else {
                return Err(Error::Unsupported {
                    object: checkpoint.source.describe(""),
                    what: "a slim dump: its lazy pages are in a page store already; give the full checkpoint".into(),
                });
            };
            let (start, end) = (run.range.start().get(), run.range.end());
            let mut at = start;
            while at < end {
                let filled = batch.bytes.len() as u64;
                if filled >= BATCH_BYTES && !batch.ends_in_window_of(task, at) {
                    if progress.cancelled() {
                        return Err(stopped());
                    }
                    progress.advance(filled);
                    if !hand_on(std::mem::take(&mut batch)) {
                        return Ok(());
                    }
                    continue;
                }
                let want = BATCH_BYTES.saturating_sub(filled).max(1);
                let stop = (at + want).next_multiple_of(FRAME_BYTES).min(end);
                let range = PageAddr::new(at)
                    .and_then(|from| PageRange::new(from, (stop - at) / PAGE_SIZE))
                    .ok_or_else(|| out_of_order(task, run.range))?;
                if filled == 0 {
                    batch.bytes.reserve((BATCH_BYTES + FRAME_BYTES) as usize);
                }
                let old_len = batch.bytes.len();
                batch.bytes.resize(old_len + (stop - at) as usize, 0);
                checkpoint.read_pages(file, offset + (at - start), &mut batch.bytes[old_len..])?;
                batch.spans.push(Span { task, range });
                at = stop;
            }
        }
    }
    if progress.cancelled() {
        return Err(stopped());
    }
    if !batch.bytes.is_empty() {
        progress.advance(batch.bytes.len() as u64);
        hand_on(batch);
    }
    Ok(())
}
