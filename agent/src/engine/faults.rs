//! Answers faults: from the cache at once, else when the frame arrives.

use super::{Class, Engine, ProcessId, process::Moved, process::Progress};
use crate::{
    address_space::Answer,
    placement::{Piece, split_at_frames},
    status::Moment,
};
use anyhow::{Context, Result};
use criu_images::{PAGE_SIZE, PageAddr, PageRange};
use lru::LruCache;
use page_store::{FRAME_PAGES, Frame, FrameNumber, Location, Run};
use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroUsize,
    time::Instant,
};

/// Decoded frames that are kept for the next fault, 16 MiB: neighbours of a fault, and pages that several tasks share.
const CACHED_FRAMES: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// A thread somewhere waits for this page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waiter {
    process: ProcessId,
    page: PageAddr,
    /// When the fault was read; `None` for a page that nobody waits for, but should be there.
    since: Option<Instant>,
}

/// Faults on their way to an answer.
pub(super) struct Faults {
    /// To be looked at now.
    queue: VecDeque<Waiter>,
    /// By the frame that they wait for. A frame that is a key here has been asked for, or is on its way as one read ahead.
    waiting: HashMap<FrameNumber, Vec<Waiter>>,
    /// Waiting for a part of the index.
    unindexed: Vec<Waiter>,
    /// The kernel had an event in the way that could not be read yet.
    again: Vec<Waiter>,
    cache: LruCache<FrameNumber, Frame>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            waiting: HashMap::new(),
            unindexed: Vec::new(),
            again: Vec::new(),
            cache: LruCache::new(CACHED_FRAMES),
        }
    }
}

impl Faults {
    /// A thread waits for a page since `since`; or nobody does.
    pub(super) fn push(&mut self, process: ProcessId, page: PageAddr, since: Option<Instant>) {
        self.queue.push_back(Waiter { process, page, since });
    }

    pub(super) fn stalled(&self) -> bool {
        !self.again.is_empty()
    }

    /// A part of the index has come: those who waited for one look again.
    pub(super) fn indexed(&mut self) {
        self.queue.extend(self.unindexed.drain(..));
    }

    /// Whether a frame is there, or has been asked for by a fault.
    pub(super) fn has(&self, frame: FrameNumber) -> bool {
        self.wants(frame) || self.cache.contains(&frame)
    }

    /// A frame that is there.
    pub(super) fn cached(&self, frame: FrameNumber) -> Option<Frame> {
        self.cache.peek(&frame).cloned()
    }

    /// Whether a fault waits for `frame`.
    pub(super) fn wants(&self, frame: FrameNumber) -> bool {
        self.waiting.contains_key(&frame)
    }

    /// Those who wait for `frame` look again: it does not come the way it was expected.
    pub(super) fn look_again(&mut self, frame: FrameNumber) {
        self.queue.extend(self.waiting.remove(&frame).unwrap_or_default());
    }

    /// Keeps a frame and lets those who waited for it look again.
    pub(super) fn arrived(&mut self, frame: Frame) {
        self.look_again(frame.number());
        self.cache.put(frame.number(), frame);
    }
}

impl Engine {
    /// Looks at every fault that may be answered now.
    pub(super) fn answer_faults(&mut self) -> Result<()> {
        let stalled = std::mem::take(&mut self.faults.again);
        self.faults.queue.extend(stalled);
        while let Some(waiter) = self.faults.queue.pop_front() {
            match self.answer(waiter)? {
                Progress::Done => {}
                Progress::Gone => self.forget(waiter.process),
                // With an event read, the look at the layout is worth repeating at once; else the kernel is still busy making one.
                Progress::Again if self.read_events(waiter.process)? > 0 => self.faults.queue.push_back(waiter),
                Progress::Again => self.faults.again.push(waiter),
            }
        }
        Ok(())
    }

    fn answer(&mut self, waiter: Waiter) -> Result<Progress> {
        let Some(process) = self.processes.get_mut(&waiter.process) else { return Ok(Progress::Done) };
        if !process.settled() {
            return Ok(Progress::Again);
        }
        match process.space.fault(waiter.page) {
            Answer::Stored { origin, .. } => self.answer_stored(waiter, origin),
            Answer::Zero { run } => {
                let progress = self.zero(waiter.process, first_pages(run, waiter.page))?;
                self.answered(waiter, progress);
                Ok(progress)
            }
            // A mapping that grew in place, of which no event tells: the page is new. Or unmapped since the fault was raised: then
            // the kernel knows no such mapping.
            Answer::NotOurs => {
                let progress = self.zero(waiter.process, one_page(waiter.page))?;
                self.wake(waiter)?;
                self.answered(waiter, progress);
                Ok(progress)
            }
        }
    }

