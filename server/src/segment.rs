//! Where the bytes of any part of a task's address space are: the store, the slim dump, nowhere, or nowhere to be had.

use criu_images::{Checkpoint, FileNumber, Mapping, Memory, PAGE_SIZE, PageAddr, PageRange, PageRun, Stored, bits};
use page_store::{Location, PageNumber, Run};

/// Neighbouring pages whose content is in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) range: PageRange,
    pub(crate) content: Content,
}

/// Where content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// In the store, from this page on.
    Store(PageNumber),
    /// In a pages file of the slim dump, from byte `offset` on.
    Slim { file: FileNumber, offset: u64 },
    /// Zeros: stored as such, or never written.
    Zero,
    /// Not to be had.
    Absent(Absence),
}

/// Why there is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absence {
    /// No mapping.
    Unmapped,
    /// An untouched page of a mapped file, from byte `offset` of it on.
    InFile { offset: u64 },
    /// Something of the kernel's own: vvar, an AIO ring.
    Kernel,
    /// The slim dump says that the store has it, but the store does not.
    Lost,
}

/// Splits `window` by content. Together the answers cover exactly the window, in order.
///
/// `stored` are the store's runs in the window. Where two places know a page, the store wins.
pub(crate) fn overlay(images: &Checkpoint, memory: &Memory, stored: &[Run], window: PageRange) -> Vec<Segment> {
    let mut sweep = Sweep {
        images,
        stored: Cursor::new(stored, window.start()),
        private: Cursor::new(&memory.runs, window.start()),
        segments: Vec::new(),
    };
    let first = memory.mappings.partition_point(|m| m.range.end() <= window.start().get());
    let mut at = window.start().get();
    for mapping in memory.mappings.get(first..).unwrap_or_default() {
        let Some(part) = mapping.range.intersection(window) else { break };
        // A dump may have pages outside of every mapping; a restore has no place for them, but they can be looked at.
        sweep.part(None, at, part.start().get());
        sweep.part(Some(mapping), part.start().get(), part.end());
        at = part.end();
    }
    sweep.part(None, at, window.end());
    sweep.segments
}

struct Sweep<'a> {
    images: &'a Checkpoint,
    stored: Cursor<'a, Run>,
    private: Cursor<'a, PageRun>,
    segments: Vec<Segment>,
}

impl Sweep<'_> {
    /// Nothing if `from` is not below `to`.
    fn push(&mut self, from: u64, to: u64, content: Content) {
        self.segments.extend(PageRange::from_bytes(from, to).map(|range| Segment { range, content }));
    }

    /// A part of one mapping, or of no mapping.
    fn part(&mut self, mapping: Option<&Mapping>, from: u64, to: u64) {
        let mut at = from;
        while at < to {
            let (stored, next_stored) = self.stored.seek(at);
            let (private, next_private) = self.private.seek(at);
            let (until, content) = match (stored, private) {
                (Some(run), _) => (run.range.end(), of_stored(run, at)),
                (None, Some(run)) => (run.range.end().min(next_stored), of_private(run, at)),
                (None, None) => {
                    let until = to.min(next_stored).min(next_private);
                    self.untouched(mapping, at, until);
                    at = until;
                    continue;
                }
            };
            let until = until.min(to);
            self.push(at, until, content);
            at = until;
        }
    }

    /// Pages that neither the store nor the task's own pagemap knows: the same answers as [`Checkpoint::page_at`].
    fn untouched(&mut self, mapping: Option<&Mapping>, from: u64, to: u64) {
        use bits::{STATUS_ANON_SHARED, STATUS_FILE_PRIVATE, STATUS_FILE_SHARED, STATUS_SYSVIPC};
        let Some(mapping) = mapping else {
            return self.push(from, to, Content::Absent(Absence::Unmapped));
        };
        if mapping.is_special() {
            return self.push(from, to, Content::Absent(Absence::Kernel));
        }
        let offset = mapping.file_offset.saturating_add(from - mapping.range.start().get());
        if let Some(segment) = mapping.segment.and_then(|shmid| self.images.segment(shmid)) {
            return self.shared(&segment.runs, from, to, offset);
        }
        let elsewhere = STATUS_FILE_PRIVATE | STATUS_FILE_SHARED | STATUS_ANON_SHARED | STATUS_SYSVIPC;
        let content = match mapping.status & elsewhere {
            0 => Content::Zero,
            _ => Content::Absent(Absence::InFile { offset }),
        };
        self.push(from, to, content);
    }

    /// Pages of a shared segment, whose runs count from its beginning.
    fn shared(&mut self, runs: &[PageRun], from: u64, to: u64, in_segment: u64) {
        let Some(start) = PageAddr::containing(in_segment) else {
            return self.push(from, to, Content::Zero);
        };
        let mut runs = Cursor::new(runs, start);
        let mut at = from;
        while at < to {
            let inside = in_segment.saturating_add(at - from);
            let (run, next) = runs.seek(inside);
            let (until, content) = match run {
                Some(run) => (run.range.end(), of_private(run, inside)),
                None => (next, Content::Zero),
            };
            let until = at.saturating_add(until.saturating_sub(inside)).min(to);
            self.push(at, until, content);
            at = until;
        }
    }
}

fn of_stored(run: &Run, at: u64) -> Content {
    match run.location {
        Location::Page(first) => {
            Content::Store(PageNumber(first.0.saturating_add((at - run.range.start().get()) / PAGE_SIZE)))
        }
        Location::Zero => Content::Zero,
    }
}

fn of_private(run: &PageRun, at: u64) -> Content {
    match run.stored {
        Stored::Here { file, offset } => {
            Content::Slim { file, offset: offset.saturating_add(at - run.range.start().get()) }
        }
        Stored::Elsewhere => Content::Absent(Absence::Lost),
    }
}

/// Walks sorted runs upwards.
struct Cursor<'a, T> {
    rest: &'a [T],
}

trait Ranged {
    fn range(&self) -> PageRange;
}

impl Ranged for Run {
    fn range(&self) -> PageRange {
        self.range
    }
}

impl Ranged for PageRun {
    fn range(&self) -> PageRange {
        self.range
    }
}

impl<'a, T: Ranged> Cursor<'a, T> {
    fn new(runs: &'a [T], start: PageAddr) -> Self {
        let first = runs.partition_point(|r| r.range().end() <= start.get());
        Self { rest: runs.get(first..).unwrap_or_default() }
    }

    /// The run that covers `at`, and the beginning of the next one above. `at` never goes down.
    fn seek(&mut self, at: u64) -> (Option<&'a T>, u64) {
        while let [first, rest @ ..] = self.rest
            && first.range().end() <= at
        {
            self.rest = rest;
        }
        match self.rest {
            [first, ..] if first.range().start().get() > at => (None, first.range().start().get()),
            [first, rest @ ..] => (Some(first), rest.first().map_or(u64::MAX, |r| r.range().start().get())),
            [] => (None, u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests;
