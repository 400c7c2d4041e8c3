//! Writes an index: takes runs and frames in order, hands out encoded parts as they fill.

use super::{MAX_PAGES, MAX_PART_FRAMES, MAX_PART_RUNS, MAX_STORED_LEN, columns::Columns};
use crate::{Error, FRAME_PAGES, FrameInfo, Location, Result, Run};
use criu_images::PageRange;
use std::collections::VecDeque;

/// A finished part of an index. Its object is `index/<blake3 of bytes>.idx`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedPart {
    /// The object.
    pub bytes: Vec<u8>,
    /// Frames in its frame table; they follow those of the part before.
    pub frames: u64,
    /// For the manifest: position of the task of its first run. A part without runs carries the place where its runs would be.
    pub first_task: u32,
    /// For the manifest: address of its first run.
    pub first_address: u64,
}

/// Builds an index.
///
/// Runs come in the order of (task, address), frames in the order of their numbers; the two orders are independent: a run may
/// name pages of frames that are pushed later. Neighbouring runs are merged. A part is finished when its frames are all there and
/// runs have gone past them; take it with [`IndexBuilder::take_part`] after each push, so that memory stays flat.
///
/// A part holds 65,536 frames (4 GiB of pages) and the runs that came when those were the newest pages; its runs may name
/// frames of earlier parts, because a page that came before is not stored again.
///
/// ```
/// # use page_store::{*, index::IndexBuilder};
/// # use criu_images::PageRange;
/// let mut index = IndexBuilder::new(1);
/// let range = PageRange::from_bytes(0x7000_0000, 0x7000_2000).unwrap();
/// index.push_run(0, Run { range, location: Location::Page(PageNumber(0)) })?;
/// index.push_frame(FrameInfo { pack: 0, offset: 0, stored_len: 90, pages: 2, digest: Digest::of(&[7; 8192]) })?;
/// let parts = index.finish()?;
/// assert_eq!((parts.len(), parts[0].frames), (1, 1));
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct IndexBuilder {
    tasks: u32,
    /// The last run, not yet in a part: the next one may continue it.
    pending: Option<(u32, Run)>,
    /// Parts that still wait for runs or frames. Each goes to the first part that waits for its kind.
    open: VecDeque<OpenPart>,
    /// Where the frames of the next part begin while none is open.
    next_first_frame: u64,
    finished: VecDeque<EncodedPart>,
    /// Just past the last run that went into a part: (task, byte address).
    end: (u32, u64),
    /// Just past the highest page number that a run named.
    pages_named: u64,
    last_frame: Option<FrameInfo>,
    frames: u64,
}

#[derive(Debug)]
struct OpenPart {
    columns: Columns,
    first_frame: u64,
    /// Just past its last frame: known from the start, or lower once it is full of runs.
    end_frame: u64,
    /// Whether runs go to a later part.
    runs_done: bool,
    first: Option<(u32, u64)>,
}

impl OpenPart {
    fn new(first_frame: u64) -> Self {
        Self {
            columns: Columns::new(first_frame),
            first_frame,
            end_frame: first_frame + MAX_PART_FRAMES,
            runs_done: false,
            first: None,
        }
    }
    /// Just past the last frame that it holds already.
    fn frames_end(&self) -> u64 {
        self.first_frame + self.columns.frames()
    }
    fn frames_done(&self) -> bool {
        self.frames_end() == self.end_frame
    }
    /// Runs go on in the next part, with one at `next`.
    fn close_runs(&mut self, task: u32, next: PageRange) {
        self.runs_done = true;
        self.first.get_or_insert((task, next.start().get()));
    }
    /// `end`: just past all runs, for a part that comes after them.
    fn encode(self, end: (u32, u64)) -> Result<EncodedPart> {
        let (first_task, first_address) = self.first.unwrap_or(end);
        let frames = self.columns.frames();
        let bytes = self
            .columns
            .encode(self.first_frame)
            .map_err(|source| Error::Io { object: "index being written".into(), source })?;
        Ok(EncodedPart { bytes, frames, first_task, first_address })
    }
}

fn misuse(place: String, problem: &str) -> Error {
    Error::Corrupt { object: "index being written".into(), place, problem: problem.into() }
}

impl IndexBuilder {
    /// An index of `tasks` tasks; runs name them by position.
    pub fn new(tasks: u32) -> Self {
        Self {
            tasks,
            pending: None,
            open: VecDeque::new(),
            next_first_frame: 0,
            finished: VecDeque::new(),
            end: (0, 0),
            pages_named: 0,
            last_frame: None,
            frames: 0,
        }
    }