    fn answer_stored(&mut self, waiter: Waiter, origin: PageAddr) -> Result<Progress> {
        let task = self.processes[&waiter.process].space.task();
        let pid = self.pids.get(task as usize).copied().flatten().context("a task that the store does not have")?;
        let window = around(origin);
        let Some(runs) = self.store.loaded_runs(pid, window)? else {
            self.faults.unindexed.push(waiter);
            self.fetcher.load_index(pid, window);
            return Ok(Progress::Done);
        };
        let Some(run) = runs.iter().find(|r| r.range.contains(origin)) else {
            // The images were compared with the store before CRIU started, so this page was in the index then.
            anyhow::bail!("the index does not know page {origin:#x} of task {pid} any more; was the store replaced?");
        };
        let first = match run.location {
            Location::Zero => {
                let progress = self.zero_stored(waiter.process, run.range)?;
                self.answered(waiter, progress);
                return Ok(progress);
            }
            Location::Page(first) => first,
        };
        let offset = (origin.get() - run.range.start().get()) / PAGE_SIZE;
        let number = page_store::PageNumber(first.0 + offset).frame();
        if let Some(recorder) = &mut self.recorder {
            recorder.touched(number);
        }
        self.read_ahead.asked_for(number);
        let Some(frame) = self.faults.cache.get(&number).cloned() else {
            if self.given_up.has(number) {
                let progress = self.refuse(waiter.process, waiter.page)?;
                self.wake(waiter)?;
                return Ok(progress);
            }
            let is_coming = self.faults.wants(number) || self.read_ahead.expects(number) || self.replay.expects(number);
            if !is_coming {
                self.demand(waiter.process, pid, origin, number)?;
            }
            self.faults.waiting.entry(number).or_default().push(waiter);
            return Ok(Progress::Done);
        };
        // The page itself first: its thread wakes, which takes as long as copying the rest of the frame (20 to 30 µs each), meanwhile.
        let page = Piece { first: page_store::PageNumber(first.0 + offset), addr: origin, task, pages: 1 };
        let pieces = std::iter::once(page).chain(pieces_in_frame(task, &runs, number));
        let progress = self.install(waiter.process, &frame, pieces, Class::Fault)?;
        if progress == Progress::Done {
            self.wake(waiter)?;
        }
        self.answered(waiter, progress);
        Ok(progress)
    }

    fn answered(&self, waiter: Waiter, progress: Progress) {
        if progress == Progress::Done
            && let Some(since) = waiter.since
        {
            self.status.reached(Moment::FirstFaultServed);
            self.status.stalled(since.elapsed());
        }
    }

    /// Copies wake who waits for them; this is for a fault on a page that was present by the time it was looked at. A wake too many
    /// costs a microsecond, one too few the thread.
    fn wake(&self, waiter: Waiter) -> Result<()> {
        match self.processes.get(&waiter.process) {
            Some(process) => Ok(process.uffd.wake(one_page(waiter.page))?),
            None => Ok(()),
        }
    }

    /// Copies what `frame` holds of `pieces` to wherever the process lacks it.
    pub(super) fn install(
        &mut self,
        id: ProcessId,
        frame: &Frame,
        pieces: impl IntoIterator<Item = Piece>,
        class: Class,
    ) -> Result<Progress> {
        let mut moved = Moved::default();
        let progress = match self.processes.get_mut(&id) {
            None => Progress::Done,
            Some(process) => {
                let mut progress = Progress::Done;
                for piece in pieces {
                    progress = process.install(frame, piece, &mut moved)?;
                    if progress != Progress::Done {
                        break;
                    }
                }
                progress
            }
        };
        self.add(class, moved);
        Ok(progress)
    }

    /// Fills stored zero pages of a task's memory wherever the process lacks them.
    fn zero_stored(&mut self, id: ProcessId, stored: PageRange) -> Result<Progress> {
        let mut places = Vec::new();
        self.processes[&id].space.places(stored, &mut places);
        for place in places {
            let progress = self.zero(id, place.runtime)?;
            if progress != Progress::Done {
                return Ok(progress);
            }
        }
        Ok(Progress::Done)
    }

    fn zero(&mut self, id: ProcessId, range: PageRange) -> Result<Progress> {
        let Some(process) = self.processes.get_mut(&id) else { return Ok(Progress::Done) };
        let mut moved = Moved::default();
        let progress = process.zero(range, &mut moved)?;
        self.add(Class::Zero, moved);
        Ok(progress)
    }

    /// A frame that a fault waits for, or that was read ahead, has come.
    pub(super) fn frame_demanded(&mut self, frame: Frame) -> Result<()> {
        self.given_up.arrived(frame.number());
        self.faults.arrived(frame.clone());
        self.answer_faults()?;
        match self.read_ahead.arrived(frame.number()) {
            Some(ahead) if ahead.held_back => return Ok(()),
            Some(ahead) => self.install_in(ahead.process, frame.clone(), ahead.pieces, Class::ReadAhead)?,
            None => {}
        }
        self.transfer.spread(frame);
        Ok(())
    }
}

fn one_page(page: PageAddr) -> PageRange {
    PageRange::new(page, 1).expect("a page is a range")
}

/// Of a range that may be filled with zeros, what to fill for a fault on `page`: a frame's worth from there on.
fn first_pages(run: PageRange, page: PageAddr) -> PageRange {
    let left = (run.end() - page.get()) / PAGE_SIZE;
    PageRange::new(page, left.clamp(1, FRAME_PAGES)).unwrap_or(one_page(page))
}

/// Stored addresses whose pages may lie in the same frame as `origin`'s.
fn around(origin: PageAddr) -> PageRange {
    let reach = (FRAME_PAGES - 1) * PAGE_SIZE;
    let start = origin.get().saturating_sub(reach);
    let end = (origin.get() + PAGE_SIZE + reach).min(PageAddr::LIMIT);
    PageRange::from_bytes(start, end).unwrap_or(one_page(origin))
}

fn pieces_in_frame(task: u32, runs: &[Run], frame: FrameNumber) -> Vec<Piece> {
    runs.iter()
        .filter_map(|run| match run.location {
            Location::Page(first) => Some(split_at_frames(task, run.range, first)),
            Location::Zero => None,
        })
        .flatten()
        .filter(|piece| piece.first.frame() == frame)
        .collect()
}
