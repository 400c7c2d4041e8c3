//! A part of an index in memory: sorted vectors, binary search.

use crate::{Digest, FRAME_PAGES, FrameInfo, FrameNumber, Location, PageNumber, Run};
use criu_images::{PAGE_SIZE, PageAddr, PageRange};

/// A run: 24 bytes. Only the first page and the length are kept; which task it is of, its [`Group`] says.
#[derive(Debug, Clone, Copy)]
pub(super) struct RunEntry {
    /// Address of its first page, divided by 4096.
    pub(super) first: u64,
    pub(super) pages: u64,
    /// Number of its first page, or [`RunEntry::ZERO`].
    pub(super) location: u64,
}

impl RunEntry {
    pub(super) const ZERO: u64 = u64::MAX;
}

/// The runs of one task: from `first_run` to that of the next group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    pub(super) task: u32,
    pub(super) first_run: u32,
}

/// A row of the frame table: 40 bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FrameEntry {
    pub(super) offset: u64,
    pub(super) pack: u32,
    pub(super) stored_len: u32,
    pub(super) pages: u8,
    pub(super) digest: [u8; 16],
}

/// A part of an index, decoded and checked: at most 24 MiB of runs and 2.5 MiB of frames.
#[derive(Debug)]
pub struct IndexPart {
    first_frame: u64,
    groups: Vec<Group>,
    runs: Vec<RunEntry>,
    frames: Vec<FrameEntry>,
}

impl IndexPart {
    pub(super) fn new(first_frame: u64, groups: Vec<Group>, runs: Vec<RunEntry>, frames: Vec<FrameEntry>) -> Self {
        Self { first_frame, groups, runs, frames }
    }

    /// How many runs.
    pub fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// How many frames.
    pub fn frame_count(&self) -> usize {
        self.frames.len()
    }

    /// A row of the frame table; `None` if another part has it.
    pub fn frame(&self, frame: FrameNumber) -> Option<FrameInfo> {
        let at = usize::try_from(frame.0.checked_sub(self.first_frame)?).ok()?;
        let entry = self.frames.get(at)?;
        Some(FrameInfo {
            pack: entry.pack,
            offset: entry.offset,
            stored_len: entry.stored_len,
            pages: entry.pages,
            digest: Digest(entry.digest),
        })
    }

    /// The runs of a task that touch `range`, clipped to it, sorted by address.
    pub fn runs(&self, task: u32, range: PageRange) -> impl Iterator<Item = Run> + '_ {
        let runs = self.runs_of(task);
        let from = runs.partition_point(|run| (run.first + run.pages) * PAGE_SIZE <= range.start().get());
        runs[from..].iter().map_while(move |run| clip(run, range))
    }

    fn runs_of(&self, task: u32) -> &[RunEntry] {
        let Ok(at) = self.groups.binary_search_by_key(&task, |group| group.task) else { return &[] };
        let from = self.groups[at].first_run as usize;
        let to = self.groups.get(at + 1).map_or(self.runs.len(), |next| next.first_run as usize);
        &self.runs[from..to]
    }

    /// A run that names pages which a short frame of this part does not have. (Frames of other parts are not known here; whoever
    /// takes pages from a frame checks again.)
    pub(super) fn first_run_outside_its_frames(&self) -> Option<Run> {
        let short: Vec<(u64, u64)> = (self.first_frame..)
            .zip(&self.frames)
            .filter(|(_, frame)| u64::from(frame.pages) < FRAME_PAGES)
            .map(|(number, frame)| {
                let first = number * FRAME_PAGES;
                (first + u64::from(frame.pages), first + FRAME_PAGES)
            })
            .collect();
        let touches_gap = |run: &&RunEntry| {
            run.location != RunEntry::ZERO && {
                let at = short.partition_point(|&(_, gap_end)| gap_end <= run.location);
                short.get(at).is_some_and(|&(gap, _)| gap < run.location + run.pages)
            }
        };
        self.runs.iter().find(touches_gap).and_then(whole)
    }
}

fn whole(run: &RunEntry) -> Option<Run> {
    let range = PageRange::new(PageAddr::new(run.first * PAGE_SIZE)?, run.pages)?;
    let location = match run.location {
        RunEntry::ZERO => Location::Zero,
        page => Location::Page(PageNumber(page)),
    };
    Some(Run { range, location })
}

fn clip(run: &RunEntry, range: PageRange) -> Option<Run> {
    let run = whole(run)?;
    let clipped = run.range.intersection(range)?;
    let skipped = (clipped.start().get() - run.range.start().get()) / PAGE_SIZE;
    Some(Run { range: clipped, location: run.location.advance(skipped) })
}

const _: () = assert!(size_of::<RunEntry>() == 24 && size_of::<FrameEntry>() == 40);