    /// Adds a run. An error if it is not behind the one before it, or is of no task: the checkpoint's runs overlap.
    pub fn push_run(&mut self, task: u32, run: Run) -> Result<()> {
        let place = || format!("run {} of task {task}", run.range);
        if task >= self.tasks {
            return Err(misuse(place(), "there are not so many tasks"));
        }
        if let Location::Page(page) = run.location
            && page.0.checked_add(run.range.pages()).is_none_or(|end| end > MAX_PAGES)
        {
            return Err(misuse(place(), "page number out of bounds"));
        }
        let Some((last_task, last)) = self.pending else {
            self.pending = Some((task, run));
            return Ok(());
        };
        if (task, run.range.start().get()) < (last_task, last.range.end()) {
            return Err(misuse(place(), &format!("not behind {} of task {last_task}", last.range)));
        }
        self.pending = Some((task, run));
        if task == last_task
            && let Some(merged) = last.merge(run)
        {
            self.pending = Some((task, merged));
            return Ok(());
        }
        self.place(last_task, last)
    }

    /// Adds the next frame. An error if it does not lie behind the one before it, or is of an impossible size.
    pub fn push_frame(&mut self, frame: FrameInfo) -> Result<()> {
        let place = || format!("frame {}", self.frames);
        if !(1..=FRAME_PAGES).contains(&frame.pages.into()) {
            return Err(misuse(place(), "1 to 16 pages are possible"));
        }
        if !(1..=MAX_STORED_LEN).contains(&frame.stored_len.into()) {
            return Err(misuse(place(), "impossible stored length"));
        }
        let follows = match self.last_frame {
            None => true,
            Some(last) if last.pack == frame.pack => {
                u64::from(last.pages) == FRAME_PAGES && frame.offset >= last.offset + u64::from(last.stored_len)
            }
            Some(last) => frame.pack > last.pack,
        };
        if !follows || frame.offset.checked_add(frame.stored_len.into()).is_none() {
            return Err(misuse(place(), "not behind the frame before it"));
        }
        self.last_frame = Some(frame);
        self.frames += 1;
        let at = self.first_open(|part| !part.frames_done());
        self.open[at].columns.push_frame(frame);
        self.finish_ready()
    }

    /// A part that is finished, oldest first.
    pub fn take_part(&mut self) -> Option<EncodedPart> {
        self.finished.pop_front()
    }

    /// The remaining parts, [`IndexBuilder::take_part`]'s included. An error if runs name pages that no frame holds.
    pub fn finish(mut self) -> Result<Vec<EncodedPart>> {
        if let Some((task, run)) = self.pending.take() {
            self.place(task, run)?;
        }
        if self.pages_named > self.frames * FRAME_PAGES {
            return Err(misuse(
                format!("page {}", self.pages_named - 1),
                &format!("there are only {} frames", self.frames),
            ));
        }
        for part in std::mem::take(&mut self.open) {
            if part.columns.frames() > 0 || part.columns.runs() > 0 {
                self.finished.push_back(part.encode(self.end)?);
            }
        }
        Ok(self.finished.into())
    }

    /// Puts a run into the parts it belongs to: it goes where its pages are, or into the current part if those came before.
    fn place(&mut self, task: u32, mut run: Run) -> Result<()> {
        loop {
            let named = self.pages_named;
            let at = self.first_open(|part| !part.runs_done);
            let part = &mut self.open[at];
            if part.columns.runs() == MAX_PART_RUNS {
                part.end_frame = part.end_frame.min(part.frames_end().max(named.div_ceil(FRAME_PAGES)));
                part.close_runs(task, run.range);
                continue;
            }
            let (head, tail) = match run.location {
                Location::Page(page) if page.frame().0 >= part.end_frame => {
                    part.close_runs(task, run.range);
                    continue;
                }
                Location::Page(page) => cut(run, part.end_frame * FRAME_PAGES - page.0),
                Location::Zero => (run, None),
            };
            part.first.get_or_insert((task, head.range.start().get()));
            part.columns.push_run(task, head);
            self.end = (task, head.range.end());
            if let Location::Page(page) = head.location {
                self.pages_named = named.max(page.0 + head.range.pages());
            }
            match tail {
                Some(tail) => run = tail,
                None => return self.finish_ready(),
            }
        }
    }

    /// The first open part that `wanted` holds for; made if there is none.
    fn first_open(&mut self, wanted: impl Fn(&OpenPart) -> bool) -> usize {
        if let Some(at) = self.open.iter().position(wanted) {
            return at;
        }
        let first_frame = self.open.back().map_or(self.next_first_frame, |last| last.end_frame);
        self.open.push_back(OpenPart::new(first_frame));
        self.open.len() - 1
    }

    fn finish_ready(&mut self) -> Result<()> {
        while self.open.front().is_some_and(|part| part.runs_done && part.frames_done()) {
            if let Some(part) = self.open.pop_front() {
                self.next_first_frame = part.end_frame;
                self.finished.push_back(part.encode(self.end)?);
            }
        }
        Ok(())
    }
}

/// The first `pages` pages of a run, and what is left.
fn cut(run: Run, pages: u64) -> (Run, Option<Run>) {
    let halves = || {
        let head = PageRange::new(run.range.start(), pages)?;
        let tail = PageRange::from_bytes(head.end(), run.range.end())?;
        Some((Run { range: head, ..run }, Run { range: tail, location: run.location.advance(pages) }))
    };
    match halves() {
        Some((head, tail)) if pages < run.range.pages() => (head, Some(tail)),
        _ => (run, None),
    }
}
